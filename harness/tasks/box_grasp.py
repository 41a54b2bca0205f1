"""Box grasp: lift a 50 mm box from the table and hold it. What the task is, and who judges it.

Rules
- Success: the box is more than 10 cm above its height at rest *and* held by both fingers, without
  a break for 1 s. Success latches and ends the episode; 8 s without it is failure.
- `JointJudge` decides from what every arm measures (joints, gripper angle and torque), the same on
  twin and real arm, blind to the version that runs. Simulator truth (`harness/sim/env.py`) only
  scores it. Position alone is not enough: a gripper closed on nothing shows no torque.
- Frame "base", SI units. The box appears at x .18...32, y -.30..-.06 m, yaw ±.7 rad; the arm starts
  at `start_q` ± .05 rad with the gripper half open. Draws come from a vector of fixed length, so
  a new quantity does not shift the old ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from harness.tasks.task import Bools, Course, Placement, Truth, between

Floats = npt.NDArray[np.float64]

_DRAWS = 16
"""Uniform numbers drawn per scene, of which 10 are in use."""


@dataclass(frozen=True)
class BoxGrasp:
    """The task's numbers."""

    name: str = "box-grasp"
    version: str = "box-grasp/1"
    robot_class: str = "openarm-v2-right"
    box_half: float = 0.025
    table_z: float = -0.445
    box_mass: float = 0.2
    x: tuple[float, float] = (0.18, 0.32)
    y: tuple[float, float] = (-0.30, -0.06)
    yaw: tuple[float, float] = (-0.7, 0.7)
    start_q: tuple[float, ...] = (-0.04, 0.77, -0.66, 1.81, 1.12, 0.42, -0.70, -0.5)
    start_noise: float = 0.05
    horizon_s: float = 8.0
    hold_s: float = 1.0
    lift_m: float = 0.10

    @property
    def rest_z(self) -> float:
        """Height of the box's centre at rest [m]."""
        return self.table_z + self.box_half

    @property
    def watched(self) -> bool:
        return False

    def place(self, rng: np.random.Generator) -> Placement:
        """Draw where the box lies and where the arm starts."""
        u = rng.random(_DRAWS)
        start = np.array(self.start_q)
        start[:7] += (2.0 * u[3:10] - 1.0) * self.start_noise
        return Placement(
            x=between(self.x, u[0]),
            y=between(self.y, u[1]),
            yaw=between(self.yaw, u[2]),
            start_q=start,
        )

    def achieved(self, truth: Truth) -> Bools:
        """Lifted far enough, and held by both fingers."""
        return np.asarray((truth.lift > self.lift_m) & truth.touch)

    def violated(self, truth: Truth) -> dict[str, Bools]:
        """Nothing but protection's own limits is asked of the motion."""
        return {}

    def failure_mode(self, course: Course) -> str:
        if course.grasped:
            return "timeout" if course.holding else "dropped"
        return "collision" if course.fell else "miss_grasp"


BOX_GRASP = BoxGrasp()


class Kinematics(Protocol):
    """The part of fleet's ArmKinematics that a judge needs."""

    def fk(self, q: Floats) -> tuple[Floats, Floats]: ...


class JointJudge:
    """Judges box grasp from joint state alone; `update` once per policy step.

    Something is held where the gripper stands between fully closed and the box's width with torque
    closing it. The lift is the grasp centre's rise since the hold began; a hold that breaks starts
    anew, so a box that slips out is not a success however high the hand is.
    """

    version = "box-grasp/joints/2"

    margin_m = 0.025
    """How much more than the task's lift the hand must rise: a box tilts and creeps in the fingers,
    most in a soft grip, and joints cannot see it. Without it the judge's second would begin before
    the truth's. It does not cover a box that keeps slipping: of 38 successes that it gave a soft
    grip on 0.8 to 1.0 kg, the twin's truth held 18. A camera has to judge those."""

    closed_on: tuple[float, float] = (-0.45, -0.20)
    """Gripper angles [rad] that can mean a box between the fingers: -.267 flat, -.40 on edge."""
    min_torque = 1.0
    """Least closing torque [Nm] that means something is held; the softest grip in use has 2.4."""

    def __init__(self, kinematics: Kinematics, task: BoxGrasp = BOX_GRASP) -> None:
        self._kinematics = kinematics
        self._task = task
        self.reset()

    def reset(self) -> None:
        self._time = 0.0
        self._grasp_z: float | None = None
        self._held_s = 0.0
        self._outcome: str | None = None
        self.lift = 0.0
        """Highest rise [m] of the hand while it held something."""

    def update(self, q: Floats, dq: Floats, tau: Floats, dt: float) -> None:
        """One step: q, dq, tau of the 8 joints, dt [s] since the last step."""
        if self._outcome is not None:
            return
        self._time += dt
        low, high = self.closed_on
        if not (low < q[7] < high and tau[7] > self.min_torque):
            self._grasp_z = None
            self._held_s = 0.0
        else:
            height = float(self._kinematics.fk(np.asarray(q[None, :7]))[0][0, 2])
            if self._grasp_z is None:
                self._grasp_z = height
            rise = height - self._grasp_z
            self.lift = max(self.lift, rise)
            high_enough = rise >= self._task.lift_m + self.margin_m
            self._held_s = self._held_s + dt if high_enough else 0.0
        if self._held_s >= self._task.hold_s - 0.5 * dt:
            self._outcome = "success"
        elif self._time >= self._task.horizon_s - 0.5 * dt:
            self._outcome = "failure"

    def outcome(self) -> str | None:
        """ "success", "failure" or None while undecided."""
        return self._outcome

    def failure_mode(self) -> str:
        """Why a failure failed: "miss_grasp" or "dropped"; "" for a success."""
        if self._outcome != "failure":
            return ""
        return "dropped" if self.lift > 0.02 else "miss_grasp"
