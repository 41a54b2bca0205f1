"""One digest over many documents in order, and short proofs that a document is among them. Pure.

The tree of RFC 6962: a leaf is sha256(0x00 || bytes), a node sha256(0x01 || left || right), the
left half the largest power of two below the count; nothing at all is sha256(""). A proof has at
most log2(count) digests, so a robot can be shown that its attempt is in a snapshot, without the
others'.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def root(leaves: Sequence[bytes]) -> str:
    """`sha256:…` over all leaves."""
    return "sha256:" + _root([_leaf(one) for one in leaves]).hex()


def proof(leaves: Sequence[bytes], index: int) -> list[str]:
    """Digests that lead from leaf `index` to the root, nearest first. Raises IndexError."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of {len(leaves)}")
    return [one.hex() for one in _path([_leaf(leaf) for leaf in leaves], index)]


def proves(leaf: bytes, index: int, count: int, path: Sequence[str], expected: str) -> bool:
    """Whether `path` leads from a leaf at `index` of `count` to the root `expected`."""
    try:
        steps = [bytes.fromhex(one) for one in path]
    except ValueError:
        return False
    if not 0 <= index < count:
        return False
    found, last = _leaf(leaf), count - 1
    for step in steps:
        if last == 0:
            return False
        if index % 2 or index == last:
            found = _node(step, found)
            while index % 2 == 0 and index:
                index, last = index // 2, last // 2
        else:
            found = _node(found, step)
        index, last = index // 2, last // 2
    return last == 0 and "sha256:" + found.hex() == expected


def _leaf(content: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + content).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def _root(hashes: Sequence[bytes]) -> bytes:
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    left = _split(len(hashes))
    return _node(_root(hashes[:left]), _root(hashes[left:]))


def _path(hashes: Sequence[bytes], index: int) -> list[bytes]:
    if len(hashes) == 1:
        return []
    left = _split(len(hashes))
    if index < left:
        return [*_path(hashes[:left], index), _root(hashes[left:])]
    return [*_path(hashes[left:], index - left), _root(hashes[:left])]
