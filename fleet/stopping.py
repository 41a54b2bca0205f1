"""How a program of the fleet is told to end: SIGTERM or ctrl-C, once to finish, twice to stop now.

The handlers only count and write one byte to a pipe; everything else happens where the loop asks.
So a signal can come at any instruction without a lock being taken twice, and a waiting loop wakes
at once.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Counts requests to stop; `wait` sleeps until one comes."""

    def __init__(self) -> None:
        self.requests = 0
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)

    @property
    def requested(self) -> bool:
        return self.requests > 0

    @property
    def now(self) -> bool:
        """Asked twice: do not finish what is under way, stop safely."""
        return self.requests > 1

    def request(self) -> None:
        self.requests += 1
        os.write(self._write, b"!")

    def wait(self, seconds: float) -> bool:
        """Sleeps, at most until a stop is requested; says whether one was."""
        if not self.requested:
            select.select([self._read], [], [], max(0.0, seconds))
        return self.requested

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """A `Stop` that SIGTERM and SIGINT request while the block runs; old handlers come back."""
    stop = Stop()

    def handler(number: int, frame: FrameType | None) -> None:
        stop.request()

    old = {name: signal.signal(name, handler) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for name, previous in old.items():
            signal.signal(name, previous)
        stop.close()
