"""The header of a safetensors file, read strictly: it accounts for every byte, or it is refused.

    8 bytes   length of the JSON, little-endian
    JSON      {"name": {"dtype", "shape", "data_offsets": [begin, end]}, …, "__metadata__": {…}}
    data      the tensors, end to end

Whatever is accepted here the safetensors library accepts, too. What it accepts and we refuse: a key
given twice, a description that is no object of exactly those three keys, space before the first
brace (the format's own rule), and what no checkpoint needs: more than `MAX_TENSORS` tensors or
texts of metadata, names or descriptions of more than `MAX_TEXT` bytes, names of more than
`MAX_NAMES` characters together.

The JSON may be 100 MB, the library's own bound. It is read where it lies, one tensor at a time, and
metadata is looked at and not kept: a hostile header costs its own bytes and some 60 MB at the most.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_HEADER = 100_000_000  # MAX_HEADER_SIZE of the safetensors library
MAX_TENSORS = 100_000
MAX_TEXT = 1 << 16
MAX_NAMES = 16 << 20
PREFIX = 8
_DECODED = 1 << 20  # bytes looked at as UTF-8 at a time
_MAX_INT = 2**64 - 1
_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where one tensor lies: bytes `begin` to `end` of the data.

    Its shape is looked at and not kept: it may be as long as `MAX_TEXT` lets it.
    """

    name: str
    begin: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.begin


def json_length(prefix: bytes, size: int) -> int:
    """Bytes of JSON after the first 8 of a file, as these 8 say. Raises ValueError."""
    length = int.from_bytes(prefix, "little")
    if len(prefix) < PREFIX or length > size - PREFIX:
        raise ValueError(f"its header needs {length} bytes, the file has {size}")
    if length > MAX_HEADER:
        raise ValueError(f"its header of {length} bytes is longer than any checkpoint's")
    return length


def parse(text: bytes, data_size: int) -> tuple[Tensor, ...]:
    """The tensors in the order of their bytes. Raises ValueError with what is wrong.

    `text` is the JSON, `data_size` how many bytes follow it.
    """
    if not text.startswith(b"{"):
        raise ValueError("its header is not a JSON object")
    _check_utf8(text)
    tensors: list[Tensor] = []
    names: set[str] = set()
    size = 0
    for name, entry in _read(text):
        size += len(name)
        if len(tensors) == MAX_TENSORS or size > MAX_NAMES:
            raise ValueError(
                f"it has more than {MAX_TENSORS} tensors, or their names are longer than any "
                "checkpoint's"
            )
        if name in names:
            raise ValueError(f"key {name!r} is given twice")
        names.add(name)
        tensors.append(_tensor(name, entry))
    tensors.sort(key=lambda one: (one.begin, one.end, one.name))
    end = 0
    for tensor in tensors:
        if tensor.begin != end:
            raise ValueError(f"tensor {tensor.name!r} begins at {tensor.begin}, not at {end}")
        end = tensor.end
    if end != data_size:
        raise ValueError(f"its tensors need {end} bytes of data, it has {data_size}")
    return tuple(tensors)


def _check_utf8(text: bytes) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for begin in range(0, len(text), _DECODED):
            decoder.decode(text[begin : begin + _DECODED])
        decoder.decode(b"", final=True)
    except ValueError as error:
        raise ValueError(f"its header is not JSON: {error}") from None


_SPACE = re.compile(rb"[ \t\n\r]*+")
_SHORT = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
# A part of a sound text. In parts, because the matcher remembers something of each repetition.
_PART = re.compile(
    rb'(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u(?:[0-9a-cA-CefEF][0-9a-fA-F]{3}|[dD](?:'
    rb"[0-7][0-9a-fA-F]{2}|[89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))){1,4096}+"
)


def _read(text: bytes) -> Iterator[tuple[str, Any]]:
    """Name and description of each tensor, as they stand. Raises ValueError."""
    at, ended, described = *_members(text, 0), False
    while not ended:
        name, at = _short_text(text, at)
        at = _after(text, at, b":")
        if name != "__metadata__":
            entry, at = _entry(text, at, name)
            yield name, entry
        elif described:
            raise ValueError(f"key {name!r} is given twice")
        else:
            at, described = _metadata_end(text, at), True
        at, ended = _next(text, at)
    if _skip(text, at) != len(text):
        raise _not_json(at)


def _members(text: bytes, begin: int) -> tuple[int, bool]:
    """Where the first key of an object is, or where an empty one ended; and whether it did."""
    at = _after(text, begin, b"{")
    return (at + 1, True) if text[at : at + 1] == b"}" else (at, False)


def _next(text: bytes, at: int) -> tuple[int, bool]:
    """Where the next key of an object is, or where it ended; and whether it did."""
    at = _skip(text, at)
    if text[at : at + 1] == b"}":
        return at + 1, True
    return _after(text, at, b","), False


def _skip(text: bytes, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None  # nothing is space enough
    return found.end()


def _after(text: bytes, at: int, sign: bytes) -> int:
    """Past a sign and the space around it."""
    at = _skip(text, at)
    if text[at : at + 1] != sign:
        raise _not_json(at)
    return _skip(text, at + 1)


def _short_text(text: bytes, at: int) -> tuple[str, int]:
    """A key, and where it ends."""
    found = _SHORT.match(text, at, at + MAX_TEXT)
    if found is None:
        what = "is no key, or one longer than any checkpoint's"
        raise ValueError(f"its header is not JSON: at byte {at} {what}")
    try:
        name: str = json.loads(found.group().decode())
    except ValueError as error:
        raise ValueError(f"its header is not JSON: {error}") from None
    _check_text(name)
    return name, found.end()


def _entry(text: bytes, at: int, name: str) -> tuple[Any, int]:
    """A description and where it ends. One with a brace inside is none."""
    end = text.find(b"}", at, at + MAX_TEXT) + 1
    try:
        return _ENTRY.decode(text[at:end].decode()), end
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{_not_described(name)}: {error}") from None


def _metadata_end(text: bytes, at: int) -> int:
    """Where sound metadata ends. Its keys are remembered by digest, its texts not at all."""
    if text[at : at + 4] == b"null":
        return at + 4
    if text[at : at + 1] != b"{":
        raise _not_metadata()
    seen = set[bytes]()
    at, ended = _members(text, at)
    while not ended:
        key, at = _short_text(text, at)
        digest = hashlib.sha256(key.encode()).digest()
        if digest in seen:
            raise ValueError(f"key {key!r} is given twice")
        if len(seen) == MAX_TENSORS:
            raise ValueError(f"its __metadata__ has more than {MAX_TENSORS} texts")
        seen.add(digest)
        at, ended = _next(text, _text_end(text, _after(text, at, b":")))
    return at


def _text_end(text: bytes, at: int) -> int:
    if text[at : at + 1] != b'"':
        raise _not_metadata()
    at += 1
    while found := _PART.match(text, at):
        at = found.end()
    if text[at : at + 1] != b'"':
        raise _not_json(at)
    return at + 1


def _not_json(at: int) -> ValueError:
    return ValueError(f"its header is not JSON from byte {at} on")


def _not_metadata() -> ValueError:
    return ValueError("its __metadata__ is not a map of texts")


def _not_described(name: str) -> str:
    return f"tensor {name!r} is not described by type, shape and place"


def _tensor(name: str, entry: Any) -> Tensor:
    sound = isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}
    if sound:
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        sound = (
            isinstance(dtype, str)
            and dtype in _BITS
            and _are_sizes(shape)
            and _are_sizes(offsets)
            and len(offsets) == 2
            and _fills(dtype, shape, offsets[1] - offsets[0])
        )
    if not sound:
        raise ValueError(_not_described(name))
    return Tensor(name, *offsets)


def _fills(dtype: str, shape: list[int], size: int) -> bool:
    """Whether a tensor of that shape has `size` bytes, and none of its products overflows."""
    product = 1
    for length in shape:
        product *= length
        if product > _MAX_INT:
            return False
    bits = product * _BITS[dtype]
    return bits <= _MAX_INT and bits == size * 8


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(one) is int and 0 <= one <= _MAX_INT for one in value
    )


def _check_text(text: str) -> None:
    """Half of a surrogate pair is no text, though JSON can spell it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{text!r} is not a text") from None


def _unique(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} is given twice")
    return found


def _integer(word: str) -> int:
    if word == "-0":
        raise ValueError("-0 is not a size")
    return int(word)


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not a JSON number")


_ENTRY = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_integer
)
