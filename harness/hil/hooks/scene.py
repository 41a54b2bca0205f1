"""Whether the scene is what the trial needs. A check measures; it trusts no one's word.

Lengths in m, angles in rad, frame "base".
"""

from __future__ import annotations

import math
import statistics

from fleet.attempt import SceneCheck
from fleet.camera import Pose
from harness.hil.hooks import Context
from harness.hil.model import InfraCode, InfraError
from harness.hil.prompts.broker import FAILURE, SUCCESS, Choice


def object_pose(
    ctx: Context,
    *,
    tolerance_m: float = 0.02,
    tolerance_rad: float | None = None,
    samples: int = 5,
    max_age_s: float = 0.5,
) -> SceneCheck:
    """The measured object against the trial's start pose: median of `samples` readings.

    `tolerance_rad` none: any yaw will do (a cube looks the same every 90°, so yaw is compared
    modulo 90°). Raises InfraError E_POSE where the pose source gives nothing fresh.
    """
    poses = [pose for pose in (_read(ctx) for _ in range(samples)) if _fresh(pose, max_age_s)]
    seen = [pose for pose in poses if pose is not None]
    if len(seen) * 2 < samples:
        raise InfraError(
            InfraCode.POSE, f"the object was seen in {len(seen)} of {samples} readings"
        )
    goal = ctx.trial.goal
    dx = statistics.median(float(pose.position[0]) for pose in seen) - goal.x
    dy = statistics.median(float(pose.position[1]) for pose in seen) - goal.y
    off = math.hypot(dx, dy)
    if off > tolerance_m:
        return SceneCheck(False, f"the object is {off * 1000:.0f} mm off its mark")
    turns = [_quarter(float(pose.yaw) - goal.yaw) for pose in seen]
    turn = statistics.median(turns)
    if tolerance_rad is not None and abs(turn) > tolerance_rad:
        return SceneCheck(False, f"the object is turned {math.degrees(turn):.0f}° off its mark")
    return SceneCheck(True)


def technician(ctx: Context, *, ask: str = "Is the scene as described?") -> SceneCheck:
    """A person looks, where nothing can measure."""
    yes = Choice(SUCCESS.name, SUCCESS.key, "Yes")
    no = Choice(FAILURE.name, FAILURE.key, "No")
    answer = ctx.ask("scene", ask, ctx.task.scene.setup, (yes, no))
    if answer.choice == yes.name:
        return SceneCheck(True)
    return SceneCheck(False, answer.note or f"{answer.actor} says the scene is not ready")


def assumed(ctx: Context) -> SceneCheck:
    """No check: for scenes that nothing can measure and that a fixture makes exact."""
    return SceneCheck(True)


def _read(ctx: Context) -> Pose | None:
    return ctx.robot.object_pose()


def _fresh(pose: Pose | None, max_age_s: float) -> bool:
    return pose is not None and pose.age_s <= max_age_s


def _quarter(angle: float) -> float:
    """An angle modulo 90°, in [-45°, 45°)."""
    return (angle + math.pi / 4) % (math.pi / 2) - math.pi / 4
