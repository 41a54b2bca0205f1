"""The `sim` section of gates.yaml: a task, what varies, over how many episodes, what must hold.

    sim:
      task: box-grasp       # or {gymnasium: Name-v0, success: is_success, axes: {…}}
      axes: {friction: [.3, 1.0], mass: {range: [.8, 1.2], …}}
      episodes_per_cell: 50 # samples: N where every axis is a range: one cell
      threshold: .85
      regression: {alpha: .05, margin: .02}  # or off
      floor: .60
      suites: {camera: {axes: …, samples: 200}, held-out: {axes: {shape: [1, 2]}}}

The axes of a Gymnasium task are options of its `reset`; they may stand in `task` or beside it. What
a suite leaves out is that of the gate: task, axes with their count, threshold, alpha. It compares
with no version and holds no floor unless it says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from registry.gates import SUITE_NAME, GridGate, Regression, Term, is_suite_name, suite_gate
from registry.yaml_file import Strict

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _seconds(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a duration like 90s, 30m, 12h or 7d")
    return float(match[1]) * _UNITS[match[2]]


Duration = Annotated[float, BeforeValidator(_seconds)]


class Excused(Strict):
    not_applicable: str | None = None


class _Term(Strict):
    values: tuple[float, ...] = ()
    range: tuple[float, float] | None = None
    target: str = ""
    field: str = ""
    operation: str = ""
    when: Literal["reset"] | Duration = "reset"

    @model_validator(mode="after")
    def _sound(self) -> _Term:
        self.term()
        return self

    def term(self) -> Term:
        return Term(**{name: getattr(self, name) for name in type(self).model_fields})


def _kind_of_axis(value: Any) -> str:
    return "term" if isinstance(value, Mapping | _Term) else "values"


_Axis = Annotated[
    Annotated[tuple[float, ...], Tag("values")] | Annotated[_Term, Tag("term")],
    Discriminator(_kind_of_axis),
]
_Axes = dict[str, _Axis]


class _Environment(Strict):
    """A task of Gymnasium's registry, or of a module's: `module:Name-v0`."""

    gymnasium: Annotated[str, Field(min_length=1)]
    success: Annotated[str, Field(min_length=1)] | dict[str, float]
    axes: _Axes = Field(default_factory=dict)


class _Regression(Strict):
    alpha: float = Regression.alpha
    margin: float = Regression.margin

    @model_validator(mode="after")
    def _sound(self) -> _Regression:
        self.regression()
        return self

    def regression(self) -> Regression:
        return Regression(self.alpha, self.margin)


def _off(value: Any) -> Any:
    """YAML reads a bare `off` as false."""
    return None if value is False or value == "off" else value


def _kind_of_task(value: Any) -> str:
    return "environment" if isinstance(value, Mapping | _Environment) else "name"


_Task = Annotated[
    Annotated[str, Tag("name")] | Annotated[_Environment, Tag("environment")],
    Discriminator(_kind_of_task),
]
_Regressed = Annotated[_Regression | None, BeforeValidator(_off)]


class _Grid(Excused):
    """What the gate and its suites share."""

    task: _Task | None = None
    axes: _Axes | None = None
    episodes_per_cell: int | None = None
    samples: int | None = None
    threshold: float = GridGate.threshold
    alpha: float = GridGate.alpha
    regression: _Regressed = None
    floor: float | None = None
    floor_alpha: float = GridGate.floor_alpha
    overlay: str | None = None
    rendered_per_cell: int | None = None

    def terms(self) -> dict[str, Term]:
        """The axes of the section and of its environment."""
        inside = self.task.axes if isinstance(self.task, _Environment) else {}
        own = self.axes or {}
        twice = sorted(set(inside) & set(own))
        if twice:
            raise ValueError(f"axes: {twice[0]} is also an axis of the task")
        return {name: _term(data) for name, data in (inside | own).items()}

    def count(self, terms: Mapping[str, Term]) -> int:
        """Episodes of a cell. A gate of ranges is one cell, of `samples`."""
        if any(term.values for term in terms.values()):
            if self.samples is not None:
                raise ValueError("samples: these axes span cells, write episodes_per_cell")
            given = self.episodes_per_cell
            return GridGate.episodes_per_cell if given is None else given
        if self.episodes_per_cell is not None:
            raise ValueError("episodes_per_cell: all axes are ranges, which span no cells: samples")
        if self.samples is None:
            raise ValueError("axes: all of them are ranges: say how many samples, `samples: 500`")
        if self.samples < 1:
            raise ValueError("samples is at least 1")
        return self.samples


class _Suite(_Grid):
    def gate(self, name: str, of: GridGate) -> GridGate:
        """The suite as a gate, with what it leaves out taken from the gate it belongs to."""
        given = self.model_fields_set
        task, environment = (of.task, of.gymnasium)
        if self.task is not None:
            task, environment = _named(self.task)
        terms = self.terms()
        if terms:
            count = self.count(terms)
        elif given & {"episodes_per_cell", "samples"}:
            terms, count = dict(of.axes), self.count(of.axes)
        else:
            terms, count = dict(of.axes), of.episodes_per_cell
        return GridGate(
            task,
            terms,
            count,
            self.threshold if "threshold" in given else of.threshold,
            self.alpha if "alpha" in given else of.alpha,
            suite_gate(name),
            None if self.regression is None else self.regression.regression(),
            self.floor,
            self.floor_alpha,
            overlay=of.overlay,
            rendered_per_cell=self.rendered_per_cell,
            gymnasium=environment,
        )


class SimSection(_Grid):
    suites: dict[str, _Suite] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _sound(self) -> SimSection:
        self.gate()
        self.robustness()
        return self

    def gate(self) -> GridGate | None:
        if excused(self):
            return None
        if self.task is None:
            raise ValueError("sim: missing key 'task'")
        terms = self.terms()
        if not terms:
            raise ValueError("sim: missing key 'axes'")
        task, environment = _named(self.task)
        return GridGate(
            task,
            terms,
            self.count(terms),
            self.threshold,
            self.alpha,
            regression=None if self.regression is None else self.regression.regression(),
            floor=self.floor,
            floor_alpha=self.floor_alpha,
            rendered_per_cell=self.rendered_per_cell,
            gymnasium=environment,
        )

    def robustness(self) -> dict[str, GridGate]:
        """The suites by name; none where the gate itself does not apply."""
        gate = self.gate()
        if gate is None:
            return {}
        for name, suite in self.suites.items():
            if not is_suite_name(name):
                raise ValueError(f"suites: {name!r} is not a suite's name: {SUITE_NAME}")
            if suite.not_applicable is not None:
                raise ValueError(f"suites: leave {name} out where it does not apply")
        found = {}
        for name, suite in self.suites.items():
            try:
                found[name] = suite.gate(name, gate)
            except ValueError as error:
                raise ValueError(f"suites.{name}.{error}") from None
        return found


def _term(data: tuple[float, ...] | _Term) -> Term:
    return data.term() if isinstance(data, _Term) else Term(data)


def _named(task: str | _Environment) -> tuple[str, dict[str, Any] | None]:
    """A task's name, and for an environment how its success is told."""
    if isinstance(task, str):
        return task, None
    return task.gymnasium, {"success": task.success}


def excused(section: Excused) -> bool:
    """True when the section is a reason instead of a gate; both at once is an error."""
    if section.not_applicable is None:
        return False
    if not section.not_applicable.strip():
        raise ValueError("not_applicable: say why the gate does not apply")
    others = section.model_fields_set - {"not_applicable"}
    if others:
        raise ValueError(f"not_applicable: stands alone, without {', '.join(sorted(others))}")
    return True
