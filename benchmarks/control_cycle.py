"""Our whole control cycle beside LeRobot's, and beside nothing but its sixteen frames.

A cycle of ours is one servo tick: protection, gravity, eight commands out, eight feedbacks in,
decoded and checked, and the record of the tick written to a ring. LeRobot's is `send_action` and
`get_observation` of 0.4.4's follower, unmodified, in its own environment (tests/peers.py). Both run
flat out at the same priority on python-can's `virtual` bus of the same version, against the same
responder thread; blocks of each alternate. The bare exchange sends the same eight commands, built
beforehand, and takes eight replies, with no driver at all.

All of it runs on one core, as a servo does that `servo_core` pins: driver and responder share an
interpreter, so a second core adds nothing but the time in which it wakes. `--free` leaves the cores
to the operating system.

    benchmarks/control_cycle.py [--blocks N] [--cycles N] [--free]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import can
import numpy as np
from shared.figures import line
from shared.responder import Responder

from fleet.can.arm import Arm
from fleet.kinematics import load_arms
from fleet.limits import SafetyLimits
from fleet.servo import Servo

HERE = Path(__file__).resolve().parent
REST = [-0.04, 0.77, -0.66, 1.81, 1.12, 0.42, -0.70, -0.5]
RING = 4096
WARM = 200
AT_MOST_OF_LEROBOT, AT_MOST_ADDED_US = 0.6, 100.0


class FlatOut(Arm):
    """An arm for which the servo never waits: the next tick begins at once."""

    def wait(self, seconds: float) -> None:
        return


class Ours:
    """Servo, protection, driver and log on a virtual bus; and the bare exchange on the same bus."""

    def __init__(self) -> None:
        self.responder = Responder(can.Bus("ours", "virtual", ignore_config=True), REST)
        self.bus = can.Bus("ours", "virtual", ignore_config=True)
        settling = Arm(self.bus, fd=True)
        settling.connect()
        self.arm = FlatOut(self.bus, fd=True)
        self.arm.__dict__.update(settling.__dict__)
        self.arm.enable()
        kinematics = load_arms("right")
        limits = SafetyLimits.for_arms(kinematics, table_z=-0.445)
        self.servo = Servo([self.arm], kinematics, limits)
        self.servo.start()
        self.ring = np.zeros((RING, 1 + 4 * 8))
        self.rest = np.array(REST)
        self.tick = 0
        self.built = [
            can.Message(0.0, i + 1, False, False, False, None, 8, data, True, False, True)
            for i, data in enumerate(self._payloads())
        ]

    def cycles(self, count: int) -> list[float]:
        """Times of `count` cycles [µs]."""
        taken, servo, ring, clock = [], self.servo, self.ring, time.perf_counter
        self.arm.refresh()  # other sides ran meanwhile: the arm was silent for none of its fault
        servo.wake()
        for _ in range(count):
            self.tick += 1
            target = self.rest + 0.05 * math.sin(self.tick * 2 * math.pi / 400)
            before = clock()
            command = servo.tick(target)
            row = ring[self.tick % RING]
            row[0] = self.arm.state.time_s
            row[1:9], row[9:17], row[17:25], row[25:33] = command, servo.q, servo.dq, servo.tau
            taken.append(1e6 * (clock() - before))
        if np.abs(servo.q[0] - target).max() > 0.01:
            raise SystemExit(f"our arm is at {servo.q[0]}, sent {target}: {servo.events}")
        return taken

    def bare(self, count: int) -> list[float]:
        """Times of `count` exchanges of sixteen frames with no driver [µs]."""
        taken, send, recv, clock = [], self.bus.send, self.bus.recv, time.perf_counter
        for _ in range(count):
            before = clock()
            for message in self.built:
                send(message)
            for _ in self.built:
                if recv(0.1) is None:
                    raise SystemExit("the responder lost a frame")
            taken.append(1e6 * (clock() - before))
        return taken

    def close(self) -> None:
        self.arm.disable()
        self.responder.stop()
        self.bus.shutdown()

    def _payloads(self) -> list[bytes]:
        frames = self.arm._link._codec.encode_mit(
            self.rest, np.zeros(8), np.full(8, 30.0), np.ones(8), np.zeros(8)
        )
        return [bytes(frames[8 * i : 8 * i + 8]) for i in range(8)]


class LeRobots:
    """LeRobot's process, one block of cycles at a time."""

    def __init__(self) -> None:
        peers = [sys.executable, str(HERE.parent / "tests" / "peers.py")]
        python = subprocess.run(peers, check=True, capture_output=True, text=True).stdout.strip()
        self._process = subprocess.Popen(
            [python, str(HERE / "shared" / "lerobot_cycle.py"), json.dumps(REST)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
        self._read()

    def cycles(self, count: int) -> list[float]:
        """Times of `count` cycles [µs]."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return list(map(float, json.loads(self._read())))

    def close(self) -> None:
        self._process.communicate(timeout=20)

    def _read(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"LeRobot's process ended with {self._process.wait()}")
        return answer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--cycles", type=int, default=500)
    parser.add_argument("--free", action="store_true", help="do not pin to one core")
    args = parser.parse_args()
    if not args.free:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # LeRobot's process inherits it
    ours, lerobot = Ours(), LeRobots()
    sides: dict[str, Callable[[int], list[float]]] = {
        "ours": ours.cycles,
        "lerobot": lerobot.cycles,
        "bare": ours.bare,
    }
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for run in sides.values():
        run(WARM)
    for _ in range(args.blocks):
        for name, run in sides.items():
            taken[name] += run(args.cycles)
    ours.close()
    lerobot.close()
    cycle, theirs, bare = (median(taken[name]) for name in ("ours", "lerobot", "bare"))
    line("control cycle", cycle, "µs", "LeRobot 0.4.4", theirs, less_is_better=True)
    line("bare exchange of its frames", bare, "µs", "our cycle", cycle, less_is_better=True)
    share = cycle / theirs
    added = cycle - bare
    met = line(
        "control cycle ÷ LeRobot's",
        share,
        "",
        "limit",
        AT_MOST_OF_LEROBOT,
        1.0,
        less_is_better=True,
    )
    met &= line(
        "what the cycle adds", added, "µs", "limit", AT_MOST_ADDED_US, 1.0, less_is_better=True
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
