"""Blobs in a folder: `sha256/ab/abcd…`, each file named by what is in it.

- A blob appears whole under its name or not at all: written to `tmp/`, fsynced, linked into place.
  A process killed in between leaves only a file in `tmp/`, which the next `put` may sweep.
- Created once: two writers of the same bytes both succeed, one file stays.
- Every read hashes what it returns. Bytes that do not match their name are Corrupt; putting the
  right bytes again repairs them.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

from registry.errors import Corrupt, NotFound, UsageError
from registry.storage import disk_errors, sync_folder

CHUNK = 1 << 20
ABANDONED_S = 24 * 3600.0
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class FolderBlobs:
    """A BlobStore in a local folder (contract: `registry.ports.BlobStore`)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tmp = root / "tmp"

    def path(self, digest: str) -> Path:
        """Where the blob is or would be. Raises UsageError for what is no digest."""
        if not _DIGEST.fullmatch(digest):
            raise UsageError(f"{digest!r} is not a digest", hint="digests read sha256:<64 hex>")
        name = digest.removeprefix("sha256:")
        return self.root / "sha256" / name[:2] / name

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def put(self, source: BinaryIO | bytes) -> str:
        stream = io.BytesIO(source) if isinstance(source, bytes) else source
        with disk_errors(self.root):
            self._tmp.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._tmp)
            temporary = Path(name)
            try:
                with os.fdopen(handle, "wb") as target:
                    digest = _copy(stream, target)
                    target.flush()
                    os.fsync(target.fileno())
                    os.chmod(temporary, 0o444)
                self._place(temporary, self.path(digest))
            finally:
                temporary.unlink(missing_ok=True)
        return digest

    def read(self, digest: str) -> bytes:
        content = io.BytesIO()
        self._copy_checked(digest, content)
        return content.getvalue()

    def check(self, digest: str) -> int:
        self._copy_checked(digest, None)
        return self.path(digest).stat().st_size

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

    def sweep(self, older_than_s: float = ABANDONED_S) -> int:
        """Removes what killed writers left in `tmp/` long ago; returns how many files."""
        if not self._tmp.is_dir():
            return 0
        horizon = time.time() - older_than_s
        abandoned = [path for path in self._tmp.iterdir() if path.stat().st_mtime < horizon]
        for path in abandoned:
            path.unlink(missing_ok=True)
        return len(abandoned)

    def _place(self, temporary: Path, target: Path) -> None:
        """Gives the bytes their name, without ever overwriting good bytes."""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(temporary, target)
        except FileExistsError:
            if self._intact(target):
                return
            os.replace(temporary, target)  # same name, right bytes: a repair
        except OSError:  # a file system without hard links
            os.replace(temporary, target)
        sync_folder(target.parent)

    def _intact(self, path: Path) -> bool:
        with path.open("rb") as stream:
            return _copy(stream, None).endswith(path.name)

    def _copy_checked(self, digest: str, target: BinaryIO | None) -> None:
        path = self.path(digest)
        try:
            stream = path.open("rb")
        except FileNotFoundError:
            raise NotFound(
                "a stored file is missing",
                evidence=f"{digest} is not under {self.root}",
                hint="restore the home from its backup, or register the same files again",
            ) from None
        with stream:
            found = _copy(stream, target)
        if found != digest:
            raise Corrupt(
                "stored bytes do not match their digest",
                evidence=f"{path}: is {found}",
                hint="register the same files again to repair them",
            )


def _copy(source: BinaryIO, target: BinaryIO | None) -> str:
    """Copies to the end, or only reads, and returns the digest of what went by."""
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        if target is not None:
            target.write(chunk)
    return f"sha256:{digest.hexdigest()}"
