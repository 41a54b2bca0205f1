"""Clocks of a station: the machine's, and one that jumps, for rehearsals and scripted people."""

from __future__ import annotations

import time


class WallClock:
    """Seconds since the epoch; `sleep` really waits."""

    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(max(seconds, 0.0))


class JumpClock:
    """Time that passes only while somebody waits. Starts at `start` seconds since the epoch."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += max(seconds, 0.0)
