"""The journal: what happened, in order, for ever. Everything else is a projection of it.

One JSON object a line: `{"n", "t", "kind", "data", "hash"}`, where `n` counts from 0 without gaps,
`t` is seconds by the station's clock, and `hash` is SHA-256 over the previous line's hash and this
line's canonical JSON. A record is on the disk (fsync) before the act that it announces.

- One process writes: the file is locked; a second one is refused.
- A torn tail (a last line without its newline) is what a power cut leaves; it is cut off.
- Anything else that does not parse or does not chain is `Corrupt`, named by file and line.
- A write that the disk refuses is undone, so that the journal stays whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from registry.errors import Corrupt, Refused
from registry.storage import disk_error, disk_errors, sync_folder
from registry.versions import canonical

GENESIS: Final = "0" * 64
RESERVE_BYTES: Final = 16 * 1024


class Clock(Protocol):
    def now(self) -> float: ...


@dataclass(frozen=True)
class Record:
    n: int
    t: float
    kind: str
    data: Mapping[str, Any]
    hash: str


def _line(previous: str, n: int, t: float, kind: str, data: Mapping[str, Any]) -> tuple[str, bytes]:
    body: dict[str, Any] = {"n": n, "t": t, "kind": kind, "data": data}
    digest = hashlib.sha256(previous.encode() + canonical(body)).hexdigest()
    return digest, canonical({**body, "hash": digest}) + b"\n"


def read(raw: bytes, where: str) -> tuple[tuple[Record, ...], int]:
    """The records of a journal's bytes, and how many bytes they take; the rest is a torn tail.

    Raises Corrupt, naming the line, where a complete line does not parse or does not chain.
    """
    import json

    records: list[Record] = []
    previous, size = GENESIS, 0
    for number, line in enumerate(raw.split(b"\n")[:-1], start=1):
        try:
            value = json.loads(line)
            n, t, kind, data = value["n"], value["t"], value["kind"], value["data"]
            digest, expected = _line(previous, n, t, kind, data)
        except (ValueError, KeyError, TypeError) as error:
            raise _corrupt(where, number, f"not a record ({error})") from error
        if n != len(records) or expected != line + b"\n":
            raise _corrupt(where, number, "its hash does not follow from the lines before it")
        records.append(Record(n, t, kind, data, digest))
        previous, size = digest, size + len(line) + 1
    return tuple(records), size


def _corrupt(where: str, line: int, why: str) -> Corrupt:
    return Corrupt(
        "the journal was changed after it was written",
        evidence=f"{where}:{line}: {why}",
        hint="keep the file, and start the run anew with another journal",
    )


class Journal:
    """An open journal. `listen` is called with each record once it is durable."""

    def __init__(
        self, path: Path, clock: Clock, listen: Callable[[Record], None] | None = None
    ) -> None:
        self.path = path
        self.clock = clock
        self.listen = listen
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock()
            raw = path.read_bytes()
            records, self._size = read(raw, str(path))
            self.torn = len(raw) - self._size
            if self.torn:
                os.ftruncate(self._file, self._size)
                os.fsync(self._file)
            os.lseek(self._file, self._size, os.SEEK_SET)
            sync_folder(path.parent)
        except BaseException:
            os.close(self._file)
            raise
        self.records = list(records)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Refused(
                "another process is writing this journal",
                evidence=str(self.path),
                hint="wait for that run, or stop it",
            ) from error

    @property
    def digest(self) -> str:
        """The chain's head: it names every record so far."""
        return "sha256:" + (self.records[-1].hash if self.records else GENESIS)

    def append(self, kind: str, **data: Any) -> Record:
        """Writes one record durably. Raises ServiceFailed, with nothing written, when it cannot."""
        previous = self.records[-1].hash if self.records else GENESIS
        n, t = len(self.records), round(self.clock.now(), 6)
        digest, line = _line(previous, n, t, kind, data)
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except BaseException as error:
            os.ftruncate(self._file, self._size)
            os.lseek(self._file, self._size, os.SEEK_SET)
            if isinstance(error, OSError):
                raise disk_error(self.path, error) from error
            raise
        self._size += len(line)
        record = Record(n, t, kind, data, digest)
        self.records.append(record)
        if self.listen is not None:
            self.listen(record)
        return record

    def reserve(self) -> None:
        """Raises ServiceFailed unless `RESERVE_BYTES` more would fit: asked before an arm moves,
        so that a full disk stops a run before the attempt whose end it could not record.

        The trial bytes hold no newline: a kill in between leaves a torn tail, which is cut off.
        """
        try:
            os.pwrite(self._file, b"\0" * RESERVE_BYTES, self._size)
            os.fsync(self._file)
        except OSError as error:
            raise disk_error(self.path, error) from error
        finally:
            os.ftruncate(self._file, self._size)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
