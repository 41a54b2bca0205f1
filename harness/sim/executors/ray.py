"""Ray Core actors, on a cluster of this machine or on one that is there already.

- An actor holds one policy and one environment on one core, and plays chunks. A lost actor (killed,
  out of memory, its node gone) is replaced, and its chunk played again elsewhere.
- Without an address each map starts a cluster of `workers` cores and ends it. With one it joins
  that cluster as a client of its own job, and leaves nothing behind in it. Its nodes need the same
  policyctl installed, and must find the checkpoint's folder under the same path.
- Actors of our own cluster look for modules where we do. Ray would have workers look in the current
  folder first, whose `policies/` are the user's: an actor takes it off again.
- Our own cluster keeps to the loopback address, tells nobody that it runs (Ray's usage statistics
  are off) and has no dashboard.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.executors import Job
from harness.sim.executors.chunks import Answer, Chunk, Chunks, Lost, drive
from harness.sim.executors.worker import Raised, one_thread
from registry.errors import ServiceFailed, UsageError

OBJECT_STORE_BYTES = 100 * 2**20
"""Chunks and records are a few kB; Ray itself asks for 30 % of the memory, and more than 75 MiB."""

REACH_S = 5.0
"""How long a cluster may take to answer at its address [s]."""

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


class RayActors:
    """A job on `workers` actors of one core each, of the cluster at `address` or of an own one."""

    def __init__(self, job: Job, *, workers: int, address: str | None = None) -> None:
        self._ray = _ray()
        self._job, self._workers, self._address = job, workers, address

    def map(self, specs: Iterable[EpisodeSpec]) -> Generator[EpisodeRecord]:
        chunks = Chunks(self._job.digest, specs, self._workers)
        with cluster(self._ray, self._address, self._workers):
            crew = _Crew(self._ray, self._job, own=self._address is None)
            yield from drive(crew, chunks, self._workers)


def _ray() -> ModuleType:
    try:
        with _environment(_QUIET):
            import ray
    except ModuleNotFoundError as error:
        raise UsageError(
            "the executor 'ray' needs the package ray",
            evidence=str(error),
            hint="pip install 'policyctl[ray]'",
        ) from error
    return ray


@contextmanager
def cluster(ray: Any, address: str | None, workers: int) -> Iterator[None]:
    """A connection to a cluster; one that the caller made already is used and left as it is."""
    if ray.is_initialized():
        yield
        return
    own = {
        "num_cpus": workers,
        "num_gpus": 0,
        "object_store_memory": OBJECT_STORE_BYTES,
        "_node_ip_address": "127.0.0.1",
    }
    try:
        with _environment(_QUIET | one_thread()):
            _connect(ray, address, {} if address else own)
        yield
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str | None, own: dict[str, Any]) -> None:
    try:
        _reach(address)
        with _own_sigterm():
            ray.init(
                address=address or "local",
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level="error",
                **own,
            )
    except (OSError, ray.exceptions.RayError) as error:
        raise ServiceFailed(
            "there is no Ray cluster to play on",
            evidence=f"{address or 'one of this machine'}: {error}",
            hint="check --address (as `ray status` shows it), or leave it out",
        ) from error


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray's library dumps its stack on SIGTERM and ends the process with status 1, nothing undone:
    what the program does on SIGTERM is put back. A thread other than the main one cannot.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _reach(address: str | None) -> None:
    """OSError where nobody listens at HOST:PORT: Ray itself tries for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=REACH_S).close()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables that Ray's processes inherit, for as long as they are started."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Actor:
    """One worker, as its driver has it."""

    def __init__(self, handle: Any) -> None:
        self.handle, self.answer = handle, None


class _Crew:
    def __init__(self, ray: Any, job: Job, *, own: bool) -> None:
        here = str(Path.cwd())
        strangers = [] if here in sys.path else [here]
        self._ray = ray
        # the workers of our own cluster have the variables already, and start five times as fast
        environment: dict[str, Any] = {} if own else {"runtime_env": {"env_vars": one_thread()}}
        self._make = ray.remote(_actor_class()).options(
            num_cpus=1, max_restarts=0, max_task_retries=0, **environment
        )
        self._arguments = (sys.path if own else [], strangers, ray.cloudpickle.dumps(job))

    def hire(self) -> _Actor:
        return _Actor(self._make.remote(*self._arguments))

    def send(self, worker: _Actor, chunk: Chunk) -> None:
        worker.answer = worker.handle.play.remote(chunk.specs)

    def wait(self, busy: Collection[_Actor]) -> Sequence[tuple[_Actor, Answer]]:
        waiting = {worker.answer: worker for worker in busy}
        ready, _ = self._ray.wait(list(waiting), num_returns=1)
        return [(waiting[answer], self._receive(answer)) for answer in ready]

    def _receive(self, answer: Any) -> Answer:
        try:
            told: Sequence[EpisodeRecord] | Raised = self._ray.get(answer)
        except self._ray.exceptions.RayActorError as error:
            return Lost(f"the actor was lost: {' '.join(str(error).split())}")
        except self._ray.exceptions.RayError as error:
            return ServiceFailed(
                "Ray did not play a chunk",
                evidence=" ".join(str(error).split()),
                hint="see `ray status` and its logs; finished episodes are kept",
            )
        if isinstance(told, Raised):
            return told.error()
        return list(told)

    def dismiss(self, worker: _Actor) -> None:
        self._ray.kill(worker.handle)


def _actor_class() -> type:
    """A class that travels by value, so that an actor can look to its path before it loads us."""

    class Host:
        def __init__(self, path: list[str], strangers: list[str], job: bytes) -> None:
            import sys
            from importlib import import_module

            others = [place for place in sys.path if place not in (*path, *strangers)]
            sys.path[:] = [*path, *others]
            self._worker = import_module("harness.sim.executors.worker").worker(job)

        def play(self, specs: Sequence[EpisodeSpec]) -> object:
            return self._worker.play(specs)

    return Host
