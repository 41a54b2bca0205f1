"""Stops: who may stop an attempt, how the arm then holds, and that only a person lets it go on."""

import numpy as np
import pytest
from servo_rig import rests
from twin_attempts import PatientJudge, Rig, ScriptedPolicy, TwinTask, contract_for, sway
from twin_process import TwinProcess

from fleet.can.frames import Status
from fleet.runtime import Runtime
from fleet.servo_client import ServoClient
from harness.twin.remote import RemoteTwin


def test_a_stop_ends_the_attempt_and_a_person_has_to_resume(rig):
    judge = PatientJudge()
    episode = rig.attempt(sway, judge, should_stop=lambda: "stopped" if judge.seen == 5 else None)
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
    """Who stops the arm after that is not overruled."""
    judge = PatientJudge(steps=39)

    def should_stop():
        if judge.seen == 4:
            rig.servo.halt("torque")
            return "operator_stop"
        return None

    episode = rig.attempt(sway, judge, should_stop=should_stop)
    assert (episode.outcome, episode.failure_mode) == ("failure", "operator_stop")
    assert rig.servo.stopped
    assert rig.servo.stop_reason == "operator_stop"


@pytest.mark.parametrize("then", ["contact_force", "loop_stalled"])
def test_what_comes_in_the_tick_after_a_torque_stop_is_told_and_waits_for_a_person(rig, then):
    ticks = 0

    def trouble(servo):
        nonlocal ticks
        ticks += 1
        if ticks == 60:
            servo._protection._load[0] = 100.0
        if ticks == 61 and then == "contact_force":
            servo._protection._load[1] = 100.0

    exchange = rig.arms[0].exchange

    def slow(*command):
        if ticks == 61 and then == "loop_stalled":
            rig.world.advance(0.3)
        return exchange(*command)

    rig.arms[0].exchange = slow
    rig.servo.before_tick = trouble
    rig.servo.begin()
    for _ in range(20):
        rig.servo.follow(rig.servo.command.copy(), 4)
    assert rig.servo.events == ["torque", then]
    assert rig.servo.stop_reason == then
    rig.servo.before_tick = None
    again = rig.attempt(sway)
    assert (again.outcome, again.failure_mode) == ("void", "protective_stop")


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


def far_from_home(rig):
    far = rig.servo.command.copy()
    far[0] += 0.9
    far[3] -= 0.4
    assert rig.servo.move_to(far)
    return far


def test_a_stop_on_the_way_to_an_attempt_opens_none_and_costs_none(rig):
    far, asked = far_from_home(rig), []

    def stop():
        asked.append(rig.servo.command.copy())
        return "operator_stop" if len(asked) == 100 else None

    episode = rig.attempt(should_stop=stop)
    assert (episode.outcome, episode.failure_mode, episode.opened) == (
        "void",
        "operator_stop",
        False,
    )
    assert rig.log == [], "the scene was asked for, or an attempt opened"
    assert (rig.servo.stopped, rig.servo.stop_reason) == (True, "operator_stop")
    assert np.abs(rig.servo.command - asked[-1]).max() < 0.05
    assert rig.servo.command[0] > far[0] - 0.5, "it went on home"
    held = rig.servo.command.copy()
    rig.runtime.hold()
    np.testing.assert_array_equal(rig.servo.command, held)
    assert rig.attempt().failure_mode == "protective_stop"
    rig.runtime.resume()
    assert rig.attempt(sway).outcome == "success"


def test_the_last_that_is_asked_before_an_attempt_is_opened_is_whether_to_stop(rig):
    """A stop while the scene is laid out or the policy starts: the arm rests, nothing is opened."""
    pressed = []
    rig.log = type("Log", (list,), {"append": lambda log, what: pressed.append(what)})()
    told = rig.attempt(should_stop=lambda: "agent_stopped" if "reset" in pressed else None)
    assert (told.outcome, told.failure_mode, told.opened) == ("void", "agent_stopped", False)
    assert pressed == ["scene", "reset"]
    assert rig.servo.stopped


def test_a_stop_on_the_way_home_leaves_the_outcome_and_stops_the_arm(rig):
    over = []

    def stop():
        over.extend([1] if judge.seen == 20 else [])
        return "agent_stopped" if len(over) == 20 else None

    judge = PatientJudge(steps=20)
    episode = rig.attempt(lambda step: 0.4 * np.eye(1, 8), judge, should_stop=stop)
    assert (episode.outcome, episode.failure_mode) == ("success", "")
    assert episode.detail == "after the outcome: stopped: agent_stopped"
    assert (rig.servo.stopped, rig.servo.stop_reason) == (True, "agent_stopped")
    assert np.abs(rig.servo.command - rig.task.start_q).max() > 0.1, "it went on home"


def test_a_stop_after_a_torque_stop_leaves_the_arm_where_it_is(rig):
    """It would let itself go and go home; who was told to stop does neither."""

    def answer(step):
        if step == 5:
            rig.servo.halt("torque")
            rig.servo.events.append("torque")
        return sway(step)

    told = rig.attempt(answer, should_stop=lambda: "agent_stopped" if rig.servo.stopped else None)
    held = rig.servo.command.copy()
    assert (told.outcome, told.detail) == ("failure", "torque; then stopped: agent_stopped")
    rig.runtime.hold()
    assert rig.servo.stopped
    np.testing.assert_array_equal(rig.servo.command, held)


def test_no_motion_goes_unasked_for_a_tenth_of_a_second_even_at_a_tenth_of_the_speed(rig):
    far_from_home(rig)
    runtime = Runtime(rig.servo, rig.runtime._kinematics, rig, speed_scale=0.1)
    longest, unasked, last = 0, 0, rig.servo.command.copy()

    def before_tick(servo):
        nonlocal longest, unasked, last
        unasked = unasked + 1 if not np.array_equal(servo.command, last) else 0
        longest, last = max(longest, unasked), servo.command.copy()

    def asked():
        nonlocal unasked
        unasked = 0

    rig.servo.before_tick = before_tick
    policy = ScriptedPolicy(rig.contract, rig.still)
    task = type("Short", (), {"horizon_s": 0.1, "start_q": rig.task.start_q})()
    told = runtime.run_attempt(policy, task, PatientJudge(5), rig.opened, rig, should_stop=asked)
    assert told.opened
    assert 0 < longest * rig.servo.period_s < 0.1
    assert runtime.home(np.array(task.start_q)) == ""


def test_a_question_that_breaks_on_the_way_leaves_the_arm_stopped(rig):
    far, asked = far_from_home(rig), []

    def stop():
        asked.append(1)
        return None if len(asked) < 100 else 1 // 0

    with pytest.raises(ZeroDivisionError):
        rig.attempt(should_stop=stop)
    assert (rig.servo.stopped, rig.servo.stop_reason) == (True, "interrupted")
    assert rig.servo.command[0] > far[0] - 0.5


@pytest.mark.slow
def test_a_servo_in_its_own_process_is_stopped_on_the_way_home(
    servo: ServoClient, twin: TwinProcess
) -> None:
    far = servo.command.copy()
    far[0] += 0.8
    assert servo.move_to(far)
    view, asked = RemoteTwin(twin.control), []

    def stop() -> str | None:
        asked.append(servo.command[0])
        return "operator_stop" if asked[-1] < far[0] - 0.1 else None

    runtime = Runtime(servo, servo.kinematics, view, speed_scale=0.25, async_inference=True)
    policy = ScriptedPolicy(contract_for("openarm-v2-right"), lambda step: np.zeros((1, 8)))
    told = runtime.run_attempt(
        policy, TwinTask(["right"]), PatientJudge(), lambda facts: None, view, should_stop=stop
    )
    assert (told.outcome, told.failure_mode, told.opened) == ("void", "operator_stop", False)
    assert (servo.stopped, servo.stop_reason) == (True, "operator_stop")
    assert rests(servo)
    assert servo.command[0] > far[0] - 0.5, "it went on home"
