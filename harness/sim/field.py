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
    """`operations` name the lowest and highest value that each takes.

    `nominal` is what `set` sets in the world of a task as it is written, for a curriculum to begin
    at; where every task or joint has its own it is None.
    """

    operations: Mapping[str, Bounds]
    write: Write
    unit: str = ""
    whole: bool = False
    nominal: float | None = None

    def unchanged(self, operation: str) -> float | None:
        """The value at which an operation changes nothing; None where that is not one number."""
        return {"scale": 1.0, "add": 0.0}.get(operation, self.nominal)


def result(change: Change, nominal: float) -> float:
    """The value that a change makes of a nominal one."""
    if change.operation == "scale":
        return nominal * change.value
    return change.value + (nominal if change.operation == "add" else 0.0)
