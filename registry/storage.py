"""The disk says no: one place that turns an operating system's refusal into our error.

A full disk, a quota, a file-size limit and a missing permission are the machine's state, not bugs:
`ServiceFailed`, exit status 9, naming the path. Whoever writes undoes what it began before raising.
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
