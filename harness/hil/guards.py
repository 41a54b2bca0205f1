"""What stands between the engine and the runtime: a policy and a judge that report who failed.

The runtime may turn any exception into an episode; the guards remember the first cause, so that a
crashing policy stays the policy's failure and a lost lease stays the rig's, whatever comes out at
the other end. The first cause wins: what follows from it is its consequence. An answer that is
asked for in another thread is nobody's yet: what it raised counts once the episode says that it
took it (`Episode.cause`), so an attempt that was over before is not the policy's failure.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fleet.attempt import Array, Judge
from harness.hil.model import InfraCode, InfraError, OperatorStopError, PolicyError
from policies.process import PolicyFailedError
from registry.errors import PolicyctlError

Cause = InfraError | PolicyError | OperatorStopError

_MODES = {
    "load": "policy_load",
    "crash": "policy_crash",
    "shape": "policy_crash",
    "nan": "policy_nan",
    "late": "policy_late",
}
"""What a policy process calls its failures, and what a trial records."""


@dataclass
class Blame:
    """The first cause of an attempt's end, once there is one."""

    first: Cause | None = None

    def note(self, cause: Cause) -> Cause:
        """Remembers `cause` unless something came before it; returns it to be raised."""
        if self.first is None:
            self.first = cause
        return cause


class WatchedPolicy:
    """A policy whose exceptions are its own fault. Everything else passes through.

    Whoever asks it in the thread that it was made in waits for the answer, and so has taken it.
    """

    def __init__(self, policy: Any, blame: Blame) -> None:
        self._policy = policy
        self._blame = blame
        self._thread = threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def reset(self) -> None:
        self._call("policy_reset", self._policy.reset)

    def act(self, *args: Any, **kwargs: Any) -> Any:
        return self._call("policy_crash", self._policy.act, *args, **kwargs)

    def _call(self, mode: str, what: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return what(*args, **kwargs)
        except (InfraError, PolicyError) as error:
            raise self._blamed(error) from error.__cause__
        except PolicyFailedError as error:
            raise self._blamed(PolicyError(_MODES[error.mode], error.detail)) from error
        except TimeoutError as error:
            raise self._blamed(PolicyError("policy_late", str(error))) from error
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise self._blamed(PolicyError(mode, why)) from error

    def _blamed(self, cause: Cause) -> Cause:
        return self._blame.note(cause) if threading.get_ident() == self._thread else cause


@dataclass
class GuardedJudge:
    """The task's judge, the clock of policy time, and the right to move, asked every step.

    Its outcome is the judge's; past `timeout_s` of policy time it is failure.
    """

    judge: Judge
    blame: Blame
    may_move: Callable[[], None]
    timeout_s: float
    time_s: float = field(default=0.0, init=False)

    @property
    def version(self) -> str:
        return self.judge.version

    @property
    def asks_person(self) -> bool:
        """Whether a person says afterwards how it went."""
        return bool(getattr(self.judge, "asks_person", False))

    @property
    def timed_out(self) -> bool:
        return self.time_s >= self.timeout_s and self.judge.outcome() is None

    def reset(self) -> None:
        self.time_s = 0.0
        self.judge.reset()

    def update(self, q: Array, dq: Array, tau: Array, dt: float) -> None:
        self.check()
        self.time_s += dt
        try:
            self.judge.update(q, dq, tau, dt)
        except PolicyctlError:
            raise
        except Exception as error:
            why = f"the judge broke: {type(error).__name__}: {error}"
            raise self.blame.note(InfraError(InfraCode.RIG, why)) from error

    def check(self) -> None:
        """Raises, and remembers, what takes away the right to go on moving."""
        try:
            self.may_move()
        except (InfraError, OperatorStopError) as error:
            raise self.blame.note(error) from None

    def outcome(self) -> str | None:
        decided = self.judge.outcome()
        return "failure" if decided is None and self.time_s >= self.timeout_s else decided

    def failure_mode(self) -> str:
        return "timeout" if self.timed_out else self.judge.failure_mode()
