"""What stands between a policy, the lock-step environment and a verdict.

- A policy that raises, answers with another shape or with numbers that are not finite has failed
  in the episodes it was asked about and in no other: `policy_crash`, `policy_shape`, `policy_nan`,
  with its words in the record's detail. Other rows of the same call are asked again one by one, so
  what an episode suffers does not depend on its batch mates.
- A policy that is slower than its control period (with chunks: its contract's latency) fails every
  episode (`policy_late`), measured once, before anything is played: one row at a time, as on a
  robot, the median of many steps.
- Results are released in the order in which the episodes were drawn, never first to finish first:
  short episodes are mostly successes, and a verdict that saw them early would be biased.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from harness.sim.chunks import ActionChunks
from harness.sim.env import Act, BatchEnv
from harness.sim.episode import EpisodeRecord, EpisodeSpec
from policies import Policy

Ints = npt.NDArray[np.intp]
Rows = npt.NDArray[np.float32]
Answer = Callable[[int], Rows]
"""Outputs (1, J) of a policy step, by its number."""
Watch = Callable[[BatchEnv], None]

_WARM_UP, _STEPS = 5, 25


class Guard:
    """A policy that always answers (n, outputs): rows it has no answer for are NaN.

    `failed` says of the last call which rows those are, with their failure mode and its detail.
    """

    def __init__(self, act: Act, outputs: int) -> None:
        self._act, self._outputs = act, outputs
        self.failed: dict[int, tuple[str, str]] = {}

    def __call__(self, observation: Rows) -> Rows:
        self.failed = {}
        answer, fault = self._try(observation)
        if fault is None:
            return answer
        rows = [self._try(observation[i : i + 1]) for i in range(len(observation))]
        self.failed = {i: why for i, (_, why) in enumerate(rows) if why is not None}
        return np.concatenate([row for row, _ in rows])

    def _try(self, observation: Rows) -> tuple[Rows, tuple[str, str] | None]:
        nothing = np.full((len(observation), self._outputs), np.nan, dtype=np.float32)
        try:
            answer = np.asarray(self._act(observation), dtype=np.float32)
        except Exception as error:  # noqa: BLE001 - whatever a policy raises is the policy's failure
            return nothing, ("policy_crash", f"{type(error).__name__}: {error}"[:200])
        if answer.shape != nothing.shape:
            said = f"answered {answer.shape}, expected {nothing.shape}"
            return nothing, ("policy_shape", said)
        if not np.isfinite(answer).all():
            return nothing, ("policy_nan", "an output was not finite")
        return answer, None


class Asker:
    """Asks a policy for the next step of an environment's slots."""

    def __init__(self, env: BatchEnv, act: Act) -> None:
        self._env, self._guard = env, Guard(act, env.contract.outputs)
        self._chunks = ActionChunks(env.contract, env.size) if env.contract.chunk else None

    def __call__(self, slots: Sequence[int] | Ints) -> Rows:
        """Outputs (n, J) for the slots; those of which the policy had no answer are blamed."""
        rows = np.asarray(slots, dtype=np.intp)
        seen = self._env.observe(rows)  # also between questions: what comes late has to be there
        if self._chunks is None:
            return self._ask(rows, seen)
        steps, commands = self._env.steps(rows), self._env.commands(rows)
        return self._chunks.next(rows, steps, commands, lambda due: self._ask(rows[due], seen[due]))

    def _ask(self, rows: Ints, seen: Rows) -> Rows:
        raw = self._guard(seen)
        for row, (mode, detail) in self._guard.failed.items():
            self._env.blame(int(rows[row]), mode, detail)
        return raw


def inference(env: BatchEnv, act: Act) -> Answer:
    """What a policy answers in slot 0."""
    ask = Asker(env, act)
    return lambda step: ask([0])


def play_one(
    env: BatchEnv, spec: EpisodeSpec, answer: Answer, watch: Watch | None = None
) -> EpisodeRecord:
    """Run one spec in slot 0; `watch` sees the environment at the start and after each step."""
    env.reset([0], [spec])
    step, done = 0, False
    while not done:
        if watch:
            watch(env)
        done = bool(env.step([0], answer(step))[0])
        step += 1
    if watch:
        watch(env)
    return env.record(0)


def play(env: BatchEnv, act: Act, specs: Iterable[EpisodeSpec]) -> Iterator[EpisodeRecord]:
    """Run every spec to its end, refilling slots as they free; records come as episodes end."""
    ask, queue = Asker(env, act), iter(specs)
    active = _refill(env, list(range(env.size)), queue)
    while active:
        done = env.step(active, ask(active))
        ended = [slot for slot, end in zip(active, done, strict=True) if end]
        if ended:
            yield from (env.record(slot) for slot in ended)
            fresh = set(_refill(env, ended, queue))
            active = [slot for slot in active if slot in fresh or slot not in ended]


def _refill(env: BatchEnv, slots: list[int], queue: Iterator[EpisodeSpec]) -> list[int]:
    pairs = list(zip(slots, queue, strict=False))
    env.reset([slot for slot, _ in pairs], [spec for _, spec in pairs])
    return [slot for slot, _ in pairs]


def lateness(policy: Policy) -> str:
    """How a policy misses its control period (or, where it answers with chunks, its contract's
    latency), in words; "" where it keeps it.

    A policy that cannot be asked is not late: it fails by itself in every episode.
    """
    contract = policy.contract
    observed = np.zeros((1, contract.width), dtype=np.float32)
    took = []
    guard = Guard(policy.act, contract.outputs)
    for _ in range(_WARM_UP + _STEPS):
        began = time.perf_counter()
        guard(observed)
        took.append(time.perf_counter() - began)
        if guard.failed:
            return ""
    typical = float(np.median(took[_WARM_UP:]))
    if contract.chunk is not None:
        limit, what = contract.latency_s, "an answer, the contract's latency"
    else:
        limit, what = 1.0 / contract.rate_hz, "a step, the control period"
    return "" if typical <= limit else f"{1e3 * typical:.1f} ms {what} is {1e3 * limit:.1f} ms"


def in_order(
    records: Iterable[EpisodeRecord], specs: Sequence[EpisodeSpec]
) -> Iterator[EpisodeRecord]:
    """The records of `specs` in their order; one that finishes early waits for those before it."""
    waiting: dict[EpisodeSpec, EpisodeRecord] = {}
    wanted = iter(specs)
    spec = next(wanted, None)
    for record in records:
        waiting[record.spec] = record
        while spec is not None and spec in waiting:
            yield waiting.pop(spec)
            spec = next(wanted, None)
    if spec is not None:
        raise RuntimeError(f"the executor ended without episode {spec}")
