"""Many blobs into a folder at once: written by several threads, made durable together.

1. Each blob is written to `tmp/`, and large ones are sent to the disk while the next are being
   read. A source that is not in memory may have changed since it was hashed: it is hashed again.
2. When all are written, those not yet on the disk are fsynced.
3. Only then each gets its name, and every folder that got one is fsynced once.

A batch that fails, or is killed, gives no name to anything: what it wrote is in `tmp/` only. What
it only took over stays there, unless the disk failed.
"""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from registry.blobs.crew import Crew
from registry.blobs.hashing import CHUNK, Held, changed, named
from registry.blobs.shelf import Shelf
from registry.ports import Source
from registry.storage import EarlySync, disk_errors, sync_folder, write_at

WRITERS = 4
WAITING = 16
SMALL = 1 << 20


class FolderBatch:
    """A Batch (contract: `registry.ports.Batch`) onto one Shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self.written = 0
        self._shelf = shelf
        self._crew = Crew(WRITERS, WAITING)
        self._syncers = ThreadPoolExecutor(WRITERS, "sync")
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._drafts: dict[str, Path] = {}
        self._adopted: set[str] = set()
        self._unsynced: list[Path] = []

    def __enter__(self) -> FolderBatch:
        with disk_errors(self._shelf.root):
            self._shelf.drafts.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._crew.end(cancel=error is not None)
            if error is None:
                self._crew.raise_first()
                with disk_errors(self._shelf.root):
                    self._commit()
        finally:
            self._syncers.shutdown(wait=True)
            for digest, draft in self._drafts.items():
                if error is None or digest not in self._adopted:
                    draft.unlink(missing_ok=True)

    def add(self, digest: str, source: Source) -> None:
        if digest in self._seen or self._shelf.holds(digest, source.size):
            source.close()
            self._crew.raise_first()
            return
        self._seen.add(digest)
        self._crew.do(lambda: self._write(digest, source), source)

    def adopt(self, digest: str, draft: Path) -> None:
        """Takes a file in `tmp/` that holds, checked, the bytes of `digest`.

        It is still there where the block raises: whoever fetched it need not do so again.
        """
        self._seen.add(digest)
        self._adopted.add(digest)
        with self._lock, disk_errors(self._shelf.root):
            self.written += draft.stat().st_size
            self._drafts[digest] = draft
            self._unsynced.append(draft)

    def _write(self, digest: str, source: Source) -> None:
        draft = self._shelf.drafts / uuid.uuid4().hex
        with self._lock:
            self._drafts[digest] = draft
        with disk_errors(self._shelf.root), draft.open("xb", buffering=0) as stream:
            found = self._copy(source, stream.fileno())
            if source.size >= SMALL:
                os.fsync(stream.fileno())
        if found not in (None, digest):
            raise changed(digest, str(found))
        with self._lock:
            self.written += source.size
            if source.size < SMALL:
                self._unsynced.append(draft)

    def _copy(self, source: Source, handle: int) -> str | None:
        """Writes it all; the digest, where it was not known to be the bytes' own."""
        expected = source.size if source.size >= SMALL else 0
        position = 0
        with EarlySync(handle, expected, self._syncers) as disk:
            if isinstance(source, Held):
                for chunk in source.chunks:
                    write_at(handle, chunk, position)
                    disk.wrote(len(chunk))
                    position += len(chunk)
                return None
            sha256 = hashlib.sha256()
            while position < source.size and (data := source.read_at(position, CHUNK)):
                sha256.update(data)
                write_at(handle, data, position)
                disk.wrote(len(data))
                position += len(data)
        return named(sha256)

    def _commit(self) -> None:
        _drain(self._syncers.map(_sync, self._unsynced))
        folders = {self._shelf.place(draft, digest) for digest, draft in self._drafts.items()
                   if draft.exists()}  # fmt: skip
        _drain(self._syncers.map(sync_folder, sorted(folders)))


def _drain(done: Iterable[None]) -> None:
    """Waits for all, and raises what the first that failed raised."""
    for _ in done:
        pass


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
