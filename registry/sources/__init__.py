"""Where a checkpoint may come from: a folder, a bucket, the hub.

    DIR                          a folder on this machine
    s3://BUCKET/PREFIX           objects; endpoint and credentials as of a store
    hf://ORG/NAME[@REVISION]     a model repository; a branch or tag is resolved to its commit

What is fetched lies in a folder of the home's cache until it is registered, and is then deleted; a
fetch that was cut goes on there. Everything listed is taken: what a checkpoint may not hold is
refused by its name before a byte is fetched, unless `--exclude` leaves it out, which the provenance
then says.
"""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.checkpoint import MAX_FILES, refuse_name
from registry.errors import Refused

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

        fetched = fetch_hub(source, cache, tuple(exclude), progress)
    elif source.startswith("s3://"):
        from registry.sources.bucket import fetch_bucket

        fetched = fetch_bucket(source, cache, tuple(exclude), progress)
    else:
        yield Fetched(Path(source), "")
        return
    yield fetched
    shutil.rmtree(fetched.folder, ignore_errors=True)


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
