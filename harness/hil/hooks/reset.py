"""The three ways to make a scene ready: the robot does it, a person does it, a fresh one is laid.

A hook says what it did, never that the scene is good: the scene check after it decides, and its
complaint comes back as `ctx.why` when the hook is asked again.
"""

from __future__ import annotations

import math

from harness.hil.hooks import Context, Result
from harness.hil.model import InfraCode, InfraError
from harness.hil.ports import SelfResetting
from harness.hil.prompts.broker import DONE, PROBLEM


def robot(ctx: Context) -> Result:
    """The robot brings the object back by itself, where it can."""
    if not isinstance(ctx.robot, SelfResetting):
        return Result(False, f"{ctx.robot.name} cannot reset its own scene", needs_person=True)
    check = ctx.robot.reset_scene(ctx.trial.goal)
    return Result(check.ok, check.why)


def technician(ctx: Context, *, say: str = "") -> Result:
    """A person makes the scene ready and says so."""
    _ask(ctx, say)
    return Result(True)


def disposable(
    ctx: Context, *, item: str, say: str = "", per_trial: int = 1, initial: int | None = None
) -> Result:
    """A person lays out fresh pieces, which are counted. `initial`: how many a new station holds.

    Raises Refused, before anybody is asked, when too few are left.
    """
    left = ctx.stock.take(item, per_trial, f"{ctx.run}/{ctx.attempt}", initial)
    _ask(ctx, say or f"Lay out {per_trial} fresh {item}", f"{left} {item} left at the station.")
    return Result(True)


def _ask(ctx: Context, say: str, more: str = "") -> None:
    goal = ctx.trial.goal
    place = (
        f"Object at x {goal.x * 100:.1f} cm, y {goal.y * 100:.1f} cm, "
        f"turned {math.degrees(goal.yaw):.0f}°."
    )
    wrong = f"Not ready yet: {ctx.why}." if ctx.why else ""
    detail = "\n".join(line for line in (wrong, ctx.task.scene.setup, place, more) if line)
    answer = ctx.ask("reset", say or "Make the scene ready", detail, (DONE, PROBLEM))
    if answer.choice == PROBLEM.name:
        why = answer.note or f"{answer.actor} reported a problem while resetting the scene"
        raise InfraError(InfraCode.RESET, why)
