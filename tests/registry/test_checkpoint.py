"""What a checkpoint may hold: plain files, few enough, and all that it names."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import (
    TENSORS,
    Trap,
    refused,
    write_checkpoint,
)
from record import POLICY, Record

from registry import checkpoint
from registry.blobs.hashing import FilePart
from registry.checkpoint import MAX_FILES, scan
from registry.errors import Conflict, Refused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", TENSORS)


# -- folders ---------------------------------------------------------------------------------------


def test_links_pipes_sockets_and_devices_are_refused_without_waiting(
    folder: Path, tmp_path: Path
) -> None:
    def attempt(make: Callable[[Path], object], words: str) -> None:
        path = folder / "x.json"
        make(path)
        refused(folder, words)
        path.unlink()

    attempt(lambda path: path.symlink_to("/etc/hostname"), "is a link")
    attempt(lambda path: path.symlink_to(tmp_path, target_is_directory=True), "is a link")
    attempt(os.mkfifo, "neither a file nor a folder")
    attempt(lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), "neither a file nor")
    if os.geteuid() == 0:
        attempt(lambda path: os.mknod(path, 0o20644, os.makedev(1, 5)), "neither a file nor")


def test_a_file_that_became_a_link_or_a_pipe_is_not_opened(folder: Path) -> None:
    from registry.checkpoint import open_regular

    path = folder / "contract.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(Refused, match="may not"):
        open_regular(path)
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(OSError):
        open_regular(path)


def test_a_piece_is_not_read_from_a_pipe(folder: Path) -> None:
    """Nobody writes to it, so that reading would wait for ever; here somebody could."""
    path = folder / "contract.json"
    path.unlink()
    os.mkfifo(path)
    other_end = os.open(path, os.O_RDWR)
    with pytest.raises(Refused, match="may not"):
        FilePart(path, 0, 10).read_at(0, 10)
    os.close(other_end)


@pytest.mark.parametrize("moment", ["_kind", "_check"])
def test_a_folder_that_becomes_a_link_while_it_is_looked_at_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """What lies outside is of the same name, and only the one who registers may read it."""
    for inner in (folder / "sub" / "deep", tmp_path / "secret" / "deep"):
        inner.mkdir(parents=True)
        (inner / "token.txt").write_text(str(inner))
    looked = getattr(checkpoint, moment)

    def then_swapped(*about: Any) -> Any:
        answer = looked(*about)
        if moment == "_check" or about[-1] == "sub":
            monkeypatch.undo()
            (folder / "sub").rename(tmp_path / "sub")
            (folder / "sub").symlink_to(tmp_path / "secret")
        return answer

    monkeypatch.setattr(checkpoint, moment, then_swapped)
    with pytest.raises(Refused, match="may not") as caught:
        scan(folder)
    assert "below a link" in caught.value.evidence


def test_of_very_many_entries_only_the_first_are_looked_at(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(MAX_FILES * 3):
        (folder / f"{n}.json").touch()
    looked = 0
    whole = os.scandir

    class Counted:
        def __init__(self, path: Path) -> None:
            self._entries = whole(path)

        def __enter__(self) -> Counted:
            return self

        def __exit__(self, *_: object) -> None:
            self._entries.close()

        def __iter__(self) -> Counted:
            return self

        def __next__(self) -> os.DirEntry[str]:
            nonlocal looked
            looked += 1
            return next(self._entries)  # type: ignore[return-value, type-var]

    monkeypatch.setattr(os, "scandir", Counted)
    refused(folder, f"more than {MAX_FILES} files")
    assert looked <= MAX_FILES + 1


def test_folders_within_folders_without_end_are_refused(folder: Path) -> None:
    deep = folder
    for _ in range(20):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "x.json").write_text("{}")
    refused(folder, "more than")


@pytest.mark.parametrize(
    "name", ["..json", "a b.json", "é.json", "x\n.json", "-x.json", "a:b.json"]
)
def test_odd_names_are_refused(folder: Path, name: str) -> None:
    (folder / name).write_text("{}")
    refused(folder, "name that is not allowed")


def test_names_that_differ_in_case_only_are_refused(folder: Path) -> None:
    (folder / "Note.txt").write_text("a")
    (folder / "note.txt").write_text("b")
    refused(folder, "upper and lower case")


# -- completeness ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        {"tokenizer_name": "google/paligemma-3b"},
        {"policy": {"vlm_model_name": "HuggingFaceTB/SmolVLM2"}},
        {"pretrained_backbone_weights": "ResNet18_Weights.IMAGENET1K_V1"},
        {"steps": [{"config": {"pretrained_path": "/home/somebody/model"}}]},
        {"auto_map": {"AutoModel": "org/repo--modeling.Model"}},
        {"base_model_name_or_path": "../other"},
    ],
)
def test_what_would_be_fetched_from_elsewhere_is_refused_by_name(
    folder: Path, said: dict[str, object]
) -> None:
    (folder / "config.json").write_text(json.dumps(said))
    with pytest.raises(Refused, match="names what is not in it") as caught:
        scan(folder)
    assert "config.json" in caught.value.evidence


def test_what_lies_in_the_checkpoint_may_be_named(folder: Path) -> None:
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    said = {
        "tokenizer_name": "tokenizer",
        "pretrained_path": "./policy.safetensors",
        "auto_map": None,
    }
    (folder / "config.json").write_text(json.dumps(said | {"vlm_model_name": ""}))
    scan(folder)


def test_nothing_refused_leaves_a_byte_in_the_store(tmp_path: Path, folder: Path) -> None:
    record = Record(tmp_path)
    (folder / "x.txt").write_bytes(pickle.dumps(Trap(tmp_path / "canary"), 0))
    with pytest.raises(Refused):
        record.registry.register(folder, POLICY)
    assert not [path for path in record.home.blobs.rglob("*") if path.is_file()]


def test_a_file_that_changes_after_it_was_looked_at_is_not_stored(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry.record import registration

    trap = pickle.dumps(Trap(tmp_path / "canary"), 0)
    note = folder / "note.txt"
    note.write_bytes(b"x" * len(trap))
    before = note.stat()

    def then_swapped(where: Path) -> object:
        found = scan(where)
        note.write_bytes(trap)
        os.utime(note, ns=(before.st_atime_ns, before.st_mtime_ns))
        return found

    record = Record(tmp_path)
    looks = iter((scan, then_swapped))
    monkeypatch.setattr(registration, "scan", lambda where: next(looks)(where))
    with pytest.raises(Conflict, match="changed while it was registered"):
        record.registry.register(folder, POLICY)
    assert record.registry.list_versions() == []


def test_a_key_given_twice_among_very_many_is_found_at_once(folder: Path) -> None:
    keys = ",".join(f'"k{n}":1' for n in range(200_000))
    (folder / "x.json").write_text(f'{{{keys},"k199999":2}}')
    began = time.monotonic()
    refused(folder, "given twice")
    assert time.monotonic() - began < 10.0


@pytest.mark.slow
def test_a_member_that_unpacks_to_more_than_it_says_does_not_fill_memory(folder: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("m/version", b"3\n")
        made.writestr("m/constants.pkl", b"\x80\x02).")
        made.writestr("m/data.pkl", bytes(200 << 20), compress_type=zipfile.ZIP_DEFLATED)
    content = bytearray(out.getvalue())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = (1000).to_bytes(4, "little")
    (folder / "x.pt").write_bytes(content)
    tracemalloc.start()
    refused(folder, "x.pt may not be kept")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
