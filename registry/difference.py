"""What changed between two versions: the contract field by field, tensors, files. Pure.

A tensor is the same where its name and its bytes are; a file of pieces is compared tensor by
tensor, any other as a whole. `fetched` is what a robot that holds the first version fetches of the
second: the pieces that the first does not have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from registry.versions import FileEntry, Manifest


@dataclass(frozen=True)
class Amount:
    """So many things of so many bytes."""

    count: int = 0
    bytes: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.count + other.count, self.bytes + other.bytes)

    def to_json(self) -> dict[str, int]:
        return {"count": self.count, "bytes": self.bytes}


@dataclass(frozen=True)
class TensorDifference:
    """Bytes are the second version's, of removed tensors the first's."""

    same: Amount = Amount()
    changed: Amount = Amount()
    added: Amount = Amount()
    removed: Amount = Amount()
    names: tuple[str, ...] = ()  # of changed, added (+) and removed (-) ones, `file: tensor`


@dataclass(frozen=True)
class Difference:
    contract: Mapping[str, tuple[Any, Any]]  # by path; None where one side has no such field
    files: Mapping[str, str]  # by path: changed, added or removed
    tensors: TensorDifference
    about: Mapping[str, tuple[Any, Any]]  # policy, environment, base, sandbox_only
    fetched: Amount

    @property
    def nothing(self) -> bool:
        return not (self.contract or self.files or self.about)


def difference(first: Manifest, second: Manifest) -> Difference:
    old = {entry.path: entry for entry in first.files}
    new = {entry.path: entry for entry in second.files}
    files = {
        path: _change(old.get(path), new.get(path))
        for path in sorted(old.keys() | new.keys())
        if _digest(old.get(path)) != _digest(new.get(path))
    }
    held = set(first.pieces)
    missing = [piece for piece in second.pieces if piece not in held]
    about = {
        name: (getattr(first, name), getattr(second, name))
        for name in ("policy", "environment", "base", "sandbox_only")
        if getattr(first, name) != getattr(second, name)
    }
    return Difference(
        contract=dict(_fields("", first.contract, second.contract)),
        files=files,
        tensors=_tensors(old, new),
        about=about,
        fetched=Amount(len(missing), sum(piece.size for piece in missing)),
    )


def _digest(entry: FileEntry | None) -> str | None:
    return None if entry is None else entry.sha256


def _change(old: FileEntry | None, new: FileEntry | None) -> str:
    if old is None:
        return "added"
    return "removed" if new is None else "changed"


def _tensors(old: Mapping[str, FileEntry], new: Mapping[str, FileEntry]) -> TensorDifference:
    before, after = _by_name(old), _by_name(new)
    same = changed = added = removed = Amount()
    names: list[str] = []
    for name, (digest, size) in after.items():
        one = Amount(1, size)
        if name not in before:
            added += one
            names.append(f"+{name}")
        elif before[name][0] == digest:
            same += one
        else:
            changed += one
            names.append(name)
    for name in before.keys() - after.keys():
        removed += Amount(1, before[name][1])
        names.append(f"-{name}")
    return TensorDifference(same, changed, added, removed, tuple(sorted(names)))


def _by_name(files: Mapping[str, FileEntry]) -> dict[str, tuple[str, int]]:
    return {
        f"{path}: {tensor.name}": (tensor.sha256, tensor.size)
        for path, entry in files.items()
        for tensor in entry.tensors
    }


def _fields(path: str, first: Any, second: Any) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Fields that differ, as deep as both sides are mappings."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in sorted(first.keys() | second.keys()):
            below = f"{path}.{key}" if path else key
            yield from _fields(below, first.get(key), second.get(key))
    elif first != second:
        yield path, (first, second)
