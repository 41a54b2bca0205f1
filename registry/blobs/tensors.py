"""Files in pieces: into a store in one pass, out of it whole and checked.

In: the file is read once. While one thread hashes the whole file, another hashes the header and
each tensor; a piece that the store lacks is written by the batch's threads, from memory where it is
short and else from a second read. Memory stays below `WAITING` and a few megabytes at any size of
file or tensor. A file that looks like one of `known` (same header, same samples) is compared with
it first, piece by piece on all cores: where it is that file, its own digest is known without
hashing it as a whole.

Out: each piece goes to its place in the file and has to be what its digest and size say before the
file has a name. The manifest names them all; that they make the file's own digest is `verify`'s to
look at.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from registry.blobs.folder import REPAIR
from registry.blobs.hashing import Budget, FilePart, Hasher, Held, named
from registry.checkpoint import Found, identity, open_regular, read_layout
from registry.errors import Conflict, Corrupt, NotFound
from registry.ports import Batch, BlobStore, Source
from registry.storage import EarlySync, disk_errors, sync_folder, write_at
from registry.tensor_header import Tensor
from registry.versions import FileEntry, Piece, TensorEntry

WEIGHTS_SUFFIX = ".safetensors"
READ = 1 << 20  # fits the second-level cache that both hashing threads read it from
HELD = 48 << 20
WAITING = 96 << 20
AT_ONCE = max(2, min(os.cpu_count() or 1, 4))
"""Pieces that are compared or written at the same time."""
SAMPLES = 16
SAMPLED = 64  # one part in so many of a file is looked at to see what it may be
Progress = Callable[[int], None]  # called with bytes that were dealt with since the last call


def store_file(
    batch: Batch,
    found: Found,
    *,
    in_pieces: bool = True,
    known: Iterable[FileEntry] = (),
    progress: Progress | None = None,
) -> FileEntry:
    """Hashes one file and adds what the store lacks to the batch.

    A safetensors file goes in pieces. The batch hashes again what it reads again: whoever changes
    the file meanwhile makes a Conflict, not a version.
    """
    with disk_errors(found.path), open_regular(found.path) as stream:
        before = identity(stream)
        if found.seen not in (None, before):
            raise _changed(found)
        if in_pieces and found.path.suffix.lower() == WEIGHTS_SUFFIX:
            begin, tensors = read_layout(found, stream)
            entry = _recognise(stream, found, begin, known, progress)
            if entry is not None:
                _add_pieces(batch, found, entry)
            else:
                entry = _store_parts(stream, found, begin, tensors, batch, progress)
        else:
            digest = _hash_whole(stream, progress)
            batch.add(digest, FilePart(found.path, 0, found.size))
            entry = FileEntry(found.name, digest, found.size)
        if identity(stream) != before:
            raise _changed(found)
    return entry


def _store_parts(
    stream: BinaryIO,
    found: Found,
    begin: int,
    tensors: tuple[Tensor, ...],
    batch: Batch,
    progress: Progress | None,
) -> FileEntry:
    cuts = [begin, *(begin + tensor.end for tensor in tensors)]
    digest, parts = _hash_parts(stream, found, cuts, batch, progress)
    entries = tuple(
        TensorEntry(tensor.name, part, tensor.size)
        for tensor, part in zip(tensors, parts[1:], strict=True)
    )
    return FileEntry(found.name, digest, found.size, Piece(parts[0], begin), entries)


def _recognise(
    stream: BinaryIO,
    found: Found,
    begin: int,
    known: Iterable[FileEntry],
    progress: Progress | None,
) -> FileEntry | None:
    """The known file that this one is, byte for byte, if a look at its samples says it may be."""
    header = Piece(named(hashlib.sha256(os.pread(stream.fileno(), begin, 0))), begin)
    for entry in known:
        same = entry.header == header and entry.size == found.size
        if same and _samples_fit(stream, entry):
            if not _pieces_fit(stream, entry):
                return None
            if progress is not None:
                progress(found.size)
            return replace(entry, path=found.name)
    return None


def _samples_fit(stream: BinaryIO, entry: FileEntry) -> bool:
    """Whether tensors from all over the file, a small part of its bytes, are the entry's."""
    left = min(entry.size // SAMPLED, HELD)
    position = entry.header.size if entry.header else 0
    every = max(len(entry.tensors) // SAMPLES, 1)
    for index, tensor in enumerate(entry.tensors):
        picked = index % every == 0 or index == len(entry.tensors) - 1
        if picked and tensor.size <= left:
            content = os.pread(stream.fileno(), tensor.size, position)
            if named(hashlib.sha256(content)) != tensor.sha256:
                return False
            left -= tensor.size
        position += tensor.size
    return True


def _pieces_fit(stream: BinaryIO, entry: FileEntry) -> bool:
    """Whether the file is the entry's, byte for byte."""

    def compare(piece: Piece, begin: int, stopped: threading.Event) -> bool:
        sha256, position, end = hashlib.sha256(), begin, begin + piece.size
        while position < end and not stopped.is_set():
            data = os.pread(stream.fileno(), min(READ, end - position), position)
            if not data:
                return False
            sha256.update(data)
            position += len(data)
        return named(sha256) == piece.sha256

    return _every_piece(entry, compare)


def _every_piece(entry: FileEntry, fits: Callable[[Piece, int, threading.Event], bool]) -> bool:
    """Whether `fits` says so of each piece, given the place where it begins; several at a time.

    After the first that does not fit, an error or ctrl-C the event is set for those under way, and
    others do not begin. An error is raised even where another piece does not fit.
    """
    stopped, taking = threading.Event(), threading.Lock()
    begins = itertools.accumulate((piece.size for piece in entry.pieces), initial=0)
    places = zip(entry.pieces, begins, strict=False)

    def work() -> bool:
        try:
            while not stopped.is_set():
                with taking:
                    piece, begin = next(places, (None, 0))
                if piece is None:
                    return True
                if not fits(piece, begin, stopped):
                    break
        except BaseException:
            stopped.set()
            raise
        stopped.set()
        return False

    with ThreadPoolExecutor(AT_ONCE, "piece") as pool:
        try:
            workers = [pool.submit(work) for _ in range(min(AT_ONCE, len(entry.pieces)))]
            fit = [worker.result() for worker in workers]
            return all(fit)
        finally:
            stopped.set()


def _add_pieces(batch: Batch, found: Found, entry: FileEntry) -> None:
    """What the store lacks of a file that it held once."""
    begin = 0
    for piece in entry.pieces:
        batch.add(piece.sha256, FilePart(found.path, begin, piece.size))
        begin += piece.size


def _hash_whole(stream: BinaryIO, progress: Progress | None = None) -> str:
    sha256, position = hashlib.sha256(), 0
    while data := os.pread(stream.fileno(), READ, position):
        sha256.update(data)
        position += len(data)
        if progress is not None:
            progress(len(data))
    return named(sha256)


class _Parts:
    """Cuts what it is fed at `cuts`, hashes each part and hands it to the batch.

    A part of up to `HELD` bytes stays in memory until then, so that it is written without being
    read or hashed twice; a longer one is read again.
    """

    def __init__(self, found: Found, cuts: list[int], batch: Batch) -> None:
        self.digests: list[str] = []
        self._found = found
        self._cuts = cuts
        self._batch = batch
        self._budget = Budget(WAITING)
        self._begin = self._position = 0
        self._open()

    def _open(self) -> None:
        self._sha256 = hashlib.sha256()
        self._chunks: list[memoryview] = []

    def feed(self, data: bytes) -> None:
        view = memoryview(data)
        while self._ends_within(len(view)):
            size = self._cuts[len(self.digests)] - self._position
            self._take(view[:size])
            self._close_part()
            view = view[size:]
        if view:
            self._take(view)

    def _ends_within(self, size: int) -> bool:
        known = len(self.digests)
        return known < len(self._cuts) and self._cuts[known] <= self._position + size

    def _take(self, view: memoryview) -> None:
        self._sha256.update(view)
        if view and self._is_held():
            self._budget.take(len(view))
            self._chunks.append(view)
        self._position += len(view)

    def _is_held(self) -> bool:
        known = len(self.digests)
        return known < len(self._cuts) and self._cuts[known] - self._begin <= HELD

    def _close_part(self) -> None:
        size, digest = self._position - self._begin, named(self._sha256)
        if self._is_held():
            source: Source = Held(self._chunks, self._budget)
        else:
            source = FilePart(self._found.path, self._begin, size)
        self.digests.append(digest)
        if size:
            self._batch.add(digest, source)
        self._begin = self._position
        self._open()


def _hash_parts(
    stream: BinaryIO, found: Found, cuts: list[int], batch: Batch, progress: Progress | None
) -> tuple[str, list[str]]:
    """The digest of the file and those of its parts, which end at `cuts`."""
    parts = _Parts(found, cuts, batch)
    position = 0
    with Hasher() as whole:
        while position < found.size:
            data = os.pread(stream.fileno(), READ, position)
            if not data:
                raise _changed(found)
            whole.feed(data)
            parts.feed(data)
            position += len(data)
            if progress is not None:
                progress(len(data))
        return whole.digest(), parts.digests


def _changed(found: Found) -> Conflict:
    return Conflict(
        "the checkpoint changed while it was registered",
        evidence=str(found.path),
        hint="register it when whatever writes it has ended",
    )


def write_file(blobs: BlobStore, entry: FileEntry, target: Path) -> None:
    """Writes the whole, checked file; `target` appears whole or not at all.

    Raises NotFound, Corrupt (naming the tensor) or ServiceFailed.
    """
    if entry.header is None:
        blobs.copy(entry.sha256, target)
        return
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".part-")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb"):
                with EarlySync(handle, entry.size) as disk:
                    _write_pieces(blobs, entry, handle, disk)
                os.fsync(handle)
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
            sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _write_pieces(blobs: BlobStore, entry: FileEntry, handle: int, disk: EarlySync) -> None:
    """Raises Corrupt with every piece that is not what its digest and size say."""

    def write(piece: Piece, begin: int, stopped: threading.Event) -> bool:
        sha256, position, end = hashlib.sha256(), begin, begin + piece.size
        for data in blobs.stream(piece.sha256):
            if stopped.is_set() or position + len(data) > end:
                return False  # the room behind it is another piece's
            sha256.update(data)
            write_at(handle, data, position)
            disk.wrote(len(data))
            position += len(data)
        return position == end and named(sha256) == piece.sha256

    if not _every_piece(entry, write):
        raise _broken(blobs, entry)


def problems_of(blobs: BlobStore, entry: FileEntry) -> Iterator[tuple[Piece, str]]:
    """Each piece that is missing or damaged, and what is wrong with it in words."""
    names = {entry.header: "header"} if entry.header else {}
    names |= {tensor.piece: f"tensor {tensor.name}" for tensor in reversed(entry.tensors)}
    for piece in dict.fromkeys(entry.pieces):
        about = f"{entry.path}: {names[piece]}" if piece in names else entry.path
        try:
            size = blobs.check(piece.sha256)
        except (Corrupt, NotFound) as error:
            yield piece, f"{about}: {error.what} ({error.evidence})"
        else:
            if size != piece.size:
                yield piece, f"{about}: {size} bytes, was {piece.size}"


def whole_digest(blobs: BlobStore, entry: FileEntry) -> str:
    """The digest of the stored pieces, joined. Raises NotFound."""
    with Hasher() as whole:
        for piece in entry.pieces:
            for data in blobs.stream(piece.sha256):
                whole.feed(data)
        return whole.digest()


def _broken(blobs: BlobStore, entry: FileEntry) -> Corrupt:
    return Corrupt(
        "stored bytes do not match their digest",
        evidence="; ".join(said for _, said in problems_of(blobs, entry))
        or f"{entry.path}: read otherwise a moment ago",
        hint=REPAIR,
    )
