"""The simulation gate as plain values: what varies, over how many episodes, and what must hold.

The rules of `registry.gates` hold here too: frozen, rates and probabilities as fractions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

from registry.versions import digest_of


@dataclass(frozen=True)
class Term:
    """One thing that varies: `operation` with a value on `field` of `target`, `when`.

    `values` make it an axis of the grid; a `range` (low, high) is drawn anew for each episode, the
    same for a scene in every cell. Exactly one of them is given. A term without a target is one of
    the simulator's own axes, known by its name. `when` is "reset" or seconds into the episode.
    """

    values: tuple[float, ...] = ()
    range: tuple[float, float] | None = None
    target: str = ""
    field: str = ""
    operation: str = ""
    when: str | float = "reset"

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(float(v) for v in self.values))
        require(bool(self.values) != (self.range is not None), "a term has values, or a range")
        if self.range is not None:
            low, high = (float(bound) for bound in self.range)
            object.__setattr__(self, "range", (low, high))
            require(low < high, f"[{low:g}, {high:g}] is not a range")
        named = bool(self.target), bool(self.field), bool(self.operation)
        require(len(set(named)) == 1, "target, field and operation stand together")
        known = self.operation in ("", "set", "scale", "add")
        require(known, "operation is set, scale or add")
        if isinstance(self.when, str):
            require(self.when == "reset", "when is reset, or seconds into the episode")
        else:
            object.__setattr__(self, "when", float(self.when))
            require(self.when > 0, "when is reset, or seconds into the episode")

    def to_json(self) -> Any:
        """The short form, a list, where a term is an axis that the simulator knows."""
        if self.values and self == Term(self.values):
            return list(self.values)
        data: dict[str, Any] = {"when": self.when} if self.when != "reset" else {}
        if self.target:
            data |= {"target": self.target, "field": self.field, "operation": self.operation}
        if self.range is not None:
            return data | {"range": list(self.range)}
        return data | {"values": list(self.values)}

    @staticmethod
    def of(data: Any) -> Term:
        """From a list of values, or a mapping of the fields above."""
        if isinstance(data, Term):
            return data
        return Term(**data) if isinstance(data, Mapping) else Term(tuple(data))


@dataclass(frozen=True)
class Regression:
    """Against the fleet's version on the same scenes: no worse, and surely not by `margin`.

    FAIL of a version that is no worse, and PASS of one that is worse by `margin` or more, each have
    a chance of at most `alpha`. `margin` is a difference of success rates.
    """

    alpha: float = 0.05
    margin: float = 0.02

    def __post_init__(self) -> None:
        require(0 < self.alpha < 0.5, "alpha lies between 0 and .5")
        require(0 < self.margin < 1, "margin lies between 0 and 1")

    def to_json(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "margin": self.margin}


@dataclass(frozen=True)
class GridGate:
    """Simulation: the mean success over a fixed grid of physics must exceed `threshold`.

    The full run is every cell (product of the axes that name values) × `episodes_per_cell`
    episodes; a gate of ranges only is one cell, of as many samples. They are run in one random
    order and judged after each; the verdict on the mean differs from that of the full run with
    probability at most `alpha` per side. `axes` may be given as plain values.

    Where given, `regression` asks for the comparison with the fleet's version, and `floor` that no
    cell is proven below that success probability, at level `floor_alpha` over all cells. `overlay`
    holds terms of one value each that every episode begins with: what makes the simulation move
    like one real arm. `rendered_per_cell` are the episodes of a cell for versions that see images,
    which take far longer (`for_contract`). `gymnasium` makes `task` the name of an
    environment, and says under "success" which key of its info tells success. `edition` is that of
    the rules it is judged by (`registry.grid_verdict`); what was judged stays recomputable.
    """

    task: str
    axes: Mapping[str, Term]
    episodes_per_cell: int = 50
    threshold: float = 0.85
    alpha: float = 0.01
    name: str = "sim"
    regression: Regression | None = None
    floor: float | None = None
    floor_alpha: float = 0.05
    overlay: Mapping[str, Term] = field(default_factory=dict)
    gymnasium: Mapping[str, Any] | None = None
    rendered_per_cell: int | None = None
    edition: int = 2

    def __post_init__(self) -> None:
        require(bool(self.axes), "a grid needs axes")
        object.__setattr__(self, "axes", {name: Term.of(data) for name, data in self.axes.items()})
        fixed = {name: Term.of(data) for name, data in self.overlay.items()}
        object.__setattr__(self, "overlay", fixed)
        tier = self.rendered_per_cell
        require(tier is None or tier >= 1, "rendered_per_cell is at least 1")
        single = all(len(term.values) == 1 for term in fixed.values())
        require(single, "a term of an overlay has one value")
        require(self.episodes_per_cell >= 1, "episodes_per_cell is at least 1")
        require(0 < self.threshold < 1, "threshold lies between 0 and 1")
        require(0 < self.alpha < 0.5, "alpha lies between 0 and .5")
        require(self.floor is None or 0 < self.floor < 1, "floor lies between 0 and 1")
        require(0 < self.floor_alpha < 0.5, "floor_alpha lies between 0 and .5")
        told = self.gymnasium is None or bool(self.gymnasium.get("success"))
        require(told, "gymnasium says under success which key of info tells it")
        require(self.edition in (1, 2), f"no such edition of the rules: {self.edition}")
        plain = self.regression is None and self.floor is None
        require(self.edition > 1 or plain, "edition 1 knows neither regression nor floor")

    @cached_property
    def population(self) -> int:
        """Episodes of the full run."""
        return self.cells * self.episodes_per_cell

    @cached_property
    def cells(self) -> int:
        """Cells of the grid, 1 where every axis is a range."""
        return prod(len(values) for values in self.grid.values())

    @cached_property
    def grid(self) -> Mapping[str, tuple[float, ...]]:
        """The axes that span the grid, with their values; the others are drawn."""
        return {name: term.values for name, term in self.axes.items() if term.values}

    def for_contract(self, contract: Mapping[str, Any]) -> GridGate:
        """The gate as a version with this contract is tried by it."""
        if self.rendered_per_cell is None or not contract.get("cameras"):
            return self
        return replace(self, episodes_per_cell=self.rendered_per_cell)

    def to_json(self) -> dict[str, Any]:
        """What is at its default of edition 1 is left out, so older gates keep their digests."""
        data: dict[str, Any] = {
            "gate": "grid",
            "name": self.name,
            "task": self.task,
            "axes": {name: term.to_json() for name, term in self.axes.items()},
            "episodes_per_cell": self.episodes_per_cell,
            "threshold": self.threshold,
            "alpha": self.alpha,
        }
        if self.regression is not None:
            data["regression"] = self.regression.to_json()
        if self.floor is not None:
            data["floor"] = self.floor
        if self.floor_alpha != GridGate.floor_alpha:
            data["floor_alpha"] = self.floor_alpha
        if self.overlay:
            data["overlay"] = {name: term.to_json() for name, term in self.overlay.items()}
        if self.rendered_per_cell is not None:
            data["rendered_per_cell"] = self.rendered_per_cell
        if self.gymnasium is not None:
            data["gymnasium"] = dict(self.gymnasium)
        return data | ({"edition": self.edition} if self.edition > 1 else {})

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> GridGate:
        fields = {"edition": 1, **data}
        if "regression" in fields:
            fields["regression"] = Regression(**fields["regression"])
        return GridGate(**fields)

    @cached_property
    def digest(self) -> str:
        return digest_of(self.to_json())


def require(condition: bool, message: str) -> None:
    """Gate files are read by `registry/config`, which adds file, line and field to this."""
    if not condition:
        raise ValueError(message)
