"""A checkpoint holds nothing that another program could run, whatever it is called."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
from checkpoints import (
    TENSORS,
    Trap,
    header_of,
    noise,
    refused,
    with_length,
    write_checkpoint,
    write_tensors,
)
from fuzzing import examples, fuzz
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.checkpoint import scan
from registry.pickles import is_pickle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", TENSORS)


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
@settings(max_examples=300)
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
