"""This process: two half-batches in lock-step, each on half the threads.

- Physics runs without the interpreter's lock, so the Python part of one half (observation, policy,
  shaping, protection) overlaps the physics of the other. More than two parts would only wait for
  the lock, and each part's Python costs nearly the same however few slots it has.
- A policy is asked by one thread at a time: it need not be safe for threads.
- The first specs are dealt out in turn, later ones go to whoever has a free slot.
- An exception in a half stops both and reaches the caller. Closing the map, an exception and ctrl-C
  stop both within one policy step, and `map` ends only when its threads have.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

from harness.sim.engine import fingerprint
from harness.sim.env import Act, BatchEnv
from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.executors import Job, Player
from harness.sim.runner import Rows, play
from policies import Policy
from policies.loading import load_policy
from registry.errors import ServiceFailed

HALVES = 2
SLOTS = 64


@dataclass(frozen=True)
class LockStep:
    """The job of one version: `slots` episodes in lock-step on one thread.

    `policy` is the checkpoint's folder, readable wherever a worker runs; `digest` the version's.
    A worker whose engine is not `engine` (where one is named; `images`: with what renders) refuses:
    its records would be kept as what they are not.
    """

    policy: Path
    digest: str
    slots: int = SLOTS
    engine: str = ""
    images: bool = False

    def make_player(self) -> Player:
        here = fingerprint(images=self.images)
        if self.engine and here != self.engine:
            raise ServiceFailed(
                "a worker would simulate with another engine",
                evidence=f"there {here}; here {self.engine}",
                hint="give all workers the same policyctl, libraries and kind of processor",
            )
        policy = load_policy(self.policy)
        env = BatchEnv(policy.contract, self.slots)
        return lambda specs: play(env, policy.act, specs)


class Stopped(BaseException):
    """Raised in a thread whose map has ended."""


class Threads:
    """Players that share the specs of a map, each on a thread of its own."""

    def __init__(self, players: Sequence[Player], *, deal: int, stop: threading.Event) -> None:
        """`deal` specs are dealt out before the rest is shared; players end soon after `stop`."""
        self._players, self._deal, self._stop = players, deal, stop

    def map(self, specs: Iterable[EpisodeSpec]) -> Generator[EpisodeRecord]:
        players, queue = self._players, iter(specs)
        dealt = list(itertools.islice(queue, self._deal))
        shared = _Shared(queue, self._stop)
        answers: SimpleQueue[EpisodeRecord | BaseException | None] = SimpleQueue()
        self._stop.clear()
        threads = [
            threading.Thread(
                target=self._work,
                args=(player, itertools.chain(dealt[i :: len(players)], shared), answers),
                name=f"player-{i}",
                daemon=True,
            )
            for i, player in enumerate(players)
        ]
        try:
            for thread in threads:
                thread.start()
            running = len(threads)
            while running:
                answer = answers.get()
                if isinstance(answer, BaseException):
                    raise answer
                if answer is None:
                    running -= 1
                else:
                    yield answer
        finally:
            self._stop.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()

    def _work(
        self,
        player: Player,
        specs: Iterator[EpisodeSpec],
        answers: SimpleQueue[EpisodeRecord | BaseException | None],
    ) -> None:
        try:
            for record in player(specs):
                if self._stop.is_set():
                    return
                answers.put(record)
        except Stopped:
            return
        except BaseException as error:  # noqa: BLE001 - raised again where `map` was called
            answers.put(error)
        else:
            answers.put(None)


class InProcess:
    """A loaded policy on `threads` native threads, `slots` episodes at a time in all.

    `parts` is how many batches they are split into: two are faster where as many cores are free as
    there are threads; where others crowd the machine, one is about as fast (benchmarks/executors.py
    measures both). The scene is compiled once, so an executor may be used for many maps, one at
    a time.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        slots: int = SLOTS,
        threads: int = 2,
        parts: int = HALVES,
        protection: Literal["servo", "policy"] = "servo",
    ) -> None:
        self._stop, self._asked = threading.Event(), threading.Lock()
        act = self._one_at_a_time(policy.act)
        parts = max(1, min(parts, threads, slots))
        first = BatchEnv(
            policy.contract,
            _share(slots, parts, 0),
            threads=_share(threads, parts, 0),
            protection=protection,
        )
        envs = [first] + [
            BatchEnv(
                policy.contract,
                _share(slots, parts, i),
                threads=_share(threads, parts, i),
                scene=first.scene,
                protection=protection,
            )
            for i in range(1, parts)
        ]
        players = [self._player(env, act) for env in envs]
        self._threads = Threads(players, deal=slots, stop=self._stop)

    @classmethod
    def of(cls, job: Job, *, workers: int) -> InProcess | Threads:
        """A job on `workers` threads; any but LockStep is played by as many players."""
        if isinstance(job, LockStep):
            return cls(load_policy(job.policy), slots=job.slots, threads=workers)
        stop = threading.Event()
        return Threads([job.make_player() for _ in range(workers)], deal=workers, stop=stop)

    def map(self, specs: Iterable[EpisodeSpec]) -> Generator[EpisodeRecord]:
        yield from self._threads.map(specs)

    @staticmethod
    def _player(env: BatchEnv, act: Act) -> Player:
        return lambda specs: play(env, act, specs)

    def _one_at_a_time(self, act: Act) -> Act:
        def ask(observation: Rows) -> Rows:
            if self._stop.is_set():
                raise Stopped
            with self._asked:
                return act(observation)

        return ask


class _Shared(Iterator[EpisodeSpec]):
    """One iterator for many threads, that ends them when the map does."""

    def __init__(self, specs: Iterator[EpisodeSpec], stop: threading.Event) -> None:
        self._specs, self._stop, self._turn = specs, stop, threading.Lock()

    def __next__(self) -> EpisodeSpec:
        with self._turn:
            if self._stop.is_set():
                raise Stopped
            return next(self._specs)


def _share(whole: int, parts: int, part: int) -> int:
    """As even a share of `whole` as integers allow, the larger ones first."""
    return whole // parts + (part < whole % parts)
