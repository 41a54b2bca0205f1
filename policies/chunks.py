"""Policies that answer with a chunk of future actions: which of them to follow, and how to change.

Rules
- A chunk row k is for the time `seen_at + k * step_s`, seen_at being when its observation was
  taken. The answer comes `delay` later, measured, not assumed: rows of the past are not followed.
- When a new chunk arrives, the target goes over from the old one to the new one within `blend_s`,
  by a weight that leaves 0 and reaches 1 at rest (3w² - 2w³): the target has no jump, whatever the
  two chunks say. The old chunk is followed along its own time meanwhile.
- Between rows the target is linear. Beyond the last row it stays there: nothing is extrapolated. A
  contract's numbers keep a policy that is in time from getting there.
- A chunk whose observation is older than that of the chunk in use came out of order: refused.
- A policy's outputs become rows by shaping them one after the other from the command it saw, which
  is row 0. What is followed is then kept within the step limit and the range once more: a mixture
  of two chunks may be steeper than both.

Rows are (K, J) [rad], times [s] of one clock.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from policies.actions import ActionState, shape
from policies.contract import Contract

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Chunk:
    """Future commands, the first one for `seen_at`."""

    rows: Floats
    seen_at: float
    step_s: float

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or not len(self.rows) or not self.step_s > 0.0:
            raise ValueError(f"a chunk of {self.rows.shape} rows every {self.step_s} s")
        if not np.isfinite(self.rows).all():
            raise ValueError("the chunk holds numbers that are not finite")

    def at(self, now: float) -> Floats:
        """(J,) target at `now`, linear between rows, the nearest row outside them."""
        place = min(max((now - self.seen_at) / self.step_s, 0.0), len(self.rows) - 1.0)
        k = min(int(place), max(len(self.rows) - 2, 0))
        if len(self.rows) == 1:
            return np.array(self.rows[0])
        part = place - k
        target: Floats = (1.0 - part) * self.rows[k] + part * self.rows[k + 1]
        return target


class Blend:
    """The target over time of a robot that gets chunks. Starts at rest at `q` (J,)."""

    def __init__(self, q: Floats, blend_s: float) -> None:
        """`blend_s`: how long a change takes; 0.1 to 0.2 s is usual."""
        if not blend_s > 0.0:
            raise ValueError("a change of chunks takes time: blend_s > 0")
        self._blend_s = blend_s
        self._from: Chunk | Floats = q.copy()
        self._to: Chunk | None = None
        self._began = 0.0

    def offer(self, chunk: Chunk, now: float) -> bool:
        """A chunk that arrived `now`; False where it is older than the one in use."""
        if self._to is not None and chunk.seen_at <= self._to.seen_at:
            return False
        if self._to is not None:
            done = now - self._began >= self._blend_s
            # in the middle of a change the mixture is frozen: where it was is what counts
            self._from = self._to if done else self.target(now)
        self._to, self._began = chunk, now
        return True

    def target(self, now: float) -> Floats:
        """(J,) what to follow at `now`."""
        old = self._from.at(now) if isinstance(self._from, Chunk) else self._from
        if self._to is None:
            return old.copy()
        w = min(max((now - self._began) / self._blend_s, 0.0), 1.0)
        w = w * w * (3.0 - 2.0 * w)
        mixed: Floats = (1.0 - w) * old + w * self._to.at(now)
        return mixed


@dataclass(frozen=True)
class Unrolled:
    """B answers as commands, and per output what shaping changed. A row's do not depend on B."""

    rows: Floats
    """(B, K + 1, J), the command that was seen first."""
    finite: npt.NDArray[np.bool_]
    """(B,)"""
    interventions: dict[str, npt.NDArray[np.int64]]
    """(B, K) by name."""


def unrolled(contract: Contract, seen: ActionState, raw: npt.NDArray[np.float32]) -> Unrolled:
    """The answers `raw` (B, K * J) to observations in which the commands were `seen` (B, J)."""
    state, rows = seen, [seen.command]
    finite = np.ones(len(raw), dtype=np.bool_)
    counts: dict[str, list[npt.NDArray[np.int64]]] = {}
    for output in raw.reshape(len(raw), -1, len(contract.joints)).transpose(1, 0, 2):
        state, command, faults, found = shape(contract, state, output)
        rows.append(command)
        finite &= ~faults
        for name, count in found.items():
            counts.setdefault(name, []).append(count)
    return Unrolled(
        np.stack(rows, axis=1), finite, {name: np.stack(n, axis=1) for name, n in counts.items()}
    )


def kept(
    contract: Contract, last: ActionState, target: Floats
) -> tuple[ActionState, dict[str, int]]:
    """The next command towards `target` (J,), within the step limit and the range; what bit."""
    action = contract.action
    limit = action.ema_alpha * np.array(action.limit)  # as far as a single action can go
    way = target - last.command[0]
    step = np.clip(way, -limit, limit)
    reached = last.command[0] + step
    command = np.clip(reached, action.low, action.high)
    counts = {
        "delta": int(np.count_nonzero(np.abs(way - step) > 1e-9)),
        "range": int(np.count_nonzero(command != reached)),
    }
    return ActionState(command[None]), counts
