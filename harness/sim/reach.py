"""What scripted experts of one right arm share: small motions of the hand, and its grip.

- Damped least squares on the *command's* kinematics. The tilt about the finger axis is free within
  5..35 degrees; posture fills the null space.
- Rows are scenes; lengths in metres, angles in radians, frame "base".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fleet.kinematics import ArmKinematics
from policies.observation import Measurement

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Reach:
    """`nominal` (7,) is the posture that the arm drifts to where it is free."""

    kinematics: ArmKinematics
    nominal: Floats
    damping: float
    posture_gain: float

    def solve(self, q: Floats, step: Floats, spin: Floats, axes: Floats) -> Floats:
        """Joint motion (n, 7) for a hand motion [m] and a turn [rad]; `axes` (n, 6) as by fk."""
        hand, finger = axes[:, :3], axes[:, 3:]
        tilt = _tilt(hand, finger)
        outside = np.clip(tilt, 0.09, 0.65) - tilt
        spin = np.clip(spin, -0.08, 0.08) - finger * (0.2 * outside)[:, None]
        jacobian = self.kinematics.jacobian(q)
        along = np.einsum("ni,nij->nj", finger, jacobian[:, 3:])
        free = np.where(np.abs(outside) > 0, 0.3, 0.02)
        jacobian[:, 3:] -= finger[:, :, None] * ((1.0 - free)[:, None] * along)[:, None, :]
        inverse = jacobian.transpose(0, 2, 1) @ np.linalg.inv(
            jacobian @ jacobian.transpose(0, 2, 1) + self.damping**2 * np.eye(6)
        )
        error = np.concatenate([step, spin], axis=1)
        move = (inverse @ error[:, :, None])[:, :, 0]
        drift = self.posture_gain * (self.nominal - q)
        return np.asarray(move + drift - (inverse @ (jacobian @ drift[:, :, None]))[:, :, 0])


def nearest_face(finger: Floats, yaw: Floats) -> Floats:
    """Horizontal normal of the box face that needs the least turn of the finger axis, (n, 3)."""
    angle = np.arctan2(finger[:, 1], finger[:, 0])
    quarter = np.pi / 2
    nearest = yaw + quarter * np.round((angle - yaw) / quarter)
    return np.stack([np.cos(nearest), np.sin(nearest), np.zeros_like(nearest)], axis=1)


def gripped(m: Measurement, close: float, shut: float) -> Bools:
    """(n,) the fingers stand on something while the command asks them to close further: with a
    gripper commanded to `close` [rad], an angle beyond `shut` [rad] is fingers on each other."""
    angle, grip = m.q[:, 7], m.command[:, 7]
    stalled = (grip - angle > 0.05) & (grip > close - 0.03)
    return np.asarray(stalled & (angle > -0.36) & (angle < shut))


def hover(level: Floats, turn: Floats, grip: Floats, *, over: float, wide: float) -> Floats:
    """(n,) how far above its grasp a hand stays [m] that is `level` [m] off sideways, `turn` off a
    face, with its gripper at `grip` [rad], open at `wide`. Within `over` [m] it descends."""
    height = np.clip(2.0 * (level - over), 0.0, 0.09) + np.clip(0.5 * (turn - 0.08), 0.0, 0.09)
    height += np.clip(1.0 * (grip - wide - 0.06), 0.0, 0.06)
    return np.asarray(np.minimum(height, 0.09))


def _tilt(hand: Floats, finger: Floats) -> Floats:
    """Turn of the hand about its finger axis away from straight down [rad], forward positive."""
    down = np.array([0.0, 0.0, -1.0])
    straight = down - finger * (finger @ down)[:, None]
    sine = np.einsum("ni,ni->n", np.cross(hand, straight), finger)
    cosine = np.einsum("ni,ni->n", straight, hand)
    return np.asarray(np.arctan2(sine, cosine))


def outputs(move: Floats, squeeze: Floats, limit: Floats) -> npt.NDArray[np.float32]:
    """Joint motion (n, 7) and gripper motion (n,) [rad] in units of the limit (8,), within ±1.

    An arm motion that is too large is shortened, so that it keeps its direction.
    """
    raw = np.concatenate([move, squeeze[:, None]], axis=1) / limit
    scale = np.maximum(np.abs(raw[:, :7]).max(axis=1), 1.0)
    raw[:, :7] /= scale[:, None]
    return np.clip(raw, -1.0, 1.0).astype(np.float32)


def shortened(step: Floats, longest: Floats | float) -> Floats:
    """Steps (n, 3) of at most `longest` [m]."""
    length = np.linalg.norm(step, axis=1)
    return np.asarray(step * np.minimum(1.0, longest / np.maximum(length, 1e-9))[:, None])
