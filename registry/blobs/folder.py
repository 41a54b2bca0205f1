"""Blobs in a folder: `sha256/ab/abcd…`, each file named by what is in it.

- A blob appears whole under its name or not at all: written to `tmp/`, fsynced, linked into place.
  A process killed in between leaves only a file in `tmp/`, which `sweep` removes.
- Created once: two writers of the same bytes both succeed, one file stays.
- Every read but `stream` hashes what it returns. Bytes that do not match their name are Corrupt;
  `put` of the right bytes repairs them. A batch trusts a name whose size fits: it never reads what
  it does not write. `set_aside` takes the name from a damaged blob, so that the next may heal it.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from registry.blobs.batch import FolderBatch
from registry.blobs.hashing import CHUNK, copy_hashed, is_hex
from registry.blobs.shelf import Shelf
from registry.errors import Corrupt, NotFound
from registry.storage import disk_errors, sync_folder

REPAIR = "`policyctl verify` sets damaged files aside; then register the same files again"
ABANDONED_S = 24 * 3600.0


class FolderBlobs:
    """A BlobStore in a local folder (contract: `registry.ports.BlobStore`)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._shelf = Shelf(root)
        self.drafts = self._shelf.drafts

    def __str__(self) -> str:
        return str(self.root)

    def path(self, digest: str) -> Path:
        """See `Shelf.path`."""
        return self._shelf.path(digest)

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def holds(self, digest: str, size: int) -> bool:
        """See `Shelf.holds`."""
        return self._shelf.holds(digest, size)

    def size(self, digest: str) -> int:
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise self._missing(digest) from None

    def put(self, source: BinaryIO | bytes) -> str:
        stream = io.BytesIO(source) if isinstance(source, bytes) else source
        with disk_errors(self.root):
            self.drafts.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.drafts)
            temporary = Path(name)
            try:
                with os.fdopen(handle, "wb") as target:
                    digest = copy_hashed(stream, target)
                    target.flush()
                    os.fsync(target.fileno())
                sync_folder(self._shelf.place(temporary, digest))
            finally:
                temporary.unlink(missing_ok=True)
        return digest

    def batch(self) -> FolderBatch:
        return FolderBatch(self._shelf)

    def read(self, digest: str) -> bytes:
        content = io.BytesIO()
        self._copy_checked(digest, content)
        return content.getvalue()

    def stream(self, digest: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        with self._open(digest) as stream:
            stream.seek(start)
            left = length
            while left is None or left > 0:
                chunk = stream.read(CHUNK if left is None else min(CHUNK, left))
                if not chunk:
                    return
                left = None if left is None else left - len(chunk)
                yield chunk

    def check(self, digest: str) -> int:
        self._copy_checked(digest, None)
        return self.size(digest)

    def copy(self, digest: str, target: Path) -> None:
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=".part-")
            temporary = Path(name)
            try:
                with os.fdopen(handle, "wb") as stream:
                    self._copy_checked(digest, stream)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.chmod(temporary, 0o644)
                os.replace(temporary, target)
                sync_folder(target.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def digests(self) -> Iterator[str]:
        for path in (self.root / "sha256").glob("??/*"):
            if is_hex(path.name):
                yield f"sha256:{path.name}"

    def remove(self, digest: str) -> int:
        path = self.path(digest)
        with disk_errors(path):
            try:
                size = path.stat().st_size
                path.unlink()
            except FileNotFoundError:
                return 0
            sync_folder(path.parent)
        return size

    def set_aside(self, digest: str) -> None:
        path = self.path(digest)
        with disk_errors(path):
            aside = self.root / "damaged"
            aside.mkdir(parents=True, exist_ok=True)
            try:
                os.replace(path, aside / path.name)
            except FileNotFoundError:
                return
            sync_folder(path.parent)

    def sweep(self, older_than_s: float = ABANDONED_S) -> int:
        """Removes what killed writers left in `tmp/` long ago; returns how many files."""
        if not self.drafts.is_dir():
            return 0
        horizon = time.time() - older_than_s
        return sum(_remove_old(path, horizon) for path in self.drafts.iterdir())

    def _open(self, digest: str) -> BinaryIO:
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            raise self._missing(digest) from None

    def _missing(self, digest: str) -> NotFound:
        return NotFound(
            "a stored file is missing",
            evidence=f"{digest} is not under {self.root}",
            hint="restore the home from its backup, or register the same files again",
        )

    def _copy_checked(self, digest: str, target: BinaryIO | None) -> None:
        with self._open(digest) as stream:
            found = copy_hashed(stream, target)
        if found != digest:
            raise Corrupt(
                "stored bytes do not match their digest",
                evidence=f"{self.path(digest)}: is {found}",
                hint=REPAIR,
            )


def _remove_old(path: Path, horizon: float) -> bool:
    """Whether a file was there, older than that, and is gone. Others may end it meanwhile."""
    try:
        if path.stat().st_mtime >= horizon:
            return False
        path.unlink()
    except FileNotFoundError:
        return False
    return True
