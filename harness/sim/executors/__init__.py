"""Where episodes are played: one `map`-like port, and who implements it.

`map(specs)` yields a record for each spec, in the order in which they finish. A record follows
from its spec and the policy alone; slots, threads, processes and order change only the speed, so
results may come twice or late without harm. Closing the iterator stops the work that is still
under way, and whatever the map started has ended when it is closed.

A `Player` plays specs one after another or in lock-step; a `Job` is the picklable value that a
worker makes its player from, wherever it runs. An executor is used for one map at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol, cast

from registry.errors import UsageError

if TYPE_CHECKING:
    from harness.sim.episode import EpisodeRecord, EpisodeSpec

EXECUTORS: Final = {
    "threads": "harness.sim.executors.threads:InProcess.of",
    "processes": "harness.sim.executors.processes:Processes",
    "ray": "harness.sim.executors.ray:RayActors",
}
"""Executor by name, imported on use: each takes a job, `workers` and, where it may, `address`."""

Player = Callable[["Iterable[EpisodeSpec]"], "Iterator[EpisodeRecord]"]
"""Plays every spec it is given, taking them as it has room; records come as episodes end."""


class Executor(Protocol):
    def map(self, specs: Iterable[EpisodeSpec]) -> Generator[EpisodeRecord]: ...


class Job(Protocol):
    """What is played, as a picklable value."""

    @property
    def digest(self) -> str:
        """Names what is played: equal jobs play equal specs to equal records."""
        ...

    def make_player(self) -> Player:
        """Loads policy and environment, once for a worker. Raises ConfigError where they do not."""
        ...


def executor(name: str, job: Job, *, workers: int, address: str | None = None) -> Executor:
    """The executor called `name` with `workers` threads, processes or actors.

    `address` is that of a running Ray cluster. UsageError where there is no such executor, or none
    that has an address.
    """
    if name not in EXECUTORS:
        raise UsageError(
            f"there is no executor '{name}'", hint=f"choose one of: {', '.join(EXECUTORS)}"
        )
    if address is not None and name != "ray":
        raise UsageError(
            f"the executor '{name}' has no address",
            evidence=f"--address {address}",
            hint="add --executor ray, or leave --address out",
        )
    module, _, path = EXECUTORS[name].partition(":")
    made: object = import_module(module)
    for attribute in path.split("."):
        made = getattr(made, attribute)
    options = {"address": address} if name == "ray" else {}
    return cast("Callable[..., Executor]", made)(job, workers=workers, **options)
