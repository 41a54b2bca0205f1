"""Whether the machine stood still: a test of real time that failed then runs again, at most twice.

A witness on each core, above all other processes, sleeps 3 ms at a time. Where it wakes late, no
process ran in time, as on a virtual machine whose host took its cores away, and a test that counts
milliseconds says nothing about the code. Mark it `real_time`; a second and a third run are told in
the summary of the tests. Where no process may be put above all others there is no witness, and no
test runs again.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import MutableSequence

import pytest

LATE_S = 0.005
"""One tick of a servo at 200 Hz."""
_PERIOD_S = 0.003
UP_WITHIN_S = 60.0

_NOT_UP = -1.0

_stood_still_at: MutableSequence[float] = []
"""When each core's witness last woke late; empty until `begin`."""
_began = 0.0


def begin() -> None:
    """A test begins; the first one of a process starts the witnesses."""
    global _began, _stood_still_at
    if not _stood_still_at:
        cores = sorted(os.sched_getaffinity(0))
        context = multiprocessing.get_context("spawn")
        shared = context.Array("d", [_NOT_UP] * len(cores), lock=False)
        for place, core in enumerate(cores):
            words = (shared, place, core, os.getpid())
            context.Process(target=_witness, args=words, daemon=True).start()
        until = time.monotonic() + UP_WITHIN_S
        while _NOT_UP in shared and time.monotonic() < until:
            time.sleep(0.01)
        _stood_still_at = shared
    _began = time.monotonic()


def stood_still() -> bool:
    """Since the last `begin`."""
    return max(_stood_still_at, default=0.0) > _began


real_time = pytest.mark.flaky(reruns=2, condition=stood_still)


def _witness(stood_still_at: MutableSequence[float], place: int, core: int, parent: int) -> None:
    os.sched_setaffinity(0, {core})
    stood_still_at[place] = 0.0
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(95))
    except OSError:
        return  # it would wake late whenever the tests themselves are at work
    while os.getppid() == parent:
        before = time.monotonic()
        time.sleep(_PERIOD_S)
        after = time.monotonic()
        if after - before > _PERIOD_S + LATE_S:
            stood_still_at[place] = after
