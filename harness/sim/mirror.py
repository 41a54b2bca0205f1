"""A left arm's world is a right arm's, reflected in the plane y = 0 of the base frame.

- y, yaw and the joints that turn about forward or upward axes change sign. The elbow (joint4) does
  not; the gripper's angle does.
- With two arms objects lie on the right one's side, where protection lets its hand go.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MIRROR: Floats = np.array([-1.0, -1.0, -1.0, 1.0, -1.0, -1.0, -1.0, -1.0])
"""(8,) signs that make a right arm's joints and gripper the left arm's that mirrors them."""
FLIP_Y: Floats = np.array([1.0, -1.0, 1.0])
"""(3,) the same for a vector in the base frame."""
_BESIDE = 0.03
"""Least distance [m] of objects from where two arms' hands may not go."""


def as_arm(side: str, right: Floats) -> Floats:
    """A right arm's joints (…, 8), or that side's that mirror them."""
    return right * MIRROR if side == "left" else right


def turn_of(arms: tuple[str, ...]) -> float:
    """Sign of y and yaw in a scene of these arms: -1 for a left arm alone."""
    return -1.0 if arms == ("left",) else 1.0


def reflected(turn: float, position: Floats, yaw: Floats) -> tuple[Floats, Floats]:
    """Poses (n, 3), (n,) of a scene as a right arm would have them, and back."""
    return (position, yaw) if turn > 0 else (position * FLIP_Y, -yaw)


def own_side(y: float, plane: float | None) -> float:
    """Where an object that was drawn at `y` lies: what is nearer to the plane between two arms than
    a hand may go is folded back to the right arm's side. `plane` is that hand's, None for one arm.
    """
    return y if plane is None else min(y, -2.0 * (plane + _BESIDE) - y)
