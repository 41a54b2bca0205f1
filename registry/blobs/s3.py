"""Blobs in a bucket: `<prefix>/sha256/ab/abcd…`, the same names as in a folder.

- An object is created once (`If-None-Match: *`); nobody ever asks first and writes then. Two
  writers of the same bytes both succeed, one object stays.
- Every upload carries its sha256, so that a server never keeps bytes that changed on the way, and
  every read but `stream` hashes what it returns.
- A large blob goes up in parts. One that was cut off goes on with the parts that are there.
- `presign` lets whoever has the URL read one blob until it expires, without credentials.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from registry.blobs.bucket import TRIES, Bucket
from registry.blobs.hashing import CHUNK, FilePart, Held, hex_of, is_hex, named
from registry.blobs.s3_errors import s3_errors
from registry.blobs.s3_upload import S3Batch, upload
from registry.errors import Corrupt, NotFound
from registry.storage import disk_errors, sync_folder


class _Broken(Exception):  # noqa: N818
    """An answer ended before its end."""


class S3Blobs:
    """A BlobStore in a bucket (contract: `registry.ports.BlobStore`)."""

    def __init__(self, url: str) -> None:
        self.bucket = Bucket(url)

    def __str__(self) -> str:
        return str(self.bucket)

    def reach(self) -> None:
        """Raises what is wrong with the bucket or the credentials, if anything is."""
        with s3_errors(str(self)):
            self.bucket.client.list_objects_v2(**self.bucket.all(), MaxKeys=1)

    def has(self, digest: str) -> bool:
        return self.bucket.has(digest)

    def size(self, digest: str) -> int:
        return self.bucket.size(digest)

    def put(self, source: BinaryIO | bytes) -> str:
        if isinstance(source, bytes):
            return self._put(Held([memoryview(source)]))
        with tempfile.NamedTemporaryFile() as spool:
            shutil.copyfileobj(source, spool, CHUNK)
            spool.flush()
            return self._put(FilePart(Path(spool.name), 0, spool.tell()))

    def _put(self, source: Held | FilePart) -> str:
        sha256, position = hashlib.sha256(), 0
        while data := source.read_at(position, CHUNK):
            sha256.update(data)
            position += len(data)
        digest = named(sha256)
        upload(self.bucket, digest, source)
        return digest

    def batch(self) -> S3Batch:
        return S3Batch(self.bucket)

    def read(self, digest: str) -> bytes:
        content = io.BytesIO()
        self._copy_checked(digest, content)
        return content.getvalue()

    def stream(self, digest: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """A connection that breaks is taken up again where it broke, a few times."""
        end = self.size(digest) if length is None else start + length
        tries = TRIES
        while start < end:
            begun = start
            try:
                for chunk in self._range(digest, start, end):
                    start += len(chunk)
                    yield chunk
            except _Broken:
                tries = TRIES if start - begun >= CHUNK else tries - 1
            else:
                if start < end:  # the object ends here: whoever asked for more is told so
                    return
            if not tries:
                with s3_errors(str(self), digest):
                    raise ConnectionError(f"broken off at byte {start}")

    def _range(self, digest: str, start: int, end: int) -> Iterator[bytes]:
        from botocore.exceptions import BotoCoreError, ClientError

        with s3_errors(str(self), digest):
            try:
                wanted = f"bytes={start}-{end - 1}"
                about = self.bucket.about(digest)
                body = self.bucket.client.get_object(**about, Range=wanted)["Body"]
            except ClientError as error:
                if error.response["Error"]["Code"] == "InvalidRange":
                    return
                raise
        try:
            with body:
                yield from body.iter_chunks(CHUNK)
        except (BotoCoreError, OSError) as error:
            raise _Broken from error

    def check(self, digest: str) -> int:
        return self._copy_checked(digest, None)

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

    def digests(self) -> Iterator[str]:
        pages = self.bucket.client.get_paginator("list_objects_v2")
        with s3_errors(str(self)):
            for page in pages.paginate(**self.bucket.all()):
                names = (one["Key"].rpartition("/")[2] for one in page.get("Contents", ()))
                yield from (f"sha256:{name}" for name in names if is_hex(name))

    def remove(self, digest: str) -> int:
        try:
            size = self.size(digest)
        except NotFound:
            return 0
        with s3_errors(str(self), digest):
            self.bucket.client.delete_object(**self.bucket.about(digest))
        return size

    def set_aside(self, digest: str) -> None:
        about, place = self.bucket.about(digest), self.bucket.place
        try:
            with s3_errors(str(self), digest):
                self.bucket.client.copy(
                    CopySource=about,
                    Bucket=place.bucket,
                    Key=place.key(f"damaged/{hex_of(digest)}"),
                )
                self.bucket.client.delete_object(**about)
        except NotFound:
            return

    def sweep(self, older_than_s: float = 24 * 3600.0) -> int:
        """Gives up uploads that were cut off long ago; returns how many."""
        from datetime import UTC, datetime, timedelta

        horizon = datetime.now(UTC) - timedelta(seconds=older_than_s)
        swept = 0
        client, bucket = self.bucket.client, self.bucket.place.bucket
        pages = client.get_paginator("list_multipart_uploads")
        with s3_errors(str(self)):
            for page in pages.paginate(**self.bucket.all()):
                for one in page.get("Uploads", ()):
                    if one["Initiated"] < horizon:
                        client.abort_multipart_upload(
                            Bucket=bucket, Key=one["Key"], UploadId=one["UploadId"]
                        )
                        swept += 1
        return swept

    def presign(self, digest: str, seconds: int = 3600) -> str:
        """A URL that reads the blob until `seconds` from now. The reader checks the bytes."""
        with s3_errors(str(self), digest):
            url = self.bucket.client.generate_presigned_url(
                "get_object", Params=self.bucket.about(digest), ExpiresIn=seconds
            )
        return str(url)

    def _copy_checked(self, digest: str, target: BinaryIO | None) -> int:
        sha256, size = hashlib.sha256(), 0
        for chunk in self.stream(digest):
            sha256.update(chunk)
            size += len(chunk)
            if target is not None:
                target.write(chunk)
        if (found := named(sha256)) != digest:
            raise Corrupt(
                "stored bytes do not match their digest",
                evidence=f"s3://{self.bucket.place.bucket}/{self.bucket.key(digest)}: is {found}",
                hint="`policyctl verify` sets damaged files aside; then register them again",
            )
        return size
