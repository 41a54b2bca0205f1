"""A policy in one attempt: what it may do, what it is counted for, what is not its fault."""

import numpy as np
import pytest
from twin_attempts import PatientJudge, ScriptedPolicy, sway

from fleet import answers
from harness.tasks.box_grasp import BOX_GRASP
from policies.process import PolicyFailedError


@pytest.mark.parametrize(
    ("answer", "mode"),
    [
        (lambda step: np.full((1, 8), np.nan), "policy_fault"),
        (lambda step: np.zeros((1, 7)), "policy_fault"),
        (lambda step: 1 // 0, "policy_fault"),
        (lambda step: (_ for _ in ()).throw(PolicyFailedError("late", "200 ms")), "policy_late"),
    ],
)
def test_a_policy_that_fails_has_failed_and_the_next_attempt_runs(rig, answer, mode):
    episode = rig.attempt(answer)
    assert (episode.outcome, episode.failure_mode, episode.opened) == ("failure", mode, True)
    assert rig.attempt().outcome == "success"


def test_a_policy_that_is_late_has_failed(rig):
    def slow(step):
        rig.arms[0].wait(0.05)
        return rig.still(step)

    episode = rig.attempt(slow)
    assert (episode.outcome, episode.failure_mode) == ("failure", "policy_late")
    assert "50 ms" in episode.detail


def test_a_policy_that_cannot_reset_has_failed_an_opened_attempt(rig):
    policy = ScriptedPolicy(rig.contract, rig.still)
    policy.reset = lambda: 1 // 0
    episode = rig.runtime.run_attempt(policy, rig.task, PatientJudge(), rig.opened, rig)
    assert (episode.outcome, episode.failure_mode, episode.opened) == (
        "failure",
        "policy_fault",
        True,
    )
    assert rig.log == ["scene", "opened"]


def test_what_happened_before_is_not_told_of_an_attempt_whose_policy_could_not_reset(rig):
    dive = np.zeros((1, 8))
    dive[0, [1, 3]] = -0.5, -0.8
    before = rig.attempt(lambda step: dive, judge=PatientJudge(steps=39))
    assert before.safety_events == ("contact_force",)
    assert before.interventions["contact_force"] > 0
    rig.runtime.resume()
    policy = ScriptedPolicy(rig.contract, rig.still)
    policy.reset = lambda: 1 // 0
    episode = rig.runtime.run_attempt(policy, rig.task, PatientJudge(), rig.opened, rig)
    assert (episode.outcome, episode.failure_mode) == ("failure", "policy_fault")
    assert (episode.safety_events, episode.interventions, episode.steps) == ((), {}, 0)


def test_an_arm_is_stopped_before_anybody_waits_for_the_policy(rig, monkeypatch):
    stopped = []
    close = answers.SingleAnswers.close

    def closing(self):
        stopped.append(rig.servo.stopped)
        close(self)

    monkeypatch.setattr(answers.SingleAnswers, "close", closing)
    judge = PatientJudge()
    judge.update = lambda *args: 1 // 0
    with pytest.raises(ZeroDivisionError):
        rig.attempt(sway, judge)
    assert stopped == [True]


def test_a_policy_that_dives_is_held_above_the_table(rig):
    dive = np.zeros((1, 8))
    dive[0, [1, 3]] = -0.25, -0.4
    episode = rig.attempt(lambda step: dive, judge=PatientJudge(steps=39), trace=True)
    heights = rig.servo.limits.arms[0].fk(episode.trace[0][:, :7])[0][:, 2]
    assert episode.interventions["workspace"] > 10
    assert heights.min() > BOX_GRASP.table_z + 0.005
    assert episode.safety_events == ()
    assert rig.attempt().outcome == "success"


def test_a_policy_that_drives_the_hand_hard_onto_the_box_is_a_class_a_event(rig):
    dive = np.zeros((1, 8))
    dive[0, [1, 3]] = -0.5, -0.8
    episode = rig.attempt(lambda step: dive, judge=PatientJudge(steps=39))
    assert (episode.outcome, episode.failure_mode) == ("failure", "collision")
    assert episode.safety_events == ("contact_force",)
    assert rig.servo.stopped, "until a person resumes"
    assert rig.attempt().failure_mode == "protective_stop"


def test_what_shaping_and_protection_changed_is_counted_apart(rig):
    push = np.full((1, 8), 0.0)
    push[0, 2] = 3.0
    episode = rig.attempt(lambda step: push)
    assert episode.interventions["shape_delta"] == 10
    assert episode.interventions["acceleration"] > 0
