"""A version in one file, for sites that no network reaches. Deterministic: the same version and the
same provenance make the same bytes, whoever exports it and whenever.

A bundle is a tar file that any tar lists, of plain members in this order:

    bundle.json       {"schema", "policy", "manifest": digest, "provenance": digest}
    signatures.json   only where the exporter signs; of the bytes of bundle.json
    manifest.json     the manifest's canonical bytes
    provenance.json   where the version came from, as far as it was recorded
    pieces/<hex>      each piece of the version once, in the manifest's order

Reading trusts nothing: members must be those and no others, of the sizes that the manifest says,
and every byte is hashed before anything is registered. Whether a signature is asked for and whose
it must be is the caller's (`Verify`), who gets the very bytes that were signed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from registry.blobs.folder import FolderBlobs
from registry.blobs.hashing import hex_of, named
from registry.blobs.tensors import write_file
from registry.errors import Corrupt, PolicyctlError, ServiceFailed
from registry.ports import BlobStore
from registry.scratch import IMPORT
from registry.storage import disk_errors, draft_beside, refuse_device, sync_folder
from registry.versions import Manifest, Piece, Provenance, canonical, digest_bytes

SCHEMA = "policyctl.bundle/1"
MAX_TEXT = 64 << 20
HEAD, SIGNATURES, MANIFEST, PROVENANCE = (
    "bundle.json", "signatures.json", "manifest.json", "provenance.json",
)  # fmt: skip
Sign = Callable[[bytes], bytes]  # the bytes of bundle.json to those of signatures.json
Verify = Callable[[bytes, bytes | None], None]  # raises where the signatures do not satisfy
Progress = Callable[[int], None]  # bytes since the last call


@dataclass(frozen=True)
class Content:
    """What a bundle says before its pieces."""

    manifest: Manifest
    provenance: tuple[Provenance, ...]
    signed: bool


def write_bundle(
    target: Path,
    blobs: BlobStore,
    manifest: Manifest,
    provenance: list[Provenance],
    sign: Sign | None = None,
    progress: Progress | None = None,
) -> int:
    """Writes the bundle whole or not at all; its bytes.

    Raises UsageError (a device), Corrupt, NotFound or ServiceFailed.
    """
    refuse_device(target)
    origins = canonical([one.to_json() for one in provenance])
    head = canonical(
        {
            "schema": SCHEMA,
            "policy": manifest.policy,
            "manifest": manifest.digest,
            "provenance": digest_bytes(origins),
        }
    )
    draft = draft_beside(target)
    with disk_errors(target):
        try:
            with draft.open("xb") as stream:
                with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
                    _add(tar, HEAD, head)
                    if sign is not None:
                        _add(tar, SIGNATURES, sign(head))
                    _add(tar, MANIFEST, manifest.canonical())
                    _add(tar, PROVENANCE, origins)
                    for piece in manifest.pieces:
                        source = _Checked(blobs.stream(piece.sha256), piece, progress)
                        tar.addfile(_member(_piece_name(piece), piece.size), source)
                        source.finish()
                stream.flush()
                os.fsync(stream.fileno())
                size = stream.tell()
            draft.replace(target)
            sync_folder(target.parent)
        finally:
            draft.unlink(missing_ok=True)
    return size


@contextmanager
def open_bundle(
    path: Path, scratch: Path, verify: Verify | None = None, progress: Progress | None = None
) -> Iterator[tuple[Content, Path]]:
    """What the bundle says, and a folder under `scratch` with its checked files, until the end.

    `verify` is asked before a piece is read. Raises Corrupt, ServiceFailed, or what `verify` does.
    """
    with disk_errors(scratch):
        scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=IMPORT) as folder:
        try:
            with path.open("rb") as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
                content = _unpack(_Members(tar), Path(folder), verify, progress)
        except PolicyctlError:
            raise
        except (
            tarfile.TarError, EOFError, ValueError, KeyError, TypeError, RecursionError
        ) as error:  # fmt: skip
            raise _corrupt(str(error)) from None
        yield content, Path(folder) / "files"


def _unpack(
    members: _Members, folder: Path, verify: Verify | None, progress: Progress | None
) -> Content:
    head = members.read(HEAD)
    said = json.loads(head)
    if said["schema"] != SCHEMA:
        raise _corrupt(f"schema {said['schema']!r}")
    signatures = members.read_if(SIGNATURES)
    if verify is not None:
        verify(head, signatures)
    text, origins = members.read(MANIFEST), members.read(PROVENANCE)
    if digest_bytes(text) != said["manifest"] or digest_bytes(origins) != said["provenance"]:
        raise _corrupt("its manifest or provenance is not the one that bundle.json names")
    manifest = Manifest.from_json(json.loads(text))
    if manifest.canonical() != text:
        raise _corrupt("its manifest is not spelled canonically: it would get another digest")
    if manifest.policy != said["policy"]:
        raise _corrupt(f"its manifest is of {manifest.policy}, not of {said['policy']}")
    provenance = tuple(Provenance.from_json(one) for one in json.loads(origins))
    _check_room(folder, manifest)
    pieces = FolderBlobs(folder / "pieces")
    for piece in manifest.pieces:
        with members.take(_piece_name(piece), piece.size) as stream:
            found = pieces.put(cast(BinaryIO, stream))
        if found != piece.sha256:
            raise _corrupt(f"{_piece_name(piece)} holds other bytes: {found}")
        if progress is not None:
            progress(piece.size)
    members.end()
    for entry in manifest.files:
        write_file(pieces, entry, folder / "files" / entry.path)
    return Content(manifest, provenance, signatures is not None)


def _check_room(folder: Path, manifest: Manifest) -> None:
    """Raises ServiceFailed unless the pieces and the files made of them fit beside what is there.

    A piece may stand in many files: a small bundle can unfold to any size.
    """
    needed = manifest.size + sum(piece.size for piece in manifest.pieces)
    with disk_errors(folder):
        free = shutil.disk_usage(folder).free
    if needed > free:
        raise ServiceFailed(
            "the bundle does not fit on this disk",
            evidence=f"it unfolds to {needed:,} bytes under {folder.parent}, {free:,} are free",
            hint="make room, or import it where there is some",
        )


class _Members:
    """The members of a tar file, in the order and of the kind that a bundle has them."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._next = tar.next()

    @contextmanager
    def take(self, name: str, size: int | None = None) -> Iterator[IO[bytes]]:
        member = self._next
        if member is None:
            raise _corrupt(f"it ends before {name}")
        if member.name != name or not member.isreg() or member.issparse():
            raise _corrupt(f"{member.name!r} where {name} should be")
        if member.size > MAX_TEXT if size is None else member.size != size:
            raise _corrupt(f"{name} has {member.size} bytes")
        stream = self._tar.extractfile(member)
        assert stream is not None
        with stream:
            yield stream
        self._next = self._tar.next()

    def read(self, name: str) -> bytes:
        with self.take(name) as stream:
            return stream.read()

    def read_if(self, name: str) -> bytes | None:
        if self._next is None or self._next.name != name:
            return None
        return self.read(name)

    def end(self) -> None:
        if self._next is not None:
            raise _corrupt(f"{self._next.name!r} where nothing should be")


class _Checked(io.RawIOBase):
    """A stored piece as tar reads it; `finish` raises Corrupt unless it was the piece."""

    def __init__(self, chunks: Iterator[bytes], piece: Piece, progress: Progress | None) -> None:
        self._chunks = chunks
        self._piece = piece
        self._progress = progress
        self._rest = memoryview(b"")
        self._sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        found = bytearray()
        while len(found) < size or size < 0:
            if not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._rest = memoryview(chunk)
                self._sha256.update(chunk)
                if self._progress is not None:
                    self._progress(len(chunk))
            take = len(self._rest) if size < 0 else size - len(found)
            found += self._rest[:take]
            self._rest = self._rest[take:]
        return bytes(found)

    def finish(self) -> None:
        if next(self._chunks, None) is not None or named(self._sha256) != self._piece.sha256:
            raise Corrupt(
                "stored bytes do not match their digest",
                evidence=f"{self._piece.sha256} is {named(self._sha256)}",
                hint="`policyctl verify --all` heals what a second store has",
            )


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    tar.addfile(_member(name, len(content)), io.BytesIO(content))


def _member(name: str, size: int) -> tarfile.TarInfo:
    """Nothing of who, when and where: no owner, the epoch, read-only."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o444
    return member


def _piece_name(piece: Piece) -> str:
    return f"pieces/{hex_of(piece.sha256)}"


def _corrupt(why: str) -> Corrupt:
    return Corrupt(
        "the bundle is damaged, or not one",
        evidence=why,
        hint="copy it again, or export the version again",
    )
