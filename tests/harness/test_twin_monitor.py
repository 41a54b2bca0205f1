"""The witness on the bus: what it accepts, and that it sees each bound broken."""

from __future__ import annotations

import struct
from collections.abc import Callable

import can
import numpy as np
import pytest

from fleet.can.arm import Arm
from fleet.can.bus import FrameTap
from harness.twin import monitor as monitor_module
from harness.twin.bus import TwinBus
from harness.twin.monitor import FrameMonitor, FrameReport, openarm_bounds
from harness.twin.physics import TwinConfig, TwinWorld

KP = np.array([230.0, 230.0, 190.0, 190.0, 30.0, 30.0, 30.0, 30.0])
KD = np.array([2.7, 2.7, 2.2, 2.2, 1.5, 1.5, 1.5, 0.2])
ZERO = np.zeros(8)

Target = Callable[[np.ndarray, int], np.ndarray]


def run(target: Target, ticks: int = 200, tau: np.ndarray = ZERO) -> FrameReport:
    """Drive a twin along `target(start, tick)` with a monitor on its bus."""
    world = TwinWorld(TwinConfig(seed=1))
    witness = FrameMonitor()
    arm = Arm(FrameTap(TwinBus(world), witness))
    start = arm.connect().q
    arm.enable()
    for tick in range(ticks):
        arm.exchange(target(start, tick), ZERO, KP, KD, tau)
        arm.wait(0.005)
    arm.disable(lower_s=0.0975)  # 20 passes, wherever the clock's rounding falls
    return witness.report()


def still(start: np.ndarray, tick: int) -> np.ndarray:
    return start


def frame(identifier: int, data: bytes, *, is_rx: bool = False) -> can.Message:
    return can.Message(arbitration_id=identifier, data=data, is_extended_id=False, is_rx=is_rx)


def mit(q: float, kp: float = 30.0, kd: float = 1.0, tau: float = 0.0) -> bytes:
    """A DM4310's MIT command, written out field by field."""
    p, t = int((q + 12.5) / 25.0 * 65535), int((tau + 10.0) / 20.0 * 4095)
    k, d = int(kp / 500.0 * 4095), int(kd / 5.0 * 4095)
    word = p << 48 | 0x7FF << 36 | k << 24 | d << 12 | t
    return struct.pack(">Q", word)


def feedback(q: float, status: int = 1, dq: float = 0.0, tau: float = 0.0) -> bytes:
    p, v = int((q + 12.5) / 25.0 * 65535), int((dq + 30.0) / 60.0 * 4095)
    t = int((tau + 10.0) / 20.0 * 4095)
    return struct.pack(">Q", (status << 4 | 5) << 56 | p << 40 | v << 28 | t << 16 | 0x2320)


def watch(frames: list[tuple[float, can.Message]]) -> FrameReport:
    """What the witness says of joint5's frames after an enable at 0 rad."""
    witness = FrameMonitor()
    witness(0.0, frame(0x05, bytes.fromhex("fffffffffffffffc")))
    witness(0.0, frame(0x15, feedback(0.0), is_rx=True))
    for at, msg in frames:
        witness(at, msg)
    return witness.report()


def broken(report: FrameReport) -> set[str]:
    return {violation.what for violation in report.examples}


def test_an_ordinary_run_keeps_every_bound_and_every_frame_is_counted() -> None:
    def sway(start: np.ndarray, tick: int) -> np.ndarray:
        q = start.copy()
        q[3:7] += 0.2 * np.sin(0.005 * tick * 2.0)
        return q

    report = run(sway)
    assert report.kept
    assert report.examples == ()
    assert report.commands == 8 * (200 + 20)
    assert report.feedbacks > report.commands
    assert report.specials == 16
    assert (report.foreign, report.motor_faults) == (0, 0)
    assert 0.0 < report.worst["command_speed"] < 0.5
    assert 0.0 < report.worst["measured_torque"] < 1.0
    assert report.worst["gain_kp"] == pytest.approx(1.0, abs=0.01)


def test_the_codec_of_the_arm_and_of_the_witness_agree_on_a_real_run() -> None:
    tau = np.array([39.0, 0.0, -26.0, 0.0, 6.9, 0.0, 0.0, 0.0])
    report = run(still, ticks=1, tau=tau)
    assert report.worst["command_torque"] == pytest.approx(6.9 / 7.0, abs=2e-3)


def test_a_leap_of_the_command_is_seen() -> None:
    def leap(start: np.ndarray, tick: int) -> np.ndarray:
        q = start.copy()
        q[4] += 0.2 * (tick == 100)
        return q

    report = run(leap)
    assert broken(report) == {"command_speed"}
    assert {violation.joint for violation in report.examples} == {"joint5"}
    assert report.violations == 1  # the way back is to where the joint still is
    assert report.examples[0].value == pytest.approx(40.0, rel=0.05)


def test_a_first_command_away_from_the_arm_is_seen() -> None:
    def away(start: np.ndarray, tick: int) -> np.ndarray:
        q = start.copy()
        q[6] += 0.1
        return q

    assert broken(run(away, ticks=5)) == {"start_jump"}


def test_a_command_may_begin_anew_from_where_the_joint_is() -> None:
    lagging = [(0.005, frame(0x05, mit(0.02))), (0.010, frame(0x05, mit(0.04)))]
    assert watch([*lagging, (0.015, frame(0x05, mit(0.001)))]).kept
    report = watch([*lagging, (0.015, frame(0x05, mit(-0.04)))])
    assert broken(report) == {"command_speed"}
    assert report.examples[0].value == pytest.approx(0.04 / 0.005, rel=0.05)


def test_bounds_hold_between_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [(0.005 * n, frame(0x05, mit(0.2 * (n == 13)))) for n in range(1, 30)]
    whole = watch(steps)
    for batch in range(2, 40):
        monkeypatch.setattr(monitor_module, "BATCH", batch)
        assert watch(steps) == whole
    assert whole.violations == 1


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("command_position", mit(1.8)),
        ("command_torque", mit(0.0, tau=8.0)),
        ("gain_kp", mit(0.0, kp=60.0)),
        ("full_scale", mit(12.5)),
        ("full_scale", mit(-12.5)),
        ("zeroed_while_enabled", bytes.fromhex("fffffffffffffffe")),
    ],
)
def test_each_bound_on_commands_is_watched(what: str, data: bytes) -> None:
    assert what in broken(watch([(0.005, frame(0x05, data))]))


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("measured_position", feedback(1.8)),
        ("measured_speed", feedback(0.0, dq=22.0)),
        ("measured_torque", feedback(0.0, tau=8.0)),
    ],
)
def test_each_bound_on_measurements_is_watched(what: str, data: bytes) -> None:
    assert broken(watch([(0.005, frame(0x15, data, is_rx=True))])) == {what}


def test_faults_and_strangers_are_counted_apart() -> None:
    report = watch(
        [
            (0.1, frame(0x15, feedback(0.0, status=0xC), is_rx=True)),
            (0.2, frame(0x05, mit(0.0), is_rx=True)),
            (0.3, frame(0x000, bytes(8), is_rx=True)),
        ]
    )
    assert (report.motor_faults, report.foreign, report.violations) == (1, 2, 0)


def test_scales_are_learned_from_the_wire_and_acks_are_no_feedback() -> None:
    vmax = struct.pack("<HBBf", 5, 0x33, 22, 15.0)
    fast = feedback(0.0, dq=26.0)
    assert broken(watch([(0.1, frame(0x15, fast, is_rx=True))])) == {"measured_speed"}
    report = watch([(0.1, frame(0x15, vmax, is_rx=True)), (0.2, frame(0x15, fast, is_rx=True))])
    assert report.worst["measured_speed"] == pytest.approx(13.0 / 20.944, abs=0.01)
    assert report.feedbacks == 2


def test_an_unpowered_joint_may_be_anywhere() -> None:
    assert watch([(0.1, frame(0x15, feedback(3.0, status=0), is_rx=True))]).kept


def test_the_left_arm_is_the_right_one_mirrored() -> None:
    right, left = openarm_bounds("right"), openarm_bounds("left")
    assert left.q_min[[0, 1, 7]].tolist() == (-right.q_max[[0, 1, 7]]).tolist()
    assert left.q_max[2:7].tolist() == right.q_max[2:7].tolist()


HELD = [(0.005 * n, frame(0x05, mit(0.02 * min(n, 3)))) for n in range(1, 40)]
"""Joint 5 comes to rest at 0.06 rad and is held there."""


def watch_stopped(frames: list[tuple[float, can.Message]], resume_s: float = 9.0) -> FrameReport:
    """As `watch`, with a stop at 12 ms and a resume at `resume_s`."""
    witness = FrameMonitor()
    witness(0.0, frame(0x05, bytes.fromhex("fffffffffffffffc")))
    witness(0.0, frame(0x15, feedback(0.0), is_rx=True))
    for at, msg in frames:
        if at > 0.012:
            witness.stop(0.012)
        if at >= resume_s:
            witness.resume()
        witness(at, msg)
    return witness.report()


def test_an_arm_that_brakes_and_holds_after_a_stop_keeps_the_rule() -> None:
    quiet = [
        (0.2, frame(0x05, bytes.fromhex("fffffffffffffffd"))),
        (0.2, frame(0x05, bytes.fromhex("fffffffffffffffb"))),
        (0.2, frame(0x7FF, bytes.fromhex("0500cc0000000000"))),
    ]
    assert watch_stopped([*HELD, *quiet]).kept


def speed(v: int) -> bytes:
    word = int.from_bytes(mit(0.06), "big") & ~(0xFFF << 36) | (2047 + v) << 36
    return word.to_bytes(8, "big")


@pytest.mark.parametrize(
    ("what", "identifier", "data"),
    [
        ("moved_while_stopped", 0x05, mit(0.065)),
        ("moved_while_stopped", 0x05, mit(0.0)),
        ("speed_while_stopped", 0x05, speed(40)),
        ("torque_while_stopped", 0x05, mit(0.06, kp=0.0, kd=0.0, tau=0.5)),
        ("enabled_while_stopped", 0x05, bytes.fromhex("fffffffffffffffc")),
        ("commanded_while_stopped", 0x105, struct.pack("<ff", 0.06, 1.0)),
        ("commanded_while_stopped", 0x205, struct.pack("<f", 0.5)),
        ("commanded_while_stopped", 0x305, struct.pack("<fHH", 0.06, 100, 100)),
    ],
)
def test_a_frame_that_moves_a_stopped_motor_fails(what: str, identifier: int, data: bytes) -> None:
    late = (0.2, frame(identifier, data))
    assert what in broken(watch_stopped([*HELD, late]))
    assert what not in broken(watch([*HELD, late]))
    assert what not in broken(watch_stopped([*HELD, late], resume_s=0.2))


def test_creeping_after_a_stop_is_seen_however_slow() -> None:
    creep = [(0.2 + 0.005 * n, frame(0x05, mit(0.06 + 0.0004 * n))) for n in range(10)]
    assert broken(watch_stopped([*HELD, *creep])) == {"moved_while_stopped"}


def test_running_on_instead_of_braking_is_seen() -> None:
    on = [(0.005 * n, frame(0x05, mit(0.03 * n))) for n in range(1, 20)]
    assert watch(on).kept
    assert broken(watch_stopped(on)) == {"moved_while_stopped"}
