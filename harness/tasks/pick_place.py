"""Pick and place: carry a 4 cm cube to a goal on the table, gently. What the task is.

Rules
- Success: the cube's centre is within 2 cm of the goal, it is released or rests on the table, and
  it is still, without a break for .5 s. Where `orientation_rad` is given its yaw is that close to
  the goal's too, modulo quarter turns: a cube has no other. Success latches and ends the episode;
  10 s without it is failure.
- An arm joint at 1.5 rad/s or faster (`overspeed`), or 20 N or more between a hand and what is
  outside it (`excess_force`), ends the episode as failure. Both are watched at every servo tick.
  The force is the net force of table and cube on the hand: the fingers' squeeze cancels, the cube's
  weight, its inertia and what it is pushed against do not.
- Pushing the cube there is allowed; nothing asks for a grasp.
- Frame "base", SI units. Cube and goal lie in x .18...32, y -.30..-.10 m, where the right arm
  reaches at any yaw that is drawn; they are 8 cm apart or more, or else the goal is the furthest of
  eight. Draws come from a vector of fixed length, so a new quantity does not shift the old ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.tasks.task import Bools, Course, Placement, Truth, between

Floats = npt.NDArray[np.float64]

_DRAWS = 40
"""Uniform numbers drawn per scene, of which 27 are in use."""
_GOALS = 8
"""Goals drawn, of which the first that is far enough from the cube counts."""
_QUARTER = np.pi / 2


@dataclass(frozen=True)
class PickPlace:
    """The task's numbers."""

    name: str = "pick-place"
    version: str = "pick-place/1"
    robot_class: str = "openarm-v2-right"
    box_half: float = 0.02
    table_z: float = -0.445
    box_mass: float = 0.2
    x: tuple[float, float] = (0.18, 0.32)
    y: tuple[float, float] = (-0.30, -0.10)
    yaw: tuple[float, float] = (-0.7, 0.7)
    apart_m: float = 0.08
    """Least way from the cube to its goal."""
    start_q: tuple[float, ...] = (-0.04, 0.77, -0.66, 1.81, 1.12, 0.42, -0.70, -0.5)
    start_noise: float = 0.05
    horizon_s: float = 10.0
    hold_s: float = 0.5
    tolerance_m: float = 0.02
    orientation_rad: float | None = None
    """How close the yaw has to be, where it is asked for at all."""
    rest_m: float = 0.004
    """Less than this above its height at rest, the cube rests on the table."""
    still_m_s: float = 0.02
    speed_max: float = 1.5
    force_max: float = 20.0

    @property
    def rest_z(self) -> float:
        """Height of the cube's centre at rest [m]."""
        return self.table_z + self.box_half

    @property
    def watched(self) -> bool:
        return True

    def place(self, rng: np.random.Generator) -> Placement:
        """Draw where the cube lies, where it shall go and where the arm starts."""
        u = rng.random(_DRAWS)
        start = np.array(self.start_q)
        start[:7] += (2.0 * u[3:10] - 1.0) * self.start_noise
        x, y = between(self.x, u[0]), between(self.y, u[1])
        goals = [
            (between(self.x, u[11 + 2 * i]), between(self.y, u[12 + 2 * i])) for i in range(_GOALS)
        ]
        ways = [np.hypot(gx - x, gy - y) for gx, gy in goals]
        chosen = next((i for i, way in enumerate(ways) if way >= self.apart_m), None)
        gx, gy = goals[int(np.argmax(ways)) if chosen is None else chosen]
        return Placement(
            x=x,
            y=y,
            yaw=between(self.yaw, u[2]),
            start_q=start,
            goal=(gx, gy, self.rest_z, between(self.yaw, u[10])),
        )

    def achieved(self, truth: Truth) -> Bools:
        """At the goal, put down or let go of, and still."""
        near = np.linalg.norm(truth.position - truth.goal[:, :3], axis=1) < self.tolerance_m
        down = (truth.lift < self.rest_m) | truth.released
        placed = near & down & (truth.speed < self.still_m_s)
        if self.orientation_rad is not None:
            placed &= np.abs(off_square(truth.goal[:, 3] - truth.yaw)) < self.orientation_rad
        return np.asarray(placed)

    def violated(self, truth: Truth) -> dict[str, Bools]:
        return {
            "overspeed": np.asarray(truth.joint_speed >= self.speed_max),
            "excess_force": np.asarray(truth.hand_force >= self.force_max),
        }

    def failure_mode(self, course: Course) -> str:
        if not course.grasped:
            return "collision" if course.fell else "miss_grasp"
        if course.fell or course.lost:
            return "dropped"
        if course.holding or course.held:
            return "timeout"
        if course.distance >= self.tolerance_m:
            return "wrong_position"
        return "timeout" if self.orientation_rad is None else "wrong_orientation"


def off_square(angle: Floats) -> Floats:
    """An angle [rad] less its nearest whole number of quarter turns: -pi/4..pi/4."""
    return np.asarray(angle - _QUARTER * np.round(angle / _QUARTER))


PICK_PLACE = PickPlace()
PICK_PLACE_ALIGNED = PickPlace(
    name="pick-place-aligned", version="pick-place-aligned/1", orientation_rad=0.1
)
