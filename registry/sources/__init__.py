"""Where a checkpoint may come from: a folder, a bucket, the hub.

    DIR                          a folder on this machine
    s3://BUCKET/PREFIX           objects; endpoint and credentials as of a store
    hf://ORG/NAME[@REVISION]     a model repository; a branch or tag is resolved to its commit

What is fetched lies in a folder of the home's cache until it is registered, and is then deleted. A
fetch that was cut goes on there, with what is still the source's bytes by its checksums. Only one
process has the folder, also while it registers. Everything listed is taken: what a checkpoint may
not hold is refused by its name before a byte is fetched, unless `--exclude` leaves it out, which
the provenance then says.
"""

from __future__ import annotations

import fcntl
import fnmatch
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.checkpoint import MAX_FILES, refuse_name
from registry.errors import Refused
from registry.storage import disk_errors

Progress = Callable[[int], None]  # bytes since the last call
HOUSEKEEPING = (".gitattributes", ".gitignore")


@dataclass(frozen=True)
class Fetched:
    """A checkpoint on this machine, and what its source is called for ever."""

    folder: Path
    origin: str  # `hf://org/name@<commit>`, `s3://bucket/prefix`, or "" for a folder
    excluded: tuple[str, ...] = ()


def is_remote(source: str) -> bool:
    return source.startswith(("s3://", "hf://"))


@contextmanager
def fetch(
    source: str, cache: Path, exclude: Iterable[str] = (), progress: Progress | None = None
) -> Iterator[Fetched]:
    """The checkpoint at `source`, fetched if it has to be; kept where the block fails.

    Raises NotFound, NotAllowed (credentials), Refused (what it holds), UsageError (no such source)
    or ServiceFailed.
    """
    if source.startswith("hf://"):
        from registry.sources.hub import fetch_hub

        fetching = fetch_hub(source, cache, tuple(exclude), progress)
    elif source.startswith("s3://"):
        from registry.sources.bucket import fetch_bucket

        fetching = fetch_bucket(source, cache, tuple(exclude), progress)
    else:
        yield Fetched(Path(source), "")
        return
    with fetching as fetched:
        yield fetched
        shutil.rmtree(fetched.folder, ignore_errors=True)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder, made if need be, is this process's alone. Raises Refused, ServiceFailed."""
    with disk_errors(folder):
        handle = _lock(folder)
    try:
        yield
    finally:
        os.close(handle)


def _lock(folder: Path) -> int:
    """The open folder, locked; one that its last holder deleted meanwhile is made anew."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, folder):
                return handle
        except BlockingIOError:
            os.close(handle)
            raise Refused(
                "another process is registering from this source",
                evidence=f"it holds {folder}",
                hint="run the same command again when it has ended",
            ) from None
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def choose(
    names: Iterable[str], exclude: tuple[str, ...], where: str
) -> tuple[list[str], list[str]]:
    """Names to fetch and names left out. Raises Refused for one that no checkpoint may hold."""
    taken: list[str] = []
    left: list[str] = []
    for name in sorted(names):
        if any(fnmatch.fnmatch(name, pattern) for pattern in exclude):
            left.append(name)
        elif name not in HOUSEKEEPING:
            refuse_name(name, where)
            taken.append(name)
        if len(taken) > MAX_FILES:
            raise Refused(
                "the source holds more than a checkpoint may",
                evidence=f"{where}: more than {MAX_FILES} files",
                hint="name the checkpoint itself, or leave files out with --exclude",
            )
    return taken, left
