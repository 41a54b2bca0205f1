"""A servo, its guardian and a twin as real processes: motion, stops, faults."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from machine import real_time
from servo_rig import rests, setup_of, swing
from twin_process import TwinProcess, Witness, eventually

from fleet import servo_client
from fleet.can.arm import ArmFault
from fleet.can.faults import FaultKind
from fleet.cycle_log import Ring
from fleet.servo_client import ServoClient
from registry.errors import Refused, ServiceFailed

pytestmark = [pytest.mark.slow, real_time]


def test_it_follows_holds_moves_stops_and_resumes_as_the_servo_in_process_does(
    servo: ServoClient,
) -> None:
    servo.begin()
    goal = swing(servo, 40)
    servo.hold(4)
    assert np.abs(servo.command - goal).max() < 0.01
    assert eventually(lambda: bool(np.abs(servo.q[0] - goal).max() < 0.03))
    assert servo.interventions().keys() <= {"acceleration"}
    assert servo.move_to(goal - 0.1 * np.eye(8)[0])
    assert servo.command[0] == pytest.approx(goal[0] - 0.1)
    assert not servo.move_to(goal, keep_going=lambda: False)
    assert servo.command[0] < goal[0] - 0.05
    servo.protective_stop("test")
    assert (servo.stopped, servo.stop_reason) == (True, "test")
    before = servo.command.copy()
    servo.follow(goal, 4)
    assert np.array_equal(servo.command, before), "a stopped arm moved"
    servo.resume()
    assert (servo.stopped, servo.stop_reason) == (False, "")
    assert servo.move_to(goal)


def test_a_stop_is_obeyed_in_the_middle_of_a_move(servo: ServoClient) -> None:
    goal = servo.command.copy()
    goal[0] += 1.0
    asked = []

    def stop_once() -> bool:
        if not asked:
            asked.append(servo._send("stop", reason="test"))
        return True

    assert not servo.move_to(goal, speed=0.3, keep_going=stop_once)
    assert servo.stopped
    assert servo.command[0] < goal[0] - 0.5


def test_a_policy_that_is_late_finds_the_arm_braked_and_is_told_so(servo: ServoClient) -> None:
    servo.begin()
    goal = swing(servo, 20, 0.02)
    time.sleep(0.2)  # ten of its periods
    rests = servo.command.copy()
    assert np.abs(rests - goal).max() < 0.01, "it went on without a command, or did not arrive"
    time.sleep(0.05)
    assert np.array_equal(servo.command, rests)
    ticks = servo.ticks
    swing(servo, 1)
    assert "late" in servo.events
    assert servo.ticks >= ticks + 3, "the servo ticks whatever the policy does"


def test_a_motor_fault_comes_over_as_the_fault_it_is(servo: ServoClient, twin: TwinProcess) -> None:
    swing(servo, 5)
    command = [sys.executable, "-c", "from ci.cli.main import main; main()"]
    words = ["twin", "fault", "overload", "--joint", "joint3", "--control", str(twin.control)]
    subprocess.run([*command, *words], check=True, capture_output=True)
    with pytest.raises(ArmFault) as caught:
        swing(servo, 50)
    fault = caught.value
    assert (fault.kind, fault.joints) == (FaultKind.MOTOR, ("joint3",))
    assert fault.motors[0].joint == "joint3"
    assert fault.rule.outcome == "failure"
    with pytest.raises(ArmFault):
        servo.move_to(servo.command + 0.1)
    time.sleep(0.3)  # five times as long as the guardian waits for a beat
    with pytest.raises(ArmFault):
        servo.hold(1)


def test_every_cycle_is_in_the_ring(servo: ServoClient) -> None:
    ring = Ring.attach(servo.setup.ring)
    ring.drain()
    first = servo.ticks
    goal = swing(servo, 25)
    servo.hold(2)
    ticks = servo.ticks - first
    cycles = ring.drain()
    ring.close()
    assert cycles.dropped == 0
    assert len(cycles.rows) >= ticks - 3
    assert np.abs(cycles.field("command")[-1] - goal).max() < 0.01
    assert (np.diff(cycles.time) > 0).all()


def test_a_second_servo_of_the_robot_is_refused(servo: ServoClient, twin: TwinProcess) -> None:
    second = ServoClient(setup_of(twin))
    with pytest.raises(Refused, match="runs already"):
        second.start()
    swing(servo, 2)


def test_a_cancel_that_comes_before_the_move_begins_is_not_lost(servo: ServoClient) -> None:
    goal = servo.command.copy()
    goal[0] += 0.3
    servo._send("hold", ticks=40)  # busy while both arrive
    number = servo._send("move_to", goal=goal.tolist(), speed=0.5)
    servo._send("cancel")
    assert servo._answer(number, 20.0) is False
    assert servo.command[0] < goal[0] - 0.29


def test_a_cancel_is_for_what_was_asked_before_it_and_for_nothing_else(servo: ServoClient) -> None:
    goal = servo.command.copy()
    goal[0] += 0.1
    servo._send("hold", ticks=40)
    servo._send("cancel")
    number = servo._send("move_to", goal=goal.tolist(), speed=0.5)
    assert servo._answer(number, 20.0) is True
    assert servo.command[0] == pytest.approx(goal[0])


def test_an_interrupted_wait_for_a_move_ends_the_move(servo: ServoClient) -> None:
    goal = servo.command.copy()
    goal[0] += 1.0
    asked: list[bool] = []

    def interrupted() -> bool:
        asked.append(True)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        servo.move_to(goal, speed=0.2, keep_going=interrupted)
    servo.hold(20)
    assert servo.command[0] < goal[0] - 0.3, "the way was five seconds long"
    assert rests(servo)
    assert servo.move_to(servo.command - 0.05 * np.eye(8)[0]), (
        "the next move is not the cancelled one"
    )


def test_a_move_may_take_longer_than_an_answer(
    servo: ServoClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servo_client, "ANSWER_S", 0.5)
    goal = servo.command.copy()
    goal[0] += 0.5
    began = servo.ticks
    assert servo.move_to(goal, speed=0.1)
    assert servo.ticks - began > 2 * 0.5 / servo.period_s, "the move was no long one"
    assert servo.command[0] == pytest.approx(goal[0])


def test_a_servo_that_ticks_and_does_not_answer_is_not_called_gone(
    servo: ServoClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its guardian lowers nothing then, so nobody may say that it does."""

    def deaf(number: int, within_s: float) -> Any:
        time.sleep(within_s)
        raise TimeoutError

    goal = servo.command.copy()
    goal[0] += 0.2
    monkeypatch.setattr(servo_client, "ANSWER_S", 0.2)
    with monkeypatch.context() as patch:
        patch.setattr(servo, "_answer", deaf)
        with pytest.raises(ServiceFailed, match="does not answer") as caught:
            servo.move_to(goal, speed=0.5)
    assert not isinstance(caught.value, ArmFault)
    assert "guardian" not in str(caught.value)
    servo.hold(20)
    assert rests(servo)


def test_a_servo_that_falls_silent_in_a_move_is_seen_at_once(servo: ServoClient) -> None:
    goal = servo.command.copy()
    goal[0] += 1.0
    frozen: list[int] = []

    def freeze() -> bool:
        if not frozen:
            frozen.append(servo.ticks)
            os.kill(servo.pid, signal.SIGSTOP)
        return True

    try:
        began = time.monotonic()
        with pytest.raises(ArmFault, match="stale") as caught:
            servo.move_to(goal, speed=0.1, keep_going=freeze)
        assert time.monotonic() - began < 15.0
    finally:
        os.kill(servo.pid, signal.SIGCONT)
    assert caught.value.kind is FaultKind.ADAPTER_LOST


def test_closing_in_the_middle_of_a_long_move_lets_the_arm_rest_at_once(
    servo: ServoClient, twin: TwinProcess
) -> None:
    goal = servo.command.copy()
    goal[0] += 1.0
    with Witness(twin) as witness:
        servo._send("move_to", goal=goal.tolist(), speed=0.5)  # nobody waits for its end
        assert eventually(lambda: bool(servo.command[0] > goal[0] - 0.8))
        began, guardian = time.monotonic(), servo.guardians[0]
        servo.close()
        assert time.monotonic() - began < 2.0
        seen = witness.report()
    assert servo.process.returncode == 0, "it ended without a farewell"
    assert guardian.poll() is not None, "the guardian has taken over"
    sent = [f.data[0] << 8 | f.data[1] for f in witness.frames if f.arbitration_id == 1]
    steps = np.abs(np.diff(sent))
    assert steps.max() > 5
    assert steps[-1] < 2, "the last command was still under way"
    assert 25.0 * sent[-1] / 65535 - 12.5 < goal[0] - 0.3
    assert seen.kept, seen.examples


def test_the_servos_process_loads_nothing_heavy() -> None:
    # python-can itself imports sqlite3, for a reader of logs that nobody opens here
    check = (
        "import sys, fleet.servo_process, fleet.guardian_process; "
        "heavy = {'torch', 'sqlalchemy', 'httpx', 'urllib3', 'http.client', 'yaml', 'fastapi', "
        "'click', 'scipy'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
