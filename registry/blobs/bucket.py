"""A bucket that holds blobs: its URL, its client, and which object a blob is.

    s3://BUCKET/PREFIX[?endpoint=http://host:port][&region=NAME]

Credentials are AWS's usual ones (environment, profile, role), never part of the URL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from registry.blobs.hashing import hex_of
from registry.blobs.s3_errors import STORE, BucketUse, s3_errors
from registry.errors import NotFound, UsageError

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
    shown = re.sub(r"[^/=]+@", "…@", url)  # a secret in it is not repeated
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        server = urlsplit(options.get("endpoint", "https://aws"))
        is_server = server.scheme in {"http", "https"} and server.hostname and server.port != 0
    except ValueError:  # a bracket that is not closed, a port that is none
        raise UsageError(f"not a store: {shown!r}", hint=HINT) from None
    if parts.scheme != "s3" or not parts.hostname or options.keys() - {"endpoint", "region"}:
        raise UsageError(f"not a store: {shown!r}", hint=HINT)
    if not is_server:
        raise UsageError(
            f"not a store: {shown!r}",
            evidence="its endpoint is not written http://HOST:PORT or https://HOST",
            hint=HINT,
        )
    if "@" in parts.netloc:
        raise UsageError(
            "credentials do not belong into a store's URL",
            evidence=f"s3://…@{parts.hostname}",
            hint="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role",
        )
    prefix = parts.path.strip("/")
    return Place(parts.netloc, prefix, options.get("endpoint"), options.get("region"))


def connect(place: Place, use: BucketUse = STORE) -> BaseClient:
    """A client whose retries, time limits and signatures are ours. Raises UsageError, and what
    `s3_errors` does."""
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
    with s3_errors(str(place), use=use):
        try:
            return boto3.session.Session().client(
                "s3", endpoint_url=place.endpoint, region_name=place.region, config=config
            )
        except ValueError as error:  # a host's or region's name that is none
            raise UsageError(f"not a store: {place}", evidence=str(error), hint=HINT) from error


class Bucket:
    """Where a store's objects are: `<prefix>/sha256/ab/abcd…`."""

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

    def all(self) -> dict[str, str]:
        """The arguments that list every blob's object."""
        return {"Bucket": self.place.bucket, "Prefix": self.place.key("sha256/")}

    def has(self, digest: str) -> bool:
        try:
            self.size(digest)
        except NotFound:
            return False
        return True

    def size(self, digest: str) -> int:
        with s3_errors(str(self), digest):
            return int(self.client.head_object(**self.about(digest))["ContentLength"])
