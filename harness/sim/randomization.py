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
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.sim.env import MAX_DELAY
from harness.sim.scene import SceneConfig
from registry.errors import ConfigError

NOMINAL_MASS = SceneConfig.box_mass
"""The nominal box [kg]."""


@dataclass(frozen=True)
class Axis:
    """`low <= value <= high`; `to_field` turns the gate's value into the episode's."""

    unit: str
    low: float
    high: float
    field: str
    to_field: Callable[[float], float]
    whole: bool = False


AXES: Mapping[str, Axis] = {
    "friction": Axis("", 0.05, 3.0, "friction", float),
    "mass": Axis("x nominal", 0.1, 20.0, "mass", lambda value: NOMINAL_MASS * value),
    "delay": Axis("policy steps", 0, MAX_DELAY, "delay", int, whole=True),
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


def episode_fields(values: Mapping[str, float]) -> dict[str, float]:
    """Fields of an episode at a cell's values; axes that are not named keep their nominal."""
    return {AXES[name].field: AXES[name].to_field(value) for name, value in values.items()}
