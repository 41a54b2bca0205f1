"""One command for one motor, in whichever of its four modes.

Rules
- A motor executes a mode's frame only while register CTRL_MODE names that mode.
- Values clamp to the motor's own full scales; what is not finite is refused. Torque clamps to the
  motor's peak torque, kp to 499: no MIT command is a special frame.
- POS_FORCE's current is a share of the drive's maximum. How it maps to torque is not calibrated
  (sources say TMAX or less at 1); it clamps to peak torque / TMAX, safe by either reading.

Units: rad, rad/s, Nm, Nm/rad, Nm s/rad.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

from fleet.can import frames
from fleet.can.frames import POS_FORCE_OFFSET, POS_VEL_OFFSET, VEL_OFFSET, Ranges
from fleet.can.motors import Mode, MotorAddress

KP_CEILING = 499.0


@dataclass(frozen=True)
class Mit:
    """tau = kp (q - measured) + kd (dq - measured) + tau, in the motor."""

    q: float
    dq: float
    kp: float
    kd: float
    tau: float


@dataclass(frozen=True)
class PosVel:
    """Go to q, at most at `dq_limit`."""

    q: float
    dq_limit: float


@dataclass(frozen=True)
class Vel:
    """Turn at dq."""

    dq: float


@dataclass(frozen=True)
class PosForce:
    """Go to q, at most at `dq_limit` (0..100 rad/s) and with `current` (0..1) of the maximum."""

    q: float
    dq_limit: float
    current: float


Command = Mit | PosVel | Vel | PosForce

_MODES: dict[type, Mode] = {
    Mit: Mode.MIT,
    PosVel: Mode.POS_VEL,
    Vel: Mode.VEL,
    PosForce: Mode.POS_FORCE,
}


def mode_of(command: Command) -> Mode:
    """The mode a motor must be in to execute it."""
    return _MODES[type(command)]


def encode(motor: MotorAddress, ranges: Ranges, command: Command) -> tuple[int, bytes]:
    """(identifier, data) of one command. Raises ValueError if a value is not finite."""
    if not all(math.isfinite(value) for value in astuple(command)):
        raise ValueError(f"command is not finite: {command}")
    peak = min(motor.type.peak_torque, ranges.tmax)
    match command:
        case Mit(q, dq, kp, kd, tau):
            data = frames.encode_mit(
                ranges, q=q, dq=dq, kp=min(kp, KP_CEILING), kd=kd, tau=_clamp(tau, peak)
            )
            return motor.esc_id, data
        case PosVel(q, limit):
            speed = min(max(limit, 0.0), ranges.vmax)
            return motor.esc_id + POS_VEL_OFFSET, frames.encode_pos_vel(
                _clamp(q, ranges.pmax), speed
            )
        case Vel(dq):
            return motor.esc_id + VEL_OFFSET, frames.encode_vel(_clamp(dq, ranges.vmax))
        case PosForce(q, limit, current):
            speed = min(max(limit, 0.0), ranges.vmax)
            share = min(max(current, 0.0), peak / ranges.tmax)
            return motor.esc_id + POS_FORCE_OFFSET, frames.encode_pos_force(
                _clamp(q, ranges.pmax), speed, share
            )


def _clamp(value: float, most: float) -> float:
    return min(max(value, -most), most)
