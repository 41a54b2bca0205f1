"""Damiao motors: what each type can do, its registers, and which motors an OpenArm has.

PMAX, VMAX and TMAX here are only what a fresh motor says. DM4340's VMAX was 8 in old tables and is
10 in the motors: the arm reads registers 21..23 of each motor at connect and uses those.
TMAX lies above what a motor may give for long: feed-forward torque is clamped to `peak_torque`.
Units: rad, rad/s, Nm, ohm, A, kg. Source: openarm_can, Damiao's manuals (24 V), OpenArm v2 docs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from fleet.can.frames import Ranges


@dataclass(frozen=True)
class MotorType:
    """One motor type at 24 V. `torque_constant` is peak torque over peak current [Nm/A]."""

    name: str
    ranges: Ranges
    rated_torque: float
    peak_torque: float
    gear: int
    phase_resistance: float
    peak_current: float
    mass: float

    @property
    def torque_constant(self) -> float:
        return self.peak_torque / self.peak_current


DM8009 = MotorType("DM8009", Ranges(12.5, 45.0, 54.0), 20.0, 40.0, 9, 0.09, 50.0, 0.896)
DM4340 = MotorType("DM4340", Ranges(12.5, 10.0, 28.0), 9.0, 27.0, 40, 0.76, 8.0, 0.362)
DM4310 = MotorType("DM4310", Ranges(12.5, 30.0, 10.0), 3.0, 7.0, 10, 0.65, 7.5, 0.3)
MOTOR_TYPES = {motor.name: motor for motor in (DM8009, DM4340, DM4310)}


class Register(IntEnum):
    """Registers this system reads or writes; the rest are in the maker's manual."""

    UV_VALUE = 0
    OT_VALUE = 2
    OC_VALUE = 3
    ACC = 4
    DEC = 5
    MST_ID = 7
    ESC_ID = 8
    TIMEOUT = 9
    CTRL_MODE = 10
    HW_VERSION = 13
    SW_VERSION = 14
    GEAR = 20
    PMAX = 21
    VMAX = 22
    TMAX = 23
    OV_VALUE = 29
    CAN_BAUD = 35


WRITABLE = frozenset((*range(11), *range(21, 36)))
"""Register numbers a motor lets one write."""

TIMEOUT_UNIT_S = 5e-5
"""Register TIMEOUT counts in this unit; 0, as shipped, means a dead host is never noticed."""

BIT_RATES = {
    0: 125_000,
    1: 200_000,
    2: 250_000,
    3: 500_000,
    4: 1_000_000,
    5: 2_000_000,
    6: 2_500_000,
    7: 3_200_000,
    8: 4_000_000,
    9: 5_000_000,
    10: 8_000_000,
    11: 10_000_000,
}
"""Register CAN_BAUD's codes [bit/s]; above 1 M the data rate of CAN FD, the nominal one is 1 M."""


class Mode(IntEnum):
    """Register CTRL_MODE: the kind of command a motor executes."""

    MIT = 1
    POS_VEL = 2
    VEL = 3
    POS_FORCE = 4


MODE_MIT = Mode.MIT


@dataclass(frozen=True)
class MotorAddress:
    """One motor on a bus: its joint's name, type, command id (ESC_ID) and reply id (MST_ID)."""

    joint: str
    type: MotorType
    esc_id: int
    mst_id: int


_TYPES = (DM8009, DM8009, DM4340, DM4340, DM4310, DM4310, DM4310, DM4310)
_JOINTS = (*(f"joint{i}" for i in range(1, 8)), "gripper")

OPENARM_MOTORS = tuple(
    MotorAddress(joint, kind, 0x01 + i, 0x11 + i)
    for i, (joint, kind) in enumerate(zip(_JOINTS, _TYPES, strict=True))
)
"""The eight motors of either arm; arms are told apart by their bus."""

PEAK_TORQUE = np.array([motor.type.peak_torque for motor in OPENARM_MOTORS])
"""(8,) Nm: 40 40 27 27 7 7 7 7."""

_ARM_DEGREES: tuple[tuple[float, float], ...] = (
    (-80.0, 200.0),
    (-10.0, 190.0),
    (-90.0, 90.0),
    (0.0, 140.0),
    (-90.0, 90.0),
    (-45.0, 45.0),
    (-90.0, 90.0),
)
"""joint1..joint7 of the right arm, v1 and v2 alike."""


_GRIPPER_DEGREES = {"v1": (-60.0, 0.0), "v2": (-45.0, 0.0)}
"""Of the right arm. v1: one motor, two sliding fingers, same sign on both sides. v2: mirrored."""


def joint_limits(
    side: str, gripper: str = "v2"
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(low (8,), high (8,)) [rad] of an OpenArm, gripper last (0 closed). ValueError."""
    if gripper not in _GRIPPER_DEGREES:
        raise ValueError(f"a gripper is 'v1' or 'v2', not {gripper!r}")
    right = (*_ARM_DEGREES, _GRIPPER_DEGREES[gripper])
    if side == "right":
        pairs = right
    elif side == "left":
        mirrored = (0, 1, 7) if gripper == "v2" else (0, 1)
        pairs = tuple(
            (-high, -low) if i in mirrored else (low, high) for i, (low, high) in enumerate(right)
        )
    else:
        raise ValueError(f"an arm is 'right' or 'left', not {side!r}")
    limits = np.array(pairs) * (math.pi / 180.0)
    return limits[:, 0].copy(), limits[:, 1].copy()
