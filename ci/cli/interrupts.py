"""Ctrl-C and SIGTERM: each ends a command by KeyboardInterrupt, so that what was begun is undone.

One that comes while a module is loaded is raised when that has ended: C extensions that load others
on the way lose it (MuJoCo 4.0 does), and the command would go on as if nobody had asked. A second
one, and a module that takes longer than `LOADING_S`, wait for nothing.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

AGAIN_S = 1.0
"""A SIGTERM so soon after another signal is the same wish [s]: `timeout` tells its command and then
the whole group. It does not cut short what the first one has undone."""
LOADING_S, LOOK_S = 5.0, 0.02
_IMPORT = "<frozen importlib._bootstrap>"


class Interrupts:
    """What a command's process does with both signals, from `install` on."""

    def __init__(self) -> None:
        self._heard_at = float("-inf")
        self._waits_since: float | None = None

    @property
    def came(self) -> bool:
        return self._heard_at > float("-inf")

    def install(self) -> None:
        """Leaves alone what this process was told to ignore, or handles already."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._hear)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._hear)  # an arm is let down
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=_end_at_once)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        now, last = time.monotonic(), self._heard_at
        if number == signal.SIGTERM and now - last < AGAIN_S:
            return
        self._heard_at = now
        if self._waits_since is None and _loads(frame) and hasattr(signal, "setitimer"):
            self._waits_since = now
            signal.signal(signal.SIGALRM, self._look)
            signal.setitimer(signal.ITIMER_REAL, LOOK_S, LOOK_S)
            return
        self._end(frame)

    def _look(self, _: int, frame: FrameType | None) -> None:
        since = self._waits_since
        if since is not None and not (_loads(frame) and time.monotonic() - since < LOADING_S):
            self._end(frame)

    def _end(self, frame: FrameType | None) -> None:
        if self._waits_since is not None:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            self._waits_since = None
        signal.default_int_handler(signal.SIGINT, frame)


def _loads(frame: FrameType | None) -> bool:
    """Whether a module is being loaded somewhere below."""
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT:
            return True
        frame = frame.f_back
    return False


def _end_at_once() -> None:
    """A worker that was forked has nothing to undo."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
