"""How far a run of the simulation gate is, told on stderr with its rate and the time left.

On a terminal one line that changes in place, ended by `close`; elsewhere a line every `EVERY`
episodes, or after `QUIET_S` without one, so that a log of CI shows life and stays short.

The rate is that of the last `WINDOW_S`, so that a slow start (loading, compiling) is forgotten.
Time left is what the verdict says it still needs (`more`: episodes that would decide if they went
like those seen) at that rate; of a full run, the rest of it. It is an estimate, told as one.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from harness.sim.gate import Progress

WINDOW_S = 20.0
QUIET_S = 60.0
EVERY = 500


class ProgressLine:
    """Called with each Progress; `with` or `close` ends the line on a terminal."""

    def __init__(
        self,
        ref: str,
        *,
        full: bool = False,
        stream: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ref = ref
        self._full = full
        self._stream = stream or sys.stderr
        self._clock = clock
        self._live = self._stream.isatty()
        self._seen: deque[tuple[float, int]] = deque([(clock(), 0)])
        self._told = 0
        self._told_at = clock()
        self._open = False

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __call__(self, progress: Progress) -> None:
        now = self._clock()
        self._seen.append((now, progress.drawn))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW_S:
            self._seen.popleft()
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"\r\x1b[K{self.line(progress)[:width]}")
            self._open = True
        elif progress.drawn >= self._told + EVERY or now >= self._told_at + QUIET_S:
            self._told, self._told_at = progress.drawn, now
            self._write(self.line(progress) + "\n")

    def line(self, progress: Progress) -> str:
        """`box-grasp v12: 412/450 of 5000 episodes, inconclusive, 38.2/s, about 8 s left`

        A terminal's line does without some words, to fit 80 columns.
        """
        drawn, unit = progress.drawn, "" if self._live else " episodes"
        parts = [
            f"{self._ref}: {progress.successes}/{drawn} of {progress.population}{unit}",
            str(progress.verdict.outcome),
        ]
        rate = self.rate()
        if rate:
            parts.append(f"{rate:.1f}/s")
            left = self._left(progress)
            if left:
                parts.append(f"{'' if self._live else 'about '}{_time(left / rate)} left")
        return ", ".join(parts)

    def rate(self) -> float:
        """Episodes a second over the last `WINDOW_S`; 0 before anything is known."""
        (began, first), (now, last) = self._seen[0], self._seen[-1]
        return (last - first) / (now - began) if now > began else 0.0

    def close(self) -> None:
        """Ends the live line, so that what is printed next has a line of its own."""
        if self._open:
            self._write("\n")
            self._open = False

    def _left(self, progress: Progress) -> int:
        rest = progress.population - progress.drawn
        if self._full:
            return rest
        more = progress.verdict.more
        return min(rest, more) if more is not None else 0

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
