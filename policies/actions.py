"""Shaping: from the network's output to a joint command, at policy rate.

Order: denormalise → finite → delta limit → exponential moving average → range.
- delta: target = command + raw * limit; absolute: target = low + (raw + 1)/2 (high - low).
- An output that is not finite is a fault: the command holds, the caller ends the attempt.
- The limit is per joint and per policy step, counted where it bites (`delta`), as is `range`.
- command' = command + ema_alpha * (limited target - command), then kept within low..high.
Vectorised over (B, J); a robot is B = 1. The state is a value: shaping twice from one state gives
the same answer twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from policies.contract import Contract

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ActionState:
    """What shaping remembers between steps."""

    command: Floats
    """(B, J) last command [rad]."""


@cache
def _numbers(values: tuple[float, ...]) -> Floats:
    """(J,) of a contract, made once; nobody writes to it."""
    found = np.array(values)
    found.flags.writeable = False
    return found


def start(contract: Contract, q: Floats) -> ActionState:
    """The state at the start of an attempt: the command is where the arm is, (B, J)."""
    return ActionState(np.clip(q, contract.action.low, contract.action.high))


def shape(
    contract: Contract, state: ActionState, raw: npt.NDArray[np.float32]
) -> tuple[ActionState, Floats, npt.NDArray[np.bool_], dict[str, npt.NDArray[np.int64]]]:
    """Next state, command (B, J) [rad], faults (B,), and interventions by name (B,)."""
    action = contract.action
    limit, low, high = _numbers(action.limit), _numbers(action.low), _numbers(action.high)
    output = raw.astype(np.float64)
    finite = np.asarray(np.isfinite(output).all(axis=1))
    if not finite.all():
        output[~finite] = 0.0
    last = state.command
    delta = (
        output * limit
        if action.space == "delta"
        else low + 0.5 * (output + 1.0) * (high - low) - last
    )
    delta[~finite] = 0.0
    limited = np.minimum(np.maximum(delta, -limit), limit)
    smooth = last + action.ema_alpha * limited
    command = np.minimum(np.maximum(smooth, low), high)
    interventions = {
        "delta": np.add.reduce(limited != delta, axis=1),
        "range": np.add.reduce(command != smooth, axis=1),
    }
    return ActionState(command), command, ~finite, interventions


def output_for(contract: Contract, last: Floats, command: Floats) -> npt.NDArray[np.float32]:
    """Outputs (B, J) that `shape` turns into `command` after `last` (B, J), to the precision of
    float32; where the step limit does not allow that, as far as it does."""
    action = contract.action
    delta = (command - last) / action.ema_alpha
    if action.space == "delta":
        return np.asarray(delta / _numbers(action.limit), dtype=np.float32)
    low, high = _numbers(action.low), _numbers(action.high)
    return np.asarray(2.0 * (last + delta - low) / (high - low) - 1.0, dtype=np.float32)
