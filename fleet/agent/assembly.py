"""A version's files, put together on the robot from what it has and what it must fetch.

- A file grows at its end, piece by piece in the manifest's order, so that its length says how far a
  killed agent came; nothing else is kept. What is there is hashed again before it is built upon.
- A piece that any version on this robot holds is copied from there: of a fine-tune only the tensors
  that changed come over the line.
- A piece that is not its digest's is never kept: a copied one is fetched, a fetched one is Corrupt.
- The file's own digest is computed from every byte, too.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from registry.blobs.hashing import CHUNK, FilePart, named
from registry.blobs.transfer import Fetch, Span, fetch_in_order
from registry.errors import Corrupt
from registry.storage import write_at
from registry.versions import FileEntry, Manifest, Piece

MANIFEST = "manifest.json"
FILES = "files"


class LocalPieces:
    """What the versions on this robot hold, by digest."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._places: dict[Piece, FilePart] = {}
        for folder in folders:
            try:
                manifest = Manifest.from_json(json.loads((folder / MANIFEST).read_bytes()))
            except (OSError, ValueError, KeyError, TypeError):
                continue  # not a version, or no longer one
            for entry in manifest.files:
                begin = 0
                for piece in entry.pieces:
                    place = FilePart(folder / FILES / entry.path, begin, piece.size)
                    self._places.setdefault(piece, place)
                    begin += piece.size

    def find(self, piece: Piece) -> FilePart | None:
        return self._places.get(piece)

    def add(self, piece: Piece, place: FilePart) -> None:
        self._places.setdefault(piece, place)


class Assembly:
    """One file on its way to `target`. `asked` is called with the bytes that the link is asked for.

    Raises Corrupt, OSError (the disk), or what the link raises; the file then stays for later.
    """

    def __init__(
        self,
        entry: FileEntry,
        target: Path,
        local: LocalPieces,
        fetch: Fetch,
        asked: Callable[[Span], None],
    ) -> None:
        self._entry = entry
        self._path = target
        self._local = local
        self._fetch = fetch
        self._asked = asked
        self._whole = hashlib.sha256()
        self._size = 0  # bytes of whole pieces that are right; the file may be longer

    def run(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            pieces = list(self._entry.pieces)
            done = self._keep_what_is_there(pieces)
            while done < len(pieces):
                done += self._next(pieces[done:])
            os.ftruncate(self._handle, self._size)
            os.fsync(self._handle)
        finally:
            os.close(self._handle)
        found = named(self._whole)
        if found != self._entry.sha256:
            raise Corrupt(
                f"{self._entry.path}: bytes are not what the manifest says",
                evidence=f"{found}, {self._size} bytes; expected {self._entry.sha256}",
            )

    def _keep_what_is_there(self, pieces: list[Piece]) -> int:
        """How many pieces the file holds already."""
        for done, piece in enumerate(pieces):
            if self._begun() < piece.size or not self._take(
                piece, self._read(piece.size), written=piece.size
            ):
                return done
        return len(pieces)

    def _next(self, pieces: list[Piece]) -> int:
        """Adds one piece that is held here, or the run of those that are not; how many."""
        first = pieces[0]
        held = self._local.find(first)
        if held is not None and self._take(first, _chunks(held)):
            return 1
        begun = min(self._begun(), first.size)
        if begun and held is None:
            rest = self._arriving([Span(first.sha256, begun, first.size - begun)])
            if self._take(first, itertools.chain(self._read(begun), rest), written=begun):
                return 1
        run = [first]
        for piece in pieces[1:]:
            if piece in run or self._local.find(piece) is not None:
                break
            run.append(piece)
        arriving = self._arriving([Span(piece.sha256, 0, piece.size) for piece in run])
        for piece in run:
            if not self._take(piece, _first(arriving, piece.size)):
                raise Corrupt(
                    f"{self._entry.path}: bytes are not what the manifest says",
                    evidence=f"they came as {piece.sha256}, and are not",
                )
        return len(run)

    def _take(self, piece: Piece, chunks: Iterable[bytes], written: int = 0) -> bool:
        """Adds a piece to the file unless its bytes are not its digest's.

        The first `written` bytes are in the file already.
        """
        whole, part, size = self._whole.copy(), hashlib.sha256(), 0
        for data in chunks:
            whole.update(data)
            part.update(data)
            if size >= written:
                write_at(self._handle, data, self._size + size)
            size += len(data)
        if size != piece.size or named(part) != piece.sha256:
            os.ftruncate(self._handle, self._size)
            return False
        self._local.add(piece, FilePart(self._path, self._size, size))
        self._whole, self._size = whole, self._size + size
        return True

    def _begun(self) -> int:
        """Bytes in the file beyond those that are known to be right."""
        return os.fstat(self._handle).st_size - self._size

    def _read(self, size: int) -> Iterator[bytes]:
        return _chunks(FilePart(self._path, self._size, size))

    def _arriving(self, spans: list[Span]) -> Iterator[bytes]:
        for span in spans:
            self._asked(span)
        for _, data in fetch_in_order(self._fetch, spans):
            yield data


def _chunks(place: FilePart) -> Iterator[bytes]:
    """What is left of a piece where it should lie; nothing where its file is gone."""
    position = 0
    while position < place.size:
        try:
            data = place.read_at(position, CHUNK)
        except OSError:
            return
        if not data:
            return
        position += len(data)
        yield data


def _first(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Chunks of exactly `size` bytes together; segments never reach over a piece's end."""
    while size > 0:
        data = next(chunks)
        size -= len(data)
        yield data
