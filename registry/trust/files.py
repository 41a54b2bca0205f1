"""A home's `trust` folder, as far as the record uses it. A home has trust once a
file other than `lock` lies in it, and for ever once its record shows that trust was begun.

Where the keyring is then gone or cannot be read, or the whole folder is, whatever needs it raises
Corrupt: a home that has trust never goes on as one that has none.

    keyring.json        which keys may act in which role (`registry.trust.keyring`)
    keyring.next.json   a changed keyring that waits for the approvers' signatures
    places.json         where this machine's private keys are (`registry.trust.places`)
    keys/               private keys of this home, if they are files (0600)

The keyring is what approvers have approved: the folder only holds it. A key's URI may name a file,
an environment variable, or any service that securesystemslib knows; `POLICYCTL_SIGNER_<ROLE>` in
the environment wins over `places.json`, so that a pipeline brings its own runner's key.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import Conflict, Corrupt, NotAllowed, PolicyctlError, WrongSigner
from registry.storage import disk_errors, write_whole
from registry.trust.keyring import Keyring, parse_keyring
from registry.trust.places import PLACES, Kept, read_places, resolved, write_places

if TYPE_CHECKING:
    from registry.trust.keys import Signer

KEYRING, NEXT = "keyring.json", "keyring.next.json"
LOCK, TARGETS, METADATA = "lock", "targets", "metadata"
VARIABLE = "POLICYCTL_SIGNER_"


@dataclass(frozen=True)
class SignerEntry:
    """Where the private key of a role is; `keyid` says which of the role's keys it is."""

    place: str
    keyid: str


@dataclass(frozen=True)
class Traces:
    """What a home's record holds that only a home with trust writes."""

    noted: bool = False  # `trust init` is in the audit
    signed: bool = False  # there are signed statements or orders

    def __bool__(self) -> bool:
        return self.noted or self.signed


class TrustFolder:
    """Reads anew whenever a file has changed: a server sees a robot that was enrolled beside it.

    `traces` asks the record; without it nothing is known of that.
    """

    def __init__(self, root: Path, traces: Callable[[], Traces] = Traces) -> None:
        self.root = root
        self._traces = traces
        self._seen: tuple[int, int, int] | None = None
        self._keyring = Keyring()

    @property
    def exists(self) -> bool:
        """Whether trust was begun here, also where its keyring or all of its folder is gone."""
        return self._holds_files() or bool(self._traces())

    def _holds_files(self) -> bool:
        """Whether trust left any file here. What cannot be looked at is not nothing."""
        troubles: list[OSError] = []
        for _, _, files in os.walk(self.root, onerror=troubles.append):
            if any(name != LOCK for name in files):
                return True
        gone = all(isinstance(one, FileNotFoundError) for one in troubles)
        return not gone or self.root.is_symlink()

    @property
    def has_keyring(self) -> bool:
        return os.path.lexists(self.root / KEYRING)

    @property
    def unfinished(self) -> bool:
        """A first set-up was cut off before its keyring, and `trust init` may be run again.

        That leaves a key, then a repository, then its record in the audit, then the roles of the
        key, in this order. Anything else is a keyring that was lost: where one was ever published
        or waits, where roles were given or the audit tells of `trust init` and there is no
        repository, and where anything was ever signed.
        """
        if self.has_keyring or self.has_signed:
            return False
        found = self._traces()
        return not found.signed and (is_published(self.root) or not (found.noted or self.signers()))

    @property
    def has_signed(self) -> bool:
        """Whether a keyring lies here that approvers signed once, or are asked to sign."""
        return os.path.lexists(self.root / NEXT) or self._was_published()

    def _was_published(self) -> bool:
        named = f'"{KEYRING}"'.encode()
        signed = (self.root / METADATA).glob("*.targets.json")
        return bool(self._copies()) or any(named in one.read_bytes() for one in signed)

    def _copies(self) -> list[Path]:
        """The keyrings that were published for robots: each is one that approvers signed once."""
        return sorted((self.root / TARGETS).glob(f"*.{KEYRING}"))

    def keyring(self) -> Keyring:
        """The approved keyring. Raises Corrupt, also where it is gone or of a lower number."""
        path = self.root / KEYRING
        try:
            status = path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen == self._seen:
                return self._keyring
            found = parse_keyring(path.read_bytes(), str(path))
        except OSError as gone:
            raise self._lost(gone) from gone
        if self._seen is not None and found.number < self._keyring.number:
            raise Corrupt(
                "the keyring was replaced by an older one",
                evidence=f"{path}: number {found.number}, it was {self._keyring.number}",
                hint="restore it from a backup",
            )
        self._seen, self._keyring = seen, found
        return found

    def _lost(self, gone: OSError) -> Corrupt:
        hint = "restore it from a backup; without it nothing is signed, registered or judged here"
        if not self._holds_files():
            return Corrupt(
                "this home has trust, and its trust folder is gone",
                evidence=f"the record shows that trust was begun; {self.root}: {gone.strerror}",
                hint="restore the folder from a backup; without it nothing is signed, registered "
                "or judged here. Where there is no backup: policyctl trust init --anew",
            )
        if self.unfinished:
            hint += ". Where `policyctl trust init` was cut off: run it again"
        elif copies := self._copies():
            newest = max(copies, key=_number_of)
            hint += f", or put the copy back that robots are shown: {newest}"
        elif not self.has_signed:
            hint += ". Where `policyctl trust init --anew` was cut off: run that again, with --anew"
        return Corrupt(
            "this home has trust, and its keyring cannot be read",
            evidence=f"{self.root / KEYRING}: {gone.strerror}",
            hint=hint,
        )

    def write_keyring(self, keyring: Keyring) -> None:
        """Puts an approved keyring in the place of the last one. Raises Conflict."""
        held = self.keyring() if self.has_keyring else None
        if held is not None and held != keyring and keyring.number <= held.number:
            raise Conflict(
                "the keyring has changed meanwhile",
                evidence=f"number {held.number} is there; the new one has {keyring.number}",
                hint="run the command again",
            )
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            write_whole(self.root / KEYRING, keyring.canonical())
            if self.proposed() in (keyring, None):
                (self.root / NEXT).unlink(missing_ok=True)

    def proposed(self) -> Keyring | None:
        """The keyring that waits for approval."""
        path = self.root / NEXT
        return parse_keyring(path.read_bytes(), str(path)) if path.is_file() else None

    def propose(self, keyring: Keyring) -> bool:
        """Makes a changed keyring the home's, and says so, or lays it down for the approvers.

        Only approvers change a hardened keyring: there it waits, and the old one holds.
        """
        if not keyring.hardened:
            self.write_keyring(keyring)
            return True
        with disk_errors(self.root):
            write_whole(self.root / NEXT, keyring.canonical())
        return False

    def drop_proposed(self) -> None:
        with disk_errors(self.root):
            (self.root / NEXT).unlink(missing_ok=True)

    # Signers

    def signers(self) -> Mapping[str, SignerEntry]:
        """Who signs here, by role. Raises Corrupt."""
        kept = read_places(self.root)
        return {
            role: SignerEntry(kept.places[keyid], keyid)
            for role, keyid in kept.roles.items()
            if keyid in kept.places
        }

    def write_signers(self, signers: Mapping[str, SignerEntry]) -> None:
        places = {**read_places(self.root).places, **{e.keyid: e.place for e in signers.values()}}
        roles = {role: entry.keyid for role, entry in signers.items()}
        write_places(self.root, Kept(places, roles))

    def has_signer(self, role: str) -> bool:
        """Whether `signer` would answer; a key of another role, or out of reach, is none."""
        try:
            self.signer(role)
        except PolicyctlError:
            return False
        return True

    def signer(self, role: str) -> Signer:
        """The signer of this machine in a role. Raises NotAllowed or WrongSigner.

        Until the keyring lists the key that is named for the role, one that it lists and whose
        place is known goes on: approvers may still have to sign that another takes over.
        """
        from registry.trust.keys import signer
        from registry.trust.sealing import as_key

        keyring = self.keyring()
        uri = os.environ.get(VARIABLE + role.upper())
        if uri is not None:
            return self._of_environment(role, uri, keyring)
        kept = read_places(self.root)
        named = kept.roles.get(role)
        if named is None or named not in kept.places:
            raise NotAllowed(
                f"this machine has no {role}'s key",
                evidence=f"{self.root / PLACES} names none",
                hint=f"set {VARIABLE}{role.upper()} to the key's URI, or run it where the key is",
            )
        known = {one.keyid: one for one in keyring.of_role(role) if one.keyid in kept.places}
        if not known or named in keyring.retired.get(role, ()):
            raise self._wrong(role, named, keyring)
        key = known.get(named) or next(iter(known.values()))
        return signer(resolved(self.root, kept.places[key.keyid]), as_key(key), role)

    def _of_environment(self, role: str, uri: str, keyring: Keyring) -> Signer:
        """A file or variable says itself which key it is; of a service the role's only key is."""
        from registry.trust.keys import signer
        from registry.trust.sealing import as_key

        candidates = keyring.of_role(role)
        last: Exception | None = None
        for key in candidates:
            try:
                return signer(uri, as_key(key), role)
            except Exception as error:  # noqa: BLE001 every signer has errors of its own
                last = error
        raise WrongSigner(
            f"the key of {VARIABLE}{role.upper()} is no {role}'s",
            evidence=f"{uri.partition(':')[0]}: fits none of {len(candidates)} keys"
            + (f" ({last})" if last else ""),
            hint="have its public key listed in the keyring",
        ) from last

    @staticmethod
    def _wrong(role: str, keyid: str, keyring: Keyring) -> WrongSigner:
        roles = ", ".join(keyring.roles_of(keyid)) or "nothing"
        return WrongSigner(
            f"this machine's key is no {role}'s",
            evidence=f"key {keyid[:12]}… may act as {roles}",
            hint="have it listed in the keyring, or name another in places.json",
        )


def is_published(root: Path) -> bool:
    """Whether there is metadata that robots read: a repository was set up in this trust folder."""
    return timestamp_of(root).is_file()


def was_published(root: Path) -> bool:
    """Whether there is a root, without which nothing else is ever published."""
    return any((root / METADATA).glob("*.root.json"))


def timestamp_of(root: Path) -> Path:
    """What a robot reads first, and what is written last."""
    return root / METADATA / "timestamp.json"


def _number_of(copy: Path) -> int:
    try:
        return parse_keyring(copy.read_bytes(), str(copy)).number
    except (OSError, Corrupt):
        return 0
