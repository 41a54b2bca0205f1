"""Motors that say nothing for less than a fault takes: no arm goes on without them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from fault_bench import Bench

from harness.twin.faults import clear, inject

SWING = 1.9
"""rad/s of joint 1, whose limit is 2."""
CUTS = [("silent", {"joint": "joint1"}), ("dead_bus", {})]


@dataclass
class Swing:
    """Joint 1 led to and fro at 50 Hz, and what it and its command did, tick by tick."""

    bench: Bench = field(default_factory=Bench)
    command: list[float] = field(default_factory=list)
    joint: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.goal = self.bench.servo.command.copy()

    def step(self, speed: float) -> None:
        servo, before = self.bench.servo, self.goal.copy()
        self.goal[0] += speed / 50
        for k in range(1, 5):
            servo.tick(before + (self.goal - before) * k / 4)
            self.command.append(float(servo.command[0]))
            self.joint.append(float(self.bench.world.joints("right")[0]))

    def cut(self, kind: str, where: dict[str, str], steps: int) -> None:
        inject(self.bench.world, kind, **where)
        for _ in range(steps):
            self.step(-SWING)
        clear(self.bench.world)


@pytest.mark.parametrize(("kind", "where"), CUTS)
def test_a_short_silence_ends_without_a_jerk(kind: str, where: dict[str, str]) -> None:
    swing = Swing()
    for _ in range(8):
        swing.step(SWING)
    swing.cut(kind, where, steps=9)
    back = len(swing.joint)
    assert abs(swing.command[-1] - swing.joint[-1]) < 0.06, "the command waited for the joint"
    for _ in range(30):
        swing.step(-SWING / 4)
    speeds = np.diff(swing.joint[back - 1 :]) / swing.bench.servo.period_s
    assert np.abs(speeds).max() < 1.3 * swing.bench.servo.limits.dq_max[0]
    assert speeds.min() < -SWING / 8, "it goes on"
    assert swing.bench.servo.events == ["unheard"], "neither a fault nor a contact that was none"
    assert not swing.bench.servo.stopped


def test_one_lost_answer_holds_nothing() -> None:
    swing = Swing()
    for _ in range(8):
        swing.step(SWING)
    inject(swing.bench.world, "silent", joint="joint1")
    swing.bench.servo.tick(swing.goal)
    clear(swing.bench.world)
    for _ in range(8):
        swing.step(-SWING / 2)
    assert swing.bench.servo.events == []


@pytest.mark.parametrize(("kind", "where"), CUTS)
def test_a_move_takes_the_silence_longer_and_arrives(kind: str, where: dict[str, str]) -> None:
    def ticks_of(bench: Bench, cut: bool) -> int:
        goal = bench.servo.command.copy()
        goal[0] += 0.5
        began = bench.servo.ticks

        def weather() -> bool:
            at = bench.servo.ticks - began
            if cut and at == 40:
                inject(bench.world, kind, **where)
            if cut and at == 70:
                clear(bench.world)
            return True

        assert bench.servo.move_to(goal, keep_going=weather)
        np.testing.assert_array_equal(bench.servo.command, goal)
        return bench.servo.ticks - began

    clear_sky, cloudy = ticks_of(Bench(), cut=False), ticks_of(Bench(), cut=True)
    assert 25 <= cloudy - clear_sky <= 32
