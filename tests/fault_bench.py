"""A right arm on its twin behind a bus that can misbehave, read by the independent monitor.

`TROUBLES` are the faults that can come while an arm is powered; `LOOPS` are the states of the loop
that they can come in. Both are names, so that a matrix and random sequences can draw them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import can

from fleet.can.arm import Arm
from fleet.can.bus import FrameTap
from fleet.can.faults import ArmFault, Condition, FaultKind
from fleet.kinematics import load_arms
from fleet.limits import SafetyLimits
from fleet.servo import Servo
from harness.tasks.box_grasp import BOX_GRASP
from harness.twin.bus import TwinBus
from harness.twin.faults import FAULTS, clear, inject
from harness.twin.faulty_bus import FaultyBus
from harness.twin.monitor import FrameMonitor
from harness.twin.physics import TwinConfig, TwinWorld

CLASS = "openarm-v2-right"
SEEN_WITHIN_S = 0.25
"""A silent axis is told after 200 ms; everything else at once."""


class Bench:
    """One arm, enabled and holding at the task's start."""

    def __init__(self, seed: int = 3) -> None:
        self.world = TwinWorld(TwinConfig(seed=seed))
        self.sent: list[can.Message] = []
        self.adapter = self.world.adapter("right")
        self.monitor = FrameMonitor("right")
        self._plugged = 0
        self.arm = Arm(self._open(), name="right")
        self.arm.connect()
        self.arm.enable()
        kinematics = load_arms(CLASS)
        limits = SafetyLimits.for_arms(kinematics, table_z=BOX_GRASP.table_z)
        self.servo = Servo([self.arm], kinematics, limits, physics_s=0.001)
        self.servo.on_stop = self._tell
        self.servo.start()
        self.servo.hold(4)
        self._home = self.servo.command.copy()

    def _open(self) -> FrameTap:
        return FrameTap(FaultyBus(TwinBus(self.world), sent=self.sent), self.monitor)

    def _tell(self, stopped: bool) -> None:
        if stopped:
            self.monitor.stop(self.servo.now())
        else:
            self.monitor.resume()

    # -- states of the loop

    def holding(self) -> None:
        self.servo.hold(2)

    def homing(self) -> None:
        """In the middle of a move that no policy makes."""
        goal = self._home.copy()
        goal[0] += 0.4
        ticks = iter(range(30))
        self.servo.move_to(goal, keep_going=lambda: next(ticks, None) is not None)

    def following(self) -> None:
        """In the middle of a policy's motion."""
        goal = self.servo.command.copy()
        for k in range(6):
            goal = goal.copy()
            goal[0] += 0.02 if k % 2 else 0.03
            self.servo.follow(goal, 4)

    def stopped(self) -> None:
        self.servo.protective_stop("test")

    def resumed(self) -> None:
        self.servo.protective_stop("test")
        self.servo.resume()

    def go_on(self, seconds: float = SEEN_WITHIN_S + 0.1) -> ArmFault | None:
        """What a loop does next: ticks, until the arm says no."""
        try:
            self.servo.hold(round(seconds / self.servo.period_s))
        except ArmFault as fault:
            return fault
        return None

    def commands(self) -> int:
        """Frames that can move a motor, sent so far."""
        return sum(frame.arbitration_id != 0x7FF for frame in self.sent)

    def recover(self) -> None:
        """What a person does: the trouble is taken away, the arm connected, enabled, resumed."""
        clear(self.world)
        if self.adapter.plugged > self._plugged:  # it is a new interface: open it anew
            self._plugged = self.adapter.plugged
            self.arm.rebind(self._open())
        self.arm.clear_faults()  # limp from here on: the person has it in their hands
        self.world.park()
        self.arm.connect()
        self.monitor.resume()  # it is the person who lets the motors on again
        self.arm.enable()
        self.servo.resume()


LOOPS = ("holding", "homing", "following", "stopped", "resumed")


@dataclass(frozen=True)
class Trouble:
    """One of `harness/twin/faults.py: FAULTS`, where and how it is made here."""

    name: str
    where: Mapping[str, Any]

    @property
    def told(self) -> FaultKind | Condition:
        return FAULTS[self.name].seen_as

    def inject(self, bench: Bench) -> None:
        inject(bench.world, self.name, **self.where)


AT_CONNECT = ("master_id", "pose", "unsettled", "setup", "other_arm")
"""Troubles of connecting and of two arms: not of a loop that runs on one."""
STRANGER = {"identifier": 0x003, "data": bytes(8)}
TROUBLES: Mapping[str, Trouble] = MappingProxyType(
    {
        name: Trouble(
            name,
            {"joint": "joint3"} if fault.at == "joint" else STRANGER if name == "foreign" else {},
        )
        for name, fault in FAULTS.items()
        if name not in AT_CONNECT
    }
)
