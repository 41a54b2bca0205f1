"""What the robot's own loop costs, without bus and physics, against its budgets.

A tick is interpolation, protection, gravity and bookkeeping on an arm that answers at once.
Restricted protection is the worst case: every tick runs into a limit. Process time, medians,
interleaved.

    benchmarks/servo_overhead.py [--repeats N]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from shared.figures import line

from fleet.can.faults import ArmState
from fleet.kinematics import load_arms
from fleet.limits import SafetyLimits
from fleet.safety import Measured, SafetyState, protect
from fleet.servo import Servo

START = np.array([-0.04, 0.77, -0.66, 1.81, 1.12, 0.42, -0.70, -0.5])
TICKS = 400


class InstantArm:
    """Answers every exchange with the same state and lets time pass for nothing."""

    def __init__(self) -> None:
        idle = np.zeros(8, dtype=np.uint8)
        zero = np.zeros(8)
        self.state = ArmState(START, zero, zero, idle, idle, idle + 1, zero, 0.0)
        self._time = 0.0

    def now(self) -> float:
        return self._time

    def refresh(self) -> ArmState:
        return self.state

    def exchange(self, *_command: object) -> ArmState:
        return self.state

    def wait(self, seconds: float) -> None:
        self._time += seconds


def protection(batch: int, size: float) -> Callable[[], None]:
    limits = SafetyLimits.for_arms(load_arms("right"), table_z=-0.445)
    state = SafetyState(limits, np.repeat(START[None], batch, axis=0))
    load = Measured(np.zeros((batch, 8)), np.zeros((batch, 8)))
    sway = size * np.sin(np.arange(TICKS) * 2 * np.pi / TICKS)
    targets = [np.repeat((START + x)[None], batch, axis=0) for x in sway]

    def run() -> None:
        for target in targets:
            protect(limits, state, target, load, 0.004)

    return run


def restricted(batch: int) -> Callable[[], None]:
    limits = SafetyLimits.for_arms(load_arms("right"), table_z=-0.445)
    state = SafetyState(limits, np.repeat(START[None], batch, axis=0))
    far = [np.repeat((START + s)[None], batch, axis=0) for s in (0.2, -0.2)]

    def run() -> None:
        for k in range(TICKS):
            protect(limits, state, far[k // 20 % 2], None, 0.004)

    return run


def ticks() -> Callable[[], None]:
    kinematics = load_arms("right")
    limits = SafetyLimits.for_arms(kinematics, table_z=-0.445)
    servo = Servo([InstantArm()], kinematics, limits)
    servo.start()
    commands = [START + 0.05 * np.sin(k * 2 * np.pi * 4 / TICKS) for k in range(TICKS // 4)]

    def run() -> None:
        for command in commands:
            servo.follow(command, 4)

    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    figures = (
        ("protect, 1 row", protection(1, 0.05), 40.0),
        ("protect, 64 rows", protection(64, 0.05), 150.0),
        ("protect, 1 row, restricted", restricted(1), 80.0),
        ("protect, 64 rows, restricted", restricted(64), 300.0),
        ("servo tick without bus", ticks(), 80.0),
    )
    taken: dict[str, list[float]] = {name: [] for name, _, _ in figures}
    for _ in range(repeats):
        for name, run, _ in figures:
            before = time.process_time()
            run()
            taken[name].append((time.process_time() - before) / TICKS * 1e6)
    met = True
    for name, _, budget in figures:
        met &= line(name, median(taken[name]), "µs", "budget", budget, 1.0, less_is_better=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
