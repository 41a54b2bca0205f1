"""Which files a checkpoint may hold, decided by what is in them, not by their names.

Only inert data is taken: safetensors whose header accounts for every byte, JSON, and plain text.
Nothing that a robot could execute or unpickle, no links, no devices, no path that climbs. A file
cut short or altered in its header is refused before anything is stored.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from registry import tensor_header
from registry.errors import ConfigError, NotFound, Refused
from registry.tensor_header import PREFIX, Tensor

CONTRACT = "contract.json"
WEIGHTS = "policy.safetensors"
MAX_FILES = 1000
MAX_TEXT = 16 << 20
TEXT = {".txt", ".md", ".csv", ".yaml"}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,119}")


@dataclass(frozen=True)
class Found:
    """One acceptable file: its path inside the checkpoint, where it lies, its size in bytes."""

    name: str
    path: Path
    size: int


def scan(folder: Path) -> tuple[Found, ...]:
    """Every file of a checkpoint folder, in path order, each checked.

    Raises NotFound (no such folder), Refused (a file that may not be there) or ConfigError (a file
    that is not what it must be).
    """
    if not folder.is_dir():
        raise NotFound(
            "no checkpoint there",
            evidence=f"{folder} is not a folder",
            hint=f"name the folder that holds {WEIGHTS} and {CONTRACT}",
        )
    files = sorted(_walk(folder, folder), key=lambda found: found.name)
    names = {found.name for found in files}
    for needed in (CONTRACT, WEIGHTS):
        if needed not in names:
            raise ConfigError(
                f"the checkpoint has no {needed}",
                where=str(folder),
                hint=f"a native checkpoint holds {WEIGHTS} and {CONTRACT}",
            )
    if len({name.casefold() for name in names}) != len(names):
        raise Refused("two files differ only in upper and lower case", evidence=str(folder))
    for found in files:
        _check(found)
    return tuple(files)


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading, never through a link."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    return os.fdopen(handle, "rb")


def read_json(content: bytes, where: str) -> dict[str, Any]:
    """A JSON object; duplicate keys and NaN are refused. Raises ConfigError."""
    try:
        data = json.loads(content, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ConfigError(
            f"not JSON: {error}", where=f"{where}{line}", hint="the file may be cut short"
        ) from None
    if not isinstance(data, dict):
        raise ConfigError("not a JSON object", where=where)
    return data


def _walk(folder: Path, root: Path) -> list[Found]:
    found: list[Found] = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        name = path.relative_to(root).as_posix()
        kind = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(kind.st_mode):
            raise _refused(path, "is a link", "copy the file itself into the checkpoint")
        if not _NAME.fullmatch(entry.name):
            raise _refused(path, "has a name that is not allowed", "use letters, digits, . _ -")
        if stat.S_ISDIR(kind.st_mode):
            found += _walk(path, root)
        elif stat.S_ISREG(kind.st_mode):
            found.append(Found(name, path, kind.st_size))
        else:
            raise _refused(path, "is neither a file nor a folder", "take it out of the checkpoint")
        if len(found) > MAX_FILES:
            raise _refused(root, f"holds more than {MAX_FILES} files", "name the checkpoint itself")
    return found


def _check(found: Found) -> None:
    suffix = found.path.suffix.lower()
    with open_regular(found.path) as stream:
        if suffix == ".safetensors":
            read_layout(found, stream)
        elif suffix == ".json" or suffix in TEXT:
            if found.size > MAX_TEXT:
                raise _refused(found.path, "is text of more than 16 MB", "keep data elsewhere")
            content = stream.read()
            if suffix == ".json":
                read_json(content, str(found.path))
            elif not _is_text(content):
                raise _refused(found.path, "is not text", "take it out of the checkpoint")
        else:
            raise _refused(
                found.path,
                "is of no kind that robots accept",
                f"a checkpoint holds .safetensors, .json and {' '.join(sorted(TEXT))} files",
            )


def read_layout(found: Found, stream: BinaryIO) -> tuple[int, tuple[Tensor, ...]]:
    """Where the data of a safetensors file begins [bytes], and its tensors in their order.

    Raises ConfigError unless the header accounts for every byte of the file.
    """
    try:
        length = tensor_header.json_length(stream.read(PREFIX), found.size)
        begin = PREFIX + length
        return begin, tensor_header.parse(stream.read(length), found.size - begin)
    except ValueError as error:
        raise _damaged(found, str(error)) from None


def _is_text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode("utf-8")
    except UnicodeDecodeError:
        return False


def _unique(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} is given twice")
    return dict(pairs)


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not a JSON number")


def _refused(path: Path, why: str, hint: str) -> Refused:
    return Refused("the checkpoint holds what it may not", evidence=f"{path} {why}", hint=hint)


def _damaged(found: Found, why: str) -> ConfigError:
    return ConfigError(
        f"{found.name} is damaged or cut short",
        where=str(found.path),
        field=why,
        hint="copy it again from where it was made",
    )
