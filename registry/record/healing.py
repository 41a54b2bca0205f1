"""Whether the store still has what the record names; and what a second store can give back.

Every needed blob is hashed once, however many versions share it. One that is missing or damaged is
fetched from the mirror, checked; a manifest is written again from the ledger, which holds its text.
A damaged blob that cannot be healed is set aside, so that registering its files again heals it.
Where everything is looked at, so is what nothing names: a registration that needs such a blob finds
it by its name and never reads it, so a damaged one must not keep its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy import select

from registry.blobs.tensors import whole_digest
from registry.blobs.transfer import transfer
from registry.errors import Corrupt, NotFound, PolicyctlError
from registry.ledger.tables import releases, verdicts
from registry.ports import BlobStore
from registry.record.collection import needed_blobs
from registry.record.desk import Desk
from registry.record.versions import Versions
from registry.versions import FileEntry, Manifest, Piece, VersionRef, is_digest

WORKERS = 2
Progress = Callable[[int], None]  # bytes hashed since the last call


@dataclass(frozen=True)
class Health:
    """What was looked at and what was found."""

    files: int
    blobs: int
    bytes: int
    problems: tuple[str, ...]  # what is still wrong, in words
    healed: tuple[str, ...]  # what was wrong and is right again


@dataclass(frozen=True)
class _Wanted:
    """A blob that the record names, and what it is to people."""

    digest: str
    size: int | None
    about: str
    content: bytes | None = None  # where the record itself holds it
    named: bool = True  # by the record: else nothing is lost with it


class Healer:
    def __init__(self, desk: Desk, versions: Versions, mirror: BlobStore | None) -> None:
        self._desk = desk
        self._versions = versions
        self._mirror = mirror

    def check(
        self,
        refs: list[VersionRef],
        progress: Progress | None = None,
        *,
        everything: bool = False,
    ) -> Health:
        """Hashes every blob of these versions and their verdicts, and heals what it can;
        `everything`: also each other blob that the store holds."""
        self._desk.actor.require("heal")
        manifests = {ref: self._versions.manifest(ref) for ref in refs}
        kept = [ref for ref in refs if not self._is_released(ref)]
        wanted: dict[str, _Wanted] = {}
        for one in self._wanted(manifests, kept):
            wanted.setdefault(one.digest, one)
        if everything:
            for one in self._others():
                wanted.setdefault(one.digest, one)
        problems: list[str] = []
        healed: list[str] = []
        size = 0
        with ThreadPoolExecutor(WORKERS, "check") as pool:
            for one, (found, trouble) in zip(
                wanted.values(), pool.map(self._look, wanted.values()), strict=True
            ):
                size += found
                if trouble is not None:
                    cured = self._heal(one)
                    (healed if cured else problems).append(
                        f"{one.about}: {trouble.what} ({trouble.evidence})"
                    )
                if progress is not None:
                    progress(found)
        files = sum(len(manifests[ref].files) for ref in kept)
        return Health(files, len(wanted), size, tuple(problems), tuple(healed))

    def check_whole(self, ref: VersionRef) -> list[str]:
        """Whether the pieces of a version's files still make the files, in words."""
        if self._is_released(ref):
            return []
        return list(_broken(self._desk.blobs, self._versions.manifest(ref)))

    def _is_released(self, ref: VersionRef) -> bool:
        with self._desk.ledger.read() as connection:
            query = select(releases.c.at).where(
                releases.c.policy == ref.policy, releases.c.number == ref.number
            )
            return connection.execute(query).first() is not None

    def _wanted(
        self, manifests: dict[VersionRef, Manifest], kept: list[VersionRef]
    ) -> Iterator[_Wanted]:
        for ref, manifest in manifests.items():
            text = manifest.canonical()
            yield _Wanted(manifest.digest, len(text), f"{ref}: manifest", text)
            if ref in kept:
                for entry in manifest.files:
                    for piece, name in _names(entry):
                        yield _Wanted(piece.sha256, piece.size, f"{ref}: {name}")
        with self._desk.ledger.read() as connection:
            rows = connection.execute(select(verdicts)).all()
        for row in rows:
            ref = VersionRef(row.policy, row.number)
            for name, digest in row.artifacts.items() if ref in manifests else ():
                if isinstance(digest, str) and is_digest(digest):
                    yield _Wanted(digest, None, f"{ref}: {name} of the {row.gate} gate")

    def _others(self) -> Iterator[_Wanted]:
        with self._desk.ledger.read() as connection:
            named = needed_blobs(connection)
        for digest in self._desk.blobs.digests():
            if digest in named:
                yield _Wanted(digest, None, "a blob of the record")
            else:
                yield _Wanted(digest, None, "a blob that nothing names, set aside", named=False)

    def _look(self, one: _Wanted) -> tuple[int, PolicyctlError | None]:
        try:
            size = self._desk.blobs.check(one.digest)
        except NotFound as error:  # what nothing names may go at any time
            return 0, error if one.named else None
        except Corrupt as error:
            return 0, error
        return size, None

    def _heal(self, one: _Wanted) -> bool:
        """Looks once more: since it was found bad, others may have put the right bytes there."""
        _, trouble = self._look(one)
        if trouble is None:
            return True
        if isinstance(trouble, Corrupt):
            self._desk.blobs.set_aside(one.digest)
        if not one.named:
            return True
        if one.content is not None:
            return self._desk.blobs.put(one.content) == one.digest
        if self._mirror is None or not self._mirror.has(one.digest):
            return False
        size = self._mirror.size(one.digest) if one.size is None else one.size
        try:
            transfer(self._mirror, self._desk.blobs, [Piece(one.digest, size)])
        except Corrupt:
            return False
        return True


def _names(entry: FileEntry) -> Iterator[tuple[Piece, str]]:
    if entry.header is None:
        yield entry.pieces[0], entry.path
        return
    yield entry.header, f"{entry.path}: header"
    for tensor in entry.tensors:
        if tensor.size:
            yield tensor.piece, f"{entry.path}: tensor {tensor.name}"


def _broken(blobs: BlobStore, manifest: Manifest) -> Iterator[str]:
    for entry in manifest.files:
        if entry.header is not None:
            try:
                found = whole_digest(blobs, entry)
            except NotFound:
                continue  # told of its piece
            if found != entry.sha256:
                yield f"{entry.path}: its pieces make {found}, was {entry.sha256}"
