"""A header made to waste memory costs little more than its own bytes, taken or refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HEADER = 99_000_000  # bytes
PROMISE = 256_000_000  # bytes that a registration may use at any size of its files
ZERO = b'{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'


def members(one: Callable[[int], bytes]) -> Iterator[bytes]:
    """`{` and members until the header is full, without an end."""
    size, number = 1, 0
    yield b"{"
    while size < HEADER:
        part = one(number) + b","
        yield part
        size, number = size + len(part), number + 1


def tensors() -> Iterator[bytes]:
    yield from members(lambda n: b'"%d":%s' % (n, ZERO))
    yield b'"last":%s}' % ZERO


def numbers() -> Iterator[bytes]:
    yield from members(lambda n: b'"%d":1' % n)
    yield b'"last":1}'


def one_long_shape() -> Iterator[bytes]:
    yield b'{"a":{"dtype":"U8","shape":['
    yield b"1," * (HEADER // 2)
    yield b'1],"data_offsets":[0,1]}}'


def deep() -> Iterator[bytes]:
    yield b'{"a":'
    yield b"[" * HEADER


def long_names() -> Iterator[bytes]:
    name = "\N{ROBOT FACE}".encode() + b"n" * 60_000
    yield from members(lambda n: b'"%s%d":%s' % (name, n, ZERO))
    yield b'"last":%s}' % ZERO


def metadata_keys() -> Iterator[bytes]:
    yield b'{"__metadata__":'
    yield from members(lambda n: b'"%d":""' % n)
    yield b'"last":""}}'


def not_closed() -> Iterator[bytes]:
    yield b'{"__metadata__":{"a":"'
    yield b"x" * HEADER


REFUSED = [tensors, numbers, one_long_shape, deep, long_names, metadata_keys, not_closed]


def one_text() -> Iterator[bytes]:
    yield b'{"__metadata__":{"a":"'
    yield "\N{ROBOT FACE}".encode() + b"x" * HEADER
    yield b'"}}'


def escapes() -> Iterator[bytes]:
    yield b'{"__metadata__":{"a":"'
    yield b"\\n" * (HEADER // 2)
    yield b'"}}'


def spaces() -> Iterator[bytes]:
    yield b'{"w":%s}' % ZERO
    yield b" " * HEADER


def many() -> Iterator[bytes]:
    """As many tensors as are taken, and metadata for the rest."""
    yield b"{"
    for number in range(100_000):
        yield b'"model.layers.%06d.self_attention.query.weight":%s,' % (number, ZERO)
    yield b'"__metadata__":{"a":"'
    yield b"x" * (HEADER - 11_000_000)
    yield b'"}}'


def long_shapes() -> Iterator[bytes]:
    """Empty tensors, so that nothing bounds the other numbers."""
    shape = b"0" + b",999" * 16_000
    yield b'{"w":%s' % ZERO
    for number in range(HEADER // 64_100):
        yield b',"%d":{"dtype":"U8","shape":[%s],"data_offsets":[0,0]}' % (number, shape)
    yield b"}"


TAKEN = [one_text, escapes, spaces, many, long_shapes]

CODE = """
import sys
from pathlib import Path
from registry.checkpoint import Found, open_regular, read_layout
path = Path(sys.argv[1])
try:
    with open_regular(path) as stream:
        begin, tensors = read_layout(Found(path.name, path, path.stat().st_size), stream)
    print("taken", len(tensors))
except Exception as error:
    print(type(error).__name__, error)
status = Path("/proc/self/status").read_text()  # getrusage would tell of the parent, too
print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""


def look(path: Path, make: Callable[[], Iterator[bytes]]) -> tuple[str, int]:
    """What is said of the file by a process of its own, and the most memory it had."""
    size = 0
    with path.open("wb") as stream:
        stream.write(bytes(8))
        for part in make():
            stream.write(part)
            size += len(part)
        stream.seek(0)
        stream.write(size.to_bytes(8, "little"))
    said = subprocess.run(
        [sys.executable, "-c", CODE, str(path)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    path.unlink()
    *words, peak = said.stdout.strip().splitlines()
    return words[0], int(peak)


@pytest.mark.parametrize("make", REFUSED)
def test_a_hostile_header_is_refused_within_the_promise(
    tmp_path: Path, make: Callable[[], Iterator[bytes]]
) -> None:
    said, peak = look(tmp_path / "policy.safetensors", make)
    assert said.startswith("ConfigError")
    assert peak < PROMISE


@pytest.mark.parametrize("make", TAKEN)
def test_a_huge_header_is_taken_within_the_promise(
    tmp_path: Path, make: Callable[[], Iterator[bytes]]
) -> None:
    said, peak = look(tmp_path / "policy.safetensors", make)
    assert said.startswith("taken")
    assert peak < PROMISE
