"""What can be wrong with a store in a bucket: who asks, where it is, what its server says."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from stores import Seaweed

from registry.blobs.bucket import connect, parse_url
from registry.blobs.s3 import S3Blobs
from registry.errors import (
    Corrupt,
    NotAllowed,
    NotFound,
    ServiceFailed,
    UsageError,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def blobs(seaweed: Seaweed, s3_account: None) -> S3Blobs:
    return S3Blobs(seaweed.url())


def test_a_damaged_object_is_named_as_its_bucket_knows_it(blobs: S3Blobs) -> None:
    digest = blobs.put(b"policy")
    about = blobs.bucket.about(digest)
    blobs.bucket.client.put_object(**about, Body=b"pol1cy")
    with pytest.raises(Corrupt) as found:
        blobs.read(digest)
    assert f"s3://{about['Bucket']}/{about['Key']}:" in found.value.evidence


def test_wrong_credentials_are_named_as_such(
    seaweed: Seaweed, s3_account: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("AWS_SECRET_ACCESS_KEY", "wrong"), ("AWS_ACCESS_KEY_ID", "nobody")):
        monkeypatch.setenv(name, value)
        store = S3Blobs(seaweed.url())
        with pytest.raises(NotAllowed, match="refuses these credentials"):
            store.put(b"x")
        with pytest.raises(NotAllowed, match="refuses these credentials"):
            store.has("sha256:" + "0" * 64)
        with pytest.raises(NotAllowed, match="refuses these credentials"):
            store.reach()


def test_no_credentials_are_named_as_such(
    seaweed: Seaweed, s3_account: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(NotAllowed, match="no credentials"):
        S3Blobs(seaweed.url()).put(b"x")


def test_a_bucket_that_is_not_there_is_not_found(seaweed: Seaweed, s3_account: None) -> None:
    store = S3Blobs(f"s3://no-such-bucket/x?endpoint={seaweed.endpoint}")
    with pytest.raises(NotFound, match="no such bucket"):
        store.reach()


def test_a_store_that_is_not_reached_is_an_error_of_the_service(
    s3_account: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    store = S3Blobs(f"s3://vault/x?endpoint=http://127.0.0.1:{port}")
    with pytest.raises(ServiceFailed, match="not reached") as failed:
        store.put(b"x")
    assert failed.value.exit_status == 9


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("RequestTimeTooSkewed", ServiceFailed, "clock is wrong"),
        ("QuotaExceeded", ServiceFailed, "the store is full"),
        ("InternalError", ServiceFailed, "the store failed"),
        ("ExpiredToken", NotAllowed, "credentials"),
    ],
)
def test_what_a_server_refuses_is_typed(
    blobs: S3Blobs, code: str, kind: type[Exception], words: str
) -> None:
    """Answers that SeaweedFS does not give, put in its mouth."""

    def refuse(**_: object) -> None:
        raise ClientError({"Error": {"Code": code, "Message": "said so"}}, "PutObject")

    blobs.bucket.client.meta.events.register("before-call.s3.PutObject", refuse)
    with pytest.raises(kind, match=words):
        blobs.put(b"x")


@pytest.mark.parametrize(
    "url",
    [
        "http://x/y", "s3:///x", "s3://b/p?secret=1", "s3://key:secret@bucket/p", "bucket",
        "s3://[/c", "s3://key:secret@[/c", "s3://b/p?endpoint=http://[::1",
        "s3://b/p?endpoint=foo", "s3://b/p?endpoint=h:9000", "s3://b/p?endpoint=http://",
        "s3://b/p?endpoint=http://h:99999", "s3://b/p?endpoint=http://key:secret@h:port",
    ],
)  # fmt: skip
def test_a_url_that_is_no_store_is_refused_and_a_secret_in_it_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_url(url)
    assert "key:secret" not in str(refused.value)


@pytest.mark.parametrize("options", ["endpoint=http://a b", "region=no region"])
def test_a_host_or_region_that_can_be_none_is_refused(options: str) -> None:
    with pytest.raises(UsageError, match="not a store"):
        connect(parse_url(f"s3://b/p?{options}"))


def test_a_url_says_where() -> None:
    place = parse_url("s3://robot-policies/a/b/?endpoint=http://h:1&region=eu")
    assert (place.bucket, place.prefix, place.endpoint, place.region) == (
        "robot-policies", "a/b", "http://h:1", "eu"
    )  # fmt: skip
    assert str(place) == "s3://robot-policies/a/b"
