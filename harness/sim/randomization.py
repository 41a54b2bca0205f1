"""The axes a simulation gate may vary, and what each moves.

    axis      a value means                        moves
    friction  sliding coefficient, absolute        the box's friction; its contact priority makes it
                                                   the friction of the grasp
    mass      multiple of the nominal box's mass   the box's mass, and its inertia with it
    delay     whole policy steps                   age of the command that the servo follows

An axis is a row of `AXES`: gates.yaml names it, nothing is found by import. Values outside an
axis's range are refused, since a simulation would run with them and mean nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from harness.sim.episode import Change
from registry.errors import ConfigError

MAX_DELAY = 15
"""Longest action delay [policy steps]."""


@dataclass(frozen=True)
class Axis:
    """What a named axis changes; `low <= value <= high`."""

    target: str
    field: str
    operation: str
    unit: str
    low: float
    high: float
    whole: bool = False


AXES: Mapping[str, Axis] = {
    "friction": Axis("box", "friction", "set", "", 0.05, 3.0),
    "mass": Axis("box", "mass", "scale", "x nominal", 0.1, 20.0),
    "delay": Axis("command", "delay", "set", "policy steps", 0, MAX_DELAY, whole=True),
    "joint_friction": Axis("joints", "friction", "scale", "x nominal", 0.0, 5.0),
    "joint_damping": Axis("joints", "damping", "scale", "x nominal", 0.0, 5.0),
}


def check_axes(axes: Mapping[str, tuple[float, ...]], where: str = "gates.yaml") -> None:
    """Raises ConfigError for an axis that is unknown, empty, repeated or out of its range."""
    for name, values in axes.items():
        field = f"sim.axes.{name}"
        axis = AXES.get(name)
        if axis is None:
            near = difflib.get_close_matches(name, AXES, n=1)
            raise ConfigError(
                f"there is no axis '{name}'",
                where=where,
                field=field,
                hint=f"did you mean '{near[0]}'?" if near else f"axes: {', '.join(AXES)}",
            )
        if not values:
            raise ConfigError(f"axis '{name}' has no values", where=where, field=field)
        if len(set(values)) < len(values):
            raise ConfigError(f"axis '{name}' names a value twice", where=where, field=field)
        for value in values:
            if not axis.low <= value <= axis.high:
                raise ConfigError(
                    f"{value:g} is outside axis '{name}'",
                    where=where,
                    field=field,
                    hint=f"from {axis.low:g} to {axis.high:g} {axis.unit}".rstrip(),
                )
            if axis.whole and value != int(value):
                raise ConfigError(
                    f"{value:g} is no whole number of {axis.unit}", where=where, field=field
                )


def changes(values: Mapping[str, float]) -> tuple[Change, ...]:
    """What the named axes change at these values; axes that are not named stay nominal."""
    return tuple(
        Change(axis.target, axis.field, axis.operation, float(value))
        for axis, value in ((AXES[name], value) for name, value in values.items())
    )
