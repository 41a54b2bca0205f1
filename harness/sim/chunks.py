"""Policies that answer with chunks, in simulation: what they say as one output a policy step.

Rules
- As on robots (fleet/answers.py): asked every `chunk.every` steps while the arm goes on along the
  chunk in use, gone over to by `policies.chunks.Blend`. An answer is used when the latency that the
  contract allows has passed, the worst case, as on a twin in lock-step.
- What is to be followed next is given as the output that shaping turns into it, so that episodes
  and their action logs are those of single actions. What shaping changes inside an answer is
  therefore not counted as robots do, only what it changes of the mixture: an action log played
  without the policy could not count it, and would no longer be equal to its record.
- An answer that failed is given as NaN at the step it was asked for.
- A slot's result depends on its own episode alone.

Times are policy steps since the episode's begin; arrays (n, J) [rad].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from policies.actions import ActionState, output_for
from policies.chunks import Blend, Chunk, unrolled
from policies.contract import Chunking, Contract

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Rows = npt.NDArray[np.float32]


class ActionChunks:
    """The chunks in use in `size` slots."""

    def __init__(self, contract: Contract, size: int) -> None:
        """Raises ValueError where the contract names no chunks."""
        if contract.chunk is None:
            raise ValueError("the policy's contract names no chunks")
        self._contract = contract
        self._chunk: Chunking = contract.chunk
        self._late = contract.latency_steps
        self._blends = [self._resting(np.zeros(len(contract.joints))) for _ in range(size)]
        self._waiting: list[Chunk | None] = [None] * size

    def next(
        self, slots: Ints, step: Ints, command: Floats, answer: Callable[[Ints], Rows]
    ) -> Rows:
        """Outputs (n, J) of these slots at their policy steps (n,), the last commands being
        `command`; `answer` is asked for (m, outputs) of those rows whose turn it is."""
        for i in np.flatnonzero(step == 0):
            self._blends[slots[i]], self._waiting[slots[i]] = self._resting(command[i]), None
        due = np.flatnonzero(step % self._chunk.every == 0)
        failed = np.zeros(len(slots), dtype=np.bool_)
        if due.size:
            failed[due] = ~self._take(slots[due], step[due], command[due], answer(due))
        target = np.array([self._target(s, int(at)) for s, at in zip(slots, step, strict=True)])
        outputs = output_for(self._contract, command, target)
        outputs[failed] = np.nan
        return outputs

    def _resting(self, q: Floats) -> Blend:
        return Blend(q, float(self._chunk.blend))

    def _take(self, slots: Ints, step: Ints, command: Floats, raw: Rows) -> npt.NDArray[np.bool_]:
        """Keeps the answers until they may be used; which of them (m,) are sound."""
        answers = unrolled(self._contract, ActionState(command), raw)
        for i in np.flatnonzero(answers.finite):
            self._waiting[slots[i]] = Chunk(answers.rows[i], float(step[i]), 1.0)
        return answers.finite

    def _target(self, slot: int, step: int) -> Floats:
        blend, waiting = self._blends[slot], self._waiting[slot]
        if waiting is not None and step >= waiting.seen_at + self._late:
            blend.offer(waiting, float(step))
            self._waiting[slot] = None
        return blend.target(step + 1.0)
