"""A grid gate as a fixed population of episodes.

Episode number i of the population is (cell i // n, episode i % n), n episodes a cell; cells are
ordered by their coordinates, the last axis fastest, axes by name. Nothing else numbers an episode:
its key is `task:coordinates:episode`, and all that happens in it follows from that key.

Common random numbers: the scene and the noise of episode e are the same in every cell
(harness/sim/seeds.py with the cell `SHARED`), so that cells differ by their axes alone.

The order in which a gate looks at the population is one permutation drawn from the registry's nonce
(registry/statistics/grid.py), so no author can choose what is looked at first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.sim.episode import Change, EpisodeSpec
from harness.sim.fields import parts
from harness.sim.randomization import Randomization, change, checked
from registry.errors import ConfigError, UsageError
from registry.gates import Term

SHARED: tuple[int, ...] = ()
"""The cell that episodes draw from: none, so that all cells share their draws."""


@dataclass(frozen=True)
class Cell:
    """One point of the grid. `values` in the axes' own units."""

    index: int
    coordinates: tuple[int, ...]
    values: Mapping[str, float]

    @property
    def name(self) -> str:
        return " ".join(f"{axis}={value:g}" for axis, value in self.values.items()) or "nominal"


@dataclass(frozen=True)
class Grid:
    """The population of one gate on one task."""

    task: str
    axes: tuple[tuple[str, tuple[float, ...]], ...]
    episodes_per_cell: int
    randomization: Randomization
    overlay: tuple[Change, ...] = ()
    """What every episode begins with, before its axes."""

    @classmethod
    def of(
        cls,
        task: str,
        axes: Mapping[str, Term | Sequence[float]],
        episodes_per_cell: int,
        *,
        overlay: Mapping[str, Term] | None = None,
        where: str = "gates.yaml",
    ) -> Grid:
        """Raises ConfigError where a term or the count makes no population."""
        terms = {name: _term(name, axes[name], where) for name in sorted(axes)}
        randomization = Randomization.of(terms, where)
        if episodes_per_cell < 1:
            raise ConfigError(
                "a cell needs at least one episode", where=where, field="sim.episodes_per_cell"
            )
        spanning = tuple((name, term.values) for name, term in terms.items() if term.values)
        fixed = _overlaid(overlay or {}, where)
        return cls(task, spanning, episodes_per_cell, randomization, fixed)

    @classmethod
    def of_options(
        cls,
        task: str,
        axes: Mapping[str, Term],
        episodes_per_cell: int,
        option: Callable[[str], str],
    ) -> Grid:
        """A population whose axes are options of a foreign environment's reset."""
        terms = {name: axes[name] for name in sorted(axes)}
        spanning = tuple((name, term.values) for name, term in terms.items() if term.values)
        return cls(task, spanning, episodes_per_cell, Randomization.of_options(terms, option))

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        names = [name for name, _ in self.axes]
        points = itertools.product(*(range(len(values)) for _, values in self.axes))
        return tuple(
            Cell(
                index,
                point,
                dict(
                    zip(
                        names,
                        (v[i] for (_, v), i in zip(self.axes, point, strict=True)),
                        strict=True,
                    )
                ),
            )
            for index, point in enumerate(points)
        )

    @property
    def population(self) -> int:
        return len(self.cells) * self.episodes_per_cell

    def place(self, number: int) -> tuple[Cell, int]:
        """Cell and episode of the population's `number`."""
        if not 0 <= number < self.population:
            raise IndexError(f"{number} of a population of {self.population}")
        return self.cells[number // self.episodes_per_cell], number % self.episodes_per_cell

    def spec(self, number: int) -> EpisodeSpec:
        """What the environment needs to play the population's `number`."""
        _, episode = self.place(number)
        changes = self.overlay + self.randomization.changes(self.values(number))
        return EpisodeSpec(SHARED, episode, changes, self.task)

    def values(self, number: int) -> dict[str, float]:
        """What the axes and the drawn terms are in an episode, by name."""
        cell, episode = self.place(number)
        return {**cell.values, **self.randomization.draw(self.task, episode)}

    def key(self, number: int) -> str:
        """The episode's name: `box-grasp:2.0.1:17`."""
        cell, episode = self.place(number)
        return f"{self.task}:{'.'.join(map(str, cell.coordinates)) or '-'}:{episode}"

    def number(self, key: str) -> int:
        """The number of the episode that `key` names. Raises UsageError where none does."""
        numbers = {".".join(map(str, cell.coordinates)) or "-": cell.index for cell in self.cells}
        task, cell, episode = key.rsplit(":", 2) if key.count(":") > 1 else ("", "", "")
        if task != self.task or cell not in numbers or not episode.isdigit():
            raise UsageError(
                f"the gate has no episode {key!r}",
                hint=f"a key is TASK:CELL:EPISODE, such as {self.key(0)}",
            )
        if int(episode) >= self.episodes_per_cell:
            raise UsageError(
                f"the gate has no episode {key!r}",
                evidence=f"{self.episodes_per_cell} episodes a cell",
            )
        return numbers[cell] * self.episodes_per_cell + int(episode)


def _term(name: str, data: Term | Sequence[float], where: str) -> Term:
    try:
        return Term.of(data)
    except ValueError as error:
        raise ConfigError(str(error), where=where, field=f"sim.axes.{name}") from error


def _overlaid(overlay: Mapping[str, Term], where: str) -> tuple[Change, ...]:
    """The changes of an overlay. ConfigError for one that means nothing, and for two of a field."""
    made: list[Change] = []
    first: dict[tuple[str, str], str] = {}
    for name, term in overlay.items():
        found = checked(change(name, term, term.values[0]), where, f"sim.overlay.{name}")
        for part in parts(found.target):
            other = first.setdefault((part, found.field), name)
            if other != name:
                raise ConfigError(
                    f"{other} and {name} both change '{found.target}.{found.field}'",
                    where=where,
                    field=f"sim.overlay.{name}",
                    hint="keep one of them",
                )
        made.append(found)
    return tuple(made)
