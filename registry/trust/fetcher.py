"""Bytes of metadata and small files over a line that may be cut, slow, endless or hostile.

A *source* answers the bytes of a name from a position on; it raises NotFound where there is no such
file. Rules:
- No file is read beyond the size that was announced or allowed for it.
- After `GRACE_S` a file must have arrived at `MIN_RATE` bytes/s on average, and no source is waited
  for longer than `SILENCE_S`: who sends a byte now and then does not hold the robot up.
- A download goes on where it was cut, at any byte, as long as each try brings something. It has its
  name only when every byte fits length and digests; what does not fit is deleted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import urllib3
from tuf.api.exceptions import (
    DownloadHTTPError,
    LengthOrHashMismatchError,
    SlowRetrievalError,
)
from tuf.api.metadata import TargetFile
from tuf.ngclient import FetcherInterface

from registry.errors import Corrupt, NotFound, ServiceFailed
from registry.storage import disk_errors, sync_folder, write_at

Source = Callable[[str, int], Iterator[bytes]]  # name or URL, position to begin at
GRACE_S = 10.0
MIN_RATE = 1_000.0  # bytes/s
SILENCE_S = 10.0
CHUNK = 64 << 10
TRIES = 5  # without a new byte


class MetadataFetcher(FetcherInterface):
    """ngclient's way to a source. ngclient itself stops at the length allowed for a file."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def _fetch(self, url: str) -> Iterator[bytes]:
        chunks = paced(self._source(url, 0))
        try:
            first = next(chunks, b"")  # what is not there is said before any byte
        except NotFound as none:
            raise DownloadHTTPError(none.what, 404) from none
        return _chain(first, chunks)


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def paced(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks; raises SlowRetrievalError where they come too slowly."""
    began, size = time.monotonic(), 0
    for chunk in chunks:
        size += len(chunk)
        spent = time.monotonic() - began
        if spent > GRACE_S and size < MIN_RATE * spent:
            raise SlowRetrievalError(f"{size} bytes in {spent:.0f} s")
        yield chunk


class HttpSource:
    """Files under a URL; Range requests where a download goes on."""

    def __init__(self, silence_s: float = SILENCE_S) -> None:
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(silence_s), retries=urllib3.Retry(3, redirect=0, status=0)
        )

    def __call__(self, url: str, start: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            response = self._pool.request("GET", url, headers=headers, preload_content=False)
        except urllib3.exceptions.HTTPError as failed:
            raise ServiceFailed("the server was not reached", evidence=str(failed)) from failed
        try:
            if response.status in (403, 404):
                raise NotFound("the server has no such file", evidence=url)
            if response.status not in (200, 206):
                raise ServiceFailed(
                    "the server did not answer with the file",
                    evidence=f"HTTP {response.status} for {url}",
                )
            # A server that knows no ranges sends everything; what is here already is passed over.
            skip = start if response.status == 200 else 0
            while data := response.read1(CHUNK):
                yield data[skip:]
                skip = max(0, skip - len(data))
        except urllib3.exceptions.TimeoutError as silent:
            raise SlowRetrievalError(f"nothing came for {SILENCE_S:.0f} s") from silent
        except urllib3.exceptions.HTTPError as cut:
            raise ServiceFailed("the line was cut", evidence=f"{url}: {cut}") from cut
        finally:
            response.close()


def download(source: Source, url: str, info: TargetFile, path: Path) -> int:
    """Brings a target to `path`; how many bytes came over the line.

    Raises Corrupt (the bytes do not fit), NotFound, ServiceFailed or tuf's SlowRetrievalError; what
    came stays in `PATH.part`, except where it did not fit.
    """
    part = path.with_name(path.name + ".part")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        there = os.fstat(handle).st_size
        came = _fill(source, url, info, handle)
        if not _fits(info, part) and there:  # what an earlier try left was not the beginning of it
            os.ftruncate(handle, 0)
            came += _fill(source, url, info, handle)
        if not _fits(info, part):
            raise Corrupt(
                "bytes are not what was approved",
                evidence=f"{info.path}: {os.fstat(handle).st_size} bytes from {url}",
            )
        with disk_errors(path):
            os.fsync(handle)
            part.replace(path)
            sync_folder(path.parent)
    except Corrupt:
        part.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    return came


def _fill(source: Source, url: str, info: TargetFile, handle: int) -> int:
    """Appends until the file has its length, going on where the line is cut."""
    came, idle = 0, 0
    size = os.fstat(handle).st_size
    if size > info.length:
        os.ftruncate(handle, 0)
        size = 0
    while size < info.length:
        before = size
        failed: ServiceFailed | None = None
        try:
            for data in paced(source(url, size)):
                size += len(data)
                came += len(data)
                if size > info.length:
                    raise Corrupt(
                        "more bytes than announced",
                        evidence=f"{info.path}: over {info.length} bytes from {url}",
                    )
                with disk_errors(Path(info.path)):
                    write_at(handle, data, size - len(data))
        except Corrupt:
            raise
        except ServiceFailed as cut:
            failed = cut
        idle = idle + 1 if size == before else 0
        if idle == TRIES or (failed is None and size == before):
            raise failed or Corrupt(
                "fewer bytes than announced",
                evidence=f"{info.path}: ends at {size} of {info.length} bytes",
            )
    return came


def _fits(info: TargetFile, path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            info.verify_length_and_hashes(stream)
    except LengthOrHashMismatchError:
        return False
    return True
