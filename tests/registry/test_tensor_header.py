"""Our header check and the safetensors library say the same of whatever they are shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from checkpoints import with_length
from fuzzing import examples, fuzz
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from registry import tensor_header

pytestmark = pytest.mark.slow

DTYPES = ["BOOL", "F4", "F6_E2M3", "U8", "F8_E4M3", "F8_E8M0", "I16", "BF16", "F32", "C64", "I64"]


def ours(content: bytes) -> str:
    """What we hold against a file; empty when nothing."""
    try:
        length = tensor_header.json_length(content[:8], len(content))
        tensor_header.parse(content[8 : 8 + length], len(content) - 8 - length)
    except ValueError as error:
        return str(error)
    return ""


def library(content: bytes) -> str:
    try:
        deserialize(content)
    except (SafetensorError, OverflowError) as error:
        return repr(error)
    return ""


STRICTER = ("is given twice", "is not described by", "is not a JSON object")
"""The rules where we refuse what the library takes, by their words (see `tensor_header`)."""


def agree(content: bytes) -> None:
    we, they = ours(content), library(content)
    if we:
        assert they or any(rule in we for rule in STRICTER), (we, content)
    else:
        assert not they, (they, content)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A sound file of up to six tensors."""
    header: dict[str, Any] = {}
    begin = 0
    for i in range(draw(st.integers(0, 6))):
        dtype = draw(st.sampled_from(DTYPES))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        bits = tensor_header._BITS[dtype]
        for length in shape:
            bits *= length
        end = begin + bits // 8
        name = draw(st.text(max_size=4)) + str(i)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(st.text(max_size=3), st.text(max_size=3)))
    names = draw(st.permutations(list(header)))
    text = json.dumps({name: header[name] for name in names}).encode()
    return with_length(text + b" " * draw(st.integers(0, 9))) + bytes(begin)


@settings(max_examples=400)
@given(files())
def test_sound_files_are_taken_by_both_or_neither(content: bytes) -> None:
    agree(content)


WORDS = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"0", b"-0", b"-1", b"1.0", b"1e2", b"null",
         b"true", b"NaN", b"18446744073709551615", b"18446744073709551616", b'"F32"', b'"shape"',
         b'"dtype":"U8",', b'"__metadata__":{},', b"\\ud800", b"\\u0000", b"\xff", b"\xc3\xa9",
         b"\xef\xbb\xbf", b"\0", b"\t", b"\x0b", b"[" * 200, b"//", b"'"]  # fmt: skip


def spoil(content: bytes, data: st.DataObject) -> None:
    """The JSON is cut, doubled and written over at random; its length says so, or does not."""
    length = int.from_bytes(content[:8], "little")
    text, rest = bytearray(content[8 : 8 + length]), content[8 + length :]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 3))
        word = data.draw(st.sampled_from(WORDS) | st.binary(max_size=2))
        text[at : at + cut] = word
    spoiled = with_length(bytes(text)) + rest
    if data.draw(st.integers(0, 9)) == 0:
        spoiled = data.draw(st.binary(min_size=8, max_size=8)) + spoiled[8:]
    agree(spoiled)


@examples(few=300, many=3000)
def test_spoiled_headers_are_refused_by_both_or_neither(number: int) -> None:
    fuzz(number, spoil, files(), st.data())


def move(content: bytes, data: st.DataObject) -> None:
    """Holes, overlaps, other shapes and types: the JSON stays sound, what it says does not."""
    length = int.from_bytes(content[:8], "little")
    header, rest = json.loads(content[8 : 8 + length]), content[8 + length :]
    tensors = [name for name in header if name != "__metadata__"]
    if not tensors:
        return
    entry = header[data.draw(st.sampled_from(tensors))]
    number = st.integers(-1, 40) | st.sampled_from([2**31, 2**63, 2**64 - 1, 2**64])
    what = data.draw(st.sampled_from(["data_offsets", "shape", "dtype", "data"]))
    if what == "data_offsets":
        entry[what][data.draw(st.integers(0, 1))] = data.draw(number)
    elif what == "shape":
        entry[what].insert(0, data.draw(number))
    elif what == "dtype":
        entry[what] = data.draw(st.sampled_from([*DTYPES, "F128", "", "u8"]))
    else:
        rest = rest[: data.draw(st.integers(0, len(rest)))] + data.draw(st.binary(max_size=3))
    agree(with_length(json.dumps(header).encode()) + rest)


@examples(few=200, many=1500)
def test_moved_and_resized_tensors_are_refused_by_both(number: int) -> None:
    fuzz(number, move, files(), st.data())


@settings(max_examples=300)
@given(st.binary(max_size=60))
@example(b"")
@example(b"\x80\x04\x95\x00\x00\x00\x00\x00")
def test_any_bytes_are_refused_by_both_or_neither(content: bytes) -> None:
    agree(content)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
         b'"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', "'a' is given twice"),
        (b'{"__metadata__":{"x":"1","x":"2"}}', "'x' is given twice"),
        (b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"code":"x"}}', "not described by"),
        (b' {}', "not a JSON object"),
    ],
)  # fmt: skip
def test_where_we_are_stricter_than_the_library(text: bytes, why: str) -> None:
    content = with_length(text)
    assert library(content) == ""
    assert why in ours(content)


def test_a_million_tensors_are_refused() -> None:
    one = '"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    text = "{" + ",".join(one % i for i in range(tensor_header.MAX_TENSORS + 1)) + "}"
    assert "more than" in ours(with_length(text.encode()))
