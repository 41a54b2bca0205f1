"""Which files a checkpoint may hold, decided by what is in them, not by their names.

Only inert data is taken: safetensors whose header accounts for every byte, JSON, and plain text.
A name says what a file must be, its content whether it is that and nothing else: a file that an
unpickler, a zip, tar or HDF5 reader could also read is refused, whatever else it is. Nothing that a
robot could execute, no links, no devices, no path that climbs. All of it is looked at before a byte
is stored, and never by running a loader.

One exception, marked and for a site to forbid: TorchScript and `.pt2` archives in exactly the shape
that PyTorch writes (`registry.archives`). A version with one is never loaded outside a sandbox.

A checkpoint is complete: JSON that names a model, tokenizer or code to be loaded from elsewhere is
refused by that name.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from registry import tensor_header
from registry.archives import check_archive
from registry.errors import ConfigError, NotFound, Refused
from registry.pickles import is_pickle
from registry.tensor_header import PREFIX, Tensor

CONTRACT = "contract.json"
WEIGHTS = "policy.safetensors"
MAX_FILES = 1000
MAX_DEPTH = 16
MAX_TEXT = 16 << 20
SAFETENSORS = ".safetensors"
TEXT = {".txt", ".md", ".csv", ".yaml"}
ARCHIVES = {".pt", ".pt2"}
KINDS = {SAFETENSORS, ".json", *TEXT, *ARCHIVES}
ELSEWHERE = (
    "tokenizer_name", "tokenizer_name_or_path", "base_model_name_or_path", "vlm_model_name",
    "pretrained_path", "pretrained_model_name_or_path", "pretrained_backbone_weights",
    "processor_name_or_path", "auto_map",
)  # fmt: skip
"""Keys of JSON files with which the usual libraries fetch something that is not in the folder."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,119}")
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY
_HDF5 = b"\x89HDF\r\n\x1a\n"


Identity = tuple[int, ...]  # of a file: device, number, size, time of content and of change


@dataclass(frozen=True)
class Found:
    """One acceptable file: its path inside the checkpoint, where it lies, its size in bytes."""

    name: str
    path: Path
    size: int
    seen: Identity | None = None
    """Of the file that was looked at; what is stored must still be that one."""

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower()

    @property
    def is_archive(self) -> bool:
        """A program's archive: for a sandbox only."""
        return self.suffix in ARCHIVES


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
    with _opened(folder) as root:
        return _scan(folder, root)


def _scan(folder: Path, root: int) -> tuple[Found, ...]:
    files = sorted(_walk(folder, root), key=lambda found: found.name)
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
    return tuple(_check(found, root, names) for found in files)


def refuse_name(name: str, where: str) -> None:
    """Raises Refused for a path that no checkpoint may hold, before there is a file to look at."""
    parts = name.split("/")
    if len(parts) > MAX_DEPTH or not all(_NAME.fullmatch(part) for part in parts):
        raise _refused(f"{where}: {name!r}", "is a name that is not allowed", "leave it out")
    if Path(name).suffix.lower() not in KINDS:
        raise _of_no_kind(f"{where}: {name}")


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading: never through a link, never waiting for a pipe."""
    return _as_regular(os.open(path, _FILE), path)


def _as_regular(handle: int, path: Path) -> BinaryIO:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _refused(path, "is no longer a file", "take it out of the checkpoint")
    return os.fdopen(handle, "rb")


def identity(stream: BinaryIO) -> Identity:
    """What changes when a file does, or another takes its name."""
    about = os.fstat(stream.fileno())
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def read_json(content: bytes, where: str) -> dict[str, Any]:
    """A JSON object; duplicate keys and NaN are refused. Raises ConfigError."""
    try:
        text = content.decode("utf-8")
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ConfigError(
            f"not JSON: {error}", where=f"{where}{line}", hint="the file may be cut short"
        ) from None
    if not isinstance(data, dict):
        raise ConfigError("not a JSON object", where=where)
    return data


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


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """The folder that a person named, which may be a link: nothing below it may."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield handle
    finally:
        os.close(handle)


def _open_below(root: int, name: str, flags: int, path: Path) -> int:
    """Opens what lies there below a folder, part by part: whatever takes a part's place meanwhile,
    no link is followed. Raises Refused for one, OSError."""
    *parts, last = name.split("/")
    folder = os.dup(root)
    try:
        for part in parts:
            inner = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(last, flags, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise _refused(path, "is now below a link", "register it when nobody changes it") from None
    finally:
        os.close(folder)


def _walk(root: Path, opened: int) -> Iterator[Found]:
    """Everything below a folder; of a million entries only the first few are looked at."""
    waiting, seen = [(".", 0)], 0
    while waiting:
        folder, depth = waiting.pop()
        with _listed(opened, folder, root / folder) as entries:
            for entry in entries:
                seen += 1
                if seen > MAX_FILES or depth > MAX_DEPTH:
                    raise _refused(
                        root, f"holds more than {MAX_FILES} files", "name the checkpoint itself"
                    )
                path = root / folder / entry.name
                name = path.relative_to(root).as_posix()
                found = _kind(entry, path, name)
                if found is None:
                    waiting.append((name, depth + 1))
                else:
                    yield found


@contextmanager
def _listed(root: int, name: str, path: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
    handle = _open_below(root, name, _FOLDER, path)
    try:
        with os.scandir(handle) as entries:
            yield entries
    finally:
        os.close(handle)


def _kind(entry: os.DirEntry[str], path: Path, name: str) -> Found | None:
    """The file, or None for a folder; anything else is refused."""
    kind = entry.stat(follow_symlinks=False)
    if stat.S_ISLNK(kind.st_mode):
        raise _refused(path, "is a link", "copy the file itself into the checkpoint")
    if not _NAME.fullmatch(entry.name):
        raise _refused(path, "has a name that is not allowed", "use letters, digits, . _ -")
    if stat.S_ISDIR(kind.st_mode):
        return None
    if stat.S_ISREG(kind.st_mode):
        return Found(name, path, kind.st_size)
    raise _refused(path, "is neither a file nor a folder", "take it out of the checkpoint")


def _check(found: Found, root: int, names: set[str]) -> Found:
    """The file with the identity that was looked at."""
    if found.suffix not in KINDS:
        raise _of_no_kind(found.path)
    handle = _open_below(root, found.name, _FILE, found.path)
    with _as_regular(handle, found.path) as stream:
        found = replace(found, seen=identity(stream))
        if found.is_archive:
            _check_archive(found, stream)
            return found
        if found.suffix == SAFETENSORS:
            read_layout(found, stream)
        else:
            _check_text(found, stream, names)
        _check_disguise(found, stream)
    return found


def _check_text(found: Found, stream: BinaryIO, names: set[str]) -> None:
    if found.size > MAX_TEXT:
        raise _refused(found.path, "is text of more than 16 MB", "keep data elsewhere")
    content = stream.read(MAX_TEXT + 1)
    if found.suffix == ".json":
        _check_complete(found, read_json(content, str(found.path)), names)
    elif not _is_text(content):
        raise _refused(found.path, "is not text", "take it out of the checkpoint")


def _check_archive(found: Found, stream: BinaryIO) -> None:
    try:
        check_archive(stream, found.size, found.suffix)
    except ValueError as error:
        raise _refused(
            found.path, f"may not be kept: {error}", "keep weights as safetensors"
        ) from None


def _check_disguise(found: Found, stream: BinaryIO) -> None:
    """Refused where another program would find something else in the same bytes."""
    other = None
    if zipfile.is_zipfile(stream):
        other = "a zip archive"
    elif is_pickle(stream, found.size):
        other = "a pickle, which can run code when it is read"
    elif _at(stream, 257, 5) == b"ustar" or _is_tar_header(_at(stream, 0, tarfile.BLOCKSIZE)):
        other = "a tar archive"
    else:
        position = 0
        while position < found.size and other is None:
            if _at(stream, position, len(_HDF5)) == _HDF5:
                other = "an HDF5 file"
            position = position * 2 or 512
    if other is not None:
        raise _refused(found.path, f"is also {other}", "export the weights anew as safetensors")


def _is_tar_header(block: bytes) -> bool:
    """Also of the oldest kind, which has no magic and is known by its checksum alone."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _at(stream: BinaryIO, position: int, length: int) -> bytes:
    stream.seek(position)
    return stream.read(length)


def _check_complete(found: Found, data: Mapping[str, Any], names: set[str]) -> None:
    """Refused where the file names something that would be fetched when the policy is loaded."""
    folders = {parent.as_posix() for name in names for parent in Path(name).parents}
    waiting: list[Any] = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            for key in ELSEWHERE:
                target = value.get(key)
                inside = isinstance(target, str) and _inside(found, target, names | folders)
                if target and not inside:
                    raise Refused(
                        "the checkpoint names what is not in it",
                        evidence=f"{found.path}: {key} is {json.dumps(target)[:200]}",
                        hint="copy it into the checkpoint and name its path there, or leave it out",
                    )


def _inside(found: Found, target: str, names: set[str]) -> bool:
    """Whether a path names a file or folder of the checkpoint, from its root or from the file."""
    beside = (Path(found.name).parent / target).as_posix()
    return os.path.normpath(target) in names or os.path.normpath(beside) in names


def _is_text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode("utf-8")
    except UnicodeDecodeError:
        return False


def _unique(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"key {twice!r} is given twice")
    return found


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not a JSON number")


def _of_no_kind(where: Path | str) -> Refused:
    kinds = f".safetensors, .json and {' '.join(sorted(TEXT))} files"
    return _refused(where, "is of no kind that robots accept", f"a checkpoint holds {kinds}")


def _refused(where: Path | str, why: str, hint: str) -> Refused:
    return Refused("the checkpoint holds what it may not", evidence=f"{where} {why}", hint=hint)


def _damaged(found: Found, why: str) -> ConfigError:
    return ConfigError(
        f"{found.name} is damaged or cut short",
        where=str(found.path),
        field=why,
        hint="copy it again from where it was made",
    )
