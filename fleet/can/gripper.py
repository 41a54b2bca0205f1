"""Grippers: how far open a motor angle is. One DM4310 each, zero is closed.

v1: two sliding fingers, 0..44 mm each, motor 0..-60° on both sides (linear, "approximate" by its
makers). v2: two rotary fingers, motor 0..-45° right and 0..+45° left; its opening in mm is not
published, so only the share is told.
"""

from __future__ import annotations

from dataclasses import dataclass

from fleet.can.motors import joint_limits

V1_FINGER_M = 0.044


@dataclass(frozen=True)
class Gripper:
    """One gripper; `open_rad` is the motor angle when fully open, with its sign."""

    version: str
    side: str
    open_rad: float

    def opening(self, q: float) -> float:
        """Share of the way open, 0..1, at motor angle q [rad]."""
        return min(max(q / self.open_rad, 0.0), 1.0)

    def angle(self, opening: float) -> float:
        """Motor angle [rad] for a share of the way open."""
        return min(max(opening, 0.0), 1.0) * self.open_rad

    def finger_m(self, q: float) -> float | None:
        """How far one finger has slid [m]; None where that is not known."""
        return V1_FINGER_M * self.opening(q) if self.version == "v1" else None


def gripper(side: str, version: str = "v2") -> Gripper:
    """The gripper of that arm. ValueError for an unknown side or version."""
    low, high = (float(bound[7]) for bound in joint_limits(side, version))
    return Gripper(version, side, low if abs(low) > abs(high) else high)
