"""Files written whole, and the disk that says no.

`write_whole` replaces a small file: readers see the old one or the new one, also after the supply
was lost. A full disk, a quota, a file-size limit and a missing permission are the machine's state,
not bugs: `ServiceFailed`, exit status 9, naming the path. Whoever writes undoes what it began
before raising.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.errors import ServiceFailed

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def disk_error(path: Path, error: OSError) -> ServiceFailed:
    """What `error`, met while writing under `path`, means to the user."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        return ServiceFailed(
            "the disk is full: nothing was changed",
            evidence=f"{path}: {reason}",
            hint="free space or raise the limit, then run the same command again",
        )
    return ServiceFailed(
        "the store cannot be written: nothing was changed",
        evidence=f"{path}: {reason}",
        hint="check the path and its permissions with `policyctl doctor`",
    )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns every OSError of the block into a ServiceFailed that names `path`."""
    try:
        yield
    except OSError as error:
        raise disk_error(path, error) from error


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole and durable; the name appears last. Raises OSError."""
    draft = path.with_name(path.name + ".part")
    with draft.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable. Windows opens no folders, and needs no sync."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
