"""How many bytes went by, on a terminal one line that changes in place; elsewhere nothing."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import IO

EVERY_S = 0.2


def amount(size: float) -> str:
    """`1.4 GB`: decimal units, as disks and networks count."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


class BytesLine:
    """`hashed 1.4 GB of 14.0 GB, 310.2 MB/s`; the total where it is known."""

    def __init__(self, verb: str, total: int | None = None, stream: IO[str] | None = None) -> None:
        self._verb = verb
        self._total = total
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._begun = self._told = time.monotonic()
        self._done = 0

    def __enter__(self) -> BytesLine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live and self._told != self._begun:
            self._stream.write("\n")
            self._stream.flush()

    def add(self, size: int) -> None:
        """So many bytes more."""
        self._done += size
        self._tell()

    def at(self, done: int, total: int) -> None:
        """So many bytes of so many, together."""
        self._done, self._total = done, total
        self._tell()

    def _tell(self) -> None:
        now = time.monotonic()
        if not self._live or now - self._told < EVERY_S:
            return
        self._told = now
        whole = f" of {amount(self._total)}" if self._total else ""
        rate = amount(self._done / (now - self._begun))
        self._stream.write(f"\r\x1b[K{self._verb} {amount(self._done)}{whole}, {rate}/s")
        self._stream.flush()
