"""Presets of kp [Nm/rad] and kd [Nm s/rad], (8,): joint1..joint7, gripper.

`kd` is never 0 where kp is not: a Damiao motor then oscillates. Where the numbers come from is
said with each. Without gravity feed-forward an arm sags by weight/kp; `stiff` is what the servo
uses with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from fleet.can.frames import KD_MAX, KP_MAX, Array
from registry.errors import UsageError


@dataclass(frozen=True)
class Gains:
    """One preset; read-only arrays."""

    name: str
    kp: Array
    kd: Array


def _gains(name: str, kp: tuple[float, ...], kd: tuple[float, ...]) -> Gains:
    pair = np.array(kp, dtype=float), np.array(kd, dtype=float)
    for values, top in zip(pair, (KP_MAX, KD_MAX), strict=True):
        if values.shape != (8,) or values.min() < 0.0 or values.max() > top:
            raise ValueError(f"gains {name} do not fit a MIT command: {values.tolist()}")
        values.setflags(write=False)
    return Gains(name, *pair)


STIFF = _gains(
    "stiff", (230, 230, 190, 190, 30, 30, 30, 30), (2.7, 2.7, 2.2, 2.2, 1.5, 1.5, 1.5, 0.2)
)
"""Actuators of the official v2 model."""
SOFT = _gains("soft", (70, 70, 70, 60, 10, 10, 10, 10), (2.75, 2.5, 2, 2, 0.7, 0.6, 0.5, 0.2))
"""openarm-driver 0.5.1's default."""
FOLLOWER = _gains(
    "follower", (240, 240, 240, 240, 24, 31, 25, 25), (5, 5, 3, 5, 0.3, 0.3, 0.3, 0.3)
)
"""LeRobot 0.4.4's follower."""
TELEOP = _gains("teleop", (240, 240, 240, 240, 24, 31, 25, 16), (3, 3, 3, 3, 0.2, 0.2, 0.2, 0.2))
"""openarm_teleop's follower."""

PRESETS: Final = {gains.name: gains for gains in (STIFF, SOFT, FOLLOWER, TELEOP)}


def preset(name: str) -> Gains:
    """The preset of that name. Raises UsageError."""
    if name not in PRESETS:
        raise UsageError(f"no gains {name!r}", hint=f"one of: {', '.join(PRESETS)}")
    return PRESETS[name]
