"""What a loop may have of the machine: priority, locked memory, a core, a quiet collector, a clock.

Rules
- `claim` takes what the system allows and says for each wish whether it was granted and, if not,
  what would change that. It never raises: a loop without priority is a loop whose lateness shows.
- `Loop` waits for absolute times, so lateness of one cycle does not move the next. A cycle whose
  time is over when its wait begins is an overrun: counted, its lateness kept, and the cycles that
  were missed are skipped and counted too, never run in a burst.

Times are CLOCK_MONOTONIC [s].
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

PRIORITY = 80
MCL_CURRENT, MCL_FUTURE = 1, 2


@dataclass(frozen=True)
class Granted:
    """One wish. `hint` says what would change a refusal."""

    name: str
    granted: bool
    found: str
    hint: str = ""


def claim(core: int | None = None) -> tuple[Granted, ...]:
    """Take all of it for this process, from now to its end: call when everything is loaded."""
    gc.collect()
    gc.freeze()
    gc.disable()
    return (
        Granted("collector", True, "frozen and off"),
        lock_memory(),
        take_priority(),
        take_core(core),
    )


def lock_memory() -> Granted:
    """mlockall: no page of this process waits for a disk."""
    name, hint = "memory lock", "LimitMEMLOCK=infinity, or CAP_IPC_LOCK"
    if sys.platform != "linux":
        return Granted(name, False, f"not on {sys.platform}")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(MCL_CURRENT | MCL_FUTURE) == 0:
        return Granted(name, True, "all pages, now and later")
    return Granted(name, False, os.strerror(ctypes.get_errno()), hint)


def take_priority() -> Granted:
    """SCHED_FIFO: only the kernel and higher priorities come first."""
    name, hint = "SCHED_FIFO", f"LimitRTPRIO={PRIORITY}, or CAP_SYS_NICE"
    if not hasattr(os, "sched_setscheduler"):
        return Granted(name, False, f"not on {sys.platform}")
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except OSError as error:
        return Granted(name, False, str(error.strerror), hint)
    return Granted(name, True, f"priority {PRIORITY}")


def take_core(core: int | None) -> Granted:
    """Stay on one core, where one is named."""
    name = "core"
    if core is None:
        return Granted(name, False, "none named", "name one that the kernel leaves alone: isolcpus")
    if not hasattr(os, "sched_setaffinity"):
        return Granted(name, False, f"not on {sys.platform}")
    try:
        os.sched_setaffinity(0, {core})
    except OSError as error:
        return Granted(name, False, f"core {core}: {error.strerror}", f"0 to {os.cpu_count()} - 1")
    return Granted(name, True, f"core {core}")


@dataclass
class Loop:
    """Absolute-time pacing; `overruns` began late, `skipped` never ran."""

    period_s: float
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    cycles: int = 0
    overruns: int = 0
    skipped: int = 0
    worst_late_s: float = 0.0
    _due: float | None = None

    def wait(self) -> float:
        """Sleep until the next cycle's time; how late this one begins [s], 0 where it is not."""
        now = self.now()
        due = now + self.period_s if self._due is None else self._due + self.period_s
        self.cycles += 1
        late = now - due
        if late > 0.0:
            self.overruns += 1
            missed = int(late / self.period_s)
            self.skipped += missed
            due += missed * self.period_s
        else:
            late = 0.0
            while (left := due - self.now()) > 0.0:
                self.sleep(left)
        self._due = due
        self.worst_late_s = max(self.worst_late_s, late)
        return late
