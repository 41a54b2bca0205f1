"""Checkpoints in a bucket, fetched object by object, each from where its last fetch was cut."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from registry.blobs.s3 import Place, connect, parse_url
from registry.blobs.s3_errors import s3_errors
from registry.blobs.transfer import Span, fetch_in_order
from registry.errors import Conflict, NotFound
from registry.sources import Fetched, Progress, choose
from registry.storage import disk_errors


def fetch_bucket(
    source: str, cache: Path, exclude: tuple[str, ...], progress: Progress | None
) -> Fetched:
    place = parse_url(source)
    client: Any = connect(place)
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
    for name in taken:
        target = folder / name
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(client, place, name, objects[name], target, progress)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in taken:
            path.unlink()  # of an --exclude that was not there before
    return Fetched(folder, str(place), tuple(left))


def _listed(client: Any, place: Place) -> dict[str, dict[str, Any]]:
    """Objects below the prefix, by what follows it."""
    prefix = place.key("")
    found: dict[str, dict[str, Any]] = {}
    with s3_errors(str(place)):
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
    """Appends what is missing; the object must stay the one that was listed."""
    from botocore.exceptions import ClientError

    key = place.key(name)

    def read(_: str, start: int, length: int) -> Any:
        wanted = f"bytes={start}-{start + length - 1}"
        with s3_errors(str(place), key):
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
        if progress is not None:
            progress(there)
        for _, data in fetch_in_order(read, [Span(key, there, about["Size"] - there)]):
            stream.write(data)
            stream.flush()
            if progress is not None:
                progress(len(data))
