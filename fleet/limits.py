"""What an arm may do: limits of joints, motors and space, and where their numbers come from.

Limits are values; `fleet/safety.py` keeps them. Arrays are (J,) for limits and (B, J) for joints,
J = 8 per arm, arms concatenated; radians, seconds, metres, newton metres; frame "base".

Self-collision is thin: the hand stays off a vertical column on the base axis and, with two arms, on
its own side of the plane between them; elbows are kept off by joint limits alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

JOINTS = 8
DQ_MAX = (2.0, 2.0, 3.3, 3.3, 6.3, 6.3, 6.3, 6.0)
"""[rad/s] the official driver's command speeds; the gripper's 20 is cut to 6."""
DDQ_MAX = (120.0, 120.0, 200.0, 200.0, 400.0, 400.0, 400.0, 600.0)
"""[rad/s^2] full speed within 16 ms, less than a policy step: half of it costs the scripted expert
two grasps in a hundred. More than the arm can follow: its own inertia smooths what is left."""
TORQUE_MAX = (38.0, 38.0, 25.5, 25.5, 6.8, 6.8, 6.8, np.inf)
"""[Nm] just below the drives' peak; the gripper saturates by design when it holds something."""
CONTACT_MAX = (15.0, 15.0, 9.0, 20.0, 4.0, 4.0, 4.0, np.inf)
"""[Nm] motor torque less what weight and motion explain. Free motion leaves up to 1.7 Nm (friction
differs from the model's by a fifth), a kilogram in the hand 5 Nm, leaving the stand 13 Nm once on
joint 4. 15 Nm on the shoulder is 60 N at the hand where it works."""
CONTACT_MAX_IN_SIM = (45.0, 45.0, 31.5, 31.5, 9.0, 9.0, 9.0, np.inf)
"""[Nm] for whoever subtracts no inertia: a lower limit would mistake motion for contact."""
WORKSPACE_LOW, WORKSPACE_HIGH = (-0.15, -0.62, -0.62), (0.62, 0.12, 0.45)
"""[m] where a right arm's TCP may be, in the base frame; a left arm's is the mirror image."""
FILTER_S = (0.1, 0.02)
"""Low pass on torque, and on torque less what the model explains."""
TABLE_MARGIN = 0.015
"""[m] of the TCP above the table; the closed fingertips reach 12 mm beyond the TCP."""
BREACH = 0.03
"""[m] outside the workspace at which the measured TCP is a class A event."""


class Kinematics(Protocol):
    """What protection asks of an arm: see fleet.kinematics.ArmKinematics."""

    side: str
    q_min: Array
    q_max: Array
    reach: Array

    def fk(self, q: Array) -> tuple[Array, Array]: ...


@dataclass(frozen=True)
class Workspace:
    """Where one arm's TCP may be: a box, outside the robot's column, on its side. [m], base."""

    low: Array
    high: Array
    column: float
    side_plane: float | None
    """With two arms: least distance of this hand from the plane y = 0, on its own side."""
    side_sign: float

    def clearance(self, tcp: Array) -> tuple[Array, Array]:
        """TCP (B,3) -> distance inside the box and from the robot itself (B,), (B,); < 0 out."""
        inside = np.minimum(tcp - self.low, self.high - tcp).min(axis=1)
        own = np.hypot(tcp[:, 0], tcp[:, 1]) - self.column
        if self.side_plane is not None:
            own = np.minimum(own, tcp[:, 1] * self.side_sign - self.side_plane)
        return inside, own


@dataclass(frozen=True)
class SafetyLimits:
    """Limits of a robot, its arms concatenated: (J,) arrays, one workspace per arm."""

    arms: tuple[Kinematics, ...]
    q_min: Array
    q_max: Array
    dq_max: Array
    ddq_max: Array
    torque_max: Array
    contact_max: Array
    workspaces: tuple[Workspace, ...]
    mid: Array = field(init=False, repr=False)
    half: Array = field(init=False, repr=False)
    """Centre and half width of the joint range."""
    stop: Array = field(init=False, repr=False)
    """stop · dq² is the way to rest from speed dq at full deceleration."""
    reach: Array = field(init=False, repr=False)
    """(J, A): how far one radian can move each arm's TCP, at most [m]."""
    tau: Array = field(init=False, repr=False)
    """(2, 1, J): peak torque, and torque less what the model explains."""
    _by_dt: dict[float, TickLimits] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        mid = (self.q_max + self.q_min) / 2
        reach = np.zeros((self.q_min.size, len(self.arms)))
        for i, arm in enumerate(self.arms):
            reach[JOINTS * i : JOINTS * i + 7, i] = arm.reach
        for name, value in (
            ("mid", mid),
            ("half", np.maximum(self.q_max - mid, mid - self.q_min)),
            ("stop", 0.5 / self.ddq_max),
            ("reach", reach),
            ("tau", np.stack([self.torque_max, self.contact_max])[:, None, :]),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def for_arms(
        cls,
        arms: Sequence[Kinematics],
        *,
        table_z: float | None = None,
        dq_max: ArrayLike = DQ_MAX,
        ddq_max: ArrayLike = DDQ_MAX,
        torque_max: ArrayLike = TORQUE_MAX,
        contact_max: ArrayLike = CONTACT_MAX,
        low: ArrayLike = WORKSPACE_LOW,
        high: ArrayLike = WORKSPACE_HIGH,
        ranges: Sequence[tuple[Array, Array]] | None = None,
    ) -> SafetyLimits:
        """The house limits. `low` and `high` bound a right arm's TCP; a left arm's are mirrored.

        `ranges`: (low, high) of each arm's joints (8,) [rad], by default those of its model.
        Raises ValueError where a limit is not positive, since no such limit could be kept.
        """
        many = len(arms)
        floor = np.array(low, dtype=np.float64)
        if table_z is not None:
            floor[2] = max(floor[2], table_z + TABLE_MARGIN)
        ceiling = np.array(high, dtype=np.float64)
        workspaces = []
        for arm in arms:
            lo, hi = floor.copy(), ceiling.copy()
            if arm.side == "left":
                lo[1], hi[1] = -ceiling[1], -floor[1]
            sign = 1.0 if arm.side == "left" else -1.0
            workspaces.append(Workspace(lo, hi, 0.08, 0.09 if many > 1 else None, sign))
        speed, acceleration, torque, residual = (
            np.tile(np.array(x, dtype=np.float64), many)
            for x in (dq_max, ddq_max, torque_max, contact_max)
        )
        if not all(np.all(x > 0) for x in (speed, acceleration, torque, residual)):
            raise ValueError("safety limits must be positive numbers")
        if ranges is None:
            ranges = [(arm.q_min, arm.q_max) for arm in arms]
        q_min, q_max = (np.concatenate(column) for column in zip(*ranges, strict=True))
        return cls(
            arms=tuple(arms),
            q_min=q_min,
            q_max=q_max,
            dq_max=speed,
            ddq_max=acceleration,
            torque_max=torque,
            contact_max=residual,
            workspaces=tuple(workspaces),
        )

    def clearance(self, q: Array) -> tuple[Array, Array]:
        """Joints (B,J) -> least distance in the box and from the robot, each (B,A) [m]."""
        inside = np.empty((q.shape[0], len(self.arms)))
        own = np.empty_like(inside)
        for i, (arm, space) in enumerate(zip(self.arms, self.workspaces, strict=True)):
            tcp, _ = arm.fk(q[:, JOINTS * i : JOINTS * i + 7])
            inside[:, i], own[:, i] = space.clearance(tcp)
        return inside, own

    def breached(self, tcp: Array) -> Flags:
        """Measured TCP (B,A,3) -> rows (B,) outside by more than `BREACH`: a class A event."""
        out = np.zeros(tcp.shape[0], dtype=np.bool_)
        for i, space in enumerate(self.workspaces):
            inside, own = space.clearance(tcp[:, i])
            out |= np.minimum(inside, own) < -BREACH
        return out

    def per_tick(self, dt: float) -> TickLimits:
        """Everything of one tick that depends on the limits and dt alone."""
        found = self._by_dt.get(dt)
        if found is None:
            found = self._by_dt[dt] = TickLimits(self, dt)
        return found


class TickLimits:
    """Bounds of one tick of dt seconds."""

    def __init__(self, limits: SafetyLimits, dt: float) -> None:
        self.per_s = 1.0 / dt
        self.adt: Array = limits.ddq_max * dt
        self.adt2: Array = self.adt**2
        self.two_a: Array = 2.0 * limits.ddq_max
        self.mix: Array = np.array([[[dt / (seconds + dt)]] for seconds in FILTER_S])
        small = 1.0 - 1e-12  # so that "equal but for rounding" takes the careful path
        self.quick: Array = np.stack(
            [limits.dq_max * small, self.adt * small, self.adt * dt * small, limits.half]
        )[:, None, :]

    def brake(self, distance: Array) -> Array:
        """Fastest speed from which braking tick by tick stops within `distance` >= 0."""
        speed: Array = np.sqrt(self.adt2 + self.two_a * distance) - self.adt
        return speed
