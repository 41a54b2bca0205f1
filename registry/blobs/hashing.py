"""sha256 beside whatever else is done with the bytes, and bytes that can be read again."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

CHUNK = 1 << 20
AHEAD = 4
WORTH_A_THREAD = 64 << 10


def named(digest: hashlib._Hash) -> str:
    return f"sha256:{digest.hexdigest()}"


class Hasher:
    """sha256 of what it is fed, on a thread of its own, never more than `AHEAD` chunks behind.

    Hashing lets go of Python's lock, so that a second core does it while the caller reads, writes
    or hashes parts. The thread begins with the first chunk that takes longer to hash than to begin
    one: of a hundred thousand short pieces none needs it.
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._queue: queue.Queue[bytes | None] = queue.Queue(AHEAD)
        self._thread: threading.Thread | None = None

    def feed(self, data: bytes) -> None:
        if self._thread is None:
            if len(data) < WORTH_A_THREAD:
                self._sha256.update(data)
                return
            self._thread = threading.Thread(target=self._run, name="sha256", daemon=True)
            self._thread.start()
        self._queue.put(data)

    def digest(self) -> str:
        """The digest of everything fed. Nothing more can be fed."""
        self._end()
        return named(self._sha256)

    def __enter__(self) -> Hasher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            self._sha256.update(data)


@dataclass(frozen=True)
class FilePart:
    """A Source: `size` bytes of a file, from `begin`. It holds nothing open between reads."""

    path: Path
    begin: int
    size: int
    fixed = False

    def read_at(self, start: int, length: int) -> bytes:
        handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        try:
            return os.pread(handle, min(length, self.size - start), self.begin + start)
        finally:
            os.close(handle)

    def close(self) -> None:
        """Nothing is held."""


class Budget:
    """Bytes that may wait in memory at once, over all threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Waits until there is room; one that is larger than the limit waits until it is alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + size <= self._limit)
            self._used += size

    def give(self, size: int) -> None:
        with self._changed:
            self._used -= size
            self._changed.notify_all()


class Held:
    """A Source in memory: the very bytes that were hashed, in chunks, until it is closed."""

    fixed = True

    def __init__(self, chunks: list[memoryview], budget: Budget | None = None) -> None:
        self.chunks = chunks
        self.size = sum(map(len, chunks))
        self._budget = budget

    def read_at(self, start: int, length: int) -> bytes:
        found, position = bytearray(), 0
        for chunk in self.chunks:
            begin = max(start + len(found) - position, 0)
            if begin < len(chunk) and len(found) < length:
                found += chunk[begin : begin + length - len(found)]
            position += len(chunk)
        return bytes(found)

    def close(self) -> None:
        if self._budget is not None:
            self._budget.give(self.size)
        self.chunks, self._budget = [], None
