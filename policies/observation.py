"""From what a robot measured to the numbers a policy sees.

Only measurements a real robot has may enter: joint state from CAN frames, the command it last gave,
forward kinematics of both, the object's pose from a detector, images, and the goal that it was
given. No contact flags, no simulator state. Arrays are batch first (B, …); frame "base"; units
rad, rad/s, Nm, m, s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from policies.contract import DEPTH, IMAGE, Contract
from registry.errors import ConfigError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measurement:
    """One instant of B robots with A arms and J = 8 A joints."""

    q: Floats
    """(B, J) measured joint position."""
    dq: Floats
    """(B, J) measured joint speed."""
    tau: Floats
    """(B, J) measured motor torque."""
    command: Floats
    """(B, J) the last shaped command, before any delay or protection."""
    tcp: Floats
    """(B, A, 3) grasp centre from q."""
    tcp_command: Floats
    """(B, A, 3) grasp centre from the command."""
    hand_axes: Floats
    """(B, A, 6) approach axis and finger axis of each hand, from q."""
    object_position: Floats
    """(B, 3) detected position of the object's centre."""
    object_yaw: Floats
    """(B,) detected yaw; a cube's yaw is known up to quarter turns."""
    object_age: Floats
    """(B,) age of the detection."""
    goal_position: Floats | None = None
    """(B, 3) where the object's centre shall go; None where the task names no goal."""
    goal_yaw: Floats | None = None
    """(B,) with it: the yaw that the object shall have there, up to quarter turns."""
    images: Mapping[str, npt.NDArray[np.uint8]] = field(default_factory=dict)
    """(B, H, W, 3) by camera, at the contract's size; only those that are asked for."""
    depths: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """(B, H, W) [m] by camera; 0 where there is no reading."""


def _offset(m: Measurement) -> Floats:
    return np.asarray(m.object_position[:, None, :] - m.tcp)


def _square(yaw: Floats) -> Floats:
    """A yaw that is known up to quarter turns, (B, 2) numbers without a seam."""
    return np.stack([np.cos(4.0 * yaw), np.sin(4.0 * yaw)], axis=1)


def _goal(value: Floats | None) -> Floats:
    if value is None:
        raise ConfigError(
            "the policy asks for a goal, and the task names none",
            where="contract.json",
            field="observation",
            hint="goal_position and goal_yaw are for tasks that carry an object somewhere",
        )
    return value


TERMS: dict[str, Callable[[Measurement], Floats]] = {
    "joint_position": lambda m: m.q,
    "joint_command": lambda m: m.command,
    "joint_velocity": lambda m: m.dq,
    "tcp_position": lambda m: m.tcp,
    "tcp_command": lambda m: m.tcp_command,
    "hand_axes": lambda m: m.hand_axes,
    "object_offset": _offset,
    "gripper_torque": lambda m: m.tau[:, 7::8],
    "object_position": lambda m: m.object_position,
    "object_yaw": lambda m: _square(m.object_yaw),
    "goal_position": lambda m: _goal(m.goal_position),
    "goal_yaw": lambda m: _square(_goal(m.goal_yaw)),
}


def assemble(contract: Contract, m: Measurement) -> npt.NDArray[np.float32]:
    """(B, N) observations in the contract's term order.

    Raises ConfigError for a camera of the contract that nothing was measured with.
    """
    batch = m.q.shape[0]
    parts = [_measured(term.name, m).reshape(batch, term.width) for term in contract.observation]
    return np.concatenate(parts, axis=1, dtype=np.float32)


def _measured(term: str, m: Measurement) -> Floats | npt.NDArray[np.float32]:
    if term in TERMS:
        return TERMS[term](m)
    camera = term.removeprefix(IMAGE).removeprefix(DEPTH)
    if term.startswith(IMAGE) and camera in m.images:
        return m.images[camera].astype(np.float32) / np.float32(255.0)
    if term.startswith(DEPTH) and camera in m.depths:
        return m.depths[camera]
    raise ConfigError(
        "the policy's contract does not fit: cameras",
        where="contract.json",
        field=f"observation.{term}: there are no images of '{camera}'",
        hint="choose a robot class that has this camera",
    )
