"""What can be wrong with an arm, and what it says about itself.

An ArmFault is sticky: raised once, raised again by every pass until a person clears it.
Units: rad, rad/s, Nm, °C, s; arrays are (8,): joint1..joint7, gripper.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fleet.can.frames import Array
from registry.errors import ServiceFailed


class FaultKind(StrEnum):
    MOTOR = "motor"
    """A motor reports a fault; its torque is off."""
    DISABLED = "disabled"
    """A motor left enabled mode by itself (power loss, somebody else's command)."""
    SILENT = "silent"
    """No believable feedback from a motor for 200 ms."""
    FOREIGN = "foreign"
    """A frame on the bus that is none of this arm's: another program, or a motor set up wrongly."""
    POSE = "pose"
    """A joint outside its limits before motion."""
    UNSETTLED = "unsettled"
    """Positions did not come to rest at connect."""
    BUS = "bus"
    """The interface itself failed or vanished."""


class ArmFault(ServiceFailed):
    """An arm that must not move until somebody has looked. `joints` are those concerned."""

    code = "arm_fault"

    def __init__(
        self, kind: FaultKind, arm: str, joints: tuple[str, ...], evidence: str, hint: str
    ) -> None:
        where = f" ({', '.join(joints)})" if joints else ""
        super().__init__(f"{arm} arm: {kind} fault{where}", evidence=evidence, hint=hint)
        self.kind = kind
        self.arm = arm
        self.joints = joints


class ArmState(NamedTuple):
    """What the motors last said, each (8,). `age_s` is how long ago; `time_s` is bus time."""

    q: Array
    dq: Array
    tau: Array
    temp_mos: npt.NDArray[np.uint8]
    temp_rotor: npt.NDArray[np.uint8]
    status: npt.NDArray[np.uint8]
    age_s: Array
    time_s: float


@dataclass
class Counters:
    """Frames since construction. `rejected`: on a motor's id, but no believable feedback."""

    sent: int = 0
    received: int = 0
    missed: int = 0
    rejected: int = 0
    foreign: int = 0
    error_frames: int = 0
    send_errors: int = 0
