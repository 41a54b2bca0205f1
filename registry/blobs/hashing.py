"""Digests: their form, sha256 beside whatever else is done with the bytes, and bytes that can be
read again.
"""

from __future__ import annotations

import hashlib
import os
import queue
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from registry.checkpoint import open_regular
from registry.errors import Conflict, ServiceFailed, UsageError

CHUNK = 1 << 20
AHEAD = 4
WORTH_A_THREAD = 64 << 10
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[0-9a-f]{64}")


def named(digest: hashlib._Hash) -> str:
    return f"sha256:{digest.hexdigest()}"


def is_hex(name: str) -> bool:
    """Whether a file's name is that of a blob."""
    return _NAME.fullmatch(name) is not None


def hex_of(digest: str) -> str:
    """The 64 digits of a digest. Raises UsageError for what is none."""
    if not _DIGEST.fullmatch(digest):
        raise UsageError(f"{digest!r} is not a digest", hint="digests read sha256:<64 hex>")
    return digest.removeprefix("sha256:")


def copy_hashed(source: BinaryIO, target: BinaryIO | None) -> str:
    """Copies to the end, or only reads, and returns the digest of what went by."""
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        if target is not None:
            target.write(chunk)
    return named(digest)


def changed(digest: str, found: str) -> Conflict:
    """What is wrong with a source whose bytes are no longer those that were hashed."""
    return Conflict(
        "the checkpoint changed while it was registered",
        evidence=f"bytes of {digest} are now {found}",
        hint="register it when whatever writes it has ended",
    )


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
        try:
            with open_regular(self.path) as stream:
                return os.pread(stream.fileno(), min(length, self.size - start), self.begin + start)
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise Conflict(
                "the checkpoint is no longer there: nothing was registered",
                evidence=str(error),
                hint="register it when whatever writes it has ended",
            ) from error
        except OSError as error:
            raise ServiceFailed(
                "the checkpoint cannot be read: nothing was registered",
                evidence=str(error),
                hint="look at its disk, then run the same command again",
            ) from error

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
