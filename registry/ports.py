"""The outside of the record: one small protocol per thing that is not ours.

An implementation is whatever passes the contract tests of its port (`tests/registry`). Digests are
`sha256:` and 64 lower-case hex digits. Times are seconds since the epoch, UTC.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    from sqlalchemy import Connection


class BlobStore(Protocol):
    """Immutable bytes under their digest. What was put once is there for ever, or is Corrupt."""

    def put(self, source: BinaryIO | bytes) -> str:
        """Stores the bytes durably and returns their digest; the same bytes cost nothing twice.

        Raises ServiceFailed when the store cannot take them; then nothing is stored.
        """
        ...

    def has(self, digest: str) -> bool: ...

    def read(self, digest: str) -> bytes:
        """All bytes, checked. Raises NotFound or Corrupt."""
        ...

    def check(self, digest: str) -> int:
        """Hashes the stored bytes and returns how many they are. Raises NotFound or Corrupt."""
        ...

    def copy(self, digest: str, target: Path) -> None:
        """Writes the checked bytes to `target`, which appears whole or not at all."""
        ...


class Clock(Protocol):
    def now(self) -> float: ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        return time.time()


class Ledger(Protocol):
    """Where the record's rows live. A write is one serialised transaction: all of it, or none."""

    def write(self) -> AbstractContextManager[Connection]:
        """One transaction that excludes every other writer from its first read on."""
        ...

    def read(self) -> AbstractContextManager[Connection]:
        """One consistent snapshot."""
        ...

    def close(self) -> None: ...
