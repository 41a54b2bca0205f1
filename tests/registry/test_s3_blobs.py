"""What is particular to blobs in a bucket: parts, broken connections, presigned URLs."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError
from checkpoints import noise, write_checkpoint
from record import POLICY, FakeClock
from stores import Seaweed, get

from registry.backends import Settings, open_blobs, write_settings
from registry.blobs import s3_upload
from registry.blobs.folder import FolderBlobs
from registry.blobs.hashing import Budget, FilePart, Held
from registry.blobs.s3 import S3Blobs
from registry.errors import (
    ConfigError,
    Conflict,
    ServiceFailed,
)
from registry.home import Home
from registry.ports import Source
from registry.record.actors import Actor
from registry.service import Registry
from registry.versions import digest_bytes

pytestmark = pytest.mark.slow
PART = 5 << 20  # the least that S3 takes as a part


@pytest.fixture
def blobs(seaweed: Seaweed, s3_account: None) -> S3Blobs:
    return S3Blobs(seaweed.url())


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_upload, "PART", PART)


@pytest.fixture
def large(tmp_path: Path) -> tuple[str, FilePart]:
    """Three parts and a bit."""
    path = tmp_path / "large"
    content = noise(3 * PART + 1000, 9)
    path.write_bytes(content)
    return digest_bytes(content), FilePart(path, 0, len(content))


def sent_parts(blobs: S3Blobs) -> list[int]:
    """Part numbers as they are sent from now on."""
    numbers: list[int] = []

    def note(params: dict[str, Any], **_: object) -> None:
        numbers.append(params["PartNumber"])

    blobs.bucket.client.meta.events.register("provide-client-params.s3.UploadPart", note)
    return numbers


def put(blobs: S3Blobs, digest: str, source: Source) -> int:
    with blobs.batch() as batch:
        batch.add(digest, source)
    return batch.written


def test_a_large_blob_goes_up_in_parts(
    blobs: S3Blobs, small_parts: None, large: tuple[str, FilePart]
) -> None:
    digest, source = large
    numbers = sent_parts(blobs)
    assert put(blobs, digest, source) == source.size
    assert sorted(numbers) == [1, 2, 3, 4]
    assert blobs.check(digest) == source.size
    assert put(blobs, digest, source) == 0
    assert len(numbers) == 4


def test_an_upload_that_was_cut_off_goes_on(
    blobs: S3Blobs, small_parts: None, large: tuple[str, FilePart]
) -> None:
    digest, source = large

    def cut(params: dict[str, Any], **_: object) -> None:
        if params["PartNumber"] == 3:
            raise ConnectionClosedError(endpoint_url="cut")

    blobs.bucket.client.meta.events.register("provide-client-params.s3.UploadPart", cut)
    with pytest.raises(ServiceFailed, match="not reached"):
        put(blobs, digest, source)
    assert not blobs.has(digest)
    again = S3Blobs(f"{blobs}?endpoint={blobs.bucket.place.endpoint}")
    numbers = sent_parts(again)
    assert put(again, digest, source) < source.size
    assert 3 in numbers
    assert not {1, 2} & set(numbers), "parts that are there are not sent again"
    assert again.check(digest) == source.size


def test_a_part_of_other_bytes_is_sent_again(
    blobs: S3Blobs, small_parts: None, large: tuple[str, FilePart]
) -> None:
    digest, source = large
    made = blobs.bucket.client.create_multipart_upload(
        **blobs.bucket.about(digest), ChecksumAlgorithm="SHA256"
    )
    blobs.bucket.client.upload_part(
        **blobs.bucket.about(digest), UploadId=made["UploadId"], PartNumber=1, Body=noise(PART, 1)
    )
    assert put(blobs, digest, source) == source.size
    assert blobs.check(digest) == source.size


def test_two_who_upload_the_same_large_blob_both_succeed(
    blobs: S3Blobs, small_parts: None, large: tuple[str, FilePart]
) -> None:
    digest, source = large
    others = [S3Blobs(f"{blobs}?endpoint={blobs.bucket.place.endpoint}") for _ in range(3)]
    errors: list[BaseException] = []

    def run(store: S3Blobs) -> None:
        try:
            put(store, digest, source)
        except BaseException as error:  # noqa: BLE001 - asserted on below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(store,)) for store in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert blobs.check(digest) == source.size


def test_uploads_cut_off_long_ago_are_given_up(
    blobs: S3Blobs, small_parts: None, large: tuple[str, FilePart]
) -> None:
    blobs.bucket.client.create_multipart_upload(**blobs.bucket.about(large[0]))
    assert blobs.sweep() == 0
    time.sleep(1.1)  # the server's clock counts whole seconds
    assert blobs.sweep(older_than_s=0) == 1
    assert blobs.sweep(older_than_s=0) == 0


def test_every_upload_carries_its_checksum_and_is_created_once(
    blobs: S3Blobs, small_parts: None, large: tuple[str, FilePart]
) -> None:
    seen: dict[str, list[dict[str, Any]]] = {}

    def note(params: dict[str, Any], model: Any, **_: object) -> None:
        seen.setdefault(model.name, []).append(params)

    blobs.bucket.client.meta.events.register("provide-client-params.s3", note)
    blobs.put(b"small")
    put(blobs, *large)
    assert all(one["ChecksumSHA256"] for one in seen["PutObject"] + seen["UploadPart"])
    assert [one["IfNoneMatch"] for one in seen["PutObject"]] == ["*"]
    assert [one["IfNoneMatch"] for one in seen["CompleteMultipartUpload"]] == ["*"]


def answers(blobs: S3Blobs, operation: str, codes: list[str]) -> None:
    """What the server says to the next requests of a kind; SeaweedFS does not say it of itself."""

    def refuse(**_: object) -> None:
        if codes:
            raise ClientError({"Error": {"Code": codes.pop(0), "Message": "said so"}}, operation)

    blobs.bucket.client.meta.events.register(f"before-call.s3.{operation}", refuse)


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_upload, "PAUSE_S", 0)


@dataclass(frozen=True)
class Unreadable:
    """A Source whose file is gone, or cut short."""

    size: int
    error: OSError | None
    fixed = False

    def read_at(self, start: int, length: int) -> bytes:
        if self.error is not None:
            raise self.error
        return b""

    def close(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize("error", [FileNotFoundError(2, "gone"), None])
def test_uploads_that_cannot_be_read_leave_room_for_the_next(
    blobs: S3Blobs,
    small_parts: None,
    large: tuple[str, FilePart],
    monkeypatch: pytest.MonkeyPatch,
    error: OSError | None,
) -> None:
    """All of it: one of the whole limit's size would wait for ever for what is not given back."""
    limit = Budget(3 * PART)
    monkeypatch.setattr(s3_upload, "IN_FLIGHT", limit)
    for size in (PART, PART + 1, 3 * PART):
        with pytest.raises((FileNotFoundError, Conflict)):
            put(blobs, large[0], Unreadable(size, error))
    assert limit._used == 0
    assert put(blobs, *large) == large[1].size


BUSY, EXISTS = "ConditionalRequestConflict", "PreconditionFailed"


@pytest.mark.parametrize("codes", [[BUSY], [BUSY, BUSY], [EXISTS], [EXISTS, BUSY]])
def test_what_the_store_was_too_busy_to_take_is_sent_again(
    blobs: S3Blobs, small_parts: None, no_pause: None, large: tuple[str, FilePart], codes: list[str]
) -> None:
    """Neither 409 nor 412 says that the bytes are there: only the store that shows them does."""
    answers(blobs, "PutObject", list(codes))
    answers(blobs, "CompleteMultipartUpload", list(codes))
    assert blobs.check(blobs.put(b"small")) == 5
    assert put(blobs, *large) >= large[1].size
    assert blobs.check(large[0]) == large[1].size


@pytest.mark.parametrize("code", [BUSY, EXISTS])
def test_what_the_store_never_takes_is_an_error(
    blobs: S3Blobs, small_parts: None, no_pause: None, large: tuple[str, FilePart], code: str
) -> None:
    answers(blobs, "PutObject", [code] * 100)
    answers(blobs, "CompleteMultipartUpload", [code] * 100)
    with pytest.raises(ServiceFailed, match="neither takes a file nor has it"):
        blobs.put(b"small")
    with pytest.raises(ServiceFailed, match="neither takes a file nor has it"):
        put(blobs, *large)
    assert not blobs.has(large[0])


def test_bytes_that_changed_on_the_way_are_refused_by_the_server(blobs: S3Blobs) -> None:
    """So that a good name never gets bad bytes, whatever the line does."""
    with pytest.raises(ClientError, match="BadDigest"):
        blobs.bucket.client.put_object(
            **blobs.bucket.about(digest_bytes(b"sent")),
            Body=b"came",
            ChecksumSHA256=s3_upload._b64(hashlib.sha256(b"sent").digest()),
        )
    assert not blobs.has(digest_bytes(b"sent"))


class CutProxy:
    """Passes TCP on, and cuts each connection after so many bytes of an answer."""

    def __init__(self, port: int, limits: list[int]) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._to, self._limits = port, limits
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            limit = self._limits.pop(0) if self._limits else 1 << 40
            server = socket.create_connection(("127.0.0.1", self._to))
            threading.Thread(target=_pass, args=(client, server, 1 << 40), daemon=True).start()
            threading.Thread(target=_pass, args=(server, client, limit), daemon=True).start()

    def close(self) -> None:
        self._server.close()


def _pass(source: socket.socket, target: socket.socket, limit: int) -> None:
    with contextlib.suppress(OSError):
        while limit > 0 and (data := source.recv(min(65536, limit))):
            target.sendall(data)
            limit -= len(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


@pytest.fixture
def proxied(blobs: S3Blobs, s3_account: None) -> Iterator[Callable[[list[int]], S3Blobs]]:
    """The same store behind a line that is cut."""
    proxies: list[CutProxy] = []

    def make(limits: list[int]) -> S3Blobs:
        assert blobs.bucket.place.endpoint is not None
        proxies.append(CutProxy(int(blobs.bucket.place.endpoint.rpartition(":")[2]), limits))
        return S3Blobs(f"{blobs}?endpoint=http://127.0.0.1:{proxies[-1].port}")

    yield make
    for proxy in proxies:
        proxy.close()


def test_a_read_that_breaks_off_is_taken_up_where_it_broke(
    blobs: S3Blobs, proxied: Callable[[list[int]], S3Blobs]
) -> None:
    content = noise(5_000_000, 2)
    digest = blobs.put(content)
    behind = proxied([2_000_000, 1_500_000])
    assert b"".join(behind.stream(digest, 0, len(content))) == content


def test_a_line_that_breaks_again_and_again_is_an_error(
    blobs: S3Blobs, proxied: Callable[[list[int]], S3Blobs]
) -> None:
    digest = blobs.put(noise(3_000_000, 2))
    behind = proxied([600] * 50)
    with pytest.raises(ServiceFailed, match="not reached"):
        list(behind.stream(digest, 0, 3_000_000))


# -- reading without credentials -------------------------------------------------------------------


def test_a_presigned_url_reads_one_blob_until_it_expires(blobs: S3Blobs) -> None:
    digest = blobs.put(b"for a robot")
    url = blobs.presign(digest, seconds=1)
    assert get(url) == b"for a robot"
    with pytest.raises(urllib.error.HTTPError):
        get(url.replace(digest[7:], "0" * 64))
    deadline = time.monotonic() + 20
    while (status := status_of(url)) == 200 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert status == 403


def status_of(url: str) -> int:
    try:
        get(url)
    except urllib.error.HTTPError as refused:
        return refused.code
    return 200


# -- a registry on a bucket ------------------------------------------------------------------------


def test_a_registry_keeps_its_versions_in_a_bucket(
    seaweed: Seaweed, s3_account: None, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    write_settings(home, Settings(store=seaweed.url()))
    tensors = {"a": noise(100_000, 1), "b": noise(3_000_000, 2)}
    folder = write_checkpoint(tmp_path / "c", tensors)
    with Registry.open(home, Actor("tester"), clock=FakeClock()) as registry:
        done = registry.register(folder, POLICY)
        again = registry.register(folder, POLICY)
        told: list[tuple[int, int]] = []
        out = registry.materialize(
            done.version.ref, tmp_path / "out", lambda *come: told.append(come)
        )
        size = registry.manifest(done.version.ref).size
        assert (told[0], told[-1]) == ((0, size), (size, size))
        assert registry.verify(done.version.ref) == []
        assert isinstance(registry.blobs, S3Blobs)
    assert (done.created, again.created, again.written) == (True, False, 0)
    assert (out / "policy.safetensors").read_bytes() == (folder / "policy.safetensors").read_bytes()
    assert list((home.root / "blobs").iterdir()) == []
    kept = FolderBlobs(home.cache / "blobs")
    assert all(kept.has(digest_bytes(content)) for content in tensors.values())


@pytest.mark.parametrize("line", ["store: ftp://x", "store: relative", "mirror: s3://a:b@c/d"])
def test_a_store_that_is_none_is_said_with_its_line(tmp_path: Path, line: str) -> None:
    home = Home(tmp_path)
    home.settings.write_text(f"# where\n{line}\n")
    with pytest.raises(ConfigError, match="store") as refused:
        open_blobs(home)
    assert "registry.yaml:2" in refused.value.where


def test_blobs_survive_a_kill_of_their_server(tmp_path: Path, s3_account: None) -> None:
    (tmp_path / "weed").mkdir()
    server = Seaweed(tmp_path / "weed")
    server.start()
    try:
        blobs = S3Blobs(server.url())
        contents = [noise(10_000, i) for i in range(20)]
        with blobs.batch() as batch:
            for content in contents:
                batch.add(digest_bytes(content), Held([memoryview(content)]))
        server.kill()
        with pytest.raises(ServiceFailed, match="not reached"):
            blobs.read(digest_bytes(contents[0]))
        server.start()
        assert [blobs.read(digest_bytes(content)) for content in contents] == contents
    finally:
        server.kill()
