"""What a motor does by itself in POS_VEL, VEL and POS_FORCE: the loops inside its drive.

Rules
- A speed loop with an integral makes torque, up to the motor's peak; it follows a speed that rises
  by at most ACC and falls by at most DEC (registers 4 and 5). In the position modes that speed
  comes from the distance left: no faster than the limit, nor than DEC can still stop.
- POS_FORCE also limits the torque: its current's share, times TMAX. Sources disagree about that
  scale (TMAX or less at 1); TMAX is the reading under which a grip is firmer.
- The gains are ours: the maker's loop gains are registers 25..28, whose units are not documented.
- The loops run at every physics step on the joint's own position, as a drive's do; the robot's
  command latency is only before the goal.

Units: rad, rad/s, Nm, s; arrays (N,) in motor order, positions of joints.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fleet.can.frames import Array
from fleet.can.motors import Mode, Register

PER_RAD = 12.0
"""Speed asked for per distance left [1/s]."""
TORQUE_AT_RAD_S = 2.0
"""Speed error at which the speed loop gives peak torque."""
INTEGRAL_S = 0.1


class Goal(NamedTuple):
    """What one motor was told in a mode of its own, by its own position; fields as in Goals."""

    mode: Mode
    q: float
    speed: float
    torque: float
    rise: float
    fall: float


class Goals(NamedTuple):
    """What each motor that is not in MIT mode works towards; `mode` 0 for the others, each (N,)."""

    mode: npt.NDArray[np.intp]
    q: Array
    speed: Array
    """The limit in position modes, the goal in VEL."""
    torque: Array
    """What the drive may give."""
    rise: Array
    fall: Array
    """ACC and DEC [rad/s²], both positive."""


def decode(
    mode: Mode, data: bytes | bytearray, ram: Mapping[int, float], peak: float
) -> Goal | None:
    """A command of `mode`, clamped to the motor's full scales; None if it is not finite."""
    q, torque = 0.0, peak
    if mode is Mode.VEL:
        (speed,) = struct.unpack_from("<f", data)
    elif mode is Mode.POS_VEL:
        q, speed = struct.unpack("<ff", data)
    else:
        q, hundredths, share = struct.unpack("<fHH", data)
        speed, torque = hundredths / 100.0, min(share / 10_000.0 * ram[Register.TMAX], peak)
    if not (math.isfinite(q) and math.isfinite(speed)):
        return None
    fastest, furthest = ram[Register.VMAX], ram[Register.PMAX]
    slowest = -fastest if mode is Mode.VEL else 0.0
    return Goal(
        mode=mode,
        q=min(max(q, -furthest), furthest),
        speed=min(max(speed, slowest), fastest),
        torque=torque,
        rise=max(ram[Register.ACC], 1e-3),
        fall=max(-ram[Register.DEC], 1e-3),
    )


def joined(goals: Mapping[int, Goal], zero: Array) -> Goals:
    """The goals of some motors, by index, as arrays over all and by joint positions."""
    mode = np.zeros(len(zero), np.intp)
    rows = np.zeros((5, len(zero)))
    for slot, goal in goals.items():
        mode[slot] = goal.mode
        rows[:, slot] = goal[1:]
        rows[0, slot] += zero[slot]
    return Goals(mode, *rows)


class Loops:
    """The drives of one arm; `run` once per physics step."""

    def __init__(self, peak: Array) -> None:
        self._gain = peak / TORQUE_AT_RAD_S
        self._speed = np.zeros(len(peak))
        self._sum = np.zeros(len(peak))
        self._goals: Goals | None = None

    @property
    def running(self) -> bool:
        """True while a motor works in a mode of its own."""
        return self._goals is not None

    def follow(self, goals: Goals | None, dq: Array) -> None:
        """New goals; a motor that enters a mode begins at the speed it has."""
        before = self._goals
        if goals is not None:
            fresh = goals.mode > 0 if before is None else goals.mode != before.mode
            self._speed[fresh] = dq[fresh]
            self._sum[fresh] = 0.0
        self._goals = goals

    def run(self, q: Array, dq: Array, seconds: float, out: Array) -> None:
        """Write the torque of every motor in a mode of its own into `out`; leave the others."""
        goals = self._goals
        if goals is None:
            return
        left = goals.q - q
        stop = np.sqrt(2.0 * goals.fall * np.abs(left))
        towards = np.sign(left) * np.minimum(np.minimum(PER_RAD * np.abs(left), stop), goals.speed)
        wanted = np.where(goals.mode == Mode.VEL, goals.speed, towards)
        faster = np.abs(wanted) > np.abs(self._speed)
        # the way down is planned by `stop`; its last part, in proportion, needs twice DEC
        step = np.where(faster, goals.rise, 2.0 * goals.fall) * seconds
        self._speed += np.clip(wanted - self._speed, -step, step)
        error = self._gain * (self._speed - dq)
        total = error + self._sum
        tau = np.clip(total, -goals.torque, goals.torque)
        # no integral while the drive gives all it may, or it would have to unwind later
        self._sum += np.where(tau == total, error * seconds / INTEGRAL_S, 0.0)
        own = goals.mode > 0
        out[own] = tau[own]
