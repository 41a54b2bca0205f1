"""Blobs into a bucket: small ones at once, large ones in parts that a later try does not repeat.

An upload in parts is found again by its key, which is its digest: parts of the right size and
checksum stay. It is completed only when every byte that was read was the digest's.

A blob is there when it was written (200), or when the store says that somebody else wrote it (412)
and then shows it. A store that was busy with the same name (409) wrote nothing: it is asked again.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from registry.blobs.bucket import TRIES, Bucket
from registry.blobs.crew import Crew
from registry.blobs.hashing import Budget, changed, named
from registry.blobs.s3_errors import code_of, s3_errors
from registry.errors import ServiceFailed
from registry.ports import Source

PART = 16 << 20
MAX_PARTS = 10_000
PAUSE_S = 0.2
WORKERS = 8
WAITING = 16
IN_FLIGHT = Budget(96 << 20)
"""Bytes of parts and small blobs in memory, of all uploads of this process."""


class S3Batch:
    """A Batch (contract: `registry.ports.Batch`) into one bucket.

    Whole blobs that came before an error stay: nothing names them, and the next try finds them.
    """

    def __init__(self, bucket: Bucket) -> None:
        self.written = 0
        self._bucket = bucket
        self._crew = Crew(WORKERS, WAITING)
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> S3Batch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._crew.end(cancel=error is not None)
        if error is None:
            self._crew.raise_first()

    def add(self, digest: str, source: Source) -> None:
        if digest in self._seen:
            source.close()
            return
        self._seen.add(digest)
        self._crew.do(lambda: self._bring(digest, source), source)

    def _bring(self, digest: str, source: Source) -> None:
        if self._bucket.has(digest):
            return
        sent = upload(self._bucket, digest, source)
        with self._lock:
            self.written += sent


def upload(bucket: Bucket, digest: str, source: Source) -> int:
    """Stores the bytes unless they are there; how many were sent. Raises Conflict too."""
    if source.size > PART:
        return _upload_parts(bucket, digest, source)
    IN_FLIGHT.take(source.size)
    try:
        data = source.read_at(0, source.size)
        sha256 = hashlib.sha256(data)
        if named(sha256) != digest:
            raise changed(digest, named(sha256))
        with s3_errors(str(bucket), digest):
            return _create(bucket, digest, data, sha256.digest())
    finally:
        IN_FLIGHT.give(source.size)


def _upload_parts(bucket: Bucket, digest: str, source: Source) -> int:
    """Another writer may complete the upload that this one goes on with: then the blob is there.

    Or gc gave it up in between, or the store was busy with the same name: it is begun anew.
    """
    from botocore.exceptions import ClientError

    sent = 0
    with s3_errors(str(bucket), digest):
        for _ in _tries():
            parts = _Parts(bucket, digest, source)
            try:
                parts.send()
            except ClientError as error:
                if code_of(error) not in {"NoSuchUpload", *_BUSY}:
                    raise
            sent += parts.sent
            if bucket.has(digest):
                return sent
    raise _unsettled(bucket, digest)


def _create(bucket: Bucket, digest: str, data: bytes, checksum: bytes) -> int:
    from botocore.exceptions import ClientError

    for _ in _tries():
        try:
            bucket.client.put_object(
                **bucket.about(digest), Body=data, IfNoneMatch="*", ChecksumSHA256=_b64(checksum)
            )
            return len(data)
        except ClientError as error:
            if code_of(error) not in _EXISTS | _BUSY:
                raise
        if bucket.has(digest):
            return 0
    raise _unsettled(bucket, digest)


_EXISTS = {"PreconditionFailed", "412"}
_BUSY = {"ConditionalRequestConflict", "OperationAborted", "409"}


def _tries() -> Iterator[int]:
    """Each a while after the one before."""
    for n in range(TRIES):
        if n:
            time.sleep(PAUSE_S * 2**n)
        yield n


def _unsettled(bucket: Bucket, digest: str) -> ServiceFailed:
    return ServiceFailed(
        "the store neither takes a file nor has it: nothing was changed",
        evidence=f"{bucket}: {digest}, {TRIES} times",
        hint="others may be writing or deleting the same file; run the same command again",
    )


class _Parts:
    """One upload in parts, new or gone on with."""

    def __init__(self, bucket: Bucket, digest: str, source: Source) -> None:
        self._bucket = bucket
        self._digest = digest
        self._source = source
        self._size = max(PART, -(-source.size // MAX_PARTS))
        self._sha256 = hashlib.sha256()
        self._sizes: list[int] = []  # of the parts that were sent

    @property
    def sent(self) -> int:
        return sum(self._sizes)

    def send(self) -> None:
        upload_id, there = self._resume() or self._begin()
        parts = self._send_parts(upload_id, there)
        if named(self._sha256) != self._digest:
            self._bucket.client.abort_multipart_upload(**self._about(upload_id))
            raise changed(self._digest, named(self._sha256))
        self._complete(upload_id, parts)

    def _about(self, upload_id: str) -> dict[str, str]:
        return {**self._bucket.about(self._digest), "UploadId": upload_id}

    def _begin(self) -> tuple[str, dict[int, dict[str, Any]]]:
        made = self._bucket.client.create_multipart_upload(
            **self._bucket.about(self._digest), ChecksumAlgorithm="SHA256"
        )
        return str(made["UploadId"]), {}

    def _resume(self) -> tuple[str, dict[int, dict[str, Any]]] | None:
        """The upload of this blob that was cut off, and its parts."""
        client, key = self._bucket.client, self._bucket.key(self._digest)
        listed = client.list_multipart_uploads(Bucket=self._bucket.place.bucket, Prefix=key)
        for one in listed.get("Uploads", ()):
            if one["Key"] == key:
                pages = client.get_paginator("list_parts").paginate(**self._about(one["UploadId"]))
                parts = (part for page in pages for part in page.get("Parts", ()))
                return one["UploadId"], {part["PartNumber"]: part for part in parts}
        return None

    def _send_parts(self, upload_id: str, there: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
        """Every part, in order, as completing needs them."""
        sending: list[Future[dict[str, Any]]] = []
        with ThreadPoolExecutor(4, "part") as pool:
            position = number = 0
            while position < self._source.size and (data := self._read(position)):
                number += 1
                self._sha256.update(data)
                position += len(data)
                done = pool.submit(self._send_part, upload_id, number, data, there.get(number))
                done.add_done_callback(lambda _: IN_FLIGHT.give(self._size))
                sending.append(done)
            return [done.result() for done in sending]

    def _read(self, position: int) -> bytes:
        """A part, and room for it in memory; the room is given back where there is no part."""
        IN_FLIGHT.take(self._size)
        data = b""
        try:
            data = self._source.read_at(position, self._size)
        finally:
            if not data:
                IN_FLIGHT.give(self._size)
        return data

    def _send_part(
        self, upload_id: str, number: int, data: bytes, there: dict[str, Any] | None
    ) -> dict[str, Any]:
        checksum = _b64(hashlib.sha256(data).digest())
        if there is not None and _is_same(there, data, checksum):
            return {"PartNumber": number, "ETag": there["ETag"], "ChecksumSHA256": checksum}
        made = self._bucket.client.upload_part(
            **self._about(upload_id), PartNumber=number, Body=data, ChecksumSHA256=checksum
        )
        self._sizes.append(len(data))
        return {"PartNumber": number, "ETag": made["ETag"], "ChecksumSHA256": checksum}

    def _complete(self, upload_id: str, parts: list[dict[str, Any]]) -> None:
        from botocore.exceptions import ClientError

        try:
            self._bucket.client.complete_multipart_upload(
                **self._about(upload_id), MultipartUpload={"Parts": parts}, IfNoneMatch="*"
            )
        except ClientError as error:
            if code_of(error) not in _EXISTS | _BUSY:
                raise
            self._bucket.client.abort_multipart_upload(**self._about(upload_id))


def _is_same(there: dict[str, Any], data: bytes, checksum: str) -> bool:
    """The part on the server has these bytes, by its sha256 or else by its MD5 tag."""
    if there["Size"] != len(data):
        return False
    if "ChecksumSHA256" in there:
        return bool(there["ChecksumSHA256"] == checksum)
    tag = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return bool(there["ETag"].strip('"') == tag)


def _b64(checksum: bytes) -> str:
    return base64.b64encode(checksum).decode()
