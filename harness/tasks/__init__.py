"""The tasks that robots are tried at, by the names that contracts, gates and suites use."""

from __future__ import annotations

from collections.abc import Mapping

from harness.tasks.box_grasp import BOX_GRASP, BoxGrasp
from harness.tasks.pick_place import PICK_PLACE, PICK_PLACE_ALIGNED
from harness.tasks.task import Task
from registry.errors import UsageError

TASKS: Mapping[str, Task] = {
    task.name: task for task in (BOX_GRASP, PICK_PLACE, PICK_PLACE_ALIGNED)
}


ROBOT_TASKS: Mapping[str, BoxGrasp] = {BOX_GRASP.name: BOX_GRASP}
"""Those that twins lay out and joints can judge; the others are simulated only."""


def find_robot_task(name: str) -> BoxGrasp:
    """A task for twins and robots. Raises UsageError with those there are."""
    if name not in ROBOT_TASKS:
        raise UsageError(
            f"no robot or twin can be tried at the task {name!r} yet",
            hint=f"tasks of robots: {', '.join(ROBOT_TASKS)}",
        )
    return ROBOT_TASKS[name]


def find_task(name: str) -> Task:
    """The task of that name. Raises UsageError with those there are."""
    if name not in TASKS:
        raise UsageError(f"there is no task {name!r}", hint=f"tasks: {', '.join(TASKS)}")
    return TASKS[name]
