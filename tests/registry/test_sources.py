"""Checkpoints from a bucket and from the hub: all of them, only them, and the very commit."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from checkpoints import noise, write_checkpoint
from hub import TOKEN, Hub, Repository, running

from registry.errors import (
    Conflict,
    Corrupt,
    NotAllowed,
    NotFound,
    Refused,
    ServiceFailed,
    UsageError,
)
from registry.scratch import SOURCES, sweep
from registry.sources import Fetched, choose, fetch, is_remote
from registry.sources.hub import parse_source

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from stores import Seaweed

REPO = "team/box-grasp"
COMMIT = Repository({}).commit


def files(folder: Path, more: int = 0) -> dict[str, bytes]:
    tensors = {"a": noise(100_000, 1), "b": noise(3_000_000, 2), "more": noise(more, 3)}
    made = write_checkpoint(folder, tensors)
    (made / "processor").mkdir(exist_ok=True)
    (made / "processor" / "stats.json").write_text("{}")
    return {
        path.relative_to(made).as_posix(): path.read_bytes()
        for path in made.rglob("*")
        if path.is_file()
    }


class Failed(Exception):  # noqa: N818
    """What was fetched could not be registered, so that it stays."""


def read(fetched: Fetched) -> dict[str, bytes]:
    return {
        path.relative_to(fetched.folder).as_posix(): path.read_bytes()
        for path in fetched.folder.rglob("*")
        if path.is_file()
    }


def get(source: str, cache: Path, *exclude: str) -> Fetched:
    with contextlib.suppress(Failed), fetch(source, cache, exclude) as fetched:
        raise Failed
    return fetched


# -- the hub ---------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


def test_what_is_registered_now_was_not_left(hub: Hub, tmp_path: Path) -> None:
    """Fetched long ago, refused, and now taken up again: gc may run beside it."""
    cache = tmp_path / "cache"
    hub.repositories[REPO] = Repository(files(tmp_path / "made"))
    folder = get(f"hf://{REPO}", cache / SOURCES).folder
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (1e9, 1e9))
    with fetch(f"hf://{REPO}", cache / SOURCES):
        assert sweep(cache) == 0
        assert folder.is_dir()


@pytest.mark.parametrize("revision", ["", "@main", "@v1.0", f"@{COMMIT}"])
def test_a_repository_is_fetched_at_its_commit(hub: Hub, tmp_path: Path, revision: str) -> None:
    there = files(tmp_path / "made")
    hub.repositories[REPO] = Repository(there | {".gitattributes": b"x"}, names=("main", "v1.0"))
    told: list[int] = []
    with fetch(f"hf://{REPO}{revision}", tmp_path / "cache", (), told.append) as fetched:
        assert read(fetched) == there
        assert fetched.origin == f"hf://{REPO}@{COMMIT}"
    assert sum(told) == sum(map(len, there.values()))
    downloads = [one for one in hub.requests if "/resolve/" in one]
    assert all(f"/resolve/{COMMIT}/" in one for one in downloads), "never by a branch's name"


def test_what_was_fetched_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    there = files(tmp_path / "made", more=22 << 20)
    hub.repositories[REPO] = Repository(there)
    hub.cut["policy.safetensors"] = 15 << 20
    with contextlib.suppress(ServiceFailed):
        get(f"hf://{REPO}", tmp_path / "cache")
    assert read(get(f"hf://{REPO}", tmp_path / "cache")) == there
    asked = hub.fetched("policy.safetensors")
    assert [one.rpartition(" ")[2] for one in asked[1:]] == ["bytes=10485760-"], "the rest only"
    get(f"hf://{REPO}", tmp_path / "cache")
    assert len(hub.fetched("policy.safetensors")) == 2
    assert len(hub.fetched("contract.json")) == 1


def test_what_was_registered_is_no_longer_kept(hub: Hub, tmp_path: Path) -> None:
    hub.repositories[REPO] = Repository(files(tmp_path / "made"))
    with fetch(f"hf://{REPO}", tmp_path / "cache") as fetched:
        assert fetched.folder.is_dir()
    assert not fetched.folder.exists()


def test_a_private_repository_takes_the_token_of_the_environment_alone(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_of_a_file")
    hub.repositories[REPO] = Repository(files(tmp_path / "made"), private=True)
    with pytest.raises((NotFound, NotAllowed)):
        get(f"hf://{REPO}", tmp_path / "cache")
    assert hub.tokens == set()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert read(get(f"hf://{REPO}", tmp_path / "cache"))
    assert hub.tokens == {TOKEN}


def test_bytes_that_are_not_the_hubs_are_corrupt(hub: Hub, tmp_path: Path) -> None:
    hub.repositories[REPO] = Repository(files(tmp_path / "made"))
    hub.bent = {"policy.safetensors"}
    with pytest.raises(Corrupt, match="not what the hub says"):
        get(f"hf://{REPO}", tmp_path / "cache")
    hub.bent = set()
    assert read(get(f"hf://{REPO}", tmp_path / "cache")) == files(tmp_path / "made")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "modeling.py", "../up.json", "a b.json"])
def test_what_a_checkpoint_may_not_hold_is_refused_by_name_and_not_fetched(
    hub: Hub, tmp_path: Path, name: str
) -> None:
    there = files(tmp_path / "made")
    hub.repositories[REPO] = Repository(there | {name: b"import os"})
    with pytest.raises(Refused) as refused:
        get(f"hf://{REPO}", tmp_path / "cache")
    assert name in refused.value.evidence
    assert not [one for one in hub.requests if "/resolve/" in one]
    fetched = get(f"hf://{REPO}", tmp_path / "cache", name)
    assert (read(fetched), fetched.excluded) == (there, (name,))


@pytest.mark.parametrize("source", [f"hf://{REPO}@nowhere", "hf://team/unknown"])
def test_what_is_not_there_is_not_found(hub: Hub, tmp_path: Path, source: str) -> None:
    hub.repositories[REPO] = Repository(files(tmp_path / "made"))
    with pytest.raises(NotFound, match="no such repository, revision or file"):
        get(source, tmp_path / "cache")


@pytest.mark.parametrize("source", ["hf://", "hf://one", "hf://a/b/c", "hf://a/b@", "hf://a b/c"])
def test_what_is_no_repository_is_a_usage_error(source: str) -> None:
    with pytest.raises(UsageError):
        parse_source(source)


def test_a_name_that_the_hub_does_not_allow_says_how_one_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a repository") as refused:
        get("hf://team/..box", tmp_path / "cache")
    assert refused.value.hint == "written hf://ORG/NAME@COMMIT"


def test_a_hub_that_is_not_reached_is_an_error_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(ServiceFailed, match="not reached"):
        get(f"hf://{REPO}", tmp_path / "cache")


# -- a bucket --------------------------------------------------------------------------------------


class Bucket:
    """A prefix of its own with objects."""

    def __init__(self, url: str) -> None:
        from registry.blobs.bucket import connect, parse_url

        self.url, self.place = url, parse_url(url)
        self.client: Any = connect(self.place)

    def put(self, objects: dict[str, bytes]) -> None:
        for name, content in objects.items():
            self.client.put_object(Bucket=self.place.bucket, Key=self.place.key(name), Body=content)

    def put_in_parts(self, name: str, content: bytes, size: int) -> None:
        about = {"Bucket": self.place.bucket, "Key": self.place.key(name)}
        upload = about | {"UploadId": self.client.create_multipart_upload(**about)["UploadId"]}
        parts: list[dict[str, Any]] = []
        for start in range(0, len(content), size):
            part = {"PartNumber": len(parts) + 1}
            sent = self.client.upload_part(**upload, **part, Body=content[start : start + size])
            parts.append(part | {"ETag": sent["ETag"]})
        self.client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})


@pytest.fixture
def bucket(seaweed: Seaweed, s3_account: None) -> Bucket:
    return Bucket(seaweed.url())


def test_a_prefix_is_fetched_whole(bucket: Bucket, tmp_path: Path) -> None:
    there = files(tmp_path / "made")
    bucket.put(there)
    fetched = get(bucket.url, tmp_path / "cache")
    assert read(fetched) == there
    assert fetched.origin == str(bucket.place)
    bucket.put({"policy.safetensors": there["policy.safetensors"] + b"more"})
    assert read(get(bucket.url, tmp_path / "cache"))["policy.safetensors"].endswith(b"more")


def test_a_fetch_that_was_cut_goes_on(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry.sources import bucket as module

    there = files(tmp_path / "made")
    bucket.put(there)
    spans: list[Any] = []
    whole = module.fetch_in_order

    def cut(fetch: Any, wanted: Any) -> Iterator[Any]:
        spans.extend(wanted)
        for n, got in enumerate(whole(fetch, wanted)):
            if n == 2:
                raise ServiceFailed("the cable")
            yield got

    monkeypatch.setattr(module, "fetch_in_order", cut)
    with pytest.raises(ServiceFailed):
        get(bucket.url, tmp_path / "cache")
    spans.clear()
    assert read(get(bucket.url, tmp_path / "cache")) == there
    starts = {span.sha256.rpartition("/")[2]: span.start for span in spans}
    assert starts["policy.safetensors"] == 2 << 20


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of objects of which bytes were asked for."""
    from registry.sources import bucket as module

    names: list[str] = []
    whole = module.fetch_in_order

    def note(fetch: Any, wanted: Any) -> Iterator[Any]:
        names.extend(span.sha256.rpartition("/")[2] for span in wanted if span.length)
        return whole(fetch, wanted)

    monkeypatch.setattr(module, "fetch_in_order", note)
    return names


@pytest.mark.parametrize("parts", [False, True])
def test_what_was_kept_is_taken_only_where_it_is_the_objects_bytes(
    bucket: Bucket, tmp_path: Path, asked: list[str], parts: bool
) -> None:
    """Zeros, as a power loss leaves them; also of an object whose tag is of its parts."""
    there = files(tmp_path / "made", more=6 << 20)
    bucket.put(there)
    if parts:
        bucket.put_in_parts("policy.safetensors", there["policy.safetensors"], 5 << 20)
    weights = get(bucket.url, tmp_path / "cache").folder / "policy.safetensors"
    asked.clear()
    assert read(get(bucket.url, tmp_path / "cache")) == there
    assert not asked, "all of it was there"
    with weights.open("r+b") as stream:
        stream.seek(1 << 20)
        stream.write(bytes(4096))
    told: list[int] = []
    with fetch(bucket.url, tmp_path / "cache", (), told.append) as fetched:
        assert read(fetched) == there
    assert asked == ["policy.safetensors"]
    assert sum(told) == sum(map(len, there.values()))


def test_one_registration_at_a_time_has_what_is_fetched(bucket: Bucket, tmp_path: Path) -> None:
    there = files(tmp_path / "made")
    bucket.put(there)
    with fetch(bucket.url, tmp_path / "cache") as first:
        with pytest.raises(Refused, match="another process") as refused:
            get(bucket.url, tmp_path / "cache")
        assert read(first) == there
    assert refused.value.exit_status == 5
    assert read(get(bucket.url, tmp_path / "cache")) == there


def test_an_object_that_changes_meanwhile_is_a_conflict(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry.sources import bucket as module

    bucket.put(files(tmp_path / "made"))
    listed = module._listed

    def then_changed(client: Any, place: Any) -> Any:
        answer = listed(client, place)
        bucket.put({"policy.safetensors": noise(3_100_000, 9)})
        return answer

    monkeypatch.setattr(module, "_listed", then_changed)
    with pytest.raises(Conflict, match="changed while it was fetched"):
        get(bucket.url, tmp_path / "cache")


def test_what_a_bucket_refuses_is_mended_where_the_source_is_named(
    bucket: Bucket, tmp_path: Path
) -> None:
    """The store's advice, `store:` of registry.yaml, would mend nothing here."""
    endpoint = bucket.place.endpoint
    with pytest.raises(NotFound, match="no such bucket") as none:
        get(f"s3://no-such-bucket/x?endpoint={endpoint}", tmp_path / "cache")
    assert "check the bucket's name" in none.value.hint
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ServiceFailed, match="the source was not reached") as silent:
        get(f"s3://vault/x?endpoint=http://127.0.0.1:{port}", tmp_path / "cache")
    assert "endpoint=URL of the source" in silent.value.hint


def test_an_object_that_is_deleted_meanwhile_is_one_of_the_checkpoint(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry.sources import bucket as module

    bucket.put(files(tmp_path / "made"))
    listed = module._listed

    def then_deleted(client: Any, place: Any) -> Any:
        answer = listed(client, place)
        client.delete_object(Bucket=place.bucket, Key=place.key("policy.safetensors"))
        return answer

    monkeypatch.setattr(module, "_listed", then_deleted)
    with pytest.raises(NotFound, match="a file of the checkpoint is missing") as gone:
        get(bucket.url, tmp_path / "cache")
    assert "run the same command again" in gone.value.hint


def test_an_empty_prefix_and_a_foreign_file_are_refused(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no checkpoint"):
        get(bucket.url, tmp_path / "cache")
    bucket.put({"weights.pkl": b"x"})
    with pytest.raises(Refused, match="may not"):
        get(bucket.url, tmp_path / "cache")


# -- both ------------------------------------------------------------------------------------------


def test_more_files_than_a_checkpoint_has_are_refused() -> None:
    with pytest.raises(Refused, match="more than a checkpoint"):
        choose((f"{n}.json" for n in range(5000)), (), "there")


def test_a_folder_is_what_it_is(tmp_path: Path) -> None:
    assert not is_remote("checkpoints/hf")
    assert get(str(tmp_path), tmp_path / "cache") == Fetched(tmp_path, "")
