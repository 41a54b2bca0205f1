"""Where episodes are played: one `map`-like port.

`map(specs)` yields one record for each spec, in the order in which they finish. A record follows
from its spec and the policy alone; slots, threads and order change only the speed, so results may
come twice or late without harm. Closing the iterator stops the work that is still under way.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Protocol

from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.runner import play
from policies import Policy


class Executor(Protocol):
    def map(self, specs: Iterable[EpisodeSpec]) -> Generator[EpisodeRecord]: ...


class InProcess:
    """This process: `slots` episodes in lock-step, physics on `threads` native threads.

    The scene is compiled once, so an executor may be used for many maps, one at a time.
    """

    def __init__(self, policy: Policy, *, slots: int = 64, threads: int = 2) -> None:
        self._policy = policy
        self._env = BatchEnv(policy.contract, slots, threads=threads)

    def map(self, specs: Iterable[EpisodeSpec]) -> Generator[EpisodeRecord]:
        yield from play(self._env, self._policy.act, specs)
