"""Stops: who may stop an attempt, how the arm then holds, and that only a person lets it go on."""

import numpy as np
import pytest
from twin_attempts import PatientJudge, Rig, sway

from fleet.can.frames import Status


def test_a_stop_ends_the_attempt_and_a_person_has_to_resume(rig):
    asked = []

    def stop():
        asked.append(1)
        return "stopped" if len(asked) > 5 else None

    episode = rig.attempt(sway, should_stop=stop)
    assert (episode.outcome, episode.failure_mode, episode.steps) == ("failure", "stopped", 5)
    held = rig.servo.command.copy()
    again = rig.attempt(sway)
    assert (again.outcome, again.failure_mode, again.opened) == ("void", "protective_stop", False)
    np.testing.assert_array_equal(rig.servo.command, held)
    rig.runtime.resume()
    assert rig.attempt(sway).outcome == "success"


def test_after_a_stop_the_arm_goes_on_from_where_it_is_not_from_where_it_was(rig):
    (arm,) = rig.arms
    rig.servo.protective_stop("operator")
    stopped_at = rig.servo.command.copy()
    arm.disable()
    arm.wait(0.3)
    arm.enable()
    arm.wait(0.05)  # limp until its first command
    rig.runtime.resume()
    assert np.abs(rig.servo.command - stopped_at).max() > 0.1, "the arm has sunk"
    np.testing.assert_allclose(rig.servo.command, arm.refresh().q, atol=1e-3)


def test_hold_is_safe_at_any_time_even_with_a_dead_motor(rig):
    rig.runtime.hold()
    rig.world.bank().fail(2, Status.COIL_OVER_TEMPERATURE)
    rig.runtime.hold()
    rig.runtime.hold()
    assert rig.attempt().outcome == "void"


def test_a_stop_that_follows_a_torque_stop_is_not_undone(rig):
    """The servo keeps its first reason; who stops the arm after that is not overruled."""
    asked = []

    def should_stop():
        asked.append(1)
        if len(asked) == 5:
            rig.servo.halt("torque")
            return "operator_stop"
        return None

    episode = rig.attempt(sway, PatientJudge(steps=39), should_stop=should_stop)
    assert (episode.outcome, episode.failure_mode) == ("failure", "operator_stop")
    assert rig.servo.stopped


def test_a_judge_that_breaks_leaves_the_arm_holding(rig):
    judge = PatientJudge()
    judge.update = lambda *args: 1 // 0
    with pytest.raises(ZeroDivisionError):
        rig.attempt(sway, judge)
    assert rig.servo.stopped
    assert rig.servo.stop_reason == "interrupted"


def test_a_measured_breach_is_a_class_a_event():
    rig = Rig(low=(-0.15, -0.62, -0.25))
    episode = rig.attempt()
    rig.close()
    assert (episode.outcome, episode.failure_mode) == ("failure", "collision")
    assert episode.safety_events == ("workspace_breach",)
    assert rig.servo.stopped


def test_the_hardware_e_stop_is_observed_and_nothing_is_sent_until_a_person_resumes(rig):
    """Power gone from all motors under the policy."""
    bank = rig.world.bank("right")

    def answer(step):
        if step == 3:
            for slot in range(8):
                bank.fail(slot, Status.UNDER_VOLTAGE)
        return sway(step)

    episode = rig.attempt(answer, PatientJudge(steps=39))
    assert episode.opened
    assert episode.failure_mode in ("arm_fault", "rig_fault")
    assert rig.servo.stopped
    assert rig.servo.stop_reason == "arm_fault"
    sent = []
    send = rig.buses[0].send
    rig.buses[0].send = lambda msg, timeout=None: (sent.append(msg), send(msg, timeout))
    again = rig.attempt(sway)
    assert (again.outcome, again.failure_mode, again.opened) == ("void", "protective_stop", False)
    assert sent == [], "no frame at all goes to a stopped arm in fault"
