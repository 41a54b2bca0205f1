"""The servo process beside a bare timed loop, the rest of a robot busy, at any rate; and deaths.

A twin process is the arm. One policy process answers 50 times a second, telemetry (a cycle log's
writer) takes every cycle, and a guardian watches. The bare loop does nothing but wait for its next
period, with the same priority, at the same time. A miss is a cycle that begins more than half a
period after the one before should have been followed; servo and bare loop are counted alike.

Then the time from SIGKILL of the servo to the first frame of the guardian, and from SIGSTOP of the
policy to the first cycle in which the command rests, in policy periods.

    benchmarks/servo_process.py [--hz N] [--seconds N] [--deaths N]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np
from shared.figures import check, line

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from twin_process import TwinProcess

from ci.cycle_log import CycleLog
from fleet.can.bus import open_bus
from fleet.can.motors import joint_limits
from fleet.cycle_log import Ring
from fleet.realtime import Loop, claim
from fleet.servo_client import ServoClient
from fleet.servo_setup import BusSetup, LimitValues, ServoSetup
from fleet.shared_memory import memory_folder
from harness.episodes.log import read_log
from policies.isolated import SubprocessPolicy

POLICY_HZ = 50
V1 = Path(__file__).parents[1] / "ci" / "demo" / "checkpoints" / "v1"
JOINTS = [f"right_joint{i}" for i in range(1, 8)] + ["right_gripper"]


def misses(begins: np.ndarray, hz: int) -> int:
    return int(np.count_nonzero(np.diff(begins) > 1.5 / hz))


def bare(answer: Connection, hz: int, seconds: float) -> None:
    """A loop that only waits; tells when each of its cycles began."""
    begins = np.zeros(round(seconds * hz))
    claim()
    loop = Loop(1 / hz)
    answer.send(True)
    for i in range(begins.size):
        begins[i] = time.monotonic()
        loop.wait()
    answer.send(begins)


def setup_of(twin: TwinProcess, hz: int) -> ServoSetup:
    low, high = (tuple(side.tolist()) for side in joint_limits("right"))
    return ServoSetup(
        robot=f"benchmark-{os.getpid()}",
        name=f"policyctl-benchmark-{os.getpid()}-{time.monotonic_ns()}",
        robot_class="openarm-v2-right",
        buses=(BusSetup("right", {"interface": "policyctl", "channel": str(twin.channel)}, True),),
        limits=LimitValues(((low, high),), {"table_z": -0.445}),
        period_s=1 / hz,
        log=True,
    )


class Robot:
    """Twin, guardian, servo, policy."""

    def __init__(self, folder: Path, hz: int) -> None:
        self.twin = TwinProcess(folder)
        self.servo = ServoClient(setup_of(self.twin, hz))
        self.servo.start()
        self.policy = SubprocessPolicy()
        self.policy.load(V1)
        self.policy.reset()
        terms = self.policy.contract.observation
        self._seen = np.zeros((1, sum(term.width for term in terms)), dtype=np.float32)
        self._start = self.servo.command.copy()
        self._step, self._ticks = 0, hz // POLICY_HZ

    def step(self) -> None:
        """One policy period: an answer from the policy's process, a swing of the first joint."""
        self.policy.act(self._seen)
        self._step += 1
        goal = self._start.copy()
        goal[0] += 0.2 * np.sin(self._step * 2 * np.pi / 100)
        self.servo.follow(goal, self._ticks)

    def close(self) -> None:
        self.policy.close()
        self.servo.close()
        for guardian in self.servo.guardians:
            guardian.kill()
            guardian.wait()
        self.twin.end(signal.SIGKILL if self.twin.process.poll() is not None else signal.SIGTERM)
        names = (f"{self.servo.setup.name}-*", f"policyctl-{self.servo.setup.robot}-*")
        for name in names:
            for path in memory_folder().glob(name):
                path.unlink()


def paced(folder: Path, hz: int, seconds: float) -> bool:
    robot = Robot(folder, hz)
    log = CycleLog(folder / "cycles.mcap", robot.servo.setup.ring, JOINTS)
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    beside = multiprocessing.get_context("spawn").Process(target=bare, args=(theirs, hz, seconds))
    beside.start()
    ours.recv()
    first = time.monotonic()
    while time.monotonic() < first + seconds:
        robot.step()
    last = time.monotonic()
    reference = misses(ours.recv(), hz)
    beside.join()
    log.close()
    robot.close()
    began = read_log(log.path).time
    began = began[(began > first) & (began < last)]
    found = misses(began, hz)
    check(f"cycles lost by the log of {log.written}", log.dropped, "cycles", 0)
    about = f"misses in {seconds:.0f} s at {hz} Hz, {began.size} cycles"
    return line(f"{about}, plus one", found + 1, "cycles", "a bare loop's, plus one",
                reference + 1, 0.5, less_is_better=True)  # fmt: skip


def dead_servo(folder: Path, hz: int) -> float:
    """Seconds from SIGKILL to the guardian's first frame."""
    robot = Robot(folder, hz)
    for _ in range(25):
        robot.step()
    bus = open_bus({"interface": "policyctl", "channel": str(robot.twin.channel)})
    killed = time.monotonic()
    os.kill(robot.servo.pid, signal.SIGKILL)
    robot.servo.process.wait()
    while bus.recv(0.0) is not None:
        pass
    while (message := bus.recv(2.0)) is not None and not 1 <= message.arbitration_id <= 8:
        pass
    took = time.monotonic() - killed if message is not None else float("inf")
    bus.shutdown()
    robot.close()
    return took


def dead_policy(folder: Path, hz: int) -> float:
    """Policy periods from the last answer to the first cycle whose command rests for good."""
    robot = Robot(folder, hz)
    for _ in range(25):
        robot.step()
    assert robot.policy.pid is not None
    os.kill(robot.policy.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    time.sleep(0.5)
    ring = Ring.attach(robot.servo.setup.ring)
    cycles = ring.drain()
    ring.close()
    moving = np.flatnonzero(np.any(np.diff(cycles.field("command"), axis=0) != 0.0, axis=1))
    rests = float(cycles.time[moving[-1] + 1])
    os.kill(robot.policy.pid, signal.SIGCONT)
    robot.close()
    if rests <= stopped:
        raise SystemExit("the arm rested before the policy was stopped: nothing was measured")
    return (rests - stopped) * POLICY_HZ


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--hz", type=int, default=200, help="a multiple of 50")
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--deaths", type=int, default=5)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="servo-") as folder:
        met = [paced(Path(folder), given.hz, given.seconds)]
    for figure, measure, unit, limit in (
        ("dead servo, SIGKILL to the guardian's first frame", dead_servo, "s", 0.1),
        ("dead policy, SIGSTOP to a command that rests", dead_policy, "policy periods", 2.0),
    ):
        times = []
        for _ in range(given.deaths):
            with tempfile.TemporaryDirectory(prefix="servo-") as folder:
                times.append(measure(Path(folder), given.hz))
        check(f"{figure}, median of {given.deaths}", median(times), unit, limit)
        met.append(check(f"{figure}, longest of {given.deaths}", max(times), unit, limit))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
