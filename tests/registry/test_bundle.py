"""Bundles: the same bytes whoever writes them, the same version wherever they are read."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from checkpoints import noise, register_in_files, write_checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from record import POLICY, Record

from registry.bundle import Content, open_bundle
from registry.errors import Corrupt, NotAllowed, ServiceFailed, UsageError
from registry.service import Registration
from registry.versions import Provenance, VersionRef, canonical, digest_bytes

pytestmark = pytest.mark.slow

TENSORS = {"a": noise(5000, 1), "b": noise(3_000_000, 2), "twin of a": noise(5000, 1), "none": b""}


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "one")


@pytest.fixture
def site(tmp_path: Path) -> Record:
    """A registry elsewhere, with a version of its own."""
    made = Record(tmp_path / "two")
    made.register(77)
    return made


@pytest.fixture
def ref(record: Record) -> VersionRef:
    folder = write_checkpoint(record.folder / "c", TENSORS)
    ref = record.registry.register(folder, POLICY, Provenance(commit="abc")).version.ref
    record.registry.add_provenance(ref, Provenance(run="run-7"))
    return ref


def bring(site: Record, path: Path, **options: object) -> tuple[Registration, Content]:
    with open_bundle(path, site.home.cache, **options) as (content, folder):  # type: ignore[arg-type]
        done = site.registry.register(
            folder,
            content.manifest.policy,
            environment=content.manifest.environment,
            expect=content.manifest,
        )
        for origin in content.provenance:
            site.registry.add_provenance(done.version.ref, origin)
    assert list(site.home.cache.iterdir()) == []
    return done, content


def test_a_version_travels_with_its_digest_and_provenance(
    record: Record, site: Record, ref: VersionRef, tmp_path: Path
) -> None:
    size = record.registry.export(ref, tmp_path / "bundle")
    assert size == (tmp_path / "bundle").stat().st_size
    done, content = bring(site, tmp_path / "bundle")
    assert (done.created, done.version.number, content.signed) == (True, 2, False)
    assert done.version.digest == record.registry.version(ref).digest
    assert [one.provenance for one in site.registry.provenance(done.version.ref)] == [
        Provenance(commit="abc"), Provenance(run="run-7")
    ]  # fmt: skip
    assert site.registry.verify(done.version.ref) == []
    again, _ = bring(site, tmp_path / "bundle")
    assert (again.created, again.written) == (False, 0)


def test_the_same_version_makes_the_same_bytes(
    record: Record, site: Record, ref: VersionRef, tmp_path: Path
) -> None:
    record.registry.export(ref, tmp_path / "first")
    done, _ = bring(site, tmp_path / "first")
    site.registry.export(done.version.ref, tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_two_exports_to_one_file_leave_one_whole_bundle(
    record: Record, ref: VersionRef, tmp_path: Path
) -> None:
    path, other, begun = tmp_path / "bundle", record.register(5), []

    def meanwhile(_: int) -> None:
        if not begun:
            begun.append(record.registry.export(other, path))
            assert path.stat().st_size == begun[0]

    record.registry.export(ref, path, progress=meanwhile)
    assert len(begun) == 1
    record.registry.export(ref, tmp_path / "alone")
    assert path.read_bytes() == (tmp_path / "alone").read_bytes()
    assert {one.name for one in tmp_path.iterdir()} == {"one", "bundle", "alone"}


def test_any_tar_lists_it(record: Record, ref: VersionRef, tmp_path: Path) -> None:
    record.registry.export(ref, tmp_path / "bundle")
    with tarfile.open(tmp_path / "bundle") as tar:
        names = tar.getnames()
        assert {member.mtime for member in tar} == {0}
        head = json.load(tar.extractfile("bundle.json"))  # type: ignore[arg-type]
    assert names[:3] == ["bundle.json", "manifest.json", "provenance.json"]
    # contract, header, a (which is also its twin), b
    assert len(names) == 3 + 4
    assert head["manifest"] == record.registry.version(ref).digest


def test_a_version_of_whole_files_travels_as_it_is(
    record: Record, site: Record, tmp_path: Path
) -> None:
    digest = register_in_files(record, write_checkpoint(record.folder / "c", TENSORS))
    record.registry.export(VersionRef(POLICY, 1), tmp_path / "bundle")
    done, _ = bring(site, tmp_path / "bundle")
    assert done.version.digest == digest
    assert site.registry.verify(done.version.ref) == []


def test_whole_files_that_are_here_in_pieces_are_the_same_version(
    record: Record, site: Record, tmp_path: Path
) -> None:
    """A bundle of an old registry: the files have one number, whichever came first."""
    folder = write_checkpoint(record.folder / "c", TENSORS)
    old = register_in_files(record, folder)
    record.registry.export(VersionRef(POLICY, 1), tmp_path / "bundle")
    here = site.registry.register(folder, POLICY).version
    assert here.digest != old
    done, _ = bring(site, tmp_path / "bundle")
    assert (done.created, done.version.ref) == (False, here.ref)
    assert site.registry.register(folder, POLICY).version.ref == here.ref
    assert len(site.registry.list_versions()) == 2
    assert site.registry.verify(here.ref) == []


def test_the_signature_is_of_what_names_everything_and_is_asked_for_first(
    record: Record, site: Record, ref: VersionRef, tmp_path: Path
) -> None:
    signed: list[bytes] = []
    record.registry.export(ref, tmp_path / "bundle", sign=lambda head: signed.append(head) or b"s")
    seen: list[tuple[bytes, bytes | None]] = []
    _, content = bring(site, tmp_path / "bundle", verify=lambda *both: seen.append(both))
    assert content.signed
    assert seen == [(signed[0], b"s")]

    def refuse(head: bytes, signatures: bytes | None) -> None:
        raise NotAllowed("not signed by anyone we know")

    with pytest.raises(NotAllowed):
        bring(site, tmp_path / "bundle", verify=refuse)
    record.registry.export(ref, tmp_path / "plain")
    bring(site, tmp_path / "plain", verify=lambda *both: seen.append(both))
    assert seen[-1][1] is None


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_bundle_spoiled_anywhere_is_never_registered(
    record: Record, site: Record, ref: VersionRef, tmp_path: Path, data: st.DataObject
) -> None:
    """Cut, or a byte changed: refused, unless it is in what a tar file pads with."""
    path = tmp_path / "bundle"
    if not path.exists():
        record.registry.export(ref, path)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1) | st.integers(0, 8000))
    if data.draw(st.booleans()):
        spoiled = whole[:at]
    else:
        spoiled = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    (tmp_path / "spoiled").write_bytes(spoiled)
    before = [one.digest for one in site.registry.list_versions()]
    try:
        done, _ = bring(site, tmp_path / "spoiled")
    except Corrupt:
        assert [one.digest for one in site.registry.list_versions()] == before
    else:
        assert done.version.digest == record.registry.version(ref).digest
        assert site.registry.verify(done.version.ref) == []


def remake(path: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> Path:
    """The bundle with other members."""
    with tarfile.open(path) as tar:
        members = [(one, tar.extractfile(one).read()) for one in tar]  # type: ignore[union-attr]
    change(members)
    made = path.with_name("remade")
    with tarfile.open(made, "w", format=tarfile.GNU_FORMAT) as tar:
        for member, content in members:
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content))
    return made


def _climbs(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members[3][0].name = "../../escaped"


def _links(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members[3][0].type, members[3][0].linkname = tarfile.SYMTYPE, "/etc/passwd"


def _adds(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members.append((tarfile.TarInfo("run.py"), b"print()"))


def _swaps(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members[3], members[4] = members[4], members[3]


def _drops(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members.pop()


def _renames(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    head = json.loads(members[0][1])
    members[0] = (members[0][0], json.dumps(head | {"policy": "pouring"}).encode())


def _alters(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    content = members[-1][1]
    members[-1] = (members[-1][0], bytes([content[0] ^ 1]) + content[1:])


@pytest.mark.parametrize("change", [_climbs, _links, _adds, _swaps, _drops, _renames, _alters])
def test_a_bundle_of_other_members_is_refused(
    record: Record,
    site: Record,
    ref: VersionRef,
    tmp_path: Path,
    change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None],
) -> None:
    record.registry.export(ref, tmp_path / "bundle")
    with pytest.raises(Corrupt, match="bundle is damaged"):
        bring(site, remake(tmp_path / "bundle", change))
    assert len(site.registry.list_versions()) == 1
    assert not list(tmp_path.rglob("escaped"))


def saying(path: Path, manifest: bytes | None = None, provenance: bytes | None = None) -> Path:
    """The bundle with another manifest or provenance, and a head that names it."""

    def swapped(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        head = json.loads(members[0][1])
        for index, name, text in ((1, "manifest", manifest), (2, "provenance", provenance)):
            if text is not None:
                members[index] = (members[index][0], text)
                head[name] = digest_bytes(text)
        if manifest is not None and b'"policy":5' in manifest:
            head["policy"] = 5
        members[0] = (members[0][0], json.dumps(head).encode())

    return remake(path, swapped)


NESTED = b"[" * 100_000


@pytest.mark.parametrize("text", [b"[]", b"null", b"5", b'"x"', NESTED])
def test_a_manifest_that_is_none_is_damage(
    record: Record, site: Record, ref: VersionRef, tmp_path: Path, text: bytes
) -> None:
    record.registry.export(ref, tmp_path / "bundle")
    with pytest.raises(Corrupt, match="bundle is damaged"):
        bring(site, saying(tmp_path / "bundle", manifest=text))


@pytest.mark.parametrize(
    "change",
    [
        {"policy": 5}, {"files": "abc"}, {"files": [1]}, {"files": None}, {"contract": [1]},
        {"contract": {"n": 2**70}}, {"environment": 5}, {"base": 5}, {"sandbox_only": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_manifest_of_other_types_is_damage(
    record: Record, site: Record, ref: VersionRef, tmp_path: Path, change: dict[str, object]
) -> None:
    record.registry.export(ref, tmp_path / "bundle")
    said = record.registry.manifest(ref).to_json() | change
    text = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(Corrupt, match="bundle is damaged"):
        bring(site, saying(tmp_path / "bundle", manifest=text))
    assert len(site.registry.list_versions()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"path": 5}, {"path": None}, {"size": "1"}, {"size": True}, {"sha256": 5},
        {"header": None}, {"header": "abc"}, {"tensors": {}}, {"tensors": [[]]},
    ],
    ids=str,
)  # fmt: skip
def test_a_file_of_other_types_is_damage(
    record: Record, site: Record, ref: VersionRef, tmp_path: Path, change: dict[str, object]
) -> None:
    record.registry.export(ref, tmp_path / "bundle")
    said = record.registry.manifest(ref).to_json()
    said["files"][1] |= change
    with pytest.raises(Corrupt, match="bundle is damaged"):
        bring(site, saying(tmp_path / "bundle", manifest=canonical(said)))


def test_a_manifest_of_another_spelling_would_not_keep_its_digest(
    record: Record, site: Record, ref: VersionRef, tmp_path: Path
) -> None:
    record.registry.export(ref, tmp_path / "bundle")
    text = json.dumps(record.registry.manifest(ref).to_json()).encode()
    with pytest.raises(Corrupt, match="bundle is damaged"):
        bring(site, saying(tmp_path / "bundle", manifest=text))


@pytest.mark.parametrize(
    "text",
    [
        b"5", b"null", b"[5]", b'{"commit":"a"}', NESTED, b'[{"commit":5}]', b'[{"commit":{}}]',
        b'[{"run":["x"]}]', b'[{"source":5}]', b'[{"recipe":[1]}]', b'[{"x":1}]',
        b'[{"commit":"a\\u0000b"}]', b'[{"note":"\\ud800"}]', b'[{"recipe":{"n":1e999}}]',
    ],
)  # fmt: skip
def test_provenance_that_cannot_be_written_down_is_damage(
    record: Record, site: Record, ref: VersionRef, tmp_path: Path, text: bytes
) -> None:
    record.registry.export(ref, tmp_path / "bundle")
    with pytest.raises(Corrupt, match="bundle is damaged"):
        bring(site, saying(tmp_path / "bundle", provenance=text))
    assert len(site.registry.list_versions()) == 1


def test_a_bundle_that_unfolds_to_more_than_the_disk_holds_writes_nothing(
    record: Record, site: Record, ref: VersionRef, tmp_path: Path
) -> None:
    """A small file may say that it unfolds to any size; no piece is read of such a one."""
    manifest = record.registry.manifest(ref)
    plain = next(entry for entry in manifest.files if entry.header is None)
    big = replace(manifest, files=(replace(plain, size=1 << 50),))
    written: list[int] = []

    def swapped(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        head = json.loads(members[0][1]) | {"manifest": big.digest}
        members[0] = (members[0][0], json.dumps(head).encode())
        members[1] = (members[1][0], big.canonical())

    record.registry.export(ref, tmp_path / "bundle")
    with pytest.raises(ServiceFailed, match="does not fit") as refused:
        bring(site, remake(tmp_path / "bundle", swapped), progress=written.append)
    assert "2,251,799,813,685,248 bytes" in refused.value.evidence
    assert written == []
    assert list(site.home.cache.iterdir()) == []


def test_no_bundle_is_written_from_damaged_bytes(
    record: Record, ref: VersionRef, tmp_path: Path
) -> None:
    tensor = record.registry.manifest(ref).files[1].tensors[0]
    path = record.registry.blobs.path(tensor.sha256)  # type: ignore[attr-defined]
    path.chmod(0o644)
    path.write_bytes(bytes(tensor.size))
    with pytest.raises(Corrupt, match="do not match"):
        record.registry.export(ref, tmp_path / "bundle")
    assert {path.name for path in tmp_path.iterdir()} == {"one"}


def test_a_place_that_cannot_be_written_is_said(record: Record, ref: VersionRef) -> None:
    with pytest.raises(ServiceFailed, match="cannot be written"):
        record.registry.export(ref, Path("/proc/bundle"))


def test_a_bundle_takes_no_pipes_place(record: Record, ref: VersionRef, tmp_path: Path) -> None:
    """Nor a device's: run by root it would be gone for all."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="no file"):
        record.registry.export(ref, pipe)
    assert pipe.is_fifo()
    assert {path.name for path in tmp_path.iterdir()} == {"one", "pipe"}
