"""Versions in pieces: what did not change is not written again, and nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checkpoints import noise, register_in_files, write_checkpoint, write_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from record import POLICY, Record
from sqlalchemy import select

import registry.blobs.tensors as tensors_module
from registry.blobs.folder import FolderBlobs
from registry.blobs.hashing import Budget, FilePart, Held
from registry.blobs.tensors import problems_of, store_file, whole_digest, write_file
from registry.checkpoint import Found
from registry.errors import Conflict, Corrupt, NotFound, ServiceFailed
from registry.ledger.tables import versions
from registry.versions import FileEntry, Manifest, Piece, TensorEntry, VersionRef, digest_bytes

TENSORS = {f"layer-{i:02d}": noise(10_000 + i, i) for i in range(12)} | {"none": b""}


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "blobs")


def store(blobs: FolderBlobs, path: Path, **options: object) -> tuple[FileEntry, int]:
    with blobs.batch() as batch:
        found = Found(path.name, path, path.stat().st_size)
        entry = store_file(batch, found, **options)  # type: ignore[arg-type]
    return entry, batch.written


def files_of(blobs: FolderBlobs) -> set[Path]:
    return {path for path in blobs.root.rglob("*") if path.is_file()}


# -- manifests -------------------------------------------------------------------------------------


def entry_of(content: bytes, *parts: bytes) -> FileEntry:
    header, *rest = parts
    listed = tuple(TensorEntry(f"t{i}", digest_bytes(p), len(p)) for i, p in enumerate(rest))
    return FileEntry(
        "w.safetensors", digest_bytes(content), len(content),
        Piece(digest_bytes(header), len(header)), listed,
    )  # fmt: skip


def test_a_manifest_with_tensors_survives_its_json() -> None:
    one = Manifest("p", (entry_of(b"hab", b"h", b"a", b"b"),), {"x": 1}, base="sha256:" + "0" * 64)
    said = json.loads(one.canonical())
    assert said["schema"] == "policyctl.manifest/2"
    assert Manifest.from_json(said) == one
    assert Manifest.from_json(said).digest == one.digest
    assert [piece.size for piece in one.pieces] == [1, 1, 1]


def test_a_manifest_of_whole_files_is_spelled_as_it_always_was() -> None:
    one = Manifest("p", (FileEntry("a", "sha256:" + "1" * 64, 3),), {"x": 1}, "lock")
    assert one.canonical() == (
        b'{"contract":{"x":1},"environment":"lock","files":[{"path":"a","sha256":"sha256:'
        + b"1" * 64 + b'","size":3}],"policy":"p","schema":"policyctl.manifest/1"}'
    )  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"schema": "policyctl.manifest/3"},
        {"base": "v12"},
        {"extra": 1},
        {"schema": "policyctl.manifest/1"},
    ],
)
def test_a_manifest_spelled_otherwise_is_refused(wrong: dict[str, object]) -> None:
    said = Manifest("p", (entry_of(b"ha", b"h", b"a"),)).to_json()
    with pytest.raises(ValueError):
        Manifest.from_json(said | wrong)


def test_pieces_that_are_not_the_file_are_refused() -> None:
    with pytest.raises(ValueError, match="are not its"):
        entry_of(b"hab", b"h", b"a")
    with pytest.raises(ValueError, match="no header"):
        FileEntry("w", "sha256:" + "0" * 64, 1, None, (TensorEntry("a", "sha256:" + "0" * 64, 1),))


# -- into the store and out of it ------------------------------------------------------------------


@settings(max_examples=25)
@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 200), st.integers(1, 600))
def test_what_went_in_in_pieces_always_comes_out_whole(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], read: int, held: int
) -> None:
    folder = tmp_path_factory.mktemp("pieces")
    content = write_tensors(folder / "w.safetensors", {f"t{i}": p for i, p in enumerate(parts)})
    blobs = FolderBlobs(folder / "blobs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors_module, "READ", read)
        patch.setattr(tensors_module, "HELD", held)
        entry, written = store(blobs, folder / "w.safetensors")
    assert entry.sha256 == digest_bytes(content)
    assert [tensor.sha256 for tensor in entry.tensors] == [digest_bytes(part) for part in parts]
    assert written == sum(piece.size for piece in set(entry.pieces))
    write_file(blobs, entry, folder / "out")
    assert (folder / "out").read_bytes() == content
    assert whole_digest(blobs, entry) == entry.sha256


@pytest.mark.parametrize("held", [48 << 20, 1])
def test_only_tensors_that_changed_are_written(
    blobs: FolderBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(tensors_module, "HELD", held)
    write_tensors(tmp_path / "a.safetensors", TENSORS)
    write_tensors(tmp_path / "b.safetensors", TENSORS | {"layer-03": noise(10_003, 99)})
    _, first = store(blobs, tmp_path / "a.safetensors")
    before = files_of(blobs)
    entry, second = store(blobs, tmp_path / "b.safetensors")
    assert first == (tmp_path / "a.safetensors").stat().st_size
    assert second == 10_003
    assert len(files_of(blobs) - before) == 1
    write_file(blobs, entry, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_file_that_is_known_is_compared_and_not_hashed_as_a_whole(
    blobs: FolderBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, TENSORS)
    entry, _ = store(blobs, path)
    blobs.remove(entry.tensors[3].sha256)

    def never(*_: object) -> object:
        raise AssertionError("hashed as a whole")

    with monkeypatch.context() as patch:
        patch.setattr(tensors_module, "_hash_parts", never)
        patch.setattr(tensors_module, "_hash_whole", never)
        again, written = store(blobs, path, known=[entry])
    assert again == entry
    assert written == entry.tensors[3].size, "what was lost is stored again"
    assert list(problems_of(blobs, entry)) == []


@pytest.mark.parametrize("changed", ["layer-00", "layer-05"])
def test_a_file_like_a_known_one_is_what_it_is(
    blobs: FolderBlobs, tmp_path: Path, changed: str
) -> None:
    """The one that changed is a sample, or it is not: the whole digest decides."""
    write_tensors(tmp_path / "a.safetensors", TENSORS)
    entry, _ = store(blobs, tmp_path / "a.safetensors")
    other = noise(len(TENSORS[changed]), 77)
    write_tensors(tmp_path / "b.safetensors", TENSORS | {changed: other})
    again, written = store(blobs, tmp_path / "b.safetensors", known=[entry])
    assert again.sha256 == digest_bytes((tmp_path / "b.safetensors").read_bytes())
    assert written == len(other)


def test_a_file_changed_while_it_is_read_is_a_conflict_and_keeps_nothing(
    blobs: FolderBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer reads a long tensor again: what it finds then is not what was hashed."""
    monkeypatch.setattr(tensors_module, "HELD", 1)
    path = tmp_path / "a.safetensors"
    write_tensors(path, TENSORS)
    read = FilePart.read_at

    def late(part: FilePart, start: int, length: int) -> bytes:
        data = read(part, start, length)
        return bytes([data[0] ^ 1]) + data[1:] if part.size == 10_007 else data

    monkeypatch.setattr(FilePart, "read_at", late)
    with pytest.raises(Conflict, match="changed while it was registered"):
        store(blobs, path)
    assert files_of(blobs) == set()


@pytest.mark.parametrize("alter", [lambda p: os.truncate(p, 5000), lambda p: os.utime(p, (1, 1))])
def test_a_file_cut_or_touched_while_it_is_read_is_a_conflict(
    blobs: FolderBlobs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    alter: Callable[[Path], None],
) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, TENSORS)
    layout = tensors_module.read_layout

    def then_altered(found: Found, stream: object) -> object:
        answer = layout(found, stream)  # type: ignore[arg-type]
        alter(path)
        return answer

    monkeypatch.setattr(tensors_module, "read_layout", then_altered)
    with pytest.raises(Conflict):
        store(blobs, path)
    assert files_of(blobs) == set()


def test_a_batch_whose_block_fails_keeps_nothing(blobs: FolderBlobs) -> None:
    def failing() -> None:
        with blobs.batch() as batch:
            for i in range(50):
                batch.add(digest_bytes(noise(1000, i)), Held([memoryview(noise(1000, i))]))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert files_of(blobs) == set()


def test_a_batch_tells_the_disk_that_is_full(
    blobs: FolderBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int, data: object, position: int) -> int:
        raise OSError(28, "No space left on device")

    write_tensors(tmp_path / "a.safetensors", TENSORS)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(ServiceFailed, match="the disk is full"):
            store(blobs, tmp_path / "a.safetensors")
    assert files_of(blobs) == set()
    store(blobs, tmp_path / "a.safetensors")


def test_memory_that_waits_is_given_back(tmp_path: Path) -> None:
    budget = Budget(100)
    held = Held([memoryview(b"ab"), memoryview(b"cdef")], budget)
    budget.take(held.size)
    assert [held.read_at(start, 3) for start in range(6)] == [
        b"abc", b"bcd", b"cde", b"def", b"ef", b"f"
    ]  # fmt: skip
    held.close()
    held.close()
    budget.take(100)  # would wait for ever had the six not been given back


def test_a_damaged_tensor_is_named(blobs: FolderBlobs, tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", TENSORS)
    entry, _ = store(blobs, tmp_path / "a.safetensors")
    hurt, lost = entry.tensors[4], entry.tensors[9]
    path = blobs.path(hurt.sha256)
    path.chmod(0o644)
    path.write_bytes(b"!" + path.read_bytes()[1:])
    with pytest.raises(Corrupt, match="do not match") as caught:
        write_file(blobs, entry, tmp_path / "out" / "w")
    assert "tensor layer-04" in caught.value.evidence
    assert list((tmp_path / "out").iterdir()) == []
    blobs.remove(lost.sha256)
    said = [problem for _, problem in problems_of(blobs, entry)]
    assert ["layer-04" in said[0], "layer-09" in said[1], len(said)] == [True, True, 2]
    for tensor in (hurt, lost):
        if blobs.has(tensor.sha256):
            blobs.set_aside(tensor.sha256)
    assert store(blobs, tmp_path / "a.safetensors")[1] == hurt.size + lost.size
    assert list(problems_of(blobs, entry)) == []


def test_pieces_of_other_sizes_than_the_manifest_says_are_no_file(
    blobs: FolderBlobs, tmp_path: Path
) -> None:
    """Their digests are right, but they would lie over one another."""
    parts = [b"h" * 8, b"x" * 12, b"y" * 4]
    header, *pieces = (Piece(blobs.put(part), len(part)) for part in parts)
    swapped = tuple(
        TensorEntry(f"t{i}", piece.sha256, 16 - piece.size) for i, piece in enumerate(pieces)
    )
    entry = FileEntry("w", digest_bytes(b"".join(parts)), 24, header, swapped)
    with pytest.raises(Corrupt, match="do not match") as caught:
        write_file(blobs, entry, tmp_path / "out" / "w")
    assert "tensor t0: 12 bytes, was 4" in caught.value.evidence
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("change", [-1, 1_000])
def test_a_piece_that_is_cut_or_too_long_hurts_no_other(
    blobs: FolderBlobs, tmp_path: Path, change: int
) -> None:
    write_tensors(tmp_path / "a.safetensors", TENSORS)
    entry, _ = store(blobs, tmp_path / "a.safetensors")
    path = blobs.path(entry.tensors[4].sha256)
    path.chmod(0o644)
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + b"!" * change)
    with pytest.raises(Corrupt) as caught:
        write_file(blobs, entry, tmp_path / "out" / "w")
    assert "layer-04" in caught.value.evidence
    assert caught.value.evidence.count("layer-") == 1
    assert list((tmp_path / "out").iterdir()) == []
    path.write_bytes(content)
    write_file(blobs, entry, tmp_path / "out" / "w")
    assert (tmp_path / "out" / "w").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


@pytest.mark.parametrize("short_first", [True, False])
def test_the_first_piece_that_does_not_fit_ends_the_others(
    blobs: FolderBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_first: bool
) -> None:
    """A long tensor that is being written does not go on to its end for nothing, and the error is
    told, not what became of the others."""
    pieces = {"short": b"s" * 1000, "long": b"l" * 300_000}
    names = sorted(pieces, reverse=short_first)
    write_tensors(tmp_path / "a.safetensors", {name: pieces[name] for name in names})
    entry, _ = store(blobs, tmp_path / "a.safetensors")
    found = {tensor.name: tensor.sha256 for tensor in entry.tensors}
    blobs.set_aside(found["short"])
    begun, left = threading.Event(), iter(range(300_000))

    def stream(digest: str) -> Iterator[bytes]:
        if digest == found["long"]:
            begun.set()
            return (b"l" for _ in left)
        assert digest != found["short"] or begun.wait(10.0), "both are under way"
        return real(digest)

    real = blobs.stream
    monkeypatch.setattr(blobs, "stream", stream)
    with pytest.raises(NotFound):
        write_file(blobs, entry, tmp_path / "out" / "w")
    assert next(left, None) is not None, "it was stopped on the way"
    assert list((tmp_path / "out").iterdir()) == []


def test_of_many_short_pieces_none_has_a_thread_of_its_own(
    blobs: FolderBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some 100,000 are allowed; each with a thread, they took five times as long."""
    write_tensors(tmp_path / "a.safetensors", {f"t{i}": noise(100, i) for i in range(50)})
    entry, _ = store(blobs, tmp_path / "a.safetensors")
    begun, begin = list[threading.Thread](), threading.Thread.start

    def counted(one: threading.Thread) -> None:
        begun.append(one)
        begin(one)

    monkeypatch.setattr(threading.Thread, "start", counted)
    write_file(blobs, entry, tmp_path / "out")
    assert len(begun) <= tensors_module.AT_ONCE


PUBLISH = """
import re, sys
from pathlib import Path
from registry.blobs.folder import FolderBlobs
from registry.blobs.tensors import store_file, write_file
from registry.checkpoint import Found
path = Path(sys.argv[1])
blobs = FolderBlobs(Path(sys.argv[2]))
with blobs.batch() as batch:
    entry = store_file(batch, Found(path.name, path, path.stat().st_size))
write_file(blobs, entry, path.with_name("out"))
peak_kb = re.search("VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
print(batch.written, int(peak_kb) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no peak memory here")
@pytest.mark.parametrize("size", [40 << 20, 700 << 20], ids=["many tensors", "one tensor"])
def test_memory_stays_below_256_mb(blobs: FolderBlobs, tmp_path: Path, size: int) -> None:
    """700 MB, in tensors that wait in memory or in one that does not fit there."""
    path = tmp_path / "w.safetensors"
    count = (700 << 20) // size
    said = {
        f"t{i}": {"dtype": "U8", "shape": [size], "data_offsets": [i * size, (i + 1) * size]}
        for i in range(count)
    }
    text = json.dumps(said).encode()
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        block = noise(1 << 20, 1)
        for i in range(count * size >> 20):
            stream.write(i.to_bytes(8, "little") + block[8:])
    command = [sys.executable, "-c", PUBLISH, str(path), str(blobs.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    written, rss_mb = map(int, done.stdout.split())
    assert written == path.stat().st_size
    assert rss_mb < 256
    assert path.with_name("out").stat().st_size == written


# -- through the record ----------------------------------------------------------------------------


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path)


def test_a_fine_tune_stores_its_own_tensors_only(record: Record) -> None:
    base = write_checkpoint(record.folder / "base", TENSORS)
    tuned = write_checkpoint(record.folder / "tuned", TENSORS | {"layer-11": noise(10_011, 50)})
    first = record.registry.register(base, POLICY)
    second = record.registry.register(tuned, POLICY)
    again = record.registry.register(tuned, POLICY)
    assert first.written > sum(map(len, TENSORS.values()))
    assert (second.written, again.written) == (10_011, 0)
    assert (second.created, again.created) == (True, False)
    out = record.registry.materialize(second.version.ref, record.folder / "out")
    for name in ("policy.safetensors", "contract.json"):
        assert (out / name).read_bytes() == (tuned / name).read_bytes()
    assert record.registry.verify(second.version.ref) == []


def test_an_adapter_names_its_base(record: Record) -> None:
    base = record.registry.register(write_checkpoint(record.folder / "b", TENSORS), POLICY).version
    adapter = write_checkpoint(record.folder / "a", {"lora": noise(100, 1)})
    made = record.registry.register(adapter, POLICY, base=base.ref).version
    alone = record.registry.register(adapter, POLICY).version
    assert record.registry.manifest(made.ref).base == base.digest
    assert record.registry.manifest(alone.ref).base == ""
    assert made.number != alone.number


def test_a_version_of_whole_files_is_healed_by_registering_them_again(record: Record) -> None:
    folder = write_checkpoint(record.folder / "c", TENSORS)
    register_in_files(record, folder)
    ref, blobs = VersionRef(POLICY, 1), record.registry.blobs
    weights = (folder / "policy.safetensors").read_bytes()
    blobs.remove(digest_bytes(weights))
    assert len(record.registry.check_files([ref]).problems) == 1
    again = record.registry.register(folder, POLICY)
    assert (again.created, again.version.ref, again.written) == (False, ref, len(weights))
    assert record.registry.check_files([ref]).problems == ()


def test_a_version_of_whole_files_is_read_and_found_again(record: Record) -> None:
    folder = write_checkpoint(record.folder / "c", TENSORS)
    digest = register_in_files(record, folder)
    blobs = record.registry.blobs
    for piece in list(blobs.digests()):
        if piece not in {digest_bytes(path.read_bytes()) for path in folder.iterdir()}:
            blobs.remove(piece)
    before = set(blobs.digests())
    again = record.registry.register(folder, POLICY)
    assert (again.created, again.written, again.version.digest) == (False, 0, digest)
    assert set(blobs.digests()) == before, "its tensors are not stored beside it"
    assert record.registry.verify(again.version.ref) == []
    out = record.registry.materialize(again.version.ref, record.folder / "out")
    assert (out / "policy.safetensors").read_bytes() == (folder / "policy.safetensors").read_bytes()
    with record.registry._ledger.read() as connection:
        assert len(list(connection.execute(select(versions.c.number)))) == 1
