"""Where the blobs of a folder are, and how one gets its name.

Bytes are written to `tmp/` first and linked into place when they are on the disk. Two who name the
same bytes both succeed, and good bytes are never overwritten.
"""

from __future__ import annotations

import os
from pathlib import Path

from registry.blobs.hashing import copy_hashed, hex_of
from registry.storage import sync_folder


class Shelf:
    """`root/sha256/ab/abcd…`, and drafts in `root/tmp`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.drafts = root / "tmp"

    def path(self, digest: str) -> Path:
        """Where the blob is or would be. Raises UsageError for what is no digest."""
        name = hex_of(digest)
        return self.root / "sha256" / name[:2] / name

    def holds(self, digest: str, size: int) -> bool:
        """It is there with that size; what is in it is not looked at."""
        try:
            return self.path(digest).stat().st_size == size
        except FileNotFoundError:
            return False

    def place(self, temporary: Path, digest: str) -> Path:
        """Gives durable bytes their name, without ever overwriting good bytes.

        Nobody may write them from then on; until then a draft may be gone on with.
        Returns the folder to sync. Raises OSError.
        """
        target = self.path(digest)
        fresh = not target.parent.is_dir()
        target.parent.mkdir(parents=True, exist_ok=True)
        os.chmod(temporary, 0o444)
        while not _link(temporary, target):
            pass
        if fresh:
            sync_folder(target.parent.parent)
        return target.parent


def _link(temporary: Path, target: Path) -> bool:
    """False where what had the name was removed just now."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        try:
            if not _intact(target):
                os.replace(temporary, target)  # same name, right bytes: a repair
        except FileNotFoundError:
            return False
    except OSError:  # a file system without hard links
        os.replace(temporary, target)
    return True


def _intact(path: Path) -> bool:
    with path.open("rb") as stream:
        return copy_hashed(stream, None).endswith(path.name)
