"""What commands lay down in a home's cache for a while: fetched checkpoints, unpacked bundles.

Each takes its own away when it is done. One that was killed, or whose checkpoint was refused,
leaves it: a fetch goes on there. What nobody has touched for a day, nor holds, `gc` removes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from registry.blobs.folder import ABANDONED_S
from registry.storage import disk_errors

SOURCES = "sources"  # a folder of what `registry.sources` fetched
IMPORT = "import-"  # how the folders of `registry.bundle` begin


def sweep(cache: Path, older_than_s: float = ABANDONED_S) -> int:
    """Removes what was left there longer ago than that; how many folders. Raises ServiceFailed."""
    horizon = time.time() - older_than_s
    return sum(_remove_old(one, horizon) for one in _left(cache) if one.is_dir())


def _left(cache: Path) -> Iterator[Path]:
    yield from cache.glob(f"{IMPORT}*")
    yield from (cache / SOURCES).glob("*")


def _remove_old(folder: Path, horizon: float) -> bool:
    """Whether nothing in it is newer than that, no fetch holds it (`registry.sources.held`), and
    it is gone. Others may end it meanwhile."""
    with disk_errors(folder):
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if any(one.lstat().st_mtime >= horizon for one in (folder, *folder.rglob("*"))):
                return False
            shutil.rmtree(folder)
        except (BlockingIOError, FileNotFoundError):
            return False
        finally:
            os.close(handle)
    return True
