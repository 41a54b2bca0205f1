"""What a servo process and a guardian are started with: plain values, as JSON on their line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fleet.can.arm import Arm
from fleet.can.bus import open_bus
from fleet.can.host_loss import HostLoss
from fleet.kinematics import ArmKinematics, load_arms
from fleet.limits import JOINTS, SafetyLimits
from fleet.shared_memory import memory_folder

Ranges = tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]


@dataclass(frozen=True)
class BusSetup:
    """One arm's name and bus, as `fleet.can.bus.open_bus` takes it."""

    arm: str
    bus: Mapping[str, object]
    fd: bool = False


@dataclass(frozen=True)
class LimitValues:
    """Protection's limits as plain values."""

    ranges: Ranges
    """(low, high) of each arm's joints (8,) [rad]."""
    other: Mapping[str, Any]
    """What `SafetyLimits.for_arms` takes besides."""

    def safety(self, kinematics: tuple[ArmKinematics, ...]) -> SafetyLimits:
        ranges = [(np.array(low), np.array(high)) for low, high in self.ranges]
        return SafetyLimits.for_arms(kinematics, ranges=ranges, **self.other)


@dataclass(frozen=True)
class ServoSetup:
    """A robot as its servo sees it. Names of shared memory begin with `name`, new at each start:
    `policyctl-ROBOT-NUMBER`."""

    robot: str
    name: str
    robot_class: str
    buses: tuple[BusSetup, ...]
    limits: LimitValues
    period_s: float = 0.005
    on_host_loss: HostLoss | None = None
    core: int | None = None
    guarded: bool = True
    log: bool = False
    """Whether each tick goes to a ring for a cycle log."""

    @property
    def joints(self) -> int:
        return JOINTS * len(self.buses)

    @property
    def orders(self) -> str:
        return f"{self.name}-orders"

    @property
    def states(self) -> str:
        return f"{self.name}-states"

    @property
    def ring(self) -> str:
        return f"{self.name}-cycles"

    def beat(self, arm: str) -> str:
        return f"{self.name}-{arm}-beat"

    def word(self, arm: str) -> str:
        return f"{self.name}-{arm}-word"

    def remove_leftovers(self) -> list[Path]:
        """Names that killed servos and clients of this robot left in memory. Hold the robot's servo
        lock: then none of them is in use by name, and a guardian that still runs has its memory.
        """
        ends = "|".join((r"orders", r"states", r"cycles", r"[a-z0-9_]+-(beat|word)"))
        ours = re.compile(rf"policyctl-{re.escape(self.robot)}-\d+-({ends})")
        found = [
            path
            for path in memory_folder().glob(f"policyctl-{self.robot}-*")
            if ours.fullmatch(path.name) and not path.name.startswith(f"{self.name}-")
        ]
        for path in found:
            path.unlink(missing_ok=True)
        return found

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ServoSetup:
        told = json.loads(text)
        told["buses"] = tuple(BusSetup(**one) for one in told["buses"])
        ranges = tuple((tuple(low), tuple(high)) for low, high in told["limits"]["ranges"])
        told["limits"] = LimitValues(ranges, told["limits"]["other"])
        return cls(**told)

    def kinematics(self) -> tuple[ArmKinematics, ...]:
        return load_arms(self.robot_class)

    def arms(self) -> list[Arm]:
        """Opens the buses; nothing is sent. Raises UsageError, ServiceFailed."""
        return [
            Arm(
                open_bus(one.bus),
                name=one.arm,
                limits=(np.array(low), np.array(high)),
                fd=one.fd,
                on_host_loss=self.on_host_loss,
            )
            for one, (low, high) in zip(self.buses, self.limits.ranges, strict=True)
        ]
