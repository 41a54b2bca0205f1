"""The header of a safetensors file, read strictly: it accounts for every byte, or it is refused.

    8 bytes   length of the JSON, little-endian
    JSON      {"name": {"dtype", "shape", "data_offsets": [begin, end]}, …, "__metadata__": {…}}
    data      the tensors, end to end

Whatever is accepted here the safetensors library accepts, too. What it accepts and we refuse: a key
given twice, a description that is no object of exactly those three keys, space before the first
brace (the format's own rule), and more than `MAX_TENSORS` tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_HEADER = 100_000_000
MAX_TENSORS = 100_000
PREFIX = 8
_MAX_INT = 2**64 - 1
_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies: bytes `begin` to `end` of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
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
    header = _read(text)
    _check_metadata(header.pop("__metadata__", None))
    if len(header) > MAX_TENSORS:
        raise ValueError(f"it has {len(header)} tensors, more than {MAX_TENSORS}")
    tensors = [_tensor(name, entry) for name, entry in header.items()]
    tensors.sort(key=lambda one: (one.begin, one.end, one.name))
    end = 0
    for tensor in tensors:
        if tensor.begin != end:
            raise ValueError(f"tensor {tensor.name!r} begins at {tensor.begin}, not at {end}")
        end = tensor.end
    if end != data_size:
        raise ValueError(f"its tensors need {end} bytes of data, it has {data_size}")
    return tuple(tensors)


def _read(text: bytes) -> dict[str, Any]:
    try:
        said = text.decode("utf-8")
        header = json.loads(
            said, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_integer
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is not JSON: {error}") from None
    assert isinstance(header, dict)  # it begins with a brace
    return header


def _tensor(name: str, entry: Any) -> Tensor:
    _check_text(name)
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
        raise ValueError(f"tensor {name!r} is not described by type, shape and place")
    return Tensor(name, dtype, tuple(shape), *offsets)


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


def _check_metadata(value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise ValueError("its __metadata__ is not a map of texts")
    for words in value.items():
        for word in words:
            _check_text(word)


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
