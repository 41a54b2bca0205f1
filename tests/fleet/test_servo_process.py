"""A servo, its guardian and a twin as real processes: motion, stops, faults, deaths."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import can
import numpy as np
import pytest
from twin_process import TwinProcess, Witness

from fleet.can.arm import ArmFault
from fleet.can.bus import open_bus
from fleet.can.faults import FaultKind
from fleet.can.motors import joint_limits
from fleet.cycle_log import Ring
from fleet.servo_client import ServoClient
from fleet.servo_setup import BusSetup, LimitValues, ServoSetup
from fleet.shared_memory import memory_folder
from registry.errors import Refused, ServiceFailed

pytestmark = pytest.mark.slow
LOW, HIGH = (tuple(side.tolist()) for side in joint_limits("right"))


def setup_of(twin: TwinProcess, **more: Any) -> ServoSetup:
    return ServoSetup(
        robot=f"test-{os.getpid()}",
        name=f"policyctl-test-{os.getpid()}-{time.monotonic_ns()}",
        robot_class="openarm-v2-right",
        buses=(BusSetup("right", {"interface": "policyctl", "channel": str(twin.channel)}, True),),
        limits=LimitValues(((LOW, HIGH),), {"table_z": -0.445}),
        **more,
    )


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[TwinProcess]:
    with TwinProcess(tmp_path) as made:
        yield made


@pytest.fixture
def servo(twin: TwinProcess) -> Iterator[ServoClient]:
    made = ServoClient(setup_of(twin, log=True))
    made.start()
    yield made
    made.close()
    for process in made.guardians:  # those that took the arm over end by a person's hand
        process.kill()
        process.wait()
    for path in (*memory_folder().glob(f"{made.setup.name}-*"), *locks()):
        path.unlink()


def locks() -> list[Path]:
    return list(memory_folder().glob(f"policyctl-test-{os.getpid()}-*.lock"))


def rests(servo: ServoClient) -> bool:
    before = servo.command.copy()
    time.sleep(0.1)
    return np.array_equal(servo.command, before)


def swing(servo: ServoClient, steps: int, rad: float = 0.004) -> np.ndarray:
    goal = servo.command.copy()
    for _ in range(steps):
        goal = goal.copy()
        goal[0] += rad
        servo.follow(goal, 4)
    return goal


def until(says: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not says():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def test_it_follows_holds_moves_stops_and_resumes_as_the_servo_in_process_does(
    servo: ServoClient,
) -> None:
    servo.begin()
    goal = swing(servo, 40)
    servo.hold(4)
    assert np.abs(servo.command - goal).max() < 0.01
    until(lambda: bool(np.abs(servo.q[0] - goal).max() < 0.03))
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
    assert set(servo.events) == {"late"}
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
        until(lambda: servo.guardians[0].poll() is not None)
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
    assert servo.command[0] < goal[0] - 0.8
    assert rests(servo)
    assert servo.move_to(servo.command - 0.05 * np.eye(8)[0]), (
        "the next move is not the cancelled one"
    )


def test_closing_in_the_middle_of_a_long_move_lets_the_arm_rest_at_once(
    servo: ServoClient, twin: TwinProcess
) -> None:
    goal = servo.command.copy()
    goal[0] += 1.0
    with Witness(twin) as witness:
        servo._send("move_to", goal=goal.tolist(), speed=0.5)  # nobody waits for its end
        until(lambda: bool(servo.command[0] > goal[0] - 0.8))
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


def frames_after(bus: can.BusABC, seconds: float) -> list[tuple[float, can.Message]]:
    """Commands (ids 1 to 8) seen on the bus from now on."""
    found, end = [], time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        message = bus.recv(left)
        if message is not None and 1 <= message.arbitration_id <= 8:
            found.append((time.monotonic(), message))
    return found


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
        until(lambda: servo.process.poll() == 9)
    bus.shutdown()


CLIENT = """
import sys, json
from fleet.servo_client import ServoClient
from fleet.servo_setup import ServoSetup
servo = ServoClient(ServoSetup.from_json(sys.argv[1]))
servo.start()
goal = servo.command.copy()
print(servo.pid, *(p.pid for p in servo.guardians), flush=True)
while True:
    goal = goal.copy()
    goal[0] += 0.002
    servo.follow(goal, 4)
"""


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
    time.sleep(0.3)
    client.kill()
    client.wait()
    until(lambda: not Path(f"/proc/{servo}").exists() or _is_zombie(servo))
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
        until(lambda: not Path(f"/proc/{servo}").exists() or _is_zombie(servo))
        witness.report()
    os.kill(guardian, signal.SIGTERM)
    for path in (*memory_folder().glob(f"{setup.name}-*"), *locks()):
        path.unlink()
    sent = [f.data[0] << 8 | f.data[1] for f in witness.frames if f.arbitration_id == 1]
    steps = np.diff(sent[1:])  # the first switches it on
    assert steps.max() > 8
    assert steps[-1] < 2, "its last command was still under way"
    assert steps.min() > -2, "the guardian took it back to the tick before"


def _is_zombie(pid: int) -> bool:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


def test_the_servos_process_loads_nothing_heavy() -> None:
    # python-can itself imports sqlite3, for a reader of logs that nobody opens here
    check = (
        "import sys, fleet.servo_process, fleet.guardian_process; "
        "heavy = {'torch', 'sqlalchemy', 'httpx', 'urllib3', 'http.client', 'yaml', 'fastapi', "
        "'click', 'scipy'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
