"""Where the hand is, how it moves with the joints, and what the arm weighs.

Units are SI. Frames: *base* is `arm_origin` of the official OpenArm v2 model (x forward, y left,
z up, between the shoulders, .698 m above the floor); both arms use it. The tool centre point is
the grasp centre, (-.0014, 0, -.158) on `openarm_<side>_ee_base_link`; the *hand axis* is that
link's -z, the *finger axis*, along which the fingers open, its y.

Numbers come from the official model (package `openarm-mujoco`) and from nowhere else. Every joint
of it turns about a coordinate axis of an unrotated link frame (checked at load), so forward
kinematics mixes two coordinates per joint: pure numpy, any batch, and a row's bits do not depend
on the batch it is in. Gravity runs on a MuJoCo model of the one arm; its
scratch memory makes an `ArmKinematics` usable by one thread at a time.

This is the robot's one user of mujoco, imported on `load`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.contract import ROBOT_CLASSES
from registry.errors import ConfigError, ServiceFailed

Array = NDArray[np.float64]

TCP_OFFSET = (-0.0014, 0.0, -0.158)
_HAND = np.stack((TCP_OFFSET, (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)), axis=1)[:, :, None]
"""(3, 3, 1): coordinates of TCP, hand axis, finger axis in the hand's frame."""
GRIP_FOR_GRAVITY = 0.5
"""How far open [rad] the fingers are assumed when the arm is weighed."""

STICTION = 0.05
"""[rad/s] over which dry friction turns round, a few steps of the speed that motors report."""

FEW = 6
"""Rows up to which plain floats beat numpy; both do the same operations in the same order."""


@dataclass(frozen=True)
class _Link:
    """One joint: its origin in the parent link, and the coordinate axis it turns about."""

    offset: tuple[tuple[int, float], ...]
    axis: int
    sign: float


_PAIRS = (slice(1, 3), slice(2, None, -2), slice(0, 2))
"""The two columns that a turn about each axis mixes, as a view: (y, z), (z, x), (x, y)."""


def _nonzero(vector: Iterable[float]) -> tuple[tuple[int, float], ...]:
    return tuple((i, float(x)) for i, x in enumerate(vector) if x != 0.0)


class ArmKinematics:
    """One arm of seven joints and a gripper. `load` makes it; `side` is "right" or "left"."""

    def __init__(self, side: str, links: tuple[_Link, ...], model: Any) -> None:
        import mujoco  # the module itself, bound once: `gravity` runs at servo rate

        self.side = side
        self._links = links
        self._turns = tuple(
            (k.offset, (k.axis + 1) % 3, (k.axis + 2) % 3, k.sign) for k in reversed(links)
        )
        self._tcp = _nonzero(TCP_OFFSET)
        self._pairs = tuple(_PAIRS[link.axis] for link in links)
        self._inward, self._offsets = self._pairs[::-1], tuple(k.offset for k in reversed(links))
        self._signs: Array = np.array([link.sign for link in links])[:, None, None]
        self._model = model
        self._data = mujoco.MjData(model)
        self._qpos: Array = self._data.qpos
        self._torque: Array = np.zeros(model.nv)
        self._steps = (mujoco.mj_kinematics, mujoco.mj_comPos)
        self._rne = mujoco.mj_rne
        self._velocities = mujoco.mj_comVel
        self._qvel: Array = self._data.qvel[:7]
        self._qacc: Array = self._data.qacc[:7]
        self._cvel: Array = self._data.cvel
        self._damping: Array = np.array(model.dof_damping[:7])
        self._friction: Array = np.array(model.dof_frictionloss[:7])
        self._armature: Array = np.array(model.dof_armature[:7])
        self._qpos[7:] = -GRIP_FOR_GRAVITY if side == "right" else GRIP_FOR_GRAVITY
        ranges = np.asarray(model.jnt_range, dtype=np.float64)
        self.q_min: Array = ranges[:8, 0].copy()
        """Lower limit of the 7 joints and the gripper [rad], from the model."""
        self.q_max: Array = ranges[:8, 1].copy()
        self.reach: Array = self._reach()
        """Upper bound [m/rad] of how far the TCP moves per radian of each of the 7 joints."""

    @classmethod
    def load(cls, side: str) -> ArmKinematics:
        """The arm "right" or "left"."""
        if side not in ("right", "left"):
            raise ConfigError(
                f"{side!r} does not name an OpenArm v2 arm",
                where="kinematics",
                hint=f"right, left, or for load_arms() one of {', '.join(ROBOT_CLASSES)}",
            )
        model = _arm_model(side)
        return cls(side, _links(model), model)

    def fk(self, q: Array) -> tuple[Array, Array]:
        """Joint angles q (B,7) [rad] -> TCP (B,3) [m], hand and finger axis (B,6), in base."""
        if len(q) <= FEW:
            cosines, sines = np.cos(q).tolist(), np.sin(q).tolist()
            rows = np.array([self._hand(c, s) for c, s in zip(cosines, sines, strict=True)])
            return rows[:, :3], rows[:, 3:]
        found = self._from_hand(q.T)
        return found[:, 0].T, found[:, 1:].transpose(2, 1, 0).reshape(-1, 6)

    def jacobian(self, q: Array) -> Array:
        """q (B,7) -> (B,6,7): TCP velocity [m/s] over angular velocity [rad/s], base frame."""
        joints, tcp = self._chain(q.T)
        arms = tcp - np.stack([origin for origin, _ in joints])
        axes = np.stack([axis for _, axis in joints])
        x, y, z = axes[:, 0], axes[:, 1], axes[:, 2]
        rx, ry, rz = arms[:, 0], arms[:, 1], arms[:, 2]
        out = np.empty((q.shape[0], 6, 7))
        out[:, 0] = (y * rz - z * ry).T
        out[:, 1] = (z * rx - x * rz).T
        out[:, 2] = (x * ry - y * rx).T
        out[:, 3:] = axes.transpose(2, 1, 0)
        return out

    def gravity(self, q: Array) -> Array:
        """Torques (7,) [Nm] that hold the arm still at q (7,) against its own weight."""
        self._qpos[:7] = q
        for step in self._steps:
            step(self._model, self._data)
        self._rne(self._model, self._data, 0, self._torque)
        return self._torque[:7].copy()

    def dynamics(self, q: Array, dq: Array, ddq: Array) -> tuple[Array, Array]:
        """Torques (7,) [Nm]: of weight alone, and of the whole motion without contact.

        The motion's are weight, inertia with the rotors', Coriolis, and the model's friction, at
        q, dq, ddq (7,) [rad, rad/s, rad/s^2]. Fingers are taken as at rest.
        """
        weight = self.gravity(q)
        data = self._data
        self._qvel[...] = dq
        self._qacc[...] = ddq
        self._velocities(self._model, data)
        self._rne(self._model, data, 1, self._torque)
        self._qvel.fill(0.0)
        self._cvel.fill(0.0)  # as mj_comVel makes it at rest
        motion = self._torque[:7] + self._armature * ddq + self._damping * dq
        return weight, motion + self._friction * np.tanh(dq / STICTION)

    def _chain(self, q: Array) -> tuple[list[tuple[Array, Array]], Array]:
        """q (7,B) -> joint (origin, axis) pairs, TCP (3,B).

        A joint turns two columns of the rotation, which are taken as one array: half the calls.
        """
        turns = np.stack((np.sin(q), -np.sin(q)), axis=1)
        turns *= self._signs
        cosines = np.cos(q)
        batch = q.shape[1]
        columns: Array = np.zeros((3, 3, batch))
        columns[[0, 1, 2], [0, 1, 2]] = 1.0
        position: Array = np.zeros((3, batch))
        joints: list[tuple[Array, Array]] = []
        for link, pair, c, turn in zip(self._links, self._pairs, cosines, turns, strict=True):
            for i, length in link.offset:
                position += columns[i] * length
            joints.append((position.copy(), columns[link.axis] * link.sign))
            turned = columns[pair]
            crossed = turned[::-1] * turn[:, None]
            turned *= c
            turned += crossed
        for i, length in self._tcp:
            position += columns[i] * length
        return joints, position

    def _from_hand(self, q: Array) -> Array:
        """q (7,B) -> (3,3,B): coordinates of TCP, hand axis, finger axis, carried from the hand's
        frame through one joint after the other to the base."""
        sines, cosines = np.sin(q), np.cos(q)
        turns = np.stack((-sines, sines), axis=1)
        turns *= self._signs
        found: Array = np.empty((3, 3, q.shape[1]))
        found[:] = _HAND
        for offset, pair, turn, c in zip(
            self._offsets, self._inward, turns[::-1], cosines[::-1], strict=True
        ):
            turned = found[pair]
            crossed = turned[::-1] * turn[:, None]
            turned *= c
            turned += crossed
            for i, length in offset:
                found[i, 0] += length
        return found

    def _hand(self, cosines: list[float], sines: list[float]) -> list[float]:
        """`_from_hand` for one row: TCP, hand axis, finger axis."""
        tcp, hand, finger = list(TCP_OFFSET), [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]
        for offset, u, v, sign in self._turns:
            c, turn = cosines.pop(), sines.pop() * sign
            xu, xv = tcp[u], tcp[v]
            tcp[u], tcp[v] = xu * c - xv * turn, xv * c + xu * turn
            xu, xv = hand[u], hand[v]
            hand[u], hand[v] = xu * c - xv * turn, xv * c + xu * turn
            xu, xv = finger[u], finger[v]
            finger[u], finger[v] = xu * c - xv * turn, xv * c + xu * turn
            for i, length in offset:
                tcp[i] += length
        return tcp + hand + finger

    def _reach(self) -> Array:
        """Longest the chain can be from each joint to the TCP: the sum of its offsets."""
        lengths = [float(np.linalg.norm([x for _, x in link.offset])) for link in self._links]
        lengths.append(float(np.linalg.norm(TCP_OFFSET)))
        return np.array([sum(lengths[i + 1 :]) for i in range(7)])


def load_arms(names: str | Iterable[str]) -> tuple[ArmKinematics, ...]:
    """The arms of a robot class by its name, or of the given sides, in that order."""
    if isinstance(names, str):
        robot = ROBOT_CLASSES.get(names)
        names = [arm.name for arm in robot.arms] if robot else [names]
    return tuple(ArmKinematics.load(side) for side in names)


@cache
def _arm_model(side: str) -> Any:
    """The official model with the other arm, every mesh and every geom taken off.

    Compiled once a process (about 50 ms); all arms of a side share it, and nobody writes to it.
    """
    try:
        import mujoco
        import openarm_mujoco.v2 as official
    except ImportError as error:
        raise ServiceFailed(
            "arm kinematics need the official OpenArm model",
            evidence=str(error),
            hint="pip install 'policyctl[robot]'",
        ) from error
    path = official.asset_path("openarm_bimanual.xml")
    spec = mujoco.MjSpec.from_file(str(path))
    other = "left" if side == "right" else "right"
    spec.delete(spec.body(f"openarm_{other}_base_link"))
    for kind in (spec.equalities, spec.actuators, spec.excludes, spec.geoms, spec.meshes):
        for item in list(kind):
            spec.delete(item)
    return spec.compile()


def _links(model: Any) -> tuple[_Link, ...]:
    links = []
    base = model.body(model.body_parentid[model.jnt_bodyid[0]])
    for i in range(7):
        body = model.body(model.jnt_bodyid[i])
        joint_axis = np.asarray(model.jnt_axis[i])
        axis = int(np.argmax(np.abs(joint_axis)))
        upright = all(np.array_equal(b.quat, (1, 0, 0, 0)) for b in (body, base))
        centred = not np.any(model.jnt_pos[i]) and abs(joint_axis[axis]) == 1.0
        if not (upright and centred):
            raise ServiceFailed(
                f"joint {i + 1} of the installed OpenArm model does not turn about a link axis",
                evidence=f"axis {joint_axis}, link rotation {body.quat}",
                hint="this policyctl knows the openarm-mujoco 2.x model; install that",
            )
        offset = np.asarray(body.pos) + (np.asarray(base.pos) if i == 0 else 0.0)
        links.append(_Link(_nonzero(offset), axis, float(np.sign(joint_axis[axis]))))
    return tuple(links)
