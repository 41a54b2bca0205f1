"""From trouble to a safe command on the bus; whether any fault ever let an unsafe frame through.

On the lock-step twin, whose clock is exact: cycles from a protective stop and from an output that
is not finite to a command that brakes or holds, seconds until a silent axis has stopped the arm,
frames that a hardware e-stop lets the bus replay. Then every fault class in every state of the
loop, and random sequences of both, each frame read by the monitor. What real processes do when they
die is timed by tests/fleet/test_guardian.py (servo) and tests/policies/test_isolated.py (policy).

    benchmarks/faults.py [--sequences N] [--seed N]
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import numpy as np
from shared.figures import line

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fault_bench import LOOPS, TROUBLES, Bench

from fleet.can.faults import Condition
from harness.twin.faults import clear

SEQUENCES = 500
ACTS = (*LOOPS, *TROUBLES, "recover")


def cycles_to_brake(bench: Bench) -> int:
    """Ticks after a stop was asked for until a command no longer moves faster than the last."""
    goal = bench.servo.command.copy()
    for _ in range(10):
        goal[0] += 0.03
        bench.servo.follow(goal.copy(), 4)
    speed = np.abs(bench.servo._protection.velocity[0]).max()
    bench.servo.halt("benchmark")
    for cycle in range(1, 10):
        bench.servo.tick(bench.servo.command.copy())
        now = np.abs(bench.servo._protection.velocity[0]).max()
        if now < speed or speed == 0.0:
            return cycle
    return 10


def cycles_to_hold(bench: Bench) -> int:
    """Ticks until a target that is not finite is answered by a command that is, and slower."""
    speed = np.abs(bench.servo._protection.velocity[0]).max()
    for cycle in range(1, 10):
        command = bench.servo.tick(np.full(8, np.nan))
        now = np.abs(bench.servo._protection.velocity[0]).max()
        if np.isfinite(command).all() and now <= speed:
            return cycle
    return 10


def seconds_to_silence(bench: Bench) -> float:
    began = bench.servo.now()
    TROUBLES["silent"].inject(bench)
    bench.go_on(1.0)
    return bench.servo.now() - began if bench.servo.stopped else float("inf")


def replayed() -> int:
    """Frames other than refreshes that go out when the power returns after an e-stop."""
    bench = Bench()
    bench.following()
    TROUBLES["e_stop"].inject(bench)
    bench.go_on()
    clear(bench.world)
    return sum(frame.arbitration_id != 0x7FF for frame in bench.adapter.replayed)


def as_told(bench: Bench, trouble: str) -> bool:
    """Inject one class: it is told as what it is and commands end, or it is lived with."""
    told = TROUBLES[trouble].told
    TROUBLES[trouble].inject(bench)
    fault = bench.go_on()
    if isinstance(told, Condition):
        return fault is None
    sent = bench.commands()
    again = bench.go_on(0.05)
    return fault is not None and fault.kind is told and again is fault and bench.commands() == sent


def matrix() -> tuple[int, int]:
    """Cells that go as the table says, and unsafe frames in all of them."""
    good = unsafe = 0
    for trouble in TROUBLES:
        for loop in LOOPS:
            bench = Bench()
            getattr(bench, loop)()
            good += as_told(bench, trouble)
            unsafe += bench.monitor.report().violations
    return good, unsafe


def sequences(count: int, seed: int) -> tuple[int, int]:
    """Random sequences that go as the table says, and unsafe frames in all of them."""
    rng = random.Random(seed)
    good = unsafe = 0
    for _ in range(count):
        bench, broken, right = Bench(), False, True
        for act in rng.choices(ACTS, k=rng.randint(2, 8)):
            if act == "recover":
                bench.recover()
                broken = False
            elif broken:
                sent = bench.commands()
                right &= bench.go_on(0.02) is not None and bench.commands() == sent
            elif act in TROUBLES:
                right &= as_told(bench, act)
                broken = not isinstance(TROUBLES[act].told, Condition)
            elif act == "stopped" or not bench.servo.stopped:
                getattr(bench, act)()
        good += right
        unsafe += bench.monitor.report().violations
    return good, unsafe


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--sequences", type=int, default=SEQUENCES)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    bench = Bench()
    met = [
        line("cycles from a protective stop to a braking command", cycles_to_brake(bench),
             "cycles", "floor", 1, 1.0, less_is_better=True),
        line("cycles from an output that is not finite to a holding command",
             cycles_to_hold(Bench()), "cycles", "floor", 1, 1.0, less_is_better=True),
        line("seconds from a silent axis to a stop, one cycle of 5 ms allowed",
             seconds_to_silence(Bench()), "s", "floor", 0.205, 1.0, less_is_better=True),
    ]  # fmt: skip
    frames = replayed()
    met.append(line("frames replayed after a hardware e-stop, plus one", frames + 1, "frames",
                    "none, plus one", 1, 1.0, less_is_better=True))  # fmt: skip
    good, unsafe = matrix()
    cells = len(TROUBLES) * len(LOOPS)
    met.append(line("fault matrix: cells as the table says", good, "cells", "cells", cells, 1.0))
    played, frames = sequences(given.sequences, given.seed)
    met.append(line("random sequences as the table says", played, "sequences", "sequences",
                    given.sequences, 1.0))  # fmt: skip
    met.append(line("unsafe frames in all of these, plus one", unsafe + frames + 1, "frames",
                    "none, plus one", 1, 1.0, less_is_better=True))  # fmt: skip
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
