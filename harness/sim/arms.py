"""A right arm's expert for other robots: mirrored for a left arm, beside a still left arm for two.

Mirrored as harness/sim/mirror.py says. Outputs are in units of the contract's limit, deltas.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from harness.sim.mirror import FLIP_Y, MIRROR
from harness.tasks.task import Truth
from policies.observation import Measurement

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]

_RIGHT = 0
"""A robot class with two arms names the right one first."""


class Expert(Protocol):
    def act(self, m: Measurement, truth: Truth) -> Rows:
        """Outputs (n, 8) of a right arm, from what it measures and the true scene."""
        ...


class ForArms:
    """The expert of one right arm, for a robot with `arms`."""

    def __init__(self, expert: Expert, arms: tuple[str, ...]) -> None:
        self._expert, self._arms = expert, arms

    def act(self, m: Measurement, truth: Truth) -> Rows:
        """Outputs (n, 8 A) in the contract's joint order; a second arm stands still."""
        if self._arms == ("left",):
            right = self._expert.act(mirrored(m), mirrored_truth(truth))
            return np.asarray(right * MIRROR.astype(np.float32))
        outputs = np.zeros(m.q.shape, dtype=np.float32)
        outputs[:, :8] = self._expert.act(one_arm(m, _RIGHT), truth)
        return outputs


def one_arm(m: Measurement, index: int) -> Measurement:
    """What one arm of several measures."""
    joints, arm = slice(8 * index, 8 * index + 8), slice(index, index + 1)
    return replace(
        m,
        q=m.q[:, joints],
        dq=m.dq[:, joints],
        tau=m.tau[:, joints],
        command=m.command[:, joints],
        tcp=m.tcp[:, arm],
        tcp_command=m.tcp_command[:, arm],
        hand_axes=m.hand_axes[:, arm],
    )


def mirrored(m: Measurement) -> Measurement:
    """What one arm would measure in the mirrored scene."""
    return replace(
        m,
        q=m.q * MIRROR,
        dq=m.dq * MIRROR,
        tau=m.tau * MIRROR,
        command=m.command * MIRROR,
        tcp=m.tcp * FLIP_Y,
        tcp_command=m.tcp_command * FLIP_Y,
        hand_axes=m.hand_axes * np.concatenate([FLIP_Y, -FLIP_Y]),
        object_position=m.object_position * FLIP_Y,
        object_yaw=-m.object_yaw,
        goal_position=None if m.goal_position is None else m.goal_position * FLIP_Y,
        goal_yaw=None if m.goal_yaw is None else -m.goal_yaw,
    )


def mirrored_truth(truth: Truth) -> Truth:
    """The truth of the mirrored scene."""
    return replace(
        truth,
        position=truth.position * FLIP_Y,
        yaw=-truth.yaw,
        goal=truth.goal * np.append(FLIP_Y, -1.0),
    )
