"""What a checkpoint may hold: nothing that another program could run, whatever it is called."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints import header_of, noise, with_length, write_checkpoint, write_tensors
from fuzzing import examples, fuzz
from hypothesis import given, settings
from hypothesis import strategies as st
from record import POLICY, Record

from registry.backends import Settings, write_settings
from registry.checkpoint import MAX_FILES, scan
from registry.errors import ConfigError, Conflict, Refused
from registry.home import Home
from registry.pickles import is_pickle
from registry.record.actors import Actor
from registry.service import Registry

TENSORS = {"a": noise(1000, 1), "b": noise(2000, 2)}


class Trap:
    """Runs when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self._canary),)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", TENSORS)


def refused(folder: Path, words: str) -> None:
    with pytest.raises((Refused, ConfigError)) as caught:
        scan(folder)
    assert words in str(caught.value)


# -- pickles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_of_any_protocol_is_refused_under_any_name(
    folder: Path, tmp_path: Path, protocol: int
) -> None:
    trap = pickle.dumps(Trap(tmp_path / "canary"), protocol)
    for name in ("x.safetensors", "x.json", "x.txt", "x.md", "x.yaml", "x.pt", "x.pt2", "x.pkl"):
        (folder / name).write_bytes(trap)
        refused(folder, name)
        (folder / name).unlink()
    assert not (tmp_path / "canary").exists()
    scan(folder)


def test_weights_that_are_also_a_pickle_are_refused(folder: Path, tmp_path: Path) -> None:
    """The header's length is also `X` and a string's length; a key of the JSON ends with `T` and
    the length of another string, which reaches over all the rest into the data: there a pickle
    goes on. Half a gigabyte, of which the disk holds nothing.
    """
    text_length = ord("X") | 8 << 8  # `X`, and a string of 8 bytes
    begin = 8 + text_length
    string_end = 18 + int.from_bytes(b"    ", "little")
    attack = b"00" + pickle.dumps(Trap(tmp_path / "canary"), 0)
    size = string_end + len(attack) - begin
    text = b'{"kkkT    ":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
    path = folder / "policy.safetensors"
    with path.open("wb") as stream:
        stream.write(with_length(text.ljust(text_length)))
        stream.truncate(string_end + len(attack))
    scan(folder)  # sound weights, so far
    with path.open("r+b") as stream:
        stream.seek(string_end)
        stream.write(attack)
    refused(folder, "a pickle, which can run code")


ACTS = b"cbuiltins\nlen\n(S'abc'\ntR."


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"(0" + ACTS, id="a mark taken from the stack by POP"),
        pytest.param(b"V" + b"a" * 5000 + b"\n0" + ACTS, id="a line longer than any name"),
        pytest.param(b"N." + ACTS, id="behind a harmless one, as in PyTorch's old format"),
        pytest.param(b"I1\n.N." + ACTS, id="behind two"),
    ],
)
def test_a_pickle_that_is_spelled_oddly_is_refused(folder: Path, content: bytes) -> None:
    stream, results = io.BytesIO(content), []
    while stream.tell() < len(content):
        results.append(pickle.load(stream))  # noqa: S301 - it takes the length of a word
    assert results[-1] == 3
    (folder / "note.txt").write_bytes(content)
    refused(folder, "a pickle, which can run code")


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=12,
), st.integers(0, 5), st.binary(max_size=20))  # fmt: skip
def test_every_pickle_that_acts_is_seen_and_data_behind_it_hides_nothing(
    value: object, protocol: int, behind: bytes
) -> None:
    harmless = pickle.dumps(value, protocol)
    acting = pickle.dumps((value, Path("x")), protocol)
    assert is_pickle(io.BytesIO(acting + behind), len(acting + behind))
    if protocol >= 2:
        assert is_pickle(io.BytesIO(harmless), len(harmless))


PARTS = [b"cos\nsystem\n", b"(", b"X\1\0\0\0a", b"U\1a", b"R", b"t", b"}", b"b", b"\x81", b"\x92",
         b"\x93", b"o", b"ios\nx\n", b".", b"0", b"1", b"2", b"N", b"\x80\2", b"\x80\4", b"\x85",
         b"]", b"a", b"e", b"s", b"u", b"Pid\n", b"Q", b"q\0", b"h\0", b"l", b"d", b"\x86", b"K\1",
         b"I1\n", b"\x95\0\0\0\0\0\0\0\0", b"\x94", b"!", b")"]  # fmt: skip


@examples(few=500, many=4000)
def test_whatever_makes_python_call_something_is_said_to_be_a_pickle(number: int) -> None:
    contents = st.lists(st.sampled_from(PARTS), max_size=25).map(b"".join)
    fuzz(number, an_acting_pickle_is_seen, contents)


def an_acting_pickle_is_seen(content: bytes) -> None:
    """Opcodes at random, also without an end: Python's own unpickler says what they do."""
    calls = []

    class Object:
        def __new__(cls, *_: object) -> Object:
            calls.append("new")
            return object.__new__(cls)

        def __setstate__(self, state: object) -> None:
            calls.append("state")

        def __call__(self, *_: object) -> None:
            calls.append("call")

    class Guarded(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            return Object

        def persistent_load(self, pid: object) -> object:
            return object.__new__(Object)

    ended = True
    try:
        Guarded(io.BytesIO(content)).load()
    except Exception:  # noqa: BLE001 - it may fail in any way, after having acted
        ended = False
    if calls:
        assert is_pickle(io.BytesIO(content), len(content))
    if ended and content.startswith(b"\x80"):
        assert is_pickle(io.BytesIO(content), len(content))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "N.B. this is text.\n",
        "contract\nof ours\nREADME.\n",
        "(a list)\n",
        "I1\n.",
        "# Title\n",
        "Robots grasp boxes.\n",
        "index,value\n1,2\n3,4\n",
        "box\n",
        "Policy notes\nof a robot\n.",
        "Q. Why?",
        "rate_hz: 50\n",
        "instructions\nfor\nuse.",
        "opened by hand",
        "0.5,0.6\n",
    ],
)
def test_plain_text_is_not_taken_for_a_pickle(folder: Path, text: str) -> None:
    (folder / "note.txt").write_text(text)
    scan(folder)


def test_a_header_of_640_bytes_is_not_taken_for_a_pickle(folder: Path) -> None:
    """Its length begins with the bytes 80 02, as a pickle of protocol 2 does."""
    header = header_of(TENSORS)
    text = header[8:].ljust(0x0280)
    content = with_length(text) + b"".join(TENSORS.values())
    assert content.startswith(b"\x80\x02")
    (folder / "policy.safetensors").write_bytes(content)
    scan(folder)


# -- other disguises -------------------------------------------------------------------------------


def zip_bytes() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("data.pkl", b"\x80\x02.")
    return out.getvalue()


def tar_bytes() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    return out.getvalue()


def test_weights_that_are_also_a_zip_are_refused(folder: Path) -> None:
    """A zip is read from its end: the last tensor may be one."""
    write_tensors(folder / "policy.safetensors", TENSORS | {"z": zip_bytes()})
    refused(folder, "also a zip archive")


@pytest.mark.parametrize("place", [512, 4096])
def test_weights_that_are_also_hdf5_are_refused(folder: Path, place: int) -> None:
    """HDF5 may begin at any power of two."""
    tensors = {"t": noise(8000, 3)}
    begin = len(header_of(tensors))
    content = bytearray(tensors["t"])
    content[place - begin : place - begin + 8] = b"\x89HDF\r\n\x1a\n"
    write_tensors(folder / "policy.safetensors", {"t": bytes(content)})
    refused(folder, "also an HDF5 file")


def test_weights_that_are_also_a_tar_are_refused(folder: Path) -> None:
    name = "x" * 300
    content = bytearray(header_of({name: b"1234"}) + b"1234")
    assert content[257] == ord("x")
    content[257:262] = b"ustar"
    (folder / "policy.safetensors").write_bytes(content)
    refused(folder, "also a tar archive")


def test_weights_that_are_also_a_tar_without_magic_are_refused(folder: Path) -> None:
    """The oldest tar is known by its checksum alone; PyTorch's oldest format is such a tar."""
    path = folder / "policy.safetensors"

    def write(checksum: bytes) -> bytes:
        fields = b"0000644 0000000 0000000 00000000000 00000000000 " + checksum + b"0"
        value = (b"x" * 68 + fields).ljust(600).decode()
        return write_tensors(path, TENSORS, a=value)

    right = tarfile.calc_chksums(write(b" " * 8)[:512])[0]
    write(b"%06o  " % right)
    assert tarfile.is_tarfile(path)
    refused(folder, "also a tar archive")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.safetensors", zip_bytes()),
        ("x.safetensors", tar_bytes()),
        ("x.txt", zip_bytes()),
        ("x.csv", b"\x7fELF" + bytes(100)),
        ("x.json", b"\xef\xbb\xbf{}"),
        ("x.json", b"[1]"),
        ("x.sh", b"#!/bin/sh\n"),
        ("x.py", b"print()"),
        ("x.so", b"\x7fELF"),
        ("x", b"{}"),
        ("x.onnx", b"\x08\x07"),
    ],
)
def test_what_is_not_what_its_name_says_is_refused(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    refused(folder, name)


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


# -- PyTorch's archives ----------------------------------------------------------------------------

WRITE = """
import sys, torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.rest = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
        self.register_buffer("scale", torch.ones(4))
    def forward(self, x):
        return self.rest(self.first(x)) * self.scale
model, x = Model().eval(), torch.zeros(2, 4)
plain = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
torch.jit.script(plain).save(sys.argv[1] + "/scripted.pt")
torch.jit.trace(model, x).save(sys.argv[1] + "/traced.pt")
torch.export.save(torch.export.export(model, (x,)), sys.argv[1] + "/exported.pt2")
torch.save(model.state_dict(), sys.argv[1] + "/weights.pt")
torch.save(model, sys.argv[1] + "/pickled.pt")
"""


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("archives")
    subprocess.run([sys.executable, "-W", "ignore", "-c", WRITE, str(folder)], check=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scripted.pt", "traced.pt", "exported.pt2"])
def test_what_pytorch_writes_is_taken_for_a_sandbox_only(
    folder: Path, archives: Path, tmp_path: Path, name: str
) -> None:
    record = Record(tmp_path)
    plain = record.registry.register(folder, POLICY).version
    (folder / name).write_bytes((archives / name).read_bytes())
    marked = record.registry.register(folder, POLICY).version
    assert not record.registry.manifest(plain.ref).sandbox_only
    assert record.registry.manifest(marked.ref).sandbox_only
    assert record.registry.verify(marked.ref) == []


@pytest.mark.slow
def test_a_site_may_forbid_archives(folder: Path, archives: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    write_settings(home, Settings(archives="forbid"))
    (folder / "scripted.pt").write_bytes((archives / "scripted.pt").read_bytes())
    with Registry.open(home, Actor("tester")) as registry:
        with pytest.raises(Refused, match="takes no TorchScript") as caught:
            registry.register(folder, POLICY)
        assert registry.list_versions() == []
    assert "scripted.pt" in caught.value.evidence


@pytest.mark.slow
@pytest.mark.parametrize("name", ["weights.pt", "pickled.pt"])
def test_pickled_weights_and_modules_are_refused(folder: Path, archives: Path, name: str) -> None:
    (folder / name).write_bytes((archives / name).read_bytes())
    refused(folder, name)


def repack(source: Path, target: Path, change: Callable[[dict[str, bytes]], object]) -> None:
    """The archive with other members, packed as PyTorch packs them."""
    with zipfile.ZipFile(source) as archive:
        members = {one.filename: archive.read(one) for one in archive.infolist()}
    change(members)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _reduce(members: dict[str, bytes]) -> None:
    members["scripted/data.pkl"] = b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00id\x85R."


def _stack_global(members: dict[str, bytes]) -> None:
    members["scripted/data.pkl"] = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R."


def _in_constants(members: dict[str, bytes]) -> None:
    members["scripted/constants.pkl"] = b"(S'id'\nios\nsystem\n."


def _behind_the_stop(members: dict[str, bytes]) -> None:
    members["scripted/constants.pkl"] += b"cposix\nsystem\n."


def _in_debug(members: dict[str, bytes]) -> None:
    name = next(name for name in members if name.endswith(".debug_pkl"))
    members[name] = b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R."


def _class_that_is_not_its_own(members: dict[str, bytes]) -> None:
    content = members["scripted/data.pkl"]
    members["scripted/data.pkl"] = content.replace(b"c__torch__", b"c__t_rch__")


def _extra(members: dict[str, bytes]) -> None:
    members["scripted/extra/hook.py"] = b"import os"


def _library(members: dict[str, bytes]) -> None:
    members["scripted/data/aotinductor/model/x.so"] = b"\x7fELF"


def _climbs(members: dict[str, bytes]) -> None:
    members["scripted/code/../../../x.py"] = b""


def _second_folder(members: dict[str, bytes]) -> None:
    members["other/data.pkl"] = members["scripted/data.pkl"]


def _no_version(members: dict[str, bytes]) -> None:
    del members["scripted/version"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        _reduce, _stack_global, _in_constants, _behind_the_stop, _in_debug, _library,
        _class_that_is_not_its_own, _extra, _climbs, _second_folder, _no_version,
    ],
)  # fmt: skip
def test_an_archive_that_pytorch_would_not_write_is_refused(
    folder: Path, archives: Path, change: Callable[[dict[str, bytes]], object]
) -> None:
    repack(archives / "scripted.pt", folder / "scripted.pt", lambda members: None)
    scan(folder)
    repack(archives / "scripted.pt", folder / "scripted.pt", change)
    refused(folder, "scripted.pt may not be kept")


@pytest.mark.slow
@pytest.mark.parametrize("change", ["before", "behind", "bomb", "doubled", "cut"])
def test_a_zip_that_is_more_or_less_than_an_archive_is_refused(
    folder: Path, archives: Path, change: str
) -> None:
    whole = (archives / "scripted.pt").read_bytes()
    path = folder / "scripted.pt"
    if change == "before":
        path.write_bytes(b"\x80\x02." + whole)
    elif change == "behind":
        path.write_bytes(whole + b"cposix\nsystem\n.")
    elif change == "cut":
        path.write_bytes(whole[:-30])
    else:
        with (
            zipfile.ZipFile(archives / "scripted.pt") as source,
            zipfile.ZipFile(path, "w") as made,
        ):
            for one in source.infolist():
                made.writestr(one.filename, source.read(one))
            if change == "bomb":
                packed = zipfile.ZIP_DEFLATED
                made.writestr("scripted/code/x.py", bytes(200 << 20), compress_type=packed)
            else:
                with pytest.warns(UserWarning, match="Duplicate"):
                    made.writestr("scripted/version", b"3\n")
    refused(folder, "scripted.pt may not be kept")


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_an_archive_spoiled_anywhere_never_lets_a_foreign_name_in(
    archives: Path, data: st.DataObject
) -> None:
    """Whatever passes still names nothing but what is allowed, as Python's own tools read it."""
    import pickletools

    from registry.archives import _GLOBALS, _OWN_CLASS, check_archive

    content = bytearray((archives / "scripted.pt").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        check_archive(io.BytesIO(content), len(content), ".pt")
    except ValueError:
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for one in archive.infolist():
            if one.filename.endswith("pkl"):
                try:
                    read = list(pickletools.genops(archive.read(one)))
                except (ValueError, zipfile.BadZipFile):
                    continue
                named = {str(word) for code, word, _ in read if code.name == "GLOBAL"}
                assert all(word in _GLOBALS or _OWN_CLASS.fullmatch(word) for word in named)
