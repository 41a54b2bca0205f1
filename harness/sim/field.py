"""One thing that may be changed in a simulated world; the tables are in fields.py and vision.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.sim.episode import Change

if TYPE_CHECKING:
    from harness.sim.world import World

Bounds = tuple[float, float]
Write = Callable[["World", int, Change], None]


@dataclass(frozen=True)
class Field:
    """`operations` name the lowest and highest value that each takes."""

    operations: Mapping[str, Bounds]
    write: Write
    unit: str = ""
    whole: bool = False


def result(change: Change, nominal: float) -> float:
    """The value that a change makes of a nominal one."""
    if change.operation == "scale":
        return nominal * change.value
    return change.value + (nominal if change.operation == "add" else 0.0)
