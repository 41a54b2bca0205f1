"""Blobs in a folder: `sha256/ab/abcd…`, each file named by what is in it.

- A blob appears whole under its name or not at all: written to `tmp/`, fsynced, linked into place.
  A process killed in between leaves only a file in `tmp/`, which `sweep` removes.
- Created once: two writers of the same bytes both succeed, one file stays.
- Every read but `stream` hashes what it returns. Bytes that do not match their name are Corrupt;
  `put` of the right bytes repairs them. A batch trusts a name whose size fits: it never reads what
  it does not write. `set_aside` takes the name from a damaged blob, so that the next may heal it.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from registry.blobs.batch import FolderBatch
from registry.blobs.hashing import CHUNK, named
from registry.errors import Corrupt, NotFound, UsageError
from registry.storage import disk_errors, sync_folder

REPAIR = "`policyctl verify` sets damaged files aside; then register the same files again"
ABANDONED_S = 24 * 3600.0
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[0-9a-f]{64}")


class FolderBlobs:
    """A BlobStore in a local folder (contract: `registry.ports.BlobStore`)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.drafts = root / "tmp"

    def __str__(self) -> str:
        return str(self.root)

    def path(self, digest: str) -> Path:
        """Where the blob is or would be. Raises UsageError for what is no digest."""
        name = hex_of(digest)
        return self.root / "sha256" / name[:2] / name

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def holds(self, digest: str, size: int) -> bool:
        """It is there with that size; what is in it is not looked at."""
        try:
            return self.path(digest).stat().st_size == size
        except FileNotFoundError:
            return False

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
                    digest = _copy(stream, target)
                    target.flush()
                    os.fsync(target.fileno())
                    os.chmod(temporary, 0o444)
                sync_folder(self.place(temporary, digest))
            finally:
                temporary.unlink(missing_ok=True)
        return digest

    def batch(self) -> FolderBatch:
        return FolderBatch(self)

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
            aside.mkdir(exist_ok=True)
            os.replace(path, aside / path.name)
            sync_folder(path.parent)

    def sweep(self, older_than_s: float = ABANDONED_S) -> int:
        """Removes what killed writers left in `tmp/` long ago; returns how many files."""
        if not self.drafts.is_dir():
            return 0
        horizon = time.time() - older_than_s
        return sum(_remove_old(path, horizon) for path in self.drafts.iterdir())

    def place(self, temporary: Path, digest: str) -> Path:
        """Gives durable bytes their name, without ever overwriting good bytes.

        Returns the folder to sync. Raises OSError.
        """
        target = self.path(digest)
        fresh = not target.parent.is_dir()
        target.parent.mkdir(parents=True, exist_ok=True)
        while not self._link(temporary, target):
            pass
        if fresh:
            sync_folder(target.parent.parent)
        return target.parent

    def _link(self, temporary: Path, target: Path) -> bool:
        """False where what had the name was removed just now."""
        try:
            os.link(temporary, target)
        except FileExistsError:
            try:
                if not self._intact(target):
                    os.replace(temporary, target)  # same name, right bytes: a repair
            except FileNotFoundError:
                return False
        except OSError:  # a file system without hard links
            os.replace(temporary, target)
        return True

    def _intact(self, path: Path) -> bool:
        with path.open("rb") as stream:
            return _copy(stream, None).endswith(path.name)

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
            found = _copy(stream, target)
        if found != digest:
            raise Corrupt(
                "stored bytes do not match their digest",
                evidence=f"{self.path(digest)}: is {found}",
                hint=REPAIR,
            )


def is_hex(name: str) -> bool:
    """Whether a file's name is that of a blob."""
    return _NAME.fullmatch(name) is not None


def hex_of(digest: str) -> str:
    """The 64 digits of a digest. Raises UsageError for what is none."""
    if not _DIGEST.fullmatch(digest):
        raise UsageError(f"{digest!r} is not a digest", hint="digests read sha256:<64 hex>")
    return digest.removeprefix("sha256:")


def _remove_old(path: Path, horizon: float) -> bool:
    """Whether a file was there, older than that, and is gone. Others may end it meanwhile."""
    try:
        if path.stat().st_mtime >= horizon:
            return False
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _copy(source: BinaryIO, target: BinaryIO | None) -> str:
    """Copies to the end, or only reads, and returns the digest of what went by."""
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        if target is not None:
            target.write(chunk)
    return named(digest)
