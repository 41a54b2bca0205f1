"""What a worker is, wherever it runs: a job's player, and answers that can be sent.

A worker never raises: what its player raised is part of the answer, taken apart so that any
exception survives the way (many of ours cannot be made from `args` alone) with its traceback as a
note.
"""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.executors import Job, Player

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def one_thread() -> dict[str, str]:
    """What BLAS and torch read when they are loaded: one thread, or what the user has set."""
    return {name: os.environ.get(name, "1") for name in _THREADS}


@dataclass(frozen=True)
class Raised:
    """An exception, taken apart."""

    kind: type[BaseException]
    args: tuple[Any, ...]
    state: dict[str, Any]
    trace: str

    @classmethod
    def of(cls, error: BaseException) -> Raised:
        trace = "".join(traceback.format_exception(error))
        raised = cls(type(error), error.args, dict(error.__dict__), trace)
        try:
            pickle.dumps(raised)
        except Exception:  # noqa: BLE001 - whatever cannot be sent is told in words
            return cls(RuntimeError, (str(error) or type(error).__name__,), {}, trace)
        return raised

    def error(self) -> BaseException:
        """The exception, to be raised where `map` was called."""
        error = self.kind.__new__(self.kind, *self.args)
        error.__dict__.update(self.state)
        error.add_note(f"in a worker:\n{self.trace}")
        return error


class ChunkWorker:
    """Plays chunks with the player of one job, which it makes at its first."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._player: Player | None = None

    def play(self, specs: Iterable[EpisodeSpec]) -> list[EpisodeRecord] | Raised:
        try:
            self._player = self._player or self._job.make_player()
            return list(self._player(specs))
        except Exception as error:  # noqa: BLE001 - raised again where `map` was called
            return Raised.of(error)


class _Broken:
    """A worker that never came to be; each chunk is answered with why."""

    def __init__(self, raised: Raised) -> None:
        self._raised = raised

    def play(self, specs: Iterable[EpisodeSpec]) -> Raised:
        return self._raised


def worker(job: bytes) -> ChunkWorker | _Broken:
    """The worker of a pickled job, which comes from the program that started the worker."""
    try:
        return ChunkWorker(pickle.loads(job))  # noqa: S301
    except Exception as error:  # noqa: BLE001 - raised again where `map` was called
        return _Broken(Raised.of(error))
