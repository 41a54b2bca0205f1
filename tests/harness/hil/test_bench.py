"""The same engine on a real twin: CAN frames, physics, the runtime, a policy from a checkpoint."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hil_bench import SUBJECT

from ci.station import open_bench, people
from fleet.robot import RobotConfig
from harness.hil.config import load_suite
from harness.hil.journal import read
from harness.hil.lease import OpenBench
from harness.hil.model import InfraCode, InfraError
from harness.hil.prompts.broker import Unanswered
from harness.hil.run import run_suite
from policies.loading import load_policy
from registry.errors import Interrupted, Refused, ServiceFailed
from registry.gates import TrialGate
from registry.verdicts import Outcome

ROOT = Path(__file__).parents[3]
SUITE = ROOT / "policies" / "box_grasp" / "hil" / "lift.yaml"
GOOD = ROOT / "ci" / "demo" / "checkpoints" / "v1"
GATE = TrialGate(suite="lift.yaml")

pytestmark = pytest.mark.slow


class Never:
    requested = False


@pytest.fixture(scope="module")
def good():
    return load_policy(GOOD)


@pytest.fixture
def robot():
    config = RobotConfig.model_validate(
        {
            "robot": "lab",
            "class": "openarm-v2-right",
            "role": "lab",
            "arms": [{"name": "right", "bus": {"interface": "twin"}}],
            "twin": {"seed": 5, "box": {"mass": [0.2, 0.2], "friction": [0.6, 0.8]}},
        }
    )
    with open_bench(config) as robot:
        yield robot


class Fleeting(OpenBench):
    """A right to move that ends after so many questions."""

    def __init__(self, checks):
        self.left = checks

    def __enter__(self):
        return self

    def check(self):
        self.left -= 1
        if self.left < 0:
            raise InfraError(InfraCode.LEASE_LOST, "somebody else has it")


def go(folder, robot, policy, lease=None, **options):
    """One run, taken up again whenever the moody technician of a rehearsal stayed away."""
    clock, broker = people("scripted", robot, SUBJECT, Never())
    while True:
        with suppress(Unanswered):
            return run_suite(
                load_suite(SUITE), GATE, SUBJECT, lambda: policy, robot, broker,
                folder / "run.jsonl", clock, lease or OpenBench(), **options,
            )  # fmt: skip


class Misbehaving:
    """The good policy until `steps` steps, then `what` it does."""

    def __init__(self, policy, what, steps=40):
        self.contract = policy.contract
        self._policy, self._what, self._steps = policy, what, steps

    def reset(self):
        self.count = 0
        self._policy.reset()

    def act(self, observation):
        self.count += 1
        command = self._policy.act(observation)
        return self._what(command) if self.count > self._steps else command


def test_a_good_policy_passes_with_all_three_resets_and_the_judge_agrees_with_physics(
    tmp_path, robot, good
):
    result = go(tmp_path, robot, good)
    assert result.verdict.outcome is Outcome.PASS
    assert min(tally.n for _, tally in result.evidence.tasks) >= 3
    assert result.evidence.judge == "box-grasp/joints/2"
    assert result.judge_agreement.compared == result.evidence.tally.n
    assert result.judge_agreement.agreed >= result.judge_agreement.compared - 1
    assert all(a.interventions is not None and a.steps > 20 for a in result.attempts)


def test_a_motor_that_falls_silent_is_the_rigs_and_breaks_the_bench(tmp_path, robot, good):
    def mute(command):
        robot.world.bank().mute(3)
        return command

    result = go(tmp_path, robot, Misbehaving(good, mute))
    assert [(a.outcome, a.mode) for a in result.attempts] == [("void", "E_BUS")]
    assert "E_BUS" in result.broken
    assert result.verdict.outcome is Outcome.INCONCLUSIVE
    with pytest.raises(ServiceFailed, match="broken"):
        go(tmp_path, robot, good)


@pytest.mark.parametrize(
    ("what", "mode"),
    [
        (lambda command: command * np.nan, "policy_fault"),
        (lambda command: 1 / 0, "policy_crash"),
    ],
)
def test_a_policy_that_breaks_fails_and_the_arm_goes_on(tmp_path, robot, good, what, mode):
    result = go(tmp_path, robot, Misbehaving(good, what))
    assert result.verdict.outcome is Outcome.FAIL
    assert [(a.outcome, a.mode) for a in result.attempts] == [("failure", mode)] * 2
    assert not robot.stop_reason


def test_a_policy_that_is_late_has_one_name_whoever_noticed(tmp_path, robot, good):
    def slow(command):
        robot.runtime.servo.arms[0].wait(2e-3 * good.contract.latency_ms)
        return command

    result = go(tmp_path, robot, Misbehaving(good, slow))
    assert [(a.outcome, a.mode) for a in result.attempts] == [("failure", "policy_late")] * 2


def test_after_a_protective_stop_a_person_lets_the_arm_move_again(tmp_path, robot, good):
    events = []
    stopped = []

    def stop_once(command):
        if not stopped:
            stopped.append(1)
            robot.runtime.servo.protective_stop("test")
        return command

    result = go(tmp_path, robot, Misbehaving(good, stop_once), on_event=events.append)
    assert [a.outcome for a in result.attempts[:2]] == ["failure", "success"]
    asked = [r.data["title"] for r in events if r.kind == "prompt" and r.data["question"] == "ack"]
    assert asked == ["Trial 2: The arm stopped itself"]


def test_a_stop_on_the_way_to_a_trial_stops_the_arm_and_costs_no_trial(tmp_path, robot, good):
    servo, pressed = robot.runtime.servo, []
    far = servo.command.copy()
    far[0] += 0.9
    assert servo.move_to(far)

    def should_stop():
        pressed.extend([1] if servo.command[0] < far[0] - 0.1 else [])
        return "operator_stop" if pressed else None

    robot.should_stop = should_stop
    with pytest.raises(Interrupted):
        go(tmp_path, robot, good, stop_requested=lambda: bool(pressed))
    assert (servo.stopped, servo.stop_reason) == (True, "operator_stop")
    assert servo.command[0] > far[0] - 0.5, "it went on home"
    records, _ = read((tmp_path / "run.jsonl").read_bytes(), "run.jsonl")
    assert not [r for r in records if r.kind == "edge" and r.data["state"] in ("armed", "record")]


def test_a_lease_lost_under_way_stops_the_arm_and_voids_the_trial(tmp_path, robot, good):
    with pytest.raises(Refused, match="lease was lost"):
        go(tmp_path, robot, good, lease=Fleeting(30))
    assert robot.stop_reason
    assert robot.runtime.servo.stopped
    result = go(tmp_path, robot, good)
    assert (result.attempts[0].outcome, result.attempts[0].mode) == ("void", "E_LEASE_LOST")
    assert len(result.attempts) > result.evidence.void
