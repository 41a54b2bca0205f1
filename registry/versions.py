"""What a version is, and how one is named.

A *manifest* lists the files of a checkpoint with their digests and sizes, its contract and the
environment it was locked to. Its canonical JSON (RFC 8785) is hashed, and that digest *is* the
version: the same bytes under the same contract are the same version, whoever registers them and
whenever. The number (`v12`) is only the registry's name for the digest, given once, for ever.

Provenance is not part of the identity. Records are appended beside a version, several if need be.

A store holds *pieces*. Of a safetensors file these are its header and its tensors, so that a tensor
which did not change is stored, sent and fetched once; of any other file the file itself. The
manifest lists them in the order of their bytes: what `pieces` names, joined, is the file.

Two schemas are read. `policyctl.manifest/1` knows files only; `/2` adds pieces, the version that an
adapter belongs to, and whether a version must be sandboxed. A manifest is written in the oldest
schema that can say it, so that each has one spelling and one digest.

Digests are written `sha256:` and 64 lower-case hexadecimal digits. Sizes are bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import rfc8785

from registry.errors import UsageError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_POLICY = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_REF = re.compile(r"(?:(?P<policy>[a-z][a-z0-9-]*)(?:[ /@]|\s+))?v(?P<number>[1-9][0-9]{0,8})")


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of a JSON value: one value, one spelling (tuples are arrays).

    Nearly all values here are spelled alike by the standard library, twenty times as fast; the few
    that are not, and whatever is no JSON value, go the long way.
    """
    try:
        return _ENCODER.encode(_simple(value)).encode()
    except (_Odd, UnicodeEncodeError):
        return rfc8785.dumps(_plain(value))


def digest_bytes(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """The digest of a JSON value's canonical bytes."""
    return digest_bytes(canonical(value))


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def is_policy_name(text: str) -> bool:
    """Lower-case words joined by single hyphens: `box-grasp`."""
    return _POLICY.fullmatch(text) is not None


@dataclass(frozen=True)
class Piece:
    """Bytes that a store holds under their digest."""

    sha256: str  # "sha256:…"
    size: int  # bytes

    def __post_init__(self) -> None:
        _check_bytes(self.sha256, self.size)


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a safetensors file."""

    name: str
    sha256: str
    size: int  # bytes; 0 for a tensor without elements

    def __post_init__(self) -> None:
        _check_bytes(self.sha256, self.size)

    @property
    def piece(self) -> Piece:
        return Piece(self.sha256, self.size)


@dataclass(frozen=True)
class FileEntry:
    """One file of a checkpoint. `path` is relative, with forward slashes, and never climbs.

    A file kept in pieces has a `header` (everything before the data) and its `tensors` in the order
    of the data; together they are every byte of it.
    """

    path: str
    sha256: str  # "sha256:…", of the whole file
    size: int  # bytes
    header: Piece | None = None
    tensors: tuple[TensorEntry, ...] = ()

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if "\\" in self.path or not all(part and part not in {".", ".."} for part in parts):
            raise ValueError(f"not a relative path inside a checkpoint: {self.path!r}")
        _check_bytes(self.sha256, self.size)
        if self.header is None and self.tensors:
            raise ValueError(f"{self.path} has tensors but no header")
        if self.header and self.header.size + sum(t.size for t in self.tensors) != self.size:
            raise ValueError(f"the pieces of {self.path} are not its {self.size} bytes")
        if len({tensor.name for tensor in self.tensors}) != len(self.tensors):
            raise ValueError(f"a tensor of {self.path} is listed twice")

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """What a store holds of it, in the order of its bytes; nothing empty but an empty file."""
        if self.header is None:
            return (Piece(self.sha256, self.size),)
        return (self.header, *(tensor.piece for tensor in self.tensors if tensor.size))

    def to_json(self) -> dict[str, Any]:
        said: dict[str, Any] = {"path": self.path, "sha256": self.sha256, "size": self.size}
        if self.header is not None:
            said["header"] = {"sha256": self.header.sha256, "size": self.header.size}
            said["tensors"] = [
                {"name": t.name, "sha256": t.sha256, "size": t.size} for t in self.tensors
            ]
        return said

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> FileEntry:
        _check_types(data, "a file", path=_STR, header=_DICT, tensors=_LIST, **_BYTES)
        header, tensors = data.get("header"), data.get("tensors", [])
        if header is not None:
            _check_types(header, "a header", **_BYTES)
        for one in tensors:
            _check_types(one, "a tensor", name=_STR, **_BYTES)
        return FileEntry(
            data["path"], data["sha256"], data["size"],
            None if header is None else Piece(**header),
            tuple(TensorEntry(**one) for one in tensors),
        )  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """What a version is made of. Files are kept in path order, so that order never matters."""

    policy: str
    files: tuple[FileEntry, ...]
    contract: Mapping[str, Any] = field(default_factory=dict)
    environment: str = ""  # digest or name of the environment lock
    base: str = ""  # digest of the version that this adapter is applied to
    sandbox_only: bool = False  # it holds a program's archive: never loaded outside a sandbox

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.files, key=lambda entry: entry.path))
        if len({entry.path for entry in ordered}) != len(ordered):
            raise ValueError("a file is listed twice in the manifest")
        if self.base and not is_digest(self.base):
            raise ValueError(f"the base is not a digest: {self.base!r}")
        object.__setattr__(self, "files", ordered)
        object.__setattr__(self, "contract", _plain(self.contract))

    @property
    def schema(self) -> int:
        """The oldest schema that can say it."""
        pieces = any(entry.header is not None for entry in self.files)
        return 2 if pieces or self.base or self.sandbox_only else 1

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Everything a store holds of it but the manifest itself, each once."""
        return tuple(dict.fromkeys(piece for entry in self.files for piece in entry.pieces))

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)

    def in_files(self) -> Manifest:
        """The same version as registries of whole files said it (schema 1, where that can)."""
        whole = tuple(replace(entry, header=None, tensors=()) for entry in self.files)
        return replace(self, files=whole)

    def to_json(self) -> dict[str, Any]:
        said = {
            "schema": f"policyctl.manifest/{self.schema}",
            "policy": self.policy,
            "files": [entry.to_json() for entry in self.files],
            "contract": _plain(self.contract),
            "environment": self.environment,
        }
        if self.schema > 1:
            said |= {"base": self.base or None, "sandbox_only": self.sandbox_only}
        return said

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Manifest:
        """Raises ValueError, KeyError or TypeError for what is no manifest of a known schema."""
        _check_types(
            data, "a manifest", schema=_STR, policy=_STR, files=_LIST, contract=_DICT,
            environment=_STR, base=_STR_OR_NONE, sandbox_only=(bool,),
        )  # fmt: skip
        schema = data.get("schema")
        if schema not in ("policyctl.manifest/1", "policyctl.manifest/2"):
            raise ValueError(f"not a manifest: schema {schema!r}")
        manifest = Manifest(
            policy=data["policy"],
            files=tuple(FileEntry.from_json(one) for one in data["files"]),
            contract=data["contract"],
            environment=data["environment"],
            base=data.get("base") or "",
            sandbox_only=data.get("sandbox_only", False),
        )
        if manifest.to_json() != _plain(data):
            raise ValueError("a manifest that is not spelled as its schema says")
        return manifest

    def canonical(self) -> bytes:
        return canonical(self.to_json())

    @property
    def digest(self) -> str:
        return digest_bytes(self.canonical())


@dataclass(frozen=True)
class Provenance:
    """Where a version came from, as far as somebody knew when they wrote it down."""

    commit: str | None = None
    dataset: str | None = None
    base_model: str | None = None
    run: str | None = None
    recipe: Mapping[str, Any] | None = None
    note: str | None = None
    source: str | None = None  # hf://org/name@commit or s3://bucket/prefix

    def to_json(self) -> dict[str, Any]:
        said = {
            "commit": self.commit,
            "dataset": self.dataset,
            "base_model": self.base_model,
            "run": self.run,
            "recipe": None if self.recipe is None else _plain(self.recipe),
            "note": self.note,
        }
        return said if self.source is None else {**said, "source": self.source}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Provenance:
        """Raises ValueError, or TypeError for other fields, for what cannot be written down."""
        texts = dict.fromkeys(
            ("commit", "dataset", "base_model", "run", "note", "source"), _STR_OR_NONE
        )
        _check_types(data, "provenance", recipe=(dict, type(None)), **texts)
        if any("\0" in str(data.get(name)) for name in texts):
            raise ValueError("provenance holds a NUL")
        canonical(data)  # hashed when it is recorded
        return Provenance(**data)


@dataclass(frozen=True)
class VersionRef:
    """A version as a user names it; `policy` is None when they left it out."""

    policy: str | None
    number: int

    def __str__(self) -> str:
        return f"v{self.number}" if self.policy is None else f"{self.policy} v{self.number}"


def parse_ref(text: str) -> VersionRef:
    """`v12`, `box-grasp v12`, `box-grasp/v12` or `box-grasp@v12`; anything else is a UsageError."""
    match = _REF.fullmatch(text.strip())
    policy = match["policy"] if match else None
    if match is None or (policy is not None and not is_policy_name(policy)):
        raise UsageError(
            f"not a version: {text!r}",
            evidence="a version is written v12, box-grasp v12, box-grasp/v12 or box-grasp@v12",
            hint="`policyctl list` shows the versions of every policy",
        )
    return VersionRef(policy, int(match["number"]))


_STR, _STR_OR_NONE, _DICT, _LIST = (str,), (str, type(None)), (dict,), (list,)
_BYTES = {"sha256": _STR, "size": (int,)}


def _check_types(data: Any, what: str, **kinds: tuple[type, ...]) -> None:
    """Raises ValueError unless it is a JSON object whose fields, where they are, have these types.

    A bool is no number.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{what} is no object: {data!r:.80}")
    for name, allowed in kinds.items():
        if name in data and type(data[name]) not in allowed:
            raise ValueError(f"{name} of {what} is of another type: {data[name]!r:.80}")


def _check_bytes(digest: str, size: int) -> None:
    if not is_digest(digest):
        raise ValueError(f"not a digest: {digest!r}")
    if size < 0:
        raise ValueError(f"negative size: {size}")


_ENCODER = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False
)
_EXACT = 2**53 - 1
"""The largest integer that a JSON number holds, by RFC 8785."""


class _Odd(Exception):  # noqa: N818 - no error: `canonical` takes the long way
    """A value that the standard library may spell in another way."""


def _simple(value: Any) -> Any:
    """`_plain`, of values that RFC 8785 spells as the standard library does. Raises _Odd.

    Keys are ASCII (others sort by UTF-16), integers exact, and floats whole or of a size that
    Python, too, writes without an exponent.
    """
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is float and value.is_integer():
        value, kind = int(value), int
    if (kind is int and -_EXACT <= value <= _EXACT) or (kind is float and 1e-4 <= abs(value) < 1e9):
        return value
    if kind is list or kind is tuple:
        return [_simple(item) for item in value]
    if isinstance(value, Mapping):
        if not all(type(key) is str and key.isascii() for key in value):
            raise _Odd
        return {key: _simple(item) for key, item in value.items()}
    raise _Odd


def _plain(value: Any) -> Any:
    """Mappings become dicts and tuples lists, all the way down."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
