"""Arms, buses and servos that fail in an attempt or around it: whose fault, and what is told."""

import can
import pytest
from twin_attempts import PatientJudge, sway

from fleet.can.arm import REPLY_WINDOW_S
from fleet.can.faults import ArmFault, FaultKind
from fleet.can.frames import Status
from registry.errors import Refused, ServiceFailed


def test_a_motor_that_faults_under_the_policy_is_its_failure(rig):
    def answer(step):
        if step == 3:
            rig.world.bank().fail(3, Status.OVERLOAD)
        return sway(step)

    episode = rig.attempt(answer)
    assert (episode.outcome, episode.failure_mode) == ("failure", "arm_fault")
    assert "joint4" in episode.detail
    assert rig.attempt().outcome == "void"


def test_lost_communication_voids_the_attempt(rig):
    def answer(step):
        if step == 3:
            rig.world.bank().mute(1)
        return sway(step)

    episode = rig.attempt(answer, judge=PatientJudge(steps=39))
    assert (episode.outcome, episode.failure_mode, episode.opened) == ("void", "rig_fault", True)
    assert "joint2" in episode.detail


def test_an_adapter_that_vanishes_between_two_exchanges_voids_the_attempt(rig):
    (bus,), gone = rig.buses, []
    receive = bus.recv

    def recv(timeout=None):
        if gone and timeout > 1.1 * REPLY_WINDOW_S:  # the wait for the next tick
            raise can.CanOperationError("no such device")
        return receive(timeout)

    def answer(step):
        if step == 3:
            gone.append(True)
        return sway(step)

    bus.recv = recv
    episode = rig.attempt(answer, judge=PatientJudge(steps=39))
    assert (episode.outcome, episode.failure_mode, episode.opened) == ("void", "rig_fault", True)
    assert "no such device" in episode.detail


@pytest.mark.parametrize("error", [ServiceFailed, Refused])
def test_a_servo_that_fails_under_the_policy_voids_the_attempt_and_closes_it(rig, error):
    """Not by a fault of an arm: such as a servo process whose guardian has taken over."""
    follow, servo = rig.servo.follow, rig.servo

    def breaks(command, ticks):
        if rig.failing:
            raise error("the servo is gone", evidence="killed")
        follow(command, ticks)

    def answer(step):
        rig.failing = step >= 5
        return sway(step)

    rig.failing, servo.follow = False, breaks
    episode = rig.attempt(answer, PatientJudge(steps=39))
    assert (episode.outcome, episode.failure_mode, episode.opened) == ("void", "rig_fault", True)
    assert "the servo is gone" in episode.detail
    assert "killed" in episode.detail
    assert servo.stopped
    assert not rig.attempt().opened


@pytest.mark.parametrize("error", [ServiceFailed, Refused])
@pytest.mark.parametrize(("at", "opened"), [("move_to", False), ("begin", True)])
def test_a_servo_that_fails_before_the_first_step_is_void_too(rig, error, at, opened):
    def breaks(*args, **more):
        raise error("the guardian has taken over", evidence="right arm")

    if at == "move_to":
        rig.servo.move_to = breaks
    else:
        rig.servo.begin = breaks
    episode = rig.attempt(sway, PatientJudge(steps=39))
    assert (episode.outcome, episode.failure_mode, episode.opened) == ("void", "rig_fault", opened)
    assert "the guardian has taken over" in episode.detail


def test_a_servo_that_says_nothing_after_the_attempt_keeps_it_from_nothing(rig):
    def gone():
        raise ArmFault(FaultKind.ADAPTER_LOST, "right", (), "the servo does not answer")

    def answer(step):
        if step == 5:
            rig.servo.interventions = gone
            rig.world.bank().mute(1)
        return sway(step)

    episode = rig.attempt(answer, PatientJudge(steps=39))
    assert (episode.outcome, episode.failure_mode, episode.opened) == ("void", "rig_fault", True)


def test_late_ticks_of_other_attempts_are_not_told_where_the_first_count_is_not_known(
    rig, monkeypatch
):
    asked = []

    def overruns(servo):
        asked.append(1)
        if len(asked) == 1:
            raise ServiceFailed("the servo does not answer")
        return 1000

    count = property(overruns, lambda servo, value: None)
    monkeypatch.setattr(type(rig.servo), "overruns", count, raising=False)
    episode = rig.attempt(sway)
    assert len(asked) == 2
    assert (episode.outcome, episode.overruns) == ("success", 0)


@pytest.mark.parametrize(
    ("trouble", "outcome", "mode"),
    [
        (lambda rig: rig.world.bank().fail(2, Status.OVER_CURRENT), "failure", "arm_fault"),
        (lambda rig: rig.world.bank().fail(2, Status.UNDER_VOLTAGE), "failure", "arm_fault"),
        (lambda rig: rig.world.bank().fail(2, Status.DISABLED), "void", "rig_fault"),
        (lambda rig: rig.world.bank().mute(2), "void", "rig_fault"),
        (lambda rig: [rig.world.bank().mute(i) for i in range(8)], "void", "rig_fault"),
    ],
)
def test_a_fault_in_mid_attempt_counts_as_the_table_says(rig, trouble, outcome, mode):
    def answer(step):
        if step == 5:
            trouble(rig)
        return sway(step)

    episode = rig.attempt(answer, PatientJudge(steps=39))
    assert (episode.outcome, episode.failure_mode, episode.opened) == (outcome, mode, True)
    assert (rig.arms[0].fault.rule.outcome, rig.arms[0].fault.rule.mode) == (outcome, mode)
    assert rig.servo.stopped


def test_a_hot_motor_ends_the_attempt_and_the_next_waits_until_it_has_cooled(rig):
    bank = rig.world.bank("right")

    def answer(step):
        if step == 5:
            bank.coil[4] = 92.0
        return sway(step)

    episode = rig.attempt(answer, PatientJudge(steps=39))
    assert (episode.outcome, episode.failure_mode) == ("failure", "motor_hot")
    assert not rig.servo.stopped
    bank.coil[4] = 80.0
    assert (rig.attempt().failure_mode, rig.log.count("opened")) == ("motor_hot", 1)
    bank.coil[4] = 60.0
    cooled = rig.attempt(sway)
    assert (cooled.outcome, cooled.failure_mode, cooled.detail) == ("success", "", "")
