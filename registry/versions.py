"""What a version is, and how one is named.

A *manifest* lists the files of a checkpoint with their digests and sizes, its contract and the
environment it was locked to. Its canonical JSON (RFC 8785) is hashed, and that digest *is* the
version: the same bytes under the same contract are the same version, whoever registers them and
whenever. The number (`v12`) is only the registry's name for the digest, given once, for ever.

Provenance is not part of the identity. Records are appended beside a version, several if need be.

Digests are written `sha256:` and 64 lower-case hexadecimal digits. Sizes are bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import rfc8785

from registry.errors import UsageError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_POLICY = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_REF = re.compile(r"(?:(?P<policy>[a-z][a-z0-9-]*)(?:[ /@]|\s+))?v(?P<number>[1-9][0-9]{0,8})")


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of a JSON value: one value, one spelling (tuples are arrays)."""
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
class FileEntry:
    """One file of a checkpoint. `path` is relative, with forward slashes, and never climbs."""

    path: str
    sha256: str  # "sha256:…"
    size: int  # bytes

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if "\\" in self.path or not all(part and part not in {".", ".."} for part in parts):
            raise ValueError(f"not a relative path inside a checkpoint: {self.path!r}")
        if not is_digest(self.sha256):
            raise ValueError(f"not a digest: {self.sha256!r}")
        if self.size < 0:
            raise ValueError(f"negative size of {self.path}: {self.size}")


@dataclass(frozen=True)
class Manifest:
    """What a version is made of. Files are kept in path order, so that order never matters."""

    policy: str
    files: tuple[FileEntry, ...]
    contract: Mapping[str, Any] = field(default_factory=dict)
    environment: str = ""  # digest or name of the environment lock

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.files, key=lambda entry: entry.path))
        if len({entry.path for entry in ordered}) != len(ordered):
            raise ValueError("a file is listed twice in the manifest")
        object.__setattr__(self, "files", ordered)
        object.__setattr__(self, "contract", _plain(self.contract))

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "policyctl.manifest/1",
            "policy": self.policy,
            "files": [{"path": f.path, "sha256": f.sha256, "size": f.size} for f in self.files],
            "contract": _plain(self.contract),
            "environment": self.environment,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Manifest:
        if data.get("schema") != "policyctl.manifest/1":
            raise ValueError(f"not a manifest: schema {data.get('schema')!r}")
        return Manifest(
            policy=data["policy"],
            files=tuple(FileEntry(f["path"], f["sha256"], f["size"]) for f in data["files"]),
            contract=data["contract"],
            environment=data["environment"],
        )

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

    def to_json(self) -> dict[str, Any]:
        return {
            "commit": self.commit,
            "dataset": self.dataset,
            "base_model": self.base_model,
            "run": self.run,
            "recipe": None if self.recipe is None else _plain(self.recipe),
            "note": self.note,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Provenance:
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


def _plain(value: Any) -> Any:
    """Mappings become dicts and tuples lists, all the way down."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
