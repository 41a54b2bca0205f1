"""A script of troubles: what happens to a twin, and when.

    - {at: 2.0, fault: silent, joint: joint4}
    - {at: 4.0, fault: silent, joint: joint4, clear: true}
    - {at: 5.0, fault: motor, joint: joint6, details: {status: 12, coil: 105}}

`at` is in seconds of the twin's time from when the script begins. Names, arms, joints and details
are those of harness/twin/fault_table.py; all are checked before anything happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from harness.twin.fault_table import check
from harness.twin.faults import clear, inject
from harness.twin.physics import TwinWorld
from registry.errors import ConfigError, UsageError
from registry.yaml_file import Strict, read_yaml


class Event(Strict):
    """One line of a script."""

    at: float = Field(ge=0, allow_inf_nan=False)
    fault: str
    arm: str | None = None
    joint: str | None = None
    clear: bool = False
    details: dict[str, Any] = Field(default_factory=dict)

    def check(self, arms: Sequence[str]) -> None:
        """Raises UsageError unless it can happen to a twin with these arms."""
        check(
            self.fault,
            arms,
            arm=self.arm,
            joint=self.joint,
            clear=self.clear,
            details=self.details,
        )

    def happen(self, world: TwinWorld) -> None:
        """Raises UsageError, Refused."""
        if self.clear:
            clear(world, self.fault, arm=self.arm, joint=self.joint)
        else:
            inject(world, self.fault, arm=self.arm, joint=self.joint, **self.details)


def load_script(path: Path, arms: Sequence[str] = ("right",)) -> tuple[Event, ...]:
    """The events of a file for a twin with these arms, in order of time.

    Raises ConfigError with file, line and field.
    """
    data, lines = read_yaml(path)
    if not isinstance(data, list):
        raise ConfigError(
            f"{path.name} must be a list of events",
            where=f"{path}:1",
            hint="for example - {at: 2.0, fault: silent, joint: joint4}",
        )
    events = []
    for i, item in enumerate(data):
        try:
            event = Event.model_validate(item)
        except ValidationError as error:
            first = error.errors()[0]
            loc = first["loc"]
            where = f"{path}:{lines.get((i, *loc[:1]), lines.get((i,), 1))}"
            field = ".".join(str(part) for part in loc)
            raise ConfigError(f"event {i + 1}: {first['msg']}", where=where, field=field) from None
        try:
            event.check(arms)
        except UsageError as error:
            raise ConfigError(
                f"event {i + 1}: {error.what}",
                where=f"{path}:{lines.get((i,), 1)}",
                field=error.evidence,
                hint=error.hint,
            ) from None
        events.append(event)
    return tuple(sorted(events, key=lambda event: event.at))


class Player:
    """Lets the events of a script happen as the twin's time passes."""

    def __init__(self, events: Sequence[Event], world: TwinWorld) -> None:
        """`at` counts from now."""
        self._world = world
        self._began = world.now()
        self._left = list(events)

    @property
    def done(self) -> bool:
        return not self._left

    def play(self) -> Iterator[Event]:
        """What is due happens, one by one. Raises UsageError, Refused; the rest is left."""
        while self._left and self._began + self._left[0].at <= self._world.now() + 1e-9:
            event = self._left.pop(0)
            event.happen(self._world)
            yield event
