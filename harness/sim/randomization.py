"""What a gate's terms mean in simulation: named axes, explicit terms, ranges.

A gate names a term in one of three ways:

    friction: [0.3, 0.5, 0.8]                      a named axis (`AXES`) and its values
    kp: {range: [0.7, 1.3]}                        a named axis, drawn anew for each episode
    wrist: {target: joint7, field: damping, operation: scale, values: [0.5, 1, 2], when: 1.5s}

- Values span the grid; ranges are drawn uniformly from a generator of their own, named by task,
  episode and the term's name: the same in every cell (common random numbers), and a term that is
  added or taken away moves no other term's draws.
- `when` is the reset, or seconds into the episode.
- A term that nothing in the simulator understands, or a value outside its range, is refused with
  file and line: a simulation would run with it and mean nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from harness.sim import seeds
from harness.sim.episode import Change
from harness.sim.fields import find
from harness.sim.vision import VISION_AXES
from registry.errors import ConfigError
from registry.gates import Term


@dataclass(frozen=True)
class Axis:
    """What a named axis changes."""

    target: str
    field: str
    operation: str


AXES: Mapping[str, Axis] = {
    "friction": Axis("box", "friction", "set"),
    "mass": Axis("box", "mass", "scale"),
    "size": Axis("box", "size", "scale"),
    "shape": Axis("box", "shape", "set"),
    "x": Axis("box", "x", "add"),
    "y": Axis("box", "y", "add"),
    "yaw": Axis("box", "yaw", "add"),
    "delay": Axis("command", "delay", "set"),
    "latency": Axis("command", "latency_s", "set"),
    "action_noise": Axis("command", "noise", "set"),
    "observation_delay": Axis("observation", "delay", "set"),
    "observation_noise": Axis("observation", "noise", "set"),
    "torque_noise": Axis("torque", "noise", "set"),
    "joint_friction": Axis("joints", "friction", "scale"),
    "joint_damping": Axis("joints", "damping", "scale"),
    "strength": Axis("joints", "strength", "scale"),
    "kp": Axis("joints", "kp", "scale"),
    "kd": Axis("joints", "kd", "scale"),
    "compliance": Axis("gripper", "compliance", "scale"),
    "gravity": Axis("world", "gravity", "scale"),
    "table_height": Axis("table", "height", "add"),
    **{name: Axis(*changed) for name, changed in VISION_AXES.items()},
}


@dataclass(frozen=True)
class Randomization:
    """The terms of one gate, checked, by name; `where` is their file."""

    terms: tuple[tuple[str, Term], ...] = ()
    option: Callable[[str], str] | None = field(default=None, compare=False)
    """Where terms are options of a foreign environment's reset: which option a term's name is."""

    @staticmethod
    def of(terms: Mapping[str, Term], where: str = "gates.yaml") -> Randomization:
        """Raises ConfigError for a term that is unknown, repeats a value or is out of range."""
        moved: dict[tuple[str, str, float], tuple[str, str]] = {}
        for name, term in sorted(terms.items()):
            at = f"sim.axes.{name}"
            _refuse_repeated(name, term, where)
            made = change(name, term, (term.range or term.values)[0], where=where)
            other, operation = moved.setdefault(
                (made.target, made.field, made.at_s), (name, made.operation)
            )
            if other != name and "set" in (operation, made.operation):
                raise ConfigError(
                    f"'{other}' and '{name}' both move {made.target}.{made.field}",
                    where=where,
                    field=at,
                    hint="one overrides the other: keep one, or let both scale or add",
                )
            for value in term.range or term.values:
                find(change(name, term, value, where=where), where=where, field=at)
        return Randomization(tuple(sorted(terms.items())))

    @staticmethod
    def of_options(
        terms: Mapping[str, Term], option: Callable[[str], str], where: str = "gates.yaml"
    ) -> Randomization:
        """Terms that name options of a foreign environment's reset, which checks them itself."""
        for name, term in terms.items():
            _refuse_repeated(name, term, where)
        return Randomization(tuple(sorted(terms.items())), option)

    def draw(self, task: str, episode: int) -> dict[str, float]:
        """Values of the terms with a range, in one episode of whatever cell."""
        return {
            name: self._between(name, term, seeds.named(task, (), episode, name).random())
            for name, term in self.terms
            if term.range is not None
        }

    def changes(self, values: Mapping[str, float]) -> tuple[Change, ...]:
        """What the terms change at these values."""
        return tuple(
            self._change(name, term, values[name]) for name, term in self.terms if name in values
        )

    def _change(self, name: str, term: Term, value: float) -> Change:
        if self.option is None:
            return change(name, term, value)
        at_s = 0.0 if isinstance(term.when, str) else term.when
        return Change("reset", self.option(name), "set", float(value), at_s)

    def _between(self, name: str, term: Term, u: float) -> float:
        """The value at the share `u` of a term's range."""
        low, high = term.range or (0.0, 0.0)
        if self._whole(name, term):
            return low + min(int(u * (high - low + 1)), high - low)
        return low + (high - low) * u

    def _whole(self, name: str, term: Term) -> bool:
        """Whether a term takes whole numbers only; options of a reset do where both ends are."""
        low, high = term.range or (0.0, 0.0)
        if self.option is None:
            return find(change(name, term, low)).whole
        return low == int(low) and high == int(high)


def change(name: str, term: Term, value: float, *, where: str = "gates.yaml") -> Change:
    """What a term changes at a value. Raises ConfigError where the name means nothing."""
    at_s = 0.0 if isinstance(term.when, str) else term.when
    if term.target:
        return Change(term.target, term.field, term.operation, float(value), at_s)
    axis = AXES.get(name)
    if axis is None:
        near = difflib.get_close_matches(name, AXES, n=1)
        raise ConfigError(
            f"there is no axis '{name}'",
            where=where,
            field=f"sim.axes.{name}",
            hint=f"did you mean '{near[0]}'?" if near else f"axes: {', '.join(AXES)}",
        )
    return Change(axis.target, axis.field, axis.operation, float(value), at_s)


def _refuse_repeated(name: str, term: Term, where: str) -> None:
    if len(set(term.values)) < len(term.values):
        raise ConfigError(
            f"axis '{name}' names a value twice", where=where, field=f"sim.axes.{name}"
        )


def checked(made: Change, where: str, field: str) -> Change:
    """A change, or ConfigError where no simulation knows it."""
    find(made, where=where, field=field)
    return made


def changes(values: Mapping[str, float]) -> tuple[Change, ...]:
    """What the named axes change at these values; axes that are not named stay nominal."""
    terms = {name: Term((value,)) for name, value in values.items()}
    return Randomization.of(terms, "changes").changes(values)
