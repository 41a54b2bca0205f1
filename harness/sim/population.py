"""One version's episodes of one population: those that are known, and those still to be played.

- What an episode came to follows from the version's files, the task, the population's terms and the
  engine; the key of all four names a drawer of rows in the registry. A row that lies there is never
  played again: not by a run that goes on after an interrupt, not for another order of the same
  population, not for the version that it becomes the baseline of.
- Rows are kept as episodes end, `KEEP` at a time, and at the latest when the run is left, however
  it is left. Keeping a row twice changes nothing.
- Rows are handed out in the order asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.executors import Executor
from harness.sim.grid import Grid
from harness.sim.results import Row, row
from harness.sim.runner import in_order
from registry.versions import digest_of

KEEP = 64


class EpisodeStore(Protocol):
    """The registry, as far as episodes are concerned."""

    def episodes(self, key: str) -> Mapping[int, Mapping[str, Any]]: ...

    def keep_episodes(self, key: str, rows: Mapping[int, Mapping[str, Any]]) -> None: ...


class Forgetful:
    """A store that keeps nothing."""

    def episodes(self, key: str) -> dict[int, dict[str, Any]]:
        return {}

    def keep_episodes(self, key: str, rows: Mapping[int, Mapping[str, Any]]) -> None:
        """Nothing is kept."""


def episodes_key(policy_digest: str, task_digest: str, grid: Grid, engine: str) -> str:
    """Names a drawer of rows by all that they follow from."""
    return digest_of(
        {
            "policy": policy_digest,
            "task": task_digest,
            "axes": {name: term.to_json() for name, term in grid.randomization.terms},
            "overlay": [asdict(change) for change in grid.overlay],
            "episodes_per_cell": grid.episodes_per_cell,
            "engine": engine,
        }
    )


def without_log(row: Row) -> Row:
    """A row as it is kept: outputs of failures only."""
    return replace(row, actions="") if row.success else row


class Population:
    """The episodes of one version; `executor` is made when one has to be played."""

    def __init__(
        self, grid: Grid, key: str, executor: Callable[[], Executor], store: EpisodeStore
    ) -> None:
        self._grid, self._key, self._executor, self._store = grid, key, executor, store
        self._known = {n: Row(**data) for n, data in store.episodes(key).items()}
        self.played = 0
        """Episodes that were not known and had to be played."""

    def known(self, number: int) -> Row | None:
        """The row of an episode, if it was ever played."""
        return self._known.get(number)

    def rows(self, numbers: Sequence[int]) -> Generator[Row]:
        """Rows of these episodes, in this order."""
        missing = [number for number in numbers if number not in self._known]
        specs = {self._grid.spec(number): number for number in missing}
        with contextlib.ExitStack() as stack:
            fresh: Iterator[EpisodeRecord] = iter(())
            if specs:
                records = stack.enter_context(contextlib.closing(self._executor().map(specs)))
                kept = stack.enter_context(contextlib.closing(self._keep(records, specs)))
                fresh = in_order(kept, list(specs))
            for number in numbers:
                if number not in self._known:
                    self._known[number] = row(self._grid, number, next(fresh))
                yield self._known[number]

    def _keep(
        self, records: Iterable[EpisodeRecord], specs: Mapping[EpisodeSpec, int]
    ) -> Generator[EpisodeRecord]:
        """The records as they come, each kept."""
        waiting: dict[int, dict[str, Any]] = {}
        try:
            for record in records:
                number = specs[record.spec]
                waiting[number] = without_log(row(self._grid, number, record)).to_json()
                self.played += 1
                if len(waiting) >= KEEP:
                    self._store.keep_episodes(self._key, waiting)
                    waiting = {}
                yield record
        finally:
            if waiting:
                self._store.keep_episodes(self._key, waiting)
