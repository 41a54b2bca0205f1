"""Checkpoints in a bucket, fetched object by object, each from where its last fetch was cut.

What an earlier fetch left is believed only where the whole file has the object's checksum: its
sha256, or its tag where that is the MD5 of its bytes or of its parts. Otherwise (bytes that were
lost with the power, the tag of an encrypted object) it is fetched anew.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry.blobs.bucket import Place, connect, parse_url
from registry.blobs.hashing import CHUNK
from registry.blobs.s3_errors import SOURCE, s3_errors
from registry.blobs.transfer import Span, fetch_in_order
from registry.errors import Conflict, NotFound
from registry.sources import Fetched, Progress, choose, held
from registry.storage import disk_errors


@contextmanager
def fetch_bucket(
    source: str, cache: Path, exclude: tuple[str, ...], progress: Progress | None
) -> Iterator[Fetched]:
    place = parse_url(source)
    client: Any = connect(place, SOURCE)
    objects = _listed(client, place)
    if not objects:
        raise NotFound(
            "no checkpoint there",
            evidence=f"{place} holds no objects",
            hint="name the prefix that holds policy.safetensors and contract.json",
        )
    taken, left = choose(objects, exclude, str(place))
    # Another listing is another folder: bytes of an object that was replaced are never mixed.
    tags = "".join(f"{name}\0{objects[name]['ETag']}\0" for name in taken)
    folder = cache / hashlib.sha256(f"{source}\0{tags}".encode()).hexdigest()[:32]
    with held(folder):
        for name in taken:
            target = folder / name
            with disk_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
            _fetch(client, place, name, objects[name], target, progress)
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.relative_to(folder).as_posix() not in taken:
                path.unlink()  # of an --exclude that was not there before
        yield Fetched(folder, str(place), tuple(left))


def _listed(client: Any, place: Place) -> dict[str, dict[str, Any]]:
    """Objects below the prefix, by what follows it."""
    prefix = place.key("")
    found: dict[str, dict[str, Any]] = {}
    with s3_errors(str(place), use=SOURCE):
        pages = client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=place.bucket, Prefix=prefix):
            for one in page.get("Contents", ()):
                if not one["Key"].endswith("/"):
                    found[one["Key"][len(prefix) :]] = one
    return found


def _fetch(
    client: Any,
    place: Place,
    name: str,
    about: dict[str, Any],
    target: Path,
    progress: Progress | None,
) -> None:
    """The object's bytes, those that are there if they still are its own."""
    tell: Progress = progress or (lambda _: None)
    kept = _append(client, place, name, about, target, tell)
    if kept and not _is_object(client, place, name, about, target):
        with disk_errors(target):
            os.truncate(target, 0)
        tell(-about["Size"])
        _append(client, place, name, about, target, tell)


def _append(
    client: Any, place: Place, name: str, about: dict[str, Any], target: Path, tell: Progress
) -> int:
    """Fetches what is missing; how many bytes were there. The object must stay the one listed."""
    from botocore.exceptions import ClientError

    key = place.key(name)

    def read(_: str, start: int, length: int) -> Any:
        wanted = f"bytes={start}-{start + length - 1}"
        with s3_errors(str(place), key, SOURCE):
            try:
                answer = client.get_object(
                    Bucket=place.bucket, Key=key, Range=wanted, IfMatch=about["ETag"]
                )
                yield answer["Body"].read()
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("PreconditionFailed", "412"):
                    raise
                raise Conflict(
                    "the checkpoint changed while it was fetched",
                    evidence=f"{place}/{name}",
                    hint="register it when whatever writes it has ended",
                ) from None

    with disk_errors(target), target.open("ab") as stream:
        there = stream.tell()
        if there > about["Size"]:
            os.truncate(target, 0)
            there = 0
        tell(there)
        for _, data in fetch_in_order(read, [Span(key, there, about["Size"] - there)]):
            stream.write(data)
            stream.flush()
            tell(len(data))
    return there


def _is_object(client: Any, place: Place, name: str, about: dict[str, Any], target: Path) -> bool:
    """The file has the object's bytes; False too where nothing says so that can be computed."""
    from botocore.exceptions import ClientError

    whole = {"Bucket": place.bucket, "Key": place.key(name)}
    tag = str(about["ETag"]).strip('"')
    with s3_errors(str(place), name, SOURCE):
        try:
            if "-" in tag:
                size = int(client.head_object(**whole, PartNumber=1)["ContentLength"])
                return _tag_of_parts(target, size) == tag
            sha256 = client.head_object(**whole, ChecksumMode="ENABLED").get("ChecksumSHA256")
        except ClientError:  # of a server that knows neither; where it is worse, fetching says so
            return False
    with disk_errors(target), target.open("rb") as stream:
        if sha256 is not None:
            found = hashlib.file_digest(stream, "sha256").digest()
            return base64.b64encode(found).decode() == str(sha256)
        return hashlib.file_digest(stream, _md5).hexdigest() == tag


def _tag_of_parts(path: Path, size: int) -> str:
    """The tag of an object that was uploaded in parts of `size` bytes: the MD5 of their MD5s."""
    whole, count = _md5(), 0
    with disk_errors(path), path.open("rb") as stream:
        while data := stream.read(min(size, CHUNK)):
            part, rest = _md5(data), size - len(data)
            while rest and (data := stream.read(min(rest, CHUNK))):
                part.update(data)
                rest -= len(data)
            whole.update(part.digest())
            count += 1
    return f"{whole.hexdigest()}-{count}"


def _md5(data: bytes = b"") -> hashlib._Hash:
    return hashlib.md5(data, usedforsecurity=False)
