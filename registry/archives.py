"""Archives that PyTorch writes: TorchScript (`.pt`) and exported programs (`.pt2`).

They are zip files with pickle streams and a program inside. No unpickler of ours ever reads one,
but whoever runs one does; so they are taken only in exactly the shape that PyTorch writes, and a
version that holds one is marked `sandbox_only`.

- The zip begins at the first byte and ends at the last; members lie end to end in the order of the
  directory, all below one folder, none encrypted, doubled, of another name than PyTorch gives, or
  larger unpacked than a program's text may be. Every reader finds the same directory in it.
- Pickle streams hold no opcode but those that tensors and module attributes need, and name nothing
  but PyTorch's own builders, storages and, in TorchScript, the archive's own classes.
- An exported program's tensors are members of plain numbers, by name; what PyTorch would unpickle
  (`opaque_obj_0`, `custom_obj_0`, weights in the old format `NAME.pt`) is not taken, and its JSON
  says nothing that PyTorch would run as Python (`registry.exported`).
- No shared libraries (AOTInductor), no user objects, no extra files.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from typing import IO, BinaryIO

from registry.exported import check_payloads, check_program
from registry.pickles import NotPickleError, opcodes

MAX_MEMBERS = 200_000
MAX_UNPACKED = 64 << 20
_END = struct.Struct("<4s4H2LH")  # a zip's end record without a comment
_END64 = struct.Struct("<4sQ2H2L4Q")  # the one of large zips before it, as PyTorch always writes
_LOCATOR = struct.Struct("<4sLQL")  # and where that is
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
    r"|data/weights/(weight_\d+|[\w.-]+_weights_config\.json)"
    r"|data/constants/(tensor_\d+|[\w.-]+_constants_config\.json)"
    r"|data/sample_inputs/[\w.-]+\.pt"
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
_OF_OWN = {"NEWOBJ", "BUILD"}  # for classes of the archive's own; PyTorch's builders need neither
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
    count, start = _directory(stream, size)
    archive = zipfile.ZipFile(stream)
    members = archive.infolist()
    if not 0 < len(members) <= MAX_MEMBERS:
        raise ValueError(f"it has {len(members)} members")
    if (len(members), archive.start_dir) != (count, start):
        raise ValueError("its directory is not where its end says")
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


def _directory(stream: BinaryIO, size: int) -> tuple[int, int]:
    """How many members the end of the zip tells of, and where their directory is. It says so
    twice where it is large, and readers differ in which they believe: both must say the same."""
    tail = _END64.size + _LOCATOR.size + _END.size
    stream.seek(max(size - tail, 0))
    end = stream.read(tail)
    if len(end) < _END.size:
        raise ValueError("it is cut short")
    mark, *disks, of_disk, count, length, start, comment = _END.unpack(end[-_END.size :])
    if mark != b"PK\x05\x06" or comment:
        raise ValueError("there is something behind the archive")
    behind = size - _END.size
    if len(end) == tail and end[_END64.size :].startswith(b"PK\x06\x07"):
        _, *others, where, copies = _LOCATOR.unpack(end[_END64.size : -_END.size])
        large, record, _, _, *disks64, of_disk64, count64, length64, start64 = _END64.unpack(
            end[: _END64.size]
        )
        behind = size - tail
        small = (min(count64, 0xFFFF), min(length64, 0xFFFFFFFF), min(start64, 0xFFFFFFFF))
        if large != b"PK\x06\x06" or record != _END64.size - 12 or (where, copies) != (behind, 1):
            raise ValueError("its end is not PyTorch's")
        if (count, length, start) != small or of_disk64 != count64 or any(disks64 + others):
            raise ValueError("its end says two things")
        count, length, start = count64, length64, start64
    elif of_disk != count:
        raise ValueError("its end says two things")
    if any(disks) or start + length != behind:
        raise ValueError("its directory is not where its end says")
    return count, start


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
        if member.orig_filename != member.filename or not _is_plain(member.extra):
            raise ValueError(f"{name} is written in an unusual way")
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


def _is_plain(extra: bytes) -> bool:
    """Nothing but the sizes of a large member: another field may say another name."""
    return not extra or (
        extra[:2] == b"\x01\0" and len(extra) == 4 + int.from_bytes(extra[2:4], "little")
    )


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
            said = _json(_text(archive, member), name)
            if name.startswith("models/"):
                check_program(said, name)
            else:
                check_payloads(said, "weight" if name.startswith("data/w") else "tensor", name)
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


def _json(text: str, name: str) -> object:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply") from None


def _check_pickle(source: IO[bytes], size: int, name: str, *, own: bool) -> None:
    """`own`: TorchScript's unpickler makes the archive's classes; Python's never sees them."""
    if size > MAX_UNPACKED:
        raise ValueError(f"{name} is {size} bytes long")
    content = io.BytesIO(_content(source, size))
    try:
        for opcode in opcodes(content, size):
            if opcode.name not in _OPCODES or (opcode.name in _OF_OWN and not own):
                raise ValueError(f"{name} has the opcode {opcode.name}")
            mine = own and _OWN_CLASS.fullmatch(opcode.word)
            if opcode.name == "GLOBAL" and opcode.word not in _GLOBALS and not mine:
                raise ValueError(f"{name} names {opcode.word!r}")
    except NotPickleError as error:
        raise ValueError(f"{name} is no pickle: {error}") from None
    if content.read(1):
        raise ValueError(f"{name} goes on behind its end")
