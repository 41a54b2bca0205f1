"""A servo in a process of its own in front of a twin's, for tests."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import can
import numpy as np
from twin_process import TwinProcess

from fleet.can.motors import joint_limits
from fleet.servo_client import ServoClient
from fleet.servo_setup import BusSetup, LimitValues, ServoSetup
from fleet.shared_memory import memory_folder

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


def frames_after(bus: can.BusABC, seconds: float) -> list[tuple[float, can.Message]]:
    """Commands (ids 1 to 8) seen on the bus from now on."""
    found, end = [], time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        message = bus.recv(left)
        if message is not None and 1 <= message.arbitration_id <= 8:
            found.append((time.monotonic(), message))
    return found
