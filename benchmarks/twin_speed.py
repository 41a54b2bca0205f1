"""The lock-step twin against the physics it runs, and what each part of its tick costs.

One tick is 5 ms of simulated time: eight MIT commands and eight feedbacks as CAN frames, five
physics steps of 1 ms. Raw is mj_step in C from the same state with the same controls and nothing
else. Everything is interleaved; times are those of the one core in use (process time, so that a
busy machine does not blur them), medians over repeats.

    benchmarks/twin_speed.py [--repeats N]
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from statistics import median

import can
import mujoco
import numpy as np
from shared.figures import line

from fleet.can.arm import Arm
from fleet.can.bus import FrameTap
from fleet.can.frames import ArmCodec, feedback_header
from fleet.can.motors import OPENARM_MOTORS
from fleet.kinematics import ArmKinematics
from fleet.limits import SafetyLimits
from fleet.servo import KD, KP, Servo
from harness.twin.monitor import FrameMonitor
from harness.twin.physics import TwinConfig, TwinWorld

TICK_S = 0.005
NEEDED = 20.0
"""Simulated seconds a second of one core that the whole robot has to reach."""
CODEC_BUDGET_US = 40.0
PHYSICS_STEPS = 5
TICKS = 400
"""Ticks of one repeat: one round of the path."""


def timed(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def ready(world: TwinWorld, *, watched: bool) -> tuple[Arm, FrameMonitor]:
    """An enabled arm on the twin, its frames seen by a monitor if `watched`."""
    monitor = FrameMonitor()
    bus: can.BusABC = FrameTap(world.bus(), monitor) if watched else world.bus()
    arm = Arm(bus)
    arm.connect()
    arm.enable()
    return arm, monitor


def swing(start: np.ndarray, tick: int) -> np.ndarray:
    """A path of 2 s, there and back, that keeps all joints moving within the limits."""
    return np.asarray(start + 0.1 * np.sin(np.pi * TICK_S * tick) * (np.arange(8) < 7))


def exchange_ticks(arm: Arm, start: np.ndarray, tau: np.ndarray, ticks: int) -> None:
    still, kp, kd = np.zeros(8), np.array(KP), np.array(KD)
    for tick in range(ticks):
        arm.exchange(swing(start, tick), still, kp, kd, tau)
        arm.bus.recv(TICK_S)


def servo_ticks(servo: Servo, start: np.ndarray, ticks: int) -> None:
    for tick in range(ticks):
        servo.tick(swing(start, tick))


def raw_ticks(world: TwinWorld, ticks: int) -> float:
    """Seconds of the physics alone, from where the world is."""
    model, data = world._model, copy.copy(world._data)
    began = time.process_time()
    for _ in range(ticks):
        mujoco.mj_step(model, data, PHYSICS_STEPS)
    return time.process_time() - began


def codec_ticks(ticks: int) -> float:
    """Seconds of the arm's share: eight encoded, eight decoded."""
    codec = ArmCodec([motor.type.ranges for motor in OPENARM_MOTORS])
    values = [np.full(8, 0.1)] * 5
    header = np.array([feedback_header(i + 1, 1, 35.0, 35.0) for i in range(8)], np.uint64)
    answer = codec.encode_feedback(header, *values[:3])
    began = time.process_time()
    for _ in range(ticks):
        codec.encode_mit(*values)
        codec.decode_feedback(answer)
    return time.process_time() - began


def frames_through(near: can.BusABC, far: can.BusABC | None, ticks: int) -> float:
    """Seconds for 8 commands and 8 answers a tick; `far` answers where the bus does not."""
    data = bytearray.fromhex("7fff7ff0000007ff")
    began = time.process_time()
    for _ in range(ticks):
        for esc_id in range(1, 9):
            near.send(can.Message(arbitration_id=esc_id, is_extended_id=False, data=data))
        if far is not None:
            for _ in range(8):
                asked = far.recv(0.0)
                assert asked is not None
                far.send(can.Message(arbitration_id=0x10 + asked.arbitration_id, data=data))
        for _ in range(8):
            assert near.recv(0.0) is not None
    return time.process_time() - began


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    ticks = TICKS
    simulated = ticks * TICK_S

    worlds = [TwinWorld(TwinConfig(seed=7)) for _ in range(3)]
    plain, _ = ready(worlds[0], watched=False)
    watched, monitor = ready(worlds[1], watched=True)
    driven, _ = ready(worlds[2], watched=False)
    start = plain.state.q.copy()
    kinematics = (ArmKinematics.load("right"),)
    weight = np.append(kinematics[0].gravity(start[:7]), 0.0)
    servo = Servo([driven], kinematics, SafetyLimits.for_arms(kinematics), physics_s=0.001)
    servo.start()

    seconds: dict[str, list[float]] = {}

    def note(name: str, spent: float) -> None:
        seconds.setdefault(name, []).append(spent)

    config = {"interface": "virtual", "channel": "twin_speed", "ignore_config": True}
    with can.Bus(**config) as near, can.Bus(**config) as far:
        for _ in range(options.repeats):
            note("twin", timed(lambda: exchange_ticks(plain, start, weight, ticks)))
            note("raw", raw_ticks(worlds[0], ticks))
            note("watched", timed(lambda: exchange_ticks(watched, start, weight, ticks)))
            note("servo", timed(lambda: servo_ticks(servo, start, ticks)))
            note("codec", codec_ticks(ticks))
            note("bus", frames_through(worlds[0].bus(), None, ticks))
            note("virtual", frames_through(near, far, ticks))
    spent = {name: median(values) for name, values in seconds.items()}
    tick_us = {name: 1e6 * value / ticks for name, value in spent.items()}
    if not monitor.report().kept:
        print(f"the monitor saw a bound broken: {monitor.report().examples[:3]}", file=sys.stderr)
        return 1

    speed = "simulated s / core s"
    met = [
        line(
            "twin: arm, frames, motors, physics",
            simulated / spent["twin"],
            speed,
            "raw mj_step, 5 a tick",
            simulated / spent["raw"],
            0.35,
        ),
        line(
            "twin under servo and protection",
            simulated / spent["servo"],
            speed,
            "what the demo needs",
            NEEDED,
            1.0,
        ),
        line(
            "codec, 8 commands and 8 feedbacks",
            tick_us["codec"],
            "us / tick",
            "budget",
            CODEC_BUDGET_US,
            1.0,
            less_is_better=True,
        ),
        line(
            "bus and motors, 16 frames",
            tick_us["bus"],
            "us / tick",
            "python-can virtual, frames only",
            tick_us["virtual"],
            2.0,
            less_is_better=True,
        ),
        line(
            "frame tap and recording, 16 frames",
            max(tick_us["watched"] - tick_us["twin"], 0.1),
            "us / tick",
            "twin's tick",
            tick_us["twin"],
            3.0,
            less_is_better=True,
        ),
    ]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
