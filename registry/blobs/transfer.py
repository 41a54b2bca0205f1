"""Bytes from where they are to where they are needed: only what is missing, in parallel, resumable.

- What is there already is never asked for again: whole pieces by their digest, and of the piece in
  which the last transfer was killed all bytes that had reached the disk's cache.
- Bytes are asked for in segments of `SEGMENT`, `WORKERS` at a time, and handed on in their order,
  so that whatever they are written to grows at its end. A kill wastes at most what was on its way:
  `WORKERS * SEGMENT` = 4 MB.
- Nothing has its name before its digest was computed from every byte, also of those found there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from registry.blobs.folder import FolderBlobs
from registry.blobs.hashing import CHUNK, hex_of, named
from registry.errors import Corrupt
from registry.ports import BlobStore
from registry.storage import disk_errors
from registry.versions import Piece

SEGMENT = 1 << 20
WORKERS = 4
GROUP = 200
Fetch = Callable[[str, int, int], Iterator[bytes]]  # digest, start, length
Coming = Callable[[int, int], None]  # told of bytes that are there, and of bytes in all


@dataclass(frozen=True)
class Span:
    """Bytes that are missing of one blob."""

    sha256: str
    start: int
    length: int


@dataclass(frozen=True)
class Moved:
    """What a transfer did: bytes that came over the line, and those that were there before."""

    fetched: int
    present: int


def fetch_in_order(fetch: Fetch, spans: Iterable[Span]) -> Iterator[tuple[Span, bytes]]:
    """The bytes of each span, in order, several segments on their way at once.

    Raises Corrupt where a source sends more or fewer bytes than it was asked for, and whatever
    `fetch` raises, after everything before it was handed on. One segment alone needs no thread.
    """
    segments = _segments(spans)
    first, second = next(segments, None), next(segments, None)
    if first is None:
        return
    if second is None:
        yield first, _segment(fetch, first)
        return
    with ThreadPoolExecutor(WORKERS, "fetch") as pool:
        waiting: deque[tuple[Span, Future[bytes]]] = deque()
        try:
            for segment in _chain(first, second, segments):
                waiting.append((segment, pool.submit(_segment, fetch, segment)))
                if len(waiting) == WORKERS:
                    span, done = waiting.popleft()
                    yield span, done.result()
            while waiting:
                span, done = waiting.popleft()
                yield span, done.result()
        finally:
            for _, done in waiting:
                done.cancel()


def _chain(first: Span, second: Span, rest: Iterator[Span]) -> Iterator[Span]:
    yield first
    yield second
    yield from rest


def _segments(spans: Iterable[Span]) -> Iterator[Span]:
    for span in spans:
        for start in range(span.start, span.start + span.length, SEGMENT):
            yield Span(span.sha256, start, min(SEGMENT, span.start + span.length - start))


def _segment(fetch: Fetch, segment: Span) -> bytes:
    data = bytearray()
    for part in fetch(segment.sha256, segment.start, segment.length):
        data += part
        if len(data) > segment.length:
            raise Corrupt(
                "more bytes than announced",
                evidence=f"{segment.sha256}: over {segment.start + segment.length} bytes",
            )
    if len(data) < segment.length:
        raise Corrupt(
            "fewer bytes than announced",
            evidence=f"{segment.sha256}: ends at {segment.start + len(data)}",
        )
    return bytes(data)


def transfer(
    source: BlobStore,
    target: BlobStore,
    pieces: Iterable[Piece],
    progress: Coming | None = None,
) -> Moved:
    """Brings every piece into `target`, fetching only what it lacks.

    Raises NotFound, Corrupt (the source's bytes are not the digest's) or ServiceFailed. What was
    fetched stays: another transfer goes on from there.
    """
    wanted = list(dict.fromkeys(pieces))
    total = sum(piece.size for piece in wanted)
    if isinstance(target, FolderBlobs):
        missing = [one for one in wanted if not target.holds(one.sha256, one.size)]
    else:
        missing = [one for one in wanted if not target.has(one.sha256)]
    present = total - sum(piece.size for piece in missing)

    def tell(there: int) -> None:
        if progress is not None:
            progress(present + there, total)

    tell(0)
    if isinstance(target, FolderBlobs):
        fetched = _into_folder(source.stream, target, missing, tell)
    else:
        fetched = _into_store(source, target, missing, tell)
    return Moved(fetched, total - fetched)


def _into_store(
    source: BlobStore, target: BlobStore, missing: list[Piece], tell: Callable[[int], None]
) -> int:
    """Into a store that resumes uploads itself: parts that it has are not sent again."""
    done = 0
    with target.batch() as batch:
        for piece in missing:
            batch.add(piece.sha256, _Remote(source, piece))
            done += piece.size
            tell(done)
    return batch.written


@dataclass(frozen=True)
class _Remote:
    """A Source in another store."""

    store: BlobStore
    piece: Piece
    fixed = False

    @property
    def size(self) -> int:
        return self.piece.size

    def read_at(self, start: int, length: int) -> bytes:
        length = min(length, self.size - start)
        return b"".join(self.store.stream(self.piece.sha256, start, length)) if length else b""

    def close(self) -> None:
        """Nothing is held."""


def _into_folder(
    fetch: Fetch, target: FolderBlobs, missing: list[Piece], tell: Callable[[int], None]
) -> int:
    """Each piece grows in `tmp/` under a name that the next transfer knows."""
    fetched = there = 0
    with disk_errors(target.root):
        target.drafts.mkdir(parents=True, exist_ok=True)
    for group in _groups(missing):
        with _Partials(target) as partials, target.batch() as batch:  # locked until they are named
            started = {piece: partials.open(piece) for piece in group}
            spans = [
                Span(piece.sha256, partial.size, piece.size - partial.size)
                for piece, partial in started.items()
            ]
            there += sum(partial.size for partial in started.values())
            arrived = fetch_in_order(fetch, spans)
            for piece, partial in started.items():
                while partial.size < piece.size:
                    data = next(arrived)[1]
                    partial.append(data)
                    fetched, there = fetched + len(data), there + len(data)
                    tell(there)
                partial.finish()
                batch.adopt(piece.sha256, partial.path)
    return fetched


def _groups(pieces: list[Piece]) -> Iterator[list[Piece]]:
    """So many at a time that few files are open and names appear now and then."""
    group: list[Piece] = []
    for piece in pieces:
        group.append(piece)
        if len(group) == GROUP or sum(one.size for one in group) > 1 << 30:
            yield group
            group = []
    if group:
        yield group


class _Partials:
    """The partial files of one group, locked until all have their names or nothing has."""

    def __init__(self, store: FolderBlobs) -> None:
        self._store = store
        self._open: list[Partial] = []

    def open(self, piece: Piece) -> Partial:
        partial = Partial(self._store.drafts / f"partial-{hex_of(piece.sha256)}", piece)
        self._open.append(partial)
        return partial

    def __enter__(self) -> _Partials:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for partial in self._open:
            partial.close()


class Partial:
    """A piece on its way: a file that grows, and the digest of what is in it.

    Two transfers of the same piece do not share the file: the second has one of its own, which
    nobody resumes, and which is gone when it is closed.
    """

    def __init__(self, path: Path, piece: Piece) -> None:
        self.path = path
        self._piece = piece
        self._sha256 = hashlib.sha256()
        with disk_errors(path):
            claimed = _claim(path)
            self._resumable = claimed is not None
            if claimed is None:
                self.path = path.with_name(f"{path.name}-{os.urandom(8).hex()}")
                claimed = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            self._handle = claimed
            self.size = self._read()

    def _read(self) -> int:
        """Hashes what is there; a file that is too long is begun anew."""
        size = os.fstat(self._handle).st_size
        if size > self._piece.size:
            os.ftruncate(self._handle, 0)
            size = 0
        position = 0
        while position < size:
            data = os.pread(self._handle, CHUNK, position)
            self._sha256.update(data)
            position += len(data)
        return size

    def append(self, data: bytes) -> None:
        with disk_errors(self.path):
            rest, position = memoryview(data), self.size
            while rest:
                written = os.pwrite(self._handle, rest, position)
                rest, position = rest[written:], position + written
        self._sha256.update(data)
        self.size = position

    def finish(self) -> None:
        """Returns when the bytes are those of the digest; raises Corrupt, and the file is gone."""
        found = named(self._sha256)
        if found != self._piece.sha256:
            self.path.unlink(missing_ok=True)
            raise Corrupt(
                "bytes are not what their digest says",
                evidence=f"{self._piece.sha256} came as {found}",
                hint="run it again; if it stays, the source is damaged",
            )

    def close(self) -> None:
        os.close(self._handle)
        if not self._resumable:
            self.path.unlink(missing_ok=True)


def _claim(path: Path) -> int | None:
    """The file to go on with, locked. None where another transfer has it or just gave it its name,
    or was killed doing so: it is read-only then. What was locked may no longer have the path."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except PermissionError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), os.stat(path)):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(handle)
    return None
