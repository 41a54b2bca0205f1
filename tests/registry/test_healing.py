"""`verify --all`: each blob once, damage named, and healed from a second store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpoints import noise, write_checkpoint
from record import POLICY, SIM, FakeClock, Record

import registry.record.versions as versions_module
from registry.backends import Settings, open_mirror, write_settings
from registry.blobs.folder import FolderBlobs
from registry.blobs.transfer import transfer
from registry.errors import NotAllowed
from registry.home import Home
from registry.record.actors import Actor
from registry.record.healing import Healer
from registry.record.parts import Parts
from registry.service import Registry
from registry.verdicts import judge
from registry.versions import VersionRef, digest_bytes


class Vault:
    """A registry with a mirror that holds everything, and ways to hurt the first store."""

    def __init__(self, folder: Path) -> None:
        self.mirror = FolderBlobs(folder / "mirror")
        home = Home(folder / "home")
        write_settings(home, Settings(mirror=str(self.mirror.root)))
        self.registry = Registry.open(home, Actor("tester"), clock=FakeClock())
        self.blobs = FolderBlobs(home.blobs)
        shared = {"shared": noise(50_000, 0)}
        self.refs: list[VersionRef] = []
        for seed in (1, 2):
            tensors = shared | {f"own-{seed}": noise(30_000, seed)}
            made = write_checkpoint(folder / f"c{seed}", tensors)
            self.refs.append(self.registry.register(made, POLICY).version.ref)
        for ref in self.refs:
            transfer(self.blobs, self.mirror, self.registry.manifest(ref).pieces)

    def digest(self, name: str) -> str:
        for ref in self.refs:
            for entry in self.registry.manifest(ref).files:
                for tensor in entry.tensors:
                    if tensor.name == name:
                        return tensor.sha256
        raise KeyError(name)

    def hurt(self, store: FolderBlobs, name: str) -> None:
        path = store.path(self.digest(name))
        path.chmod(0o644)
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path)


def test_every_blob_is_hashed_once(vault: Vault) -> None:
    told: list[int] = []
    health = vault.registry.check_files(vault.refs, told.append)
    assert (health.problems, health.healed, health.files) == ((), (), 4)
    # two manifests, one contract, two headers, three tensors
    assert health.blobs == len(told) == 8
    assert sum(told) == health.bytes


def test_damage_and_loss_are_healed_from_the_mirror(vault: Vault) -> None:
    vault.hurt(vault.blobs, "shared")
    vault.blobs.remove(vault.digest("own-2"))
    health = vault.registry.check_files(vault.refs)
    assert health.problems == ()
    assert len(health.healed) == 2
    assert "tensor shared" in health.healed[0]
    assert vault.registry.check_files(vault.refs).healed == ()
    assert all(vault.registry.verify(ref) == [] for ref in vault.refs)
    assert (vault.blobs.root / "damaged" / vault.digest("shared")[7:]).is_file()


def test_a_mirror_that_is_damaged_too_heals_nothing(vault: Vault, tmp_path: Path) -> None:
    vault.hurt(vault.blobs, "own-1")
    vault.hurt(vault.mirror, "own-1")
    (problem,) = vault.registry.check_files(vault.refs).problems
    assert "own-1" in problem
    assert not vault.blobs.has(vault.digest("own-1"))
    vault.registry.register(tmp_path / "c1", POLICY)
    assert vault.registry.check_files(vault.refs).problems == ()


def test_a_manifest_is_healed_from_the_ledger_itself(vault: Vault) -> None:
    digest = vault.registry.version(vault.refs[0]).digest
    vault.blobs.remove(digest)
    assert "manifest" in vault.registry.check_files(vault.refs).healed[0]
    assert vault.blobs.has(digest)


def test_an_artifact_that_is_lost_is_named_with_its_gate(tmp_path: Path) -> None:
    record = Record(tmp_path)
    ref = record.register()
    found = record.evidence(ref, SIM, successes=100)
    artifact = record.registry.blobs.put(b"report")
    record.registry.record_verdict(ref, SIM, found, judge(SIM, found), {"report.html": artifact})
    assert record.registry.check_files([ref]).problems == ()
    record.registry.blobs.remove(artifact)
    (problem,) = record.registry.check_files([ref]).problems
    assert "report.html of the sim gate" in problem


def test_what_nothing_names_is_looked_at_before_a_version_may_name_it(tmp_path: Path) -> None:
    record = Record(tmp_path)
    registry, tensor = record.registry, noise(1000, 1)
    path = FolderBlobs(record.home.blobs).path(registry.blobs.put(tensor))
    path.chmod(0o644)
    path.write_bytes(bytes(1000))
    assert registry.check_files([]).blobs == 0
    health = registry.check_files([], everything=True)
    assert (health.problems, health.blobs) == ((), 1)
    assert "nothing names" in health.healed[0]
    made = registry.register(write_checkpoint(tmp_path / "c", {"a": tensor}), POLICY).version
    assert registry.check_files([made.ref]).problems == ()


def test_a_kept_result_that_is_damaged_is_a_problem(tmp_path: Path) -> None:
    record = Record(tmp_path)
    film = record.registry.blobs.put(b"a film")
    record.registry.store_result("key", {"film": film})
    path = FolderBlobs(record.home.blobs).path(film)
    path.chmod(0o644)
    path.write_bytes(b"a f1lm")
    (problem,) = record.registry.check_files([], everything=True).problems
    assert "a blob of the record" in problem


def test_right_bytes_that_came_after_the_look_are_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks are far ahead of cures: somebody registers the files again in between."""
    record = Record(tmp_path)
    tensor, look = noise(1000, 1), Healer._look
    ref = record.registry.register(write_checkpoint(tmp_path / "c", {"a": tensor}), POLICY).version
    path = FolderBlobs(record.home.blobs).path(digest_bytes(tensor))
    path.chmod(0o644)
    path.write_bytes(bytes(1000))

    def look_and_put(self: Healer, one: Any) -> Any:
        found = look(self, one)
        if one.digest == digest_bytes(tensor):
            record.registry.blobs.put(tensor)
        return found

    monkeypatch.setattr(Healer, "_look", look_and_put)
    health = record.registry.check_files([ref.ref])
    assert (health.problems, len(health.healed)) == ((), 1)
    assert record.registry.blobs.read(digest_bytes(tensor)) == tensor


def test_without_a_mirror_damage_is_set_aside_and_registering_heals(tmp_path: Path) -> None:
    record = Record(tmp_path)
    folder = write_checkpoint(tmp_path / "c", {"a": noise(1000, 1)})
    ref = record.registry.register(folder, POLICY).version.ref
    path = FolderBlobs(record.home.blobs).path(
        record.registry.manifest(ref).files[1].tensors[0].sha256
    )
    path.chmod(0o644)
    path.write_bytes(bytes(1000))
    assert len(record.registry.check_files([ref]).problems) == 1
    assert record.registry.register(folder, POLICY).written == 1000
    assert record.registry.check_files([ref]).problems == ()


class Cached:
    """A registry that reads its store through a cache, as a home whose store is a bucket does."""

    def __init__(self, folder: Path) -> None:
        record = Record(folder)
        desk = record.registry._parts.desk
        self.cache = FolderBlobs(record.home.cache / "blobs")
        desk = replace(desk, cache=self.cache)
        self.registry = Registry(Parts(desk, mirror=None, approvals=None, archives=True))
        self.tensor = noise(1000, 1)
        made = write_checkpoint(folder / "c", {"a": self.tensor, "b": noise(500, 2)})
        self.ref = self.registry.register(made, POLICY).version.ref
        self.weights = (made / "policy.safetensors").read_bytes()
        self.out = folder / "out"

    def written(self) -> bytes:
        self.registry.materialize(self.ref, self.out)
        return (self.out / "policy.safetensors").read_bytes()


@pytest.mark.parametrize("left", [bytes(1000), None], ids=["damaged", "gone"])
def test_a_cached_piece_that_is_bad_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bytes | None
) -> None:
    """Gone: removed by gc after the cache was filled and before it was read."""
    one = Cached(tmp_path)
    assert one.written() == one.weights
    path = one.cache.path(digest_bytes(one.tensor))
    path.chmod(0o644)
    path.write_bytes(left or b"")
    if left is None:
        monkeypatch.setattr(versions_module, "transfer", lambda *_: path.unlink())
    assert one.written() == one.weights
    assert path.read_bytes() == one.tensor


def test_gc_takes_from_the_cache_what_no_version_needs(tmp_path: Path) -> None:
    one = Cached(tmp_path)
    one.written()
    kept = set(one.cache.digests())
    one.cache.put(b"a piece of a version that was given up")
    assert one.registry.collect(dry_run=True).swept == 0
    assert one.registry.collect().swept == 1
    assert set(one.cache.digests()) == kept
    assert one.written() == one.weights


@pytest.mark.slow
def test_pieces_that_no_longer_make_the_file_are_found(vault: Vault) -> None:
    assert vault.registry.check_whole(vault.refs[0]) == []
    swapped = vault.registry.manifest(vault.refs[0]).files[1]
    assert swapped.header is not None
    for tensor, other in (("shared", "own-2"), ("own-1", "shared")):
        content = vault.mirror.read(vault.digest(other))
        path = vault.blobs.path(vault.digest(tensor))
        path.chmod(0o644)
        path.write_bytes(content)
    (problem,) = vault.registry.check_whole(vault.refs[0])
    assert "its pieces make" in problem


def test_a_viewer_heals_nothing(tmp_path: Path) -> None:
    record = Record(tmp_path)
    with pytest.raises(NotAllowed):
        record.as_role("viewer").check_files([])


def test_a_home_without_a_mirror_has_none(tmp_path: Path) -> None:
    assert open_mirror(Home(tmp_path)) is None
