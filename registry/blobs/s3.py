"""Blobs in a bucket: `<prefix>/sha256/ab/abcd…`, the same names as in a folder.

- An object is created once (`If-None-Match: *`); nobody ever asks first and writes then. Two
  writers of the same bytes both succeed, one object stays.
- Every upload carries its sha256, so that a server never keeps bytes that changed on the way, and
  every read but `stream` hashes what it returns.
- A large blob goes up in parts. One that was cut off goes on with the parts that are there.
- `presign` lets whoever has the URL read one blob until it expires, without credentials.

    s3://BUCKET/PREFIX[?endpoint=http://host:port][&region=NAME]

Credentials are AWS's usual ones (environment, profile, role), never part of the URL.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import parse_qsl, urlsplit

from registry.blobs.folder import hex_of, is_hex
from registry.blobs.hashing import CHUNK, FilePart, Held, named
from registry.blobs.s3_errors import s3_errors
from registry.blobs.s3_upload import S3Batch, upload
from registry.errors import Corrupt, NotFound, UsageError
from registry.storage import disk_errors, sync_folder

if TYPE_CHECKING:
    from botocore.client import BaseClient

HINT = "written s3://BUCKET/PREFIX, with ?endpoint=URL for a server that is not AWS's"
TRIES = 4


@dataclass(frozen=True)
class Place:
    """What a store's URL says."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name


def parse_url(url: str) -> Place:
    """Raises UsageError."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    if parts.scheme != "s3" or not parts.hostname or options.keys() - {"endpoint", "region"}:
        raise UsageError(f"not a store: {url!r}", hint=HINT)
    if "@" in parts.netloc:
        raise UsageError(
            "credentials do not belong into a store's URL",
            evidence=f"s3://…@{parts.hostname}",
            hint="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role",
        )
    prefix = parts.path.strip("/")
    return Place(parts.netloc, prefix, options.get("endpoint"), options.get("region"))


def connect(place: Place) -> BaseClient:
    """A client whose retries, time limits and signatures are ours."""
    import boto3
    from botocore.config import Config

    config = Config(
        signature_version="s3v4",
        retries={"mode": "standard", "total_max_attempts": TRIES},
        connect_timeout=5,
        read_timeout=60,
        max_pool_connections=16,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if place.endpoint else "auto"},
    )
    with s3_errors(str(place)):
        return boto3.session.Session().client(
            "s3", endpoint_url=place.endpoint, region_name=place.region, config=config
        )


class _Broken(Exception):  # noqa: N818
    """An answer ended before its end."""


class S3Blobs:
    """A BlobStore in a bucket (contract: `registry.ports.BlobStore`)."""

    def __init__(self, url: str) -> None:
        self.place = parse_url(url)
        self.client: Any = connect(self.place)

    def __str__(self) -> str:
        return str(self.place)

    def key(self, digest: str) -> str:
        """Raises UsageError for what is no digest."""
        name = hex_of(digest)
        return self.place.key(f"sha256/{name[:2]}/{name}")

    def about(self, digest: str) -> dict[str, str]:
        """The arguments that name an object."""
        return {"Bucket": self.place.bucket, "Key": self.key(digest)}

    def reach(self) -> None:
        """Raises what is wrong with the bucket or the credentials, if anything is."""
        with s3_errors(str(self)):
            self.client.list_objects_v2(
                Bucket=self.place.bucket, Prefix=self.place.key("sha256/"), MaxKeys=1
            )

    def has(self, digest: str) -> bool:
        try:
            self.size(digest)
        except NotFound:
            return False
        return True

    def size(self, digest: str) -> int:
        with s3_errors(str(self), digest):
            return int(self.client.head_object(**self.about(digest))["ContentLength"])

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
        upload(self, digest, source)
        return digest

    def batch(self) -> S3Batch:
        return S3Batch(self)

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
                body = self.client.get_object(**self.about(digest), Range=wanted)["Body"]
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
        prefix = self.place.key("sha256/")
        pages = self.client.get_paginator("list_objects_v2")
        with s3_errors(str(self)):
            for page in pages.paginate(Bucket=self.place.bucket, Prefix=prefix):
                names = (one["Key"].rpartition("/")[2] for one in page.get("Contents", ()))
                yield from (f"sha256:{name}" for name in names if is_hex(name))

    def remove(self, digest: str) -> int:
        try:
            size = self.size(digest)
        except NotFound:
            return 0
        with s3_errors(str(self), digest):
            self.client.delete_object(**self.about(digest))
        return size

    def set_aside(self, digest: str) -> None:
        about = self.about(digest)
        with s3_errors(str(self), digest):
            self.client.copy(
                CopySource=about,
                Bucket=self.place.bucket,
                Key=self.place.key(f"damaged/{hex_of(digest)}"),
            )
            self.client.delete_object(**about)

    def sweep(self, older_than_s: float = 24 * 3600.0) -> int:
        """Gives up uploads that were cut off long ago; returns how many."""
        from datetime import UTC, datetime, timedelta

        horizon = datetime.now(UTC) - timedelta(seconds=older_than_s)
        swept = 0
        pages = self.client.get_paginator("list_multipart_uploads")
        with s3_errors(str(self)):
            for page in pages.paginate(Bucket=self.place.bucket, Prefix=self.place.key("sha256/")):
                for one in page.get("Uploads", ()):
                    if one["Initiated"] < horizon:
                        self.client.abort_multipart_upload(
                            Bucket=self.place.bucket, Key=one["Key"], UploadId=one["UploadId"]
                        )
                        swept += 1
        return swept

    def presign(self, digest: str, seconds: int = 3600) -> str:
        """A URL that reads the blob until `seconds` from now. The reader checks the bytes."""
        with s3_errors(str(self), digest):
            url = self.client.generate_presigned_url(
                "get_object", Params=self.about(digest), ExpiresIn=seconds
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
                evidence=f"{self}/{self.key(digest)}: is {found}",
                hint="`policyctl verify` sets damaged files aside; then register them again",
            )
        return size
