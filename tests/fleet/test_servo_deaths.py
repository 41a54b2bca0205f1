"""A servo, its guardian, or the program that they serve is killed, in front of a twin."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import can
import numpy as np
import pytest
from machine import real_time
from servo_rig import frames_after, locks, rests, setup_of, swing
from twin_process import TwinProcess, Witness, closing_bus, eventually, joined, make

from fleet.can.arm import ArmFault
from fleet.can.bus import open_bus
from fleet.servo_client import ServoClient
from fleet.shared_memory import memory_folder
from registry.errors import ServiceFailed

pytestmark = [pytest.mark.slow, real_time]


def test_without_its_guardian_no_motion_begins(servo: ServoClient) -> None:
    servo.guardians[0].kill()
    servo.guardians[0].wait()
    servo.wake()
    still = servo.command.copy()
    for move in (servo.move_to, servo.tick, lambda goal: servo.follow(goal, 4)):
        with pytest.raises(ArmFault, match="guardian has ended") as caught:
            move(still + 0.01)
        assert caught.value.rule.outcome == "void"
    assert np.array_equal(servo.command, still)
    servo.hold(2)  # what moves already may still be held and stopped


def test_a_guardian_that_is_killed_under_motion_is_noticed_before_the_next_step(
    servo: ServoClient, twin: TwinProcess
) -> None:
    with Witness(twin) as witness:
        goal = swing(servo, 10, 0.02)
        os.kill(servo.guardians[0].pid, signal.SIGKILL)
        assert eventually(lambda: servo.guardians[0].poll() is not None)
        with pytest.raises(ArmFault, match="guardian has ended"):
            servo.follow(goal + 0.02, 4)
        with pytest.raises(ArmFault, match="guardian has ended"):
            servo.move_to(goal + 0.2)
        servo.hold(40)  # a hold and a stop need nobody
        assert np.abs(servo.command - goal).max() < 0.01
        servo.protective_stop("test")
        assert servo.process.poll() is None
        seen = witness.report()
    assert seen.kept, seen.examples
    assert seen.commands > 100


def test_a_guardian_that_is_stopped_is_noticed_under_motion(
    servo: ServoClient, twin: TwinProcess
) -> None:
    stopped = servo.guardians[0]
    goal = servo.command.copy()
    goal[0] += 1.0
    with Witness(twin) as witness:
        os.kill(stopped.pid, signal.SIGSTOP)
        try:
            with pytest.raises(ArmFault, match="guardian does not answer") as caught:
                servo.move_to(goal, speed=0.05)
            assert caught.value.rule.outcome == "void"
            with pytest.raises(ArmFault, match="guardian does not answer"):
                servo.follow(goal, 4)
            servo.hold(20)
            assert servo.command[0] < goal[0] - 0.1
            assert rests(servo)
        finally:
            os.kill(stopped.pid, signal.SIGCONT)
        seen = witness.report()
    assert seen.kept, seen.examples


def test_a_guardian_that_is_killed_in_the_middle_of_a_long_move_ends_it(
    servo: ServoClient, twin: TwinProcess
) -> None:
    goal = servo.command.copy()
    goal[0] += 1.0
    asked: list[bool] = []

    def kill_once() -> bool:
        if not asked:
            os.kill(servo.guardians[0].pid, signal.SIGKILL)
        asked.append(True)
        return True

    with Witness(twin) as witness:
        with pytest.raises(ArmFault, match="guardian has ended"):
            servo.move_to(goal, speed=0.2, keep_going=kill_once)
        servo.hold(20)
        assert servo.command[0] < goal[0] - 0.5
        assert rests(servo)
        seen = witness.report()
    assert seen.kept, seen.examples


def test_a_sigterm_to_all_leaves_servo_and_guardian_to_their_client(
    servo: ServoClient, twin: TwinProcess
) -> None:
    """As a supervisor ends a service: every process of it is told at once."""
    swing(servo, 5)
    process, guardian = servo.process, servo.guardians[0]
    for pid in (servo.pid, guardian.pid):
        os.kill(pid, signal.SIGTERM)
    swing(servo, 50)  # what is under way is finished
    servo.protective_stop("agent_stopped")
    assert rests(servo)
    assert guardian.poll() is None
    told = threading.Thread(target=_told_until_it_ends, args=(guardian,))
    told.start()
    servo.close()
    told.join()
    assert (process.returncode, guardian.returncode) == (0, 0)


def _told_until_it_ends(process: subprocess.Popen[bytes]) -> None:
    """At any moment of its end, also while its interpreter ends."""
    with suppress(PermissionError):  # of this thread alone: as urgent as what it signals
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(90))
    while process.poll() is None:
        process.terminate()
        time.sleep(0.0002)


def test_a_guardian_that_is_told_to_end_lowers_the_arm_of_a_killed_servo_before(
    servo: ServoClient, twin: TwinProcess
) -> None:
    swing(servo, 5)
    guardian = servo.guardians[0]
    with closing_bus(joined(twin)) as bus:
        os.kill(guardian.pid, signal.SIGTERM)
        swing(servo, 5)
        servo.process.kill()
        servo.process.wait()
        seen = frames_after(bus, 1.0)
        while guardian.poll() is None:
            seen += frames_after(bus, 0.5)
            assert len(seen) < 100_000, "it does not end"
    assert guardian.returncode == 0
    stiffness = [(f.data[3] & 0xF) << 8 | f.data[4] for _, f in seen if f.arbitration_id == 1]
    assert stiffness[0] > 0
    assert stiffness[-1] == 0


def names(servo: ServoClient) -> set[str]:
    """What is in memory of this robot but for its locks."""
    ours = memory_folder().glob(f"policyctl-{servo.setup.robot}-*")
    return {path.name for path in ours if path.suffix != ".lock"}


def test_nothing_of_a_killed_servo_stays_in_memory_once_its_client_has_closed(
    servo: ServoClient, twin: TwinProcess
) -> None:
    swing(servo, 5)
    assert len(names(servo)) == 5  # orders, states, cycles, beat, word
    os.kill(servo.pid, signal.SIGKILL)
    with pytest.raises(ArmFault, match="does not answer"):
        swing(servo, 100)
    servo.close()
    assert names(servo) == set()
    bus = open_bus({"interface": "policyctl", "channel": str(twin.channel)})
    assert frames_after(bus, 0.3), "the guardian goes on without its names"
    bus.shutdown()


CLIENT = """
import itertools, sys
from fleet.servo_client import ServoClient
from fleet.servo_setup import ServoSetup
servo = ServoClient(ServoSetup.from_json(sys.argv[1]))
servo.start()
goal = servo.command.copy()
for step in itertools.count():
    goal = goal.copy()
    goal[0] += 0.002
    servo.follow(goal, 4)
    if step == 10:
        print(servo.pid, *(p.pid for p in servo.guardians), flush=True)
"""


def test_the_next_start_removes_what_killed_processes_left_in_memory(twin: TwinProcess) -> None:
    setup = setup_of(twin, log=True)
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, setup.to_json()], stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    for pid in (*map(int, client.stdout.readline().split()), client.pid):
        os.kill(pid, signal.SIGKILL)
    client.wait()
    other = memory_folder() / f"policyctl-{setup.robot}-x-1-states"  # of a robot named like it
    other.touch()
    second = ServoClient(setup_of(twin))
    left = set(memory_folder().glob(f"{setup.name}-*"))
    assert len(left) == 5
    try:
        second.start()
        assert not list(memory_folder().glob(f"{setup.name}-*"))
        assert other.exists()
        swing(second, 5)
    finally:
        second.close()
        other.unlink()
    assert names(second) == set()
    for path in locks():
        path.unlink()


def positions(frames: list[tuple[float, can.Message]], motor: int) -> list[int]:
    return [f.data[0] << 8 | f.data[1] for _, f in frames if f.arbitration_id == motor]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_the_guardian_follows_a_servo_that_dies_within_100_ms(
    servo: ServoClient, twin: TwinProcess, how: signal.Signals
) -> None:
    bus = open_bus({"interface": "policyctl", "channel": str(twin.channel)})
    swing(servo, 10)
    servo.hold(10)
    held = positions(frames_after(bus, 0.1), 1)
    pid = servo.pid
    os.kill(pid, how)
    killed = time.monotonic()
    time.sleep(0.02)  # what the servo had sent is read away; the guardian cannot act yet
    while bus.recv(0.0) is not None:
        pass
    after = frames_after(bus, 0.5)
    assert after, "nobody commands the arm"
    assert after[0][0] - killed < 0.1 + 0.1  # the bound, and what a busy machine adds
    assert set(positions(after, 1)) == {held[-1]}, "the guardian moves the arm"
    with pytest.raises(ServiceFailed, match="does not answer"):
        swing(servo, 2)
    if how is signal.SIGSTOP:
        os.kill(pid, signal.SIGCONT)  # it is refused before it commands a motor
        assert eventually(lambda: servo.process.poll() == 9)
    bus.shutdown()


def test_a_guardian_that_lowers_opens_an_interface_anew_that_was_gone(
    servo: ServoClient, twin: TwinProcess
) -> None:
    swing(servo, 10)
    servo.process.kill()
    servo.process.wait()
    with closing_bus(joined(twin)) as bus:
        while bus.recv(0.0) is not None:
            pass
        assert eventually(lambda: bool(frames_after(bus, 0.1))), "the guardian does nothing"
        make(twin, "adapter_lost")
    make(twin, "adapter_lost", clear=True)
    with closing_bus(joined(twin)) as bus:
        assert eventually(lambda: bool(frames_after(bus, 0.1)), 20.0), "it is lost to the guardian"


def _is_zombie(pid: int) -> bool:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


def test_a_client_that_is_killed_is_a_stop_and_the_guardian_lowers_the_arm(
    twin: TwinProcess,
) -> None:
    setup = setup_of(twin)
    bus = open_bus({"interface": "policyctl", "channel": str(twin.channel)})
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, setup.to_json()], stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    servo, guardian = map(int, client.stdout.readline().split())
    client.kill()
    client.wait()
    assert eventually(lambda: not Path(f"/proc/{servo}").exists() or _is_zombie(servo))
    seen = frames_after(bus, 2.0)
    stiffness = [(f.data[3] & 0xF) << 8 | f.data[4] for _, f in seen if f.arbitration_id == 1]
    assert stiffness[-1] < stiffness[0], "the guardian does not lower the arm"
    assert len(set(positions(seen[-40:], 1))) == 1
    os.kill(guardian, signal.SIGTERM)
    bus.shutdown()
    for path in (*memory_folder().glob(f"{setup.name}-*"), *locks()):
        path.unlink()


MOVING = """
import sys, time
from fleet.servo_client import ServoClient
from fleet.servo_setup import ServoSetup
servo = ServoClient(ServoSetup.from_json(sys.argv[1]))
servo.start()
goal = servo.command.copy()
goal[0] += 1.0
servo._send("move_to", goal=goal.tolist(), speed=0.5)
while servo.command[0] < goal[0] - 0.7:
    time.sleep(0.002)
print(servo.pid, *(p.pid for p in servo.guardians), flush=True)
time.sleep(60.0)
"""


def test_a_client_that_is_killed_in_the_middle_of_a_move_lets_the_arm_brake(
    twin: TwinProcess,
) -> None:
    setup = setup_of(twin)
    with Witness(twin) as witness:
        client = subprocess.Popen(
            [sys.executable, "-c", MOVING, setup.to_json()], stdout=subprocess.PIPE, text=True
        )
        assert client.stdout is not None
        servo, guardian = map(int, client.stdout.readline().split())
        client.kill()
        client.wait()
        assert eventually(lambda: not Path(f"/proc/{servo}").exists() or _is_zombie(servo))
        witness.report()
    os.kill(guardian, signal.SIGTERM)
    for path in (*memory_folder().glob(f"{setup.name}-*"), *locks()):
        path.unlink()
    sent = [f.data[0] << 8 | f.data[1] for f in witness.frames if f.arbitration_id == 1]
    steps = np.diff(sent[1:])  # the first switches it on
    assert steps.max() > 8
    assert steps[-1] < 2, "its last command was still under way"
    assert steps.min() > -2, "the guardian took it back to the tick before"
