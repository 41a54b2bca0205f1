"""Archives that PyTorch writes: TorchScript (`.pt`) and exported programs (`.pt2`).

They are zip files with pickle streams and a program inside. No unpickler of ours ever reads one,
but whoever runs one does; so they are taken only in exactly the shape that PyTorch writes, and a
version that holds one is marked `sandbox_only`.

- The zip begins at the first byte and ends at the last; members lie end to end in the order of the
  directory, all below one folder, none encrypted, doubled, of another name than PyTorch gives, or
  larger unpacked than a program's text may be.
- Pickle streams hold no opcode but those that tensors and module attributes need, and name nothing
  but PyTorch's own builders, storages and, in TorchScript, the archive's own classes.
- No shared libraries (AOTInductor), no user objects, no extra files.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from typing import IO, BinaryIO

from registry.pickles import NotPickleError, opcodes

MAX_MEMBERS = 200_000
MAX_UNPACKED = 64 << 20
_END = 22  # bytes of a zip's end record without a comment
_LOCAL = 30  # bytes of a member's own header before its name
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,119}")
_TENSORS = r"(data|constants|traced_inputs)/\d+"
_COMMON = (
    r"version|byteorder|\.data/(serialization_id|version)|\.format_version|\.storage_alignment"
)
_SCRIPT = re.compile(
    rf"{_COMMON}|{_TENSORS}|(data|constants|traced_inputs|attributes)\.pkl"
    r"|code/[\w./-]+\.py(\.debug_pkl)?"
)
_STATE = re.compile(rf"{_COMMON}|data/\d+|data\.pkl")
_PROGRAM = re.compile(
    rf"{_COMMON}|archive_format|archive_version|models/[\w.-]+\.json"
    r"|data/(weights|constants)/[\w.-]+|data/sample_inputs/[\w.-]+\.pt"
)
_OPCODES = frozenset(
    {
        "PROTO", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT",
        "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING",
        "SHORT_BINSTRING", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "TUPLE", "TUPLE1", "TUPLE2",
        "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET",
        "LONG_BINGET", "GLOBAL", "REDUCE", "BUILD", "NEWOBJ", "BINPERSID",
    }
)  # fmt: skip
_TYPES = (
    "Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool",
    "ComplexFloat", "ComplexDouble",
)  # fmt: skip
_GLOBALS = frozenset(
    {
        "collections OrderedDict", "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter", "torch._tensor _rebuild_from_type_v2",
        *(f"torch {kind}Storage" for kind in _TYPES),
        *(
            f"torch.jit._pickle {name}"
            for name in (
                "build_intlist", "build_tensorlist", "build_doublelist", "build_boollist",
                "restore_type_tag",
            )
        ),
    }
)  # fmt: skip
_OWN_CLASS = re.compile(r"__torch__[\w.]* \w+")


def check_archive(stream: BinaryIO, size: int, suffix: str) -> None:
    """Raises ValueError with what is wrong. `suffix` is `.pt` or `.pt2`."""
    try:
        with _open(stream, size) as archive:
            names = _names(archive)
            if suffix == ".pt2":
                _check_program(archive, names)
            else:
                _check_script(archive, names)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
        raise ValueError(f"it is no archive that PyTorch wrote: {error}") from None


def _open(stream: BinaryIO, size: int) -> zipfile.ZipFile:
    """A zip that is the whole file: nothing before it, nothing behind it, nothing in between."""
    stream.seek(0)
    if stream.read(4) != b"PK\x03\x04":
        raise ValueError("it is no archive that PyTorch wrote")
    stream.seek(max(size - _END, 0))
    end = stream.read()
    if len(end) != _END or not end.startswith(b"PK\x05\x06") or end[-2:] != b"\0\0":
        raise ValueError("there is something behind the archive")
    archive = zipfile.ZipFile(stream)
    members = archive.infolist()
    if not 0 < len(members) <= MAX_MEMBERS:
        raise ValueError(f"it has {len(members)} members")
    position = 0
    for member in members:
        if member.header_offset < position or member.header_offset > position + 256:
            raise ValueError(f"{member.filename!r} does not lie behind the member before it")
        stream.seek(member.header_offset + _LOCAL - 4)
        lengths = stream.read(4)
        name, extra = int.from_bytes(lengths[:2], "little"), int.from_bytes(lengths[2:], "little")
        position = member.header_offset + _LOCAL + name + extra + member.compress_size
    if position > archive.start_dir or archive.start_dir > position + 256:
        raise ValueError("there is something between the members and the directory")
    return archive


def _names(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Members by their name below the one folder."""
    found: dict[str, zipfile.ZipInfo] = {}
    roots: set[str] = set()
    unpacked = 0
    for member in archive.infolist():
        root, _, name = member.filename.partition("/")
        parts = name.removeprefix(".").split("/")
        if not _PART.fullmatch(root) or not all(_PART.fullmatch(part) for part in parts):
            raise ValueError(f"a member has a name that is not allowed: {member.filename!r}")
        if member.flag_bits & ~0x0808 or member.compress_type not in (0, 8):
            raise ValueError(f"{name} is encrypted or packed in an unusual way")
        if name in found:
            raise ValueError(f"{name} is there twice")
        if member.compress_type == 8:
            unpacked += member.file_size
        elif member.compress_size != member.file_size:
            raise ValueError(f"{name} is not of the size that it says")
        roots.add(root)
        found[name] = member
    if len(roots) != 1:
        raise ValueError("its members lie in more than one folder")
    if unpacked > MAX_UNPACKED:
        raise ValueError(f"its program unpacks to {unpacked} bytes")
    return found


def _check_script(archive: zipfile.ZipFile, names: dict[str, zipfile.ZipInfo]) -> None:
    _only(names, _SCRIPT)
    if not {"data.pkl", "constants.pkl", "version"} <= names.keys():
        raise ValueError("it is no TorchScript archive; save weights as safetensors")
    for name, member in names.items():
        if name.endswith((".pkl", ".debug_pkl")):
            _check_pickle(archive.open(member), member.file_size, name, own=True)
        elif name.endswith(".py"):
            _text(archive, member)
        elif member.compress_type == 8:
            raise ValueError(f"{name} is packed, PyTorch does not pack it")


def _check_program(archive: zipfile.ZipFile, names: dict[str, zipfile.ZipInfo]) -> None:
    _only(names, _PROGRAM)
    if "archive_format" not in names or _text(archive, names["archive_format"]) != "pt2":
        raise ValueError("it is no exported program")
    for name, member in names.items():
        if name.endswith(".json"):
            _check_json(_text(archive, member), name)
        elif member.compress_type == 8:
            raise ValueError(f"{name} is packed, PyTorch does not pack it")
        elif name.startswith("data/sample_inputs/"):
            _check_inner(archive.open(member), member.file_size, name)


def _content(source: IO[bytes], size: int) -> bytes:
    """A member as far as the directory says it goes: asked for everything, zipfile would unpack
    whatever its stream holds before it cuts."""
    return source.read(size)


def _check_inner(source: IO[bytes], size: int, name: str) -> None:
    """Tensors that `torch.save` wrote, an archive of its own."""
    if size > MAX_UNPACKED:
        raise ValueError(f"{name} is {size} bytes long")
    content = io.BytesIO(_content(source, size))
    with _open(content, size) as archive:
        names = _names(archive)
        _only(names, _STATE)
        if "data.pkl" not in names:
            raise ValueError(f"{name} holds no tensors")
        member = names["data.pkl"]
        _check_pickle(archive.open(member), member.file_size, f"{name}: data.pkl", own=False)


def _only(names: dict[str, zipfile.ZipInfo], allowed: re.Pattern[str]) -> None:
    for name in names:
        if not allowed.fullmatch(name):
            raise ValueError(f"it holds {name}, which is not allowed")


def _text(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    if member.file_size > MAX_UNPACKED:
        raise ValueError(f"{member.filename} is {member.file_size} bytes long")
    return _content(archive.open(member), member.file_size).decode("utf-8")


def _check_json(text: str, name: str) -> None:
    """Nothing in it may ask for an unpickler."""
    try:
        said = json.loads(text)
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply") from None
    waiting = [said]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if value.get("use_pickle"):
                raise ValueError(f"{name} asks for an unpickler")
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _check_pickle(source: IO[bytes], size: int, name: str, *, own: bool) -> None:
    """`own`: TorchScript's unpickler makes the archive's classes; Python's never sees them."""
    if size > MAX_UNPACKED:
        raise ValueError(f"{name} is {size} bytes long")
    content = io.BytesIO(_content(source, size))
    try:
        for opcode in opcodes(content, size):
            if opcode.name not in _OPCODES or (opcode.name == "NEWOBJ" and not own):
                raise ValueError(f"{name} has the opcode {opcode.name}")
            mine = own and _OWN_CLASS.fullmatch(opcode.word)
            if opcode.name == "GLOBAL" and opcode.word not in _GLOBALS and not mine:
                raise ValueError(f"{name} names {opcode.word!r}")
    except NotPickleError as error:
        raise ValueError(f"{name} is no pickle: {error}") from None
    if content.read(1):
        raise ValueError(f"{name} goes on behind its end")
