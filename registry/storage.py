"""Files written whole, and the disk that says no.

`write_whole` replaces a small file: readers see the old one or the new one, also after the supply
was lost. A full disk, a quota, a file-size limit and a missing permission are the machine's state,
not bugs: `ServiceFailed`, exit status 9, naming the path. Whoever writes undoes what it began
before raising.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from registry.errors import ServiceFailed, UsageError

SYNC_EVERY = 64 << 20
WRITE = 256 << 10  # a megabyte at once took twice the time in the kernel
_datasync = getattr(os, "fdatasync", os.fsync)  # macOS has none
_reserve = getattr(os, "posix_fallocate", None)  # nor this
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


def refuse_device(path: Path) -> None:
    """Raises UsageError for a name that a file would take from a device or a pipe: root may."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is there and no file", hint="name a file, or a new one")


def draft_beside(path: Path) -> Path:
    """A new name in its folder: whoever else writes the same file now writes to another."""
    return path.with_name(f".part-{os.urandom(8).hex()}")


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole and durable; the name appears last. Raises OSError, UsageError."""
    refuse_device(path)
    draft = draft_beside(path)
    try:
        with draft.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
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


def write_at(handle: int, data: bytes | memoryview, position: int) -> None:
    """Writes all of it there, however few bytes the system takes at a time. Raises OSError."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(handle, rest[:WRITE], position)
        rest, position = rest[written:], position + written


def _set_aside(handle: int, size: int) -> None:
    """Room for an empty file's `size` bytes, or OSError and none of it taken: the disk is asked
    first, since a reservation that fails has taken what there was. Where a file system cannot tell
    its size, or reserve, it is written without."""
    disk = os.fstatvfs(handle)
    if disk.f_blocks and size > disk.f_bavail * disk.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if _reserve is not None:
        try:
            _reserve(handle, 0, size)
        except OSError as error:
            os.ftruncate(handle, 0)
            if error.errno in _FULL:
                raise


class EarlySync:
    """Has the disk work on a file while it is still being written, so that its fsync is short.

    Room for the `size` bytes that are expected is set aside on entering: a disk that has no room
    says so at once, and one that knows the size writes in long stretches, several times as fast.
    Every `SYNC_EVERY` bytes the file is sent on its way by a thread of `pool`, or of one of its own
    where the file grows so large. Leaving waits for that, and raises OSError where it failed; the
    file is then as long as what was written. Several threads may write and say so.
    """

    def __init__(self, handle: int, size: int, pool: ThreadPoolExecutor | None = None) -> None:
        self._handle, self._size, self._pool = handle, size, pool
        self._written = 0
        self._own: ThreadPoolExecutor | None = None
        self._syncing: Future[None] | None = None
        self._since = 0
        self._lock = threading.Lock()

    def wrote(self, size: int) -> None:
        """So many more bytes were written. Raises OSError where an earlier sync failed."""
        with self._lock:
            self._written += size
            self._since += size
            if self._since < SYNC_EVERY or not (self._syncing is None or self._syncing.done()):
                return
            self._since = 0
            if self._syncing is not None:
                self._syncing.result()
            if self._pool is None:
                self._pool = self._own = ThreadPoolExecutor(1, "sync")
            self._syncing = self._pool.submit(_datasync, self._handle)

    def __enter__(self) -> EarlySync:
        if self._size:
            _set_aside(self._handle, self._size)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._syncing is not None and error is None:
                self._syncing.result()
            if error is None:
                os.ftruncate(self._handle, self._written)
        finally:
            if self._syncing is not None:
                wait([self._syncing])  # the handle is somebody else's soon
            if self._own is not None:
                self._own.shutdown()
