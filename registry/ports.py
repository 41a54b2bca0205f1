"""The outside of the record: one small protocol per thing that is not ours.

An implementation is whatever passes the contract tests of its port (`tests/registry`). Digests are
`sha256:` and 64 lower-case hex digits. Times are seconds since the epoch, UTC.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    from sqlalchemy import Connection


class Source(Protocol):
    """Bytes that can be read anywhere and again, such as a part of a file."""

    @property
    def size(self) -> int: ...

    @property
    def fixed(self) -> bool:
        """They are the very bytes that were hashed; others are hashed again as they are stored."""
        ...

    def read_at(self, start: int, length: int) -> bytes:
        """Up to `length` bytes from `start`; fewer only where the source was cut short."""
        ...

    def close(self) -> None:
        """Whoever was given the source has done with it."""
        ...


class Batch(Protocol):
    """Blobs on their way into a store. All are durable when the batch ends without an error."""

    @property
    def written(self) -> int:
        """Bytes that the store lacked. Complete when the batch has ended."""
        ...

    def add(self, digest: str, source: Source) -> None:
        """Stores `source` unless the store has `digest`; returns before it is done.

        Raises what an earlier one failed with: ServiceFailed, or Conflict where its bytes were not
        those of its digest (they changed since they were hashed).
        """
        ...


class BlobStore(Protocol):
    """Immutable bytes under their digest. What was put once is there for ever, or is Corrupt.

    Methods may be called from several threads at once.
    """

    def put(self, source: BinaryIO | bytes) -> str:
        """Stores the bytes durably and returns their digest; the same bytes cost nothing twice.

        Raises ServiceFailed when the store cannot take them; then nothing is stored.
        """
        ...

    def batch(self) -> AbstractContextManager[Batch]:
        """Many blobs of known digests at once. An error in the block leaves none half-written."""
        ...

    def has(self, digest: str) -> bool: ...

    def size(self, digest: str) -> int:
        """Bytes stored under `digest`. Raises NotFound."""
        ...

    def read(self, digest: str) -> bytes:
        """All bytes, checked. Raises NotFound or Corrupt."""
        ...

    def stream(self, digest: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Bytes from `start`, in pieces of about a megabyte, *not* checked. Raises NotFound."""
        ...

    def check(self, digest: str) -> int:
        """Hashes the stored bytes and returns how many they are. Raises NotFound or Corrupt."""
        ...

    def copy(self, digest: str, target: Path) -> None:
        """Writes the checked bytes to `target`, which appears whole or not at all."""
        ...

    def digests(self) -> Iterator[str]:
        """Every blob there is, in no order."""
        ...

    def remove(self, digest: str) -> int:
        """Deletes a blob that nothing needs; how many bytes it had, 0 where there was none."""
        ...

    def set_aside(self, digest: str) -> None:
        """Takes the name from a damaged blob, so that the right bytes may have it; one that is gone
        was set aside by somebody else."""
        ...

    def sweep(self, older_than_s: float = ...) -> int:
        """Removes what killed writers left unfinished long ago; how many."""
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
