"""Where a policy runs: one process per loaded version behind one small port.

`InlinePolicy` is the port in the caller's process, for lock-step simulated time, where waiting for
another process would only add a wall clock to a result that must not depend on one. Robots whose
policies need an interpreter of their own put a subprocess behind the same port.

What goes wrong is one exception with a mode, because every mode is the policy's failure, not the
rig's: `load` (does not load), `crash` (raised), `shape` (wrong answer), `nan` (not finite), `late`
(after its deadline, wall time).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from policies import Policy
from policies.contract import Contract
from policies.loading import load_policy

Rows = npt.NDArray[np.float32]


class PolicyFailedError(Exception):
    """The policy failed by itself; `mode` is load, crash, shape, nan or late."""

    def __init__(self, mode: str, detail: str) -> None:
        super().__init__(f"policy failed ({mode}): {detail}")
        self.mode = mode
        self.detail = detail


class PolicyProcess(Protocol):
    """One loaded version in a process of its own. To the runtime it is a `Policy`."""

    @property
    def contract(self) -> Contract:
        """That of the loaded version."""
        ...

    def start(self) -> None: ...

    def load(self, folder: Path) -> Contract:
        """Load a checkpoint folder in place of what was loaded; its contract."""
        ...

    def reset(self) -> None:
        """Forget the last attempt."""
        ...

    def act(self, observation: Rows, deadline_s: float | None = None) -> Rows:
        """(B, N) to (B, outputs) within `deadline_s` of wall time; PolicyFailedError otherwise."""
        ...

    def close(self) -> None: ...


class InlinePolicy:
    """The port without a process: calls run where they are made."""

    def __init__(
        self,
        loader: Callable[[Path], Policy] = load_policy,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._loader, self._clock = loader, clock
        self._policy: Policy | None = None

    @property
    def contract(self) -> Contract:
        return self._loaded().contract

    def start(self) -> None:
        """Nothing to start."""

    def load(self, folder: Path) -> Contract:
        """Errors of the checkpoint itself (ConfigError) pass through: nothing has moved yet."""
        self._policy = self._loader(folder)
        return self._policy.contract

    def reset(self) -> None:
        policy = self._loaded()
        try:
            policy.reset()
        except Exception as error:
            raise PolicyFailedError("crash", f"reset: {error!r}") from error

    def act(self, observation: Rows, deadline_s: float | None = None) -> Rows:
        policy, began = self._loaded(), self._clock()
        try:
            answer = np.asarray(policy.act(observation))
        except Exception as error:
            raise PolicyFailedError("crash", repr(error)) from error
        took = self._clock() - began
        expected = (observation.shape[0], policy.contract.outputs)
        if answer.shape != expected:
            raise PolicyFailedError("shape", f"{answer.shape}, expected {expected}")
        if not np.isfinite(answer).all():
            raise PolicyFailedError("nan", "the output holds numbers that are not finite")
        if deadline_s is not None and took > deadline_s:
            raise PolicyFailedError("late", f"{took * 1e3:.1f} ms of {deadline_s * 1e3:.1f} ms")
        return answer

    def close(self) -> None:
        self._policy = None

    def _loaded(self) -> Policy:
        if self._policy is None:
            raise PolicyFailedError("load", "no policy is loaded")
        return self._policy


def host(folder: Path) -> PolicyProcess:
    """A process that holds the checkpoint in `folder`, ready to act. Raises ConfigError."""
    process = InlinePolicy()
    process.start()
    process.load(folder)
    return process
