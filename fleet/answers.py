"""From what a policy answers to the next command, at policy rate: single actions and chunks.

Rules
- Single actions: asked at every step, the caller waits. An answer later than the contract's latency
  is not used.
- Chunks: asked every `chunk.every` steps; the arm goes on along the chunk in use until the answer
  is there. Its delay is measured, from the time of the command that the policy saw to the start of
  the first step that can use it; `policies.chunks` finds the row and goes over to it. An answer
  later than the latency is the policy's failure, as for single actions: the caller holds.
- `AsyncInference` asks in a thread, for a policy in a process of its own. `LockStepInference` asks
  here: no time passes on a twin's clock while a policy thinks, so its answer is used when the
  latency that the contract allows has passed. A result then depends on nothing that a wall clock
  says.
- Nothing is left over: both belong to one attempt, and `close` waits for a question under way, so
  that the next `reset` is not overtaken by it.

Times [s] on the servo's clock; commands (1, J) [rad].
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from policies import Policy
from policies.actions import ActionState, shape
from policies.chunks import Blend, Chunk, Unrolled, kept, unrolled
from policies.contract import Contract
from policies.observation import Measurement, assemble
from policies.process import PolicyFailedError

Rows = npt.NDArray[np.float32]
Clock = Callable[[], float]
Counts = dict[str, int]

SLACK_S = 1e-9
"""Sums of steps are no exact multiples."""


class AnswerFailed(Exception):  # noqa: N818
    """The policy's failure, as records name it (`mode`); its cause is what the policy raised."""

    def __init__(self, mode: str, detail: str) -> None:
        super().__init__(detail)
        self.mode, self.detail = mode, detail


class Answers(Protocol):
    """One attempt's."""

    def next(
        self, state: ActionState, seen: Measurement, until: float
    ) -> tuple[ActionState, Counts]:
        """The command that is reached at `until`, one step after `state`'s, and what shaping
        changed. Raises AnswerFailed."""
        ...

    def close(self) -> None:
        """The attempt is over; safe any number of times."""
        ...


class SingleAnswers:
    """An answer is the next command."""

    def __init__(self, policy: Policy, now: Clock) -> None:
        self._policy, self._now, self._contract = policy, now, policy.contract
        self._deadline_s = policy.contract.latency_s

    def next(
        self, state: ActionState, seen: Measurement, until: float
    ) -> tuple[ActionState, Counts]:
        asked = self._now()
        try:
            raw = np.asarray(self._policy.act(assemble(self._contract, seen)))
            if raw.shape != seen.q.shape:
                raise ValueError(f"the policy gave {raw.shape}, not {seen.q.shape}")
            state, _, faults, counts = shape(self._contract, state, raw)
        except Exception as error:
            raise _failure(error) from error
        _on_time(self._now() - asked, self._deadline_s)
        if faults[0]:
            raise AnswerFailed("policy_fault", "the policy's output is not finite")
        return state, {name: int(count[0]) for name, count in counts.items()}

    def close(self) -> None:
        """Nothing is under way between two steps."""


class Inference(Protocol):
    """How a policy is asked for chunks: one question at a time."""

    @property
    def asked(self) -> bool:
        """True from `ask` until `answer` gave the answer."""
        ...

    def ask(self, observation: Rows) -> None: ...

    def answer(self) -> Rows | None:
        """None while there is none. Raises what the policy raised, AnswerFailed if it is late."""
        ...

    def close(self) -> None: ...


class LockStepInference:
    """Asks where it is called; see the rules."""

    def __init__(self, policy: Policy, now: Clock) -> None:
        self._policy, self._now = policy, now
        self._latency_s = policy.contract.latency_s
        self._answer: Rows | Exception | None = None
        self._due = 0.0

    @property
    def asked(self) -> bool:
        return self._answer is not None

    def ask(self, observation: Rows) -> None:
        began = self._now()
        self._due = began + self._latency_s
        try:
            self._answer = np.asarray(self._policy.act(observation))
            _on_time(self._now() - began, self._latency_s)
        except Exception as error:  # noqa: BLE001 raised to whoever takes the answer
            self._answer, self._due = error, began

    def answer(self) -> Rows | None:
        if self._answer is None or self._now() < self._due - SLACK_S:
            return None
        found, self._answer = self._answer, None
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        self._answer = None


class AsyncInference:
    """Asks in a thread. The policy should give up by itself what takes too long: `close` waits."""

    def __init__(self, policy: Policy, now: Clock) -> None:
        self._policy, self._now = policy, now
        self._latency_s = policy.contract.latency_s
        self._thread = ThreadPoolExecutor(1, "policy")
        self._future: Future[tuple[Rows, float]] | None = None
        self._began = 0.0

    @property
    def asked(self) -> bool:
        return self._future is not None

    def ask(self, observation: Rows) -> None:
        self._began = self._now()
        self._future = self._thread.submit(self._ask, observation)

    def answer(self) -> Rows | None:
        if self._future is None:
            return None
        if not self._future.done():
            _on_time(self._now() - self._began, self._latency_s)
            return None
        found, self._future = self._future, None
        raw, took = found.result()
        _on_time(took, self._latency_s)
        return raw

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._future is not None:
            with suppress(Exception):  # of an answer that nobody follows
                self._future.result()
            self._future = None

    def _ask(self, observation: Rows) -> tuple[Rows, float]:
        began = self._now()
        return np.asarray(self._policy.act(observation)), self._now() - began


@dataclass(frozen=True)
class _Question:
    seen: ActionState
    seen_at: float


class ChunkedAnswers:
    """An answer is commands for many steps. Not for use from two threads."""

    def __init__(
        self, contract: Contract, inference: Inference, step_s: float, start: ActionState
    ) -> None:
        """`step_s` is a policy step on the servo's clock, `start` the command at the first one."""
        if contract.chunk is None:
            raise ValueError("the policy's contract names no chunks")
        self._contract, self._inference, self._step_s = contract, inference, step_s
        self._every = contract.chunk.every
        self._blend = Blend(start.command[0], contract.chunk.blend * step_s)
        self._question: _Question | None = None
        self._used: Unrolled | None = None
        self._seen_at = 0.0
        self._until_next = 0

    def next(
        self, state: ActionState, seen: Measurement, until: float
    ) -> tuple[ActionState, Counts]:
        begins = until - self._step_s
        try:
            if self._until_next <= 0 and not self._inference.asked:
                self._inference.ask(assemble(self._contract, seen))
                self._question = _Question(state, begins)
                self._until_next = self._every
            raw = self._inference.answer()
            if raw is not None and self._question is not None:
                self._take(raw, self._question, begins)
        except AnswerFailed:
            raise
        except Exception as error:
            raise _failure(error) from error
        self._until_next -= 1
        state, counts = kept(self._contract, state, self._blend.target(until))
        if self._used is not None:
            row = round((begins - self._seen_at) / self._step_s)
            for name, (found,) in self._used.interventions.items():
                counts[name] = counts.get(name, 0) + int(found[min(row, len(found) - 1)])
        return state, counts

    def close(self) -> None:
        self._inference.close()

    def _take(self, raw: Rows, question: _Question, now: float) -> None:
        if raw.shape != (1, self._contract.outputs):
            raise ValueError(f"the policy gave {raw.shape}, not {(1, self._contract.outputs)}")
        answer = unrolled(self._contract, question.seen, raw)
        if not answer.finite[0]:
            raise AnswerFailed("policy_fault", "the policy's output is not finite")
        self._blend.offer(Chunk(answer.rows[0], question.seen_at, self._step_s), now)
        self._used, self._seen_at = answer, question.seen_at


def answers_of(
    policy: Policy, now: Clock, step_s: float, start: ActionState, *, async_inference: bool
) -> Answers:
    """What asks `policy` in one attempt.

    `async_inference`: for chunks, in a thread; the policy is a process that the arm does not await.
    """
    if policy.contract.chunk is None:
        return SingleAnswers(policy, now)
    inference = AsyncInference(policy, now) if async_inference else LockStepInference(policy, now)
    return ChunkedAnswers(policy.contract, inference, step_s, start)


def _on_time(took: float, deadline_s: float) -> None:
    if took > deadline_s:
        raise AnswerFailed("policy_late", f"the policy took {1e3 * took:.0f} ms")


def _failure(error: Exception) -> AnswerFailed:
    late = isinstance(error, PolicyFailedError) and error.mode == "late"
    mode = "policy_late" if late or isinstance(error, TimeoutError) else "policy_fault"
    return AnswerFailed(mode, f"{type(error).__name__}: {error}")
