"""Judges of hardware trials by name: the same for every version, blind to which one runs.

A judge decides from what the arm measures, or leaves it to a person after the run. Simulator truth
is never a judge; where a twin offers it, it scores the judge.
"""

from __future__ import annotations

from typing import Any

from harness.hil.model import TaskSpec
from harness.hil.ports import Judge, Robot
from registry.errors import UsageError


def joints(task: TaskSpec, robot: Robot) -> Judge:
    """Joint positions, gripper angle and gripper torque, by the task's own rule."""
    from fleet.kinematics import ArmKinematics
    from harness.tasks.box_grasp import BOX_GRASP, JointJudge

    if task.task != BOX_GRASP.name:
        raise UsageError(
            f"no joint judge for the task {task.task!r}",
            evidence=f"suite task {task.name!r}",
            hint=f"known: {BOX_GRASP.name}; or let a technician judge",
        )
    return JointJudge(ArmKinematics.load(robot.robot_class))


class TechnicianJudge:
    """Decides nothing while the policy runs; a person is asked when its time is over."""

    version = "technician/1"
    asks_person = True

    def reset(self, *args: Any, **kwargs: Any) -> None: ...

    def update(self, *args: Any, **kwargs: Any) -> None: ...

    def outcome(self) -> str | None:
        return None


def technician(task: TaskSpec, robot: Robot) -> Judge:
    """A person, after the run."""
    return TechnicianJudge()
