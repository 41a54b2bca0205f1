"""One contract for every store: whole or not at all, created once, checked on every read."""

import errno
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from checkpoints import noise
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.blobs.folder import FolderBlobs
from registry.blobs.hashing import FilePart, Held
from registry.errors import Conflict, Corrupt, NotFound, ServiceFailed, UsageError
from registry.ports import BlobStore
from registry.versions import digest_bytes

if TYPE_CHECKING:
    from stores import Seaweed


ABSENT = "sha256:" + "0" * 64


class Bench(Protocol):
    """A store, and what its own methods would never do."""

    blobs: BlobStore

    def spoil(self, digest: str, content: bytes) -> None:
        """Puts other bytes under a digest."""
        ...

    def listed(self) -> list[str]:
        """Every name in the store, finished or not."""
        ...


class FolderBench:
    def __init__(self, folder: Path) -> None:
        self.blobs = FolderBlobs(folder)

    def spoil(self, digest: str, content: bytes) -> None:
        path = self.blobs.path(digest)
        path.chmod(0o644)
        path.write_bytes(content)

    def listed(self) -> list[str]:
        return [path.name for path in self.blobs.root.rglob("*") if path.is_file()]


class S3Bench:
    def __init__(self, url: str) -> None:
        from registry.blobs.s3 import S3Blobs

        self.blobs: S3Blobs = S3Blobs(url)

    def spoil(self, digest: str, content: bytes) -> None:
        self.blobs.bucket.client.put_object(**self.blobs.bucket.about(digest), Body=content)

    def listed(self) -> list[str]:
        place = self.blobs.bucket.place
        found = self.blobs.bucket.client.list_objects_v2(
            Bucket=place.bucket, Prefix=f"{place.prefix}/"
        )
        return [one["Key"].rpartition("/")[2] for one in found.get("Contents", ())]


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    if request.param == "folder":
        yield FolderBench(tmp_path / "blobs")
        return
    server: Seaweed = request.getfixturevalue("seaweed")
    request.getfixturevalue("s3_account")
    yield S3Bench(server.url())


@pytest.fixture
def blobs(bench: Bench) -> BlobStore:
    return bench.blobs


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=3000))
def test_what_was_put_is_always_read_back_under_its_digest(
    blobs: BlobStore, content: bytes
) -> None:
    digest = blobs.put(content)
    assert digest == digest_bytes(content)
    assert blobs.read(digest) == content
    assert blobs.put(io.BytesIO(content)) == digest
    assert (blobs.has(digest), blobs.size(digest)) == (True, len(content))
    assert blobs.check(digest) == len(content)


def test_the_same_bytes_are_there_once(bench: Bench) -> None:
    digest = bench.blobs.put(b"weights")
    bench.blobs.put(io.BytesIO(b"weights"))
    with bench.blobs.batch() as batch:
        batch.add(digest, Held([memoryview(b"weights")]))
    assert batch.written == 0
    assert bench.listed() == [digest.removeprefix("sha256:")]
    assert list(bench.blobs.digests()) == [digest]


def test_sixteen_writers_of_the_same_bytes_leave_one_blob(bench: Bench) -> None:
    content = os.urandom(200_000)
    with ThreadPoolExecutor(16) as pool:
        digests = set(pool.map(lambda _: bench.blobs.put(content), range(16)))
    assert digests == {digest_bytes(content)}
    assert bench.listed() == [digest_bytes(content).removeprefix("sha256:")]
    assert bench.blobs.read(digest_bytes(content)) == content


def test_a_batch_stores_what_is_missing_and_nothing_twice(bench: Bench, tmp_path: Path) -> None:
    contents = [noise(size, size) for size in (0, 1, 1000, 2_000_000)]
    bench.blobs.put(contents[2])
    path = tmp_path / "all"
    path.write_bytes(b"".join(contents))
    with bench.blobs.batch() as batch:
        begin = 0
        for content in contents:
            for _ in range(2):
                batch.add(digest_bytes(content), FilePart(path, begin, len(content)))
            begin += len(content)
    assert batch.written == 2_000_001
    assert len(bench.listed()) == 4
    assert [bench.blobs.read(digest_bytes(content)) for content in contents] == contents


def test_a_batch_keeps_nothing_under_the_wrong_name(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(noise(3_000_000, 1))

    def wrong() -> None:
        with bench.blobs.batch() as batch:
            batch.add(digest_bytes(b"something else"), FilePart(path, 0, 3_000_000))

    with pytest.raises(Conflict, match="changed"):
        wrong()
    assert bench.listed() == []


@pytest.mark.parametrize("size", [1000, 20_000_000])
def test_a_file_that_is_gone_before_its_turn_ends_the_batch(
    bench: Bench, tmp_path: Path, size: int
) -> None:
    path = tmp_path / "file"

    def gone() -> None:
        with bench.blobs.batch() as batch:
            batch.add(digest_bytes(noise(size, 1)), FilePart(path, 0, size))

    with pytest.raises(Conflict, match="no longer there") as ended:
        gone()
    assert str(path) in ended.value.evidence
    assert bench.listed() == []


@pytest.mark.parametrize("size", [1000, 20_000_000])
def test_a_file_whose_disk_fails_ends_the_batch(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(noise(size, 1))

    def fails(handle: int, length: int, position: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def read() -> None:
        with bench.blobs.batch() as batch:
            batch.add(digest_bytes(noise(size, 1)), FilePart(path, 0, size))

    monkeypatch.setattr(os, "pread", fails)
    with pytest.raises(ServiceFailed, match="cannot be read"):
        read()
    monkeypatch.undo()
    assert bench.listed() == []


@pytest.mark.parametrize("span", [(0, None), (0, 0), (5, None), (1_999_990, 20), (7, 1_500_000)])
def test_a_stream_begins_and_ends_where_it_is_told(
    blobs: BlobStore, span: tuple[int, int | None]
) -> None:
    start, length = span
    content = noise(2_000_000, 3)
    digest = blobs.put(content)
    assert b"".join(blobs.stream(digest, start, length)) == content[start:][:length]


@pytest.mark.parametrize("damage", ["flip", "cut", "grow"])
def test_damaged_bytes_are_never_returned(bench: Bench, tmp_path: Path, damage: str) -> None:
    content = b"policy" * 1000
    digest = bench.blobs.put(content)
    bad = {"flip": b"P" + content[1:], "cut": content[:-1], "grow": content + b"."}[damage]
    bench.spoil(digest, bad)
    for read in (bench.blobs.read, bench.blobs.check):
        with pytest.raises(Corrupt) as refused:
            read(digest)
        assert digest.removeprefix("sha256:") in refused.value.evidence
    target = tmp_path / "out" / "policy"
    with pytest.raises(Corrupt):
        bench.blobs.copy(digest, target)
    assert not list(target.parent.iterdir())


def test_what_is_set_aside_makes_room_for_the_right_bytes(bench: Bench) -> None:
    digest = bench.blobs.put(b"policy")
    bench.spoil(digest, b"pol1cy")
    bench.blobs.set_aside(digest)
    assert not bench.blobs.has(digest)
    assert len(bench.listed()) == 1, "kept for a look"
    with bench.blobs.batch() as batch:
        batch.add(digest, Held([memoryview(b"policy")]))
    assert bench.blobs.read(digest) == b"policy"
    assert list(bench.blobs.digests()) == [digest]


def test_what_somebody_else_has_set_aside_is_no_error(blobs: BlobStore) -> None:
    digest = blobs.put(b"policy")
    blobs.set_aside(ABSENT)
    blobs.set_aside(digest)
    blobs.set_aside(digest)
    assert not blobs.has(digest)


def test_copies_are_whole_and_apart_from_the_store(blobs: BlobStore, tmp_path: Path) -> None:
    digest = blobs.put(b"weights")
    blobs.copy(digest, tmp_path / "a" / "weights")
    (tmp_path / "a" / "weights").write_bytes(b"scribbled over")
    assert blobs.read(digest) == b"weights"


def test_what_is_removed_is_gone_and_only_that(blobs: BlobStore) -> None:
    digest, other = blobs.put(b"one"), blobs.put(b"another")
    assert (blobs.remove(digest), blobs.remove(digest)) == (3, 0)
    assert not blobs.has(digest)
    assert list(blobs.digests()) == [other]


def test_a_missing_blob_is_not_found(blobs: BlobStore, tmp_path: Path) -> None:
    assert not blobs.has(ABSENT)
    for ask in (blobs.read, blobs.check, blobs.size, lambda d: list(blobs.stream(d))):
        with pytest.raises(NotFound):
            ask(ABSENT)
    with pytest.raises(NotFound):
        blobs.copy(ABSENT, tmp_path / "x")


@pytest.mark.parametrize(
    "name", ["sha256:../../etc/passwd", "sha256:00", "md5:" + "0" * 32, "../x"]
)
def test_a_wrong_name_is_refused(blobs: BlobStore, name: str) -> None:
    for ask in (blobs.read, blobs.has, blobs.remove, blobs.set_aside):
        with pytest.raises(UsageError):
            ask(name)
