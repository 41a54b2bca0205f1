"""The tasks that robots are tried at, by the names that contracts, gates and suites use."""

from __future__ import annotations

from collections.abc import Mapping

from harness.tasks.box_grasp import BOX_GRASP, BoxGrasp
from registry.errors import UsageError

TASKS: Mapping[str, BoxGrasp] = {BOX_GRASP.name: BOX_GRASP}


def find_task(name: str) -> BoxGrasp:
    """The task of that name. Raises UsageError with those there are."""
    if name not in TASKS:
        raise UsageError(f"there is no task {name!r}", hint=f"tasks: {', '.join(TASKS)}")
    return TASKS[name]
