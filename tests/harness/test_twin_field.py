"""What happens to an arm in the field, on the twin process: power, dead programs, zero, two arms.

Each is a line of the reference on OpenArm (Damiao's motors); lock-step tests of single motors are
in test_twin_motors.py.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from can.io.canutils import CanutilsLogReader
from machine import real_time
from twin_process import (
    PATIENT_S,
    ZERO,
    TwinProcess,
    column,
    drive_until_killed,
    eventually,
    free_port,
    hold,
    joined,
    make,
    move,
    running,
    state_of,
)

from fleet.can.arm import Arm
from fleet.can.bus import FrameTap
from fleet.can.faults import ArmFault, FaultKind
from fleet.can.gains import STIFF
from fleet.can.host_loss import FALL_AFTER_S, HostLoss
from fleet.can.motors import Register
from fleet.kinematics import load_arms
from fleet.limits import SafetyLimits
from fleet.servo import Servo
from harness.tasks.box_grasp import BOX_GRASP
from harness.twin.bus import TwinBus
from harness.twin.monitor import FrameMonitor
from harness.twin.physics import TwinConfig, TwinWorld
from harness.twin.wire import Recorder

pytestmark = [pytest.mark.slow, real_time]
GROUP = "239.74.163.91"
BOTH = ("--arm", "right", "--arm", "left")


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[TwinProcess]:
    with TwinProcess(tmp_path) as found:
        yield found


def at_rest(twin: TwinProcess) -> bool:
    return eventually(lambda: np.abs(column(state_of(twin), "dq")).max() < 0.01, 30.0)


def test_a_hardware_e_stop_replays_nothing_and_a_person_resumes(twin: TwinProcess) -> None:
    arm = running(twin)
    make(twin, "e_stop")
    with pytest.raises(ArmFault) as caught:
        hold(arm, 3.0)
    assert caught.value.kind is FaultKind.DEAD_BUS
    assert set(column(state_of(twin), "status")) == {"no power"}
    heard = state_of(twin)["heard"]
    make(twin, "e_stop", clear=True)
    state = state_of(twin)
    assert set(column(state, "status")) == {"disabled"}, "power returns, torque does not"
    assert (state["replayed"], state["heard"]) == (0, heard)

    assert at_rest(twin), "limp, it fell"
    arm.rebind(joined(twin))
    arm.clear_faults()
    found = arm.connect().q
    arm.enable()
    hold(arm, 0.5)
    assert np.abs(arm.state.q - found).max() < 0.1, "no jerk"
    assert set(column(state_of(twin), "status")) == {"enabled"}
    arm.close()


@pytest.mark.parametrize("loss", ["hold", "fall"])
def test_a_program_that_is_killed_leaves_the_arm_as_register_9_says(
    twin: TwinProcess, loss: HostLoss
) -> None:
    """TIMEOUT 0 holds the last command for ever; else the motors leave enabled mode, nibble D."""
    spawn = multiprocessing.get_context("spawn")
    holds = spawn.Event()
    program = spawn.Process(target=drive_until_killed, args=(str(twin.channel), loss, holds))
    program.start()
    assert holds.wait(60.0)
    program.kill()
    program.join()
    before = column(state_of(twin), "q")
    if loss == "hold":
        assert not eventually(lambda: set(column(state_of(twin), "status")) != {"enabled"}, 1.0)
        assert np.abs(column(state_of(twin), "q") - before).max() < 0.05
    else:
        assert eventually(
            lambda: set(column(state_of(twin), "status")) == {"communication lost"}, 2.0
        )
        assert eventually(lambda: np.abs(column(state_of(twin), "q") - before).max() > 0.1)

    arm = Arm(joined(twin), fd=True, reply_window_s=PATIENT_S)
    if loss == "fall":
        assert at_rest(twin)
        with pytest.raises(ArmFault, match="communication lost") as caught:
            arm.connect()
        assert caught.value.kind is FaultKind.MOTOR
        arm.clear_faults()
    arm.connect()
    assert arm.enabled is (loss == "hold"), "who holds is taken over as it stands"
    set_to = arm.read_register(arm.motors[0], Register.TIMEOUT)
    assert set_to * 50e-6 == pytest.approx(0.0 if loss == "hold" else FALL_AFTER_S)
    arm.enable()
    arm.disable(drop=True)
    arm.close()


def test_beyond_half_a_turn_a_power_cycle_costs_the_turn(tmp_path: Path) -> None:
    """J1 reaches 200°: at 190° it reads -170° after power returns, and nothing is switched on."""
    with TwinProcess(tmp_path, "--pose", "hang") as twin:
        arm = running(twin)
        goal = arm.state.q.copy()
        goal[0] = np.radians(190.0)
        move(arm, goal, 4.0, rest_s=0.5)
        before = state_of(twin)
        assert column(before, "q")[0] == pytest.approx(goal[0], abs=0.1)
        make(twin, "e_stop")
        make(twin, "e_stop", clear=True)
        after = state_of(twin)
        turned = column(after, "zero") - column(before, "zero")
        assert turned == pytest.approx([2 * np.pi, *[0.0] * 7], abs=1e-4)
        with suppress(ArmFault):
            hold(arm, 0.1)
        arm.rebind(joined(twin))
        assert arm.find().q[0] < np.radians(-150.0)
        assert at_rest(twin)
        with pytest.raises(ArmFault) as caught:
            arm.connect()
        assert (caught.value.kind, caught.value.joints) == (FaultKind.POSE, ("joint1",))
        assert set(column(state_of(twin), "status")) == {"disabled"}
        arm.close()


def test_a_zero_that_was_set_survives_power(twin: TwinProcess) -> None:
    arm = Arm(joined(twin), fd=True, reply_window_s=PATIENT_S)
    before = arm.find().q
    assert abs(before[6]) > 0.5
    arm.set_zero(["joint7"])
    make(twin, "e_stop")
    make(twin, "e_stop", clear=True)
    after = arm.find().q
    assert after[6] == pytest.approx(0.0, abs=0.01)
    assert np.delete(after, 6) == pytest.approx(np.delete(before, 6), abs=0.01)
    arm.close()
    state = state_of(twin)
    assert column(state, "zero")[6] == pytest.approx(before[6], abs=0.01)
    assert (state["zeroings"], state["saves"]) == (1, 0)


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        ("silent", {"arm": "left", "joint": "joint4"}),
        ("overload", {"arm": "left", "joint": "joint2"}),
        ("power_off", {"arm": "left"}),
        ("adapter_lost", {"arm": "left"}),
    ],
)
def test_two_arms_have_a_bus_each_and_one_stop(
    tmp_path: Path, fault: str, where: dict[str, str]
) -> None:
    """A fault of the left arm holds the right one too: a witness reads what it is sent then."""
    kinematics = load_arms("openarm-v2-bimanual")
    limits = SafetyLimits.for_arms(kinematics, table_z=BOX_GRASP.table_z)
    with TwinProcess(tmp_path, *BOTH) as twin:
        monitors = {name: FrameMonitor(name) for name in ("right", "left")}
        arms = [
            Arm(
                FrameTap(joined(twin, name), monitor),
                name=name,
                fd=True,
                reply_window_s=PATIENT_S,
            )
            for name, monitor in monitors.items()
        ]
        for arm in arms:
            arm.connect()
        for arm in arms:
            arm.enable()
        servo = Servo(arms, kinematics, limits)

        def stop(stopped: bool) -> None:
            for monitor in monitors.values():
                monitor.stop(servo.now())

        servo.on_stop = stop
        servo.start()
        servo.hold(10)
        target = servo.command.copy()
        make(twin, fault, **where)

        def on_its_way() -> None:
            for _ in range(2000):
                target[0] += 0.0005
                servo.tick(target)

        with pytest.raises(ArmFault) as caught:
            on_its_way()
        assert caught.value.arm == "left"
        assert servo.stopped
        sent = arms[0].counters.sent
        for _ in range(100):
            target[0] += 0.0005
            with suppress(ArmFault):  # the left arm's stands; the right one is told on
                servo.tick(target)
        assert arms[0].counters.sent >= sent + 8 * 100
        right = state_of(twin, "right")
        assert set(column(right, "status")) == {"enabled"}
        assert np.abs(column(right, "dq")).max() < 0.05
        assert np.abs(column(right, "q") - servo.command[:8]).max() < 0.05
        report = monitors["right"].report()
        assert report.kept, report.examples[:3]
        for arm in arms:
            arm.close()


def test_a_record_played_into_a_new_twin_gets_the_same_answers(tmp_path: Path) -> None:
    """python-can reads the log; at its own times, to the bit."""
    log = tmp_path / "arm.log"
    recorder = Recorder(log, epoch_s=1000.0)
    world = TwinWorld(TwinConfig(seed=5))
    arm = Arm(FrameTap(TwinBus(world), recorder.of("can0")))
    start = arm.connect().q
    arm.enable()
    for tick in range(150):
        arm.exchange(start + 0.05 * np.sin(0.05 * tick), ZERO, STIFF.kp, STIFF.kd, ZERO)
        arm.wait(0.005)
    recorder.close()

    again = TwinBus(TwinWorld(TwinConfig(seed=5)))
    asked = answered = 0
    for msg in CanutilsLogReader(log):
        if msg.is_rx:
            reply = again.recv(0.0)
            assert reply is not None
            assert (reply.arbitration_id, bytes(reply.data)) == (
                msg.arbitration_id,
                bytes(msg.data),
            )
            answered += 1
            continue
        late = msg.timestamp - 1000.0 - again.now()
        if late > 1e-7:
            assert again.recv(late) is None
        again.send(msg)
        asked += 1
    assert asked == answered == arm.counters.sent


def test_python_cans_player_plays_a_record_to_a_twin_process(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    log = tmp_path / "frames.log"
    with TwinProcess(first, "--record", str(log)) as twin:
        running(twin).close()
        twin.end()
    frames = sum(1 for _ in CanutilsLogReader(log))
    port = str(free_port())
    udp = ("--interface", "udp_multicast", "--channel", GROUP, "--port", port)
    bus = (
        "-i",
        "udp_multicast",
        "-c",
        GROUP,
        "--fd",
        "--bus-kwargs",
        f"port={port}",
        "hop_limit=0",
    )
    with TwinProcess(second, interface=udp) as twin:
        done = subprocess.run(
            [sys.executable, "-m", "can.player", *bus, "--", str(log)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert eventually(lambda: state_of(twin)["heard"] == frames)
        assert set(column(state_of(twin), "status")) == {"enabled"}
