"""What is published in HOME/trust: the newest metadata of each role, and how long it lives.

Readers need no lock: a version of a role never changes, and the timestamp is replaced as a whole.
The files, and who writes them: `registry.trust.repository`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, SuccinctRoles, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from registry.errors import Corrupt, NotFound
from registry.trust.remains import is_published

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = Root.type, Targets.type, Snapshot.type, Timestamp.type
BIN = "bin"
BIN_BITS = 5
DAY = 86_400.0
LIFE_S = {ROOT: 365 * DAY, TARGETS: 365 * DAY, SNAPSHOT: 7 * DAY, TIMESTAMP: DAY}
Meta: TypeAlias = Metadata[Any]


class Published:
    """The published half of HOME/trust."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def exists(self) -> bool:
        return is_published(self._folder)

    @property
    def anchor(self) -> Path:
        """The first root, which robots are given by hand."""
        return self._folder / "metadata" / f"1.{ROOT}.json"

    def root(self, version: int | None = None) -> Metadata[Root]:
        """The newest, or the one of an earlier `version`: roots are kept for ever."""
        return self.read(ROOT, version or self.version(ROOT))

    def targets(self, role: str = TARGETS) -> Metadata[Targets]:
        """The newest published metadata of targets or of a bin. Raises Corrupt where
        its signatures do not hold, or targets name no bins.
        """
        found = self._newest(role)
        require_signed(role, found, (self.root() if role == TARGETS else self.targets()).signed)
        if role == TARGETS:
            self.succinct(found.signed)
        return found

    def version(self, role: str, none: int | None = None) -> int:
        """The highest version that was ever published of a role; `none`, if given, before that."""
        suffix = f".{role}.json"
        found = [
            int(path.name.removesuffix(suffix))
            for path in (self._folder / "metadata").glob(f"*{suffix}")
            if path.name.removesuffix(suffix).isdecimal()
        ]
        if not found and none is None:
            raise NotFound(
                "this home has no trust set up",
                evidence=f"no {role} in {self._folder / 'metadata'}",
                hint="run `policyctl trust init`",
            )
        return max(found, default=none or 0)

    def data(self, role: str) -> bytes:
        """The newest published bytes of a role, as they are."""
        return (self._folder / "metadata" / f"{self.version(role)}.{role}.json").read_bytes()

    def timestamp(self) -> Metadata[Timestamp]:
        """Raises NotFound, or Corrupt where its signature does not hold."""
        found = read_metadata(self._folder / "metadata" / "timestamp.json")
        require_signed(TIMESTAMP, found, self.root().signed)
        return found

    def newest_snapshot(self) -> Snapshot:
        """Raises Corrupt where its signature does not hold."""
        found = self._newest(SNAPSHOT)
        require_signed(SNAPSHOT, found, self.root().signed)
        assert isinstance(found.signed, Snapshot)
        return found.signed

    def bins(self) -> list[str]:
        succinct = self.succinct(self.targets().signed)
        return list(succinct.get_roles())

    def bin_of(self, target: str) -> str:
        return self.succinct(self.targets().signed).get_role_for_target(target)

    @staticmethod
    def succinct(targets: Targets) -> SuccinctRoles:
        """How the bins are delegated. Raises Corrupt where they are not."""
        found = targets.delegations and targets.delegations.succinct_roles
        if not found or (found.bit_length, found.name_prefix) != (BIN_BITS, BIN):
            raise _forged(TARGETS, f"they name no {2**BIN_BITS} bins")
        return found

    def file(self, info: TargetFile) -> bytes:
        """The bytes of a small file as a target names them. Raises Corrupt for others."""
        path = self._folder / "targets" / f"{info.hashes['sha256']}.{info.path}"
        try:
            content = path.read_bytes()
            info.verify_length_and_hashes(content)
        except (OSError, LengthOrHashMismatchError) as wrong:
            raise Corrupt(f"{info.path} is not what was signed", evidence=str(wrong)) from wrong
        return content

    def read(self, role: str, version: int) -> Meta:
        """One version of a role, as it was published. Raises NotFound or Corrupt."""
        return read_metadata(self._folder / "metadata" / f"{version}.{role}.json")

    def _newest(self, role: str) -> Meta:
        """Raises Corrupt where it says another version than its name does: robots refuse that."""
        version = self.version(role)
        found = self.read(role, version)
        if found.signed.version != version:
            raise _forged(role, f"{version}.{role}.json says version {found.signed.version}")
        return found


def read_metadata(path: Path) -> Meta:
    """Metadata in a file. Raises NotFound or Corrupt."""
    try:
        return Metadata.from_bytes(path.read_bytes())
    except FileNotFoundError:
        raise NotFound("there is no such metadata", evidence=str(path)) from None
    except (DeserializationError, OSError) as wrong:
        raise Corrupt("metadata cannot be read", evidence=f"{path}: {wrong}") from wrong


def require_signed(role: str, found: Meta, delegator: Root | Targets) -> None:
    """Raises Corrupt where it is no metadata of that role that its delegator's keys signed."""
    kind = role if role in (ROOT, SNAPSHOT, TIMESTAMP) else TARGETS
    if found.signed.type != kind:
        raise _forged(role, f"it is metadata of {found.signed.type}")
    try:
        delegator.verify_delegate(role, found.signed_bytes, found.signatures)
    except (RepositoryError, ValueError) as forged:
        raise _forged(role, str(forged)) from forged


def _forged(role: str, why: str) -> Corrupt:
    return Corrupt(
        f"the published {role} is not signed as it should be",
        evidence=why,
        hint="`policyctl trust status` says what is forged, and what puts it right",
    )


def expiry(role: str, now: float) -> datetime:
    """When what is signed now will expire."""
    life = LIFE_S.get(role, LIFE_S[TARGETS])
    return (datetime.fromtimestamp(now, UTC) + timedelta(seconds=life)).replace(microsecond=0)
