"""Judges of hardware trials by name: the same for every version, blind to which one runs.

A judge decides from what the arm measures, or leaves it to a person after the run. Simulator truth
is never a judge; where a twin offers it, it scores the judge.
"""

from __future__ import annotations

from fleet.attempt import Array, Judge
from harness.hil.model import TaskSpec
from harness.hil.ports import Robot
from registry.errors import UsageError


def joints(task: TaskSpec, robot: Robot) -> Judge:
    """Joint positions, gripper angle and gripper torque, by the task's own rule."""
    from fleet.kinematics import load_arms
    from harness.tasks.box_grasp import BOX_GRASP, JointJudge

    if task.task != BOX_GRASP.name:
        raise UsageError(
            f"no joint judge for the task {task.task!r}",
            evidence=f"suite task {task.name!r}",
            hint=f"known: {BOX_GRASP.name}; or let a technician judge",
        )
    return JointJudge(load_arms(robot.robot_class)[0])


class TechnicianJudge:
    """Decides nothing while the policy runs; a person is asked when its time is over."""

    version = "technician/1"
    asks_person = True

    def reset(self) -> None: ...

    def update(self, q: Array, dq: Array, tau: Array, dt: float) -> None: ...

    def outcome(self) -> str | None:
        return None

    def failure_mode(self) -> str:
        return ""


def technician(task: TaskSpec, robot: Robot) -> Judge:
    """A person, after the run."""
    return TechnicianJudge()
