"""How much of a home's trust is there: begun, set up in full, or lost.

A home has trust once a file other than `lock` lies in its trust folder, and for ever once its
record shows that trust was begun. Where the keyring is then gone, or the whole folder is, the home
never goes on as one that has no trust: it is told what was lost, and what puts it back.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from registry.errors import Corrupt
from registry.trust.keyring import Keyring, parse_keyring
from registry.trust.places import read_places

KEYRING, NEXT = "keyring.json", "keyring.next.json"
LOCK, TARGETS, METADATA = "lock", "targets", "metadata"


@dataclass(frozen=True)
class Traces:
    """What a home's record holds that only a home with trust writes."""

    noted: bool = False  # `trust init` is in the audit
    signed: bool = False  # there are signed statements or orders

    def __bool__(self) -> bool:
        return self.noted or self.signed


class Remains:
    """Looks anew each time it is asked. `traces` asks the record; without it nothing is known of
    that.
    """

    def __init__(self, root: Path, traces: Callable[[], Traces] = Traces) -> None:
        self.root = root
        self._traces = traces

    @property
    def begun(self) -> bool:
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
        return not found.signed and (
            is_published(self.root) or not (found.noted or read_places(self.root).signers)
        )

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

    def highest(self, but: Keyring) -> int:
        """The highest number of a keyring that was ever published here, other than this one."""
        others = (one for one in self._copies() if not one.name.startswith(but.digest[7:]))
        return max(map(_number_of, others), default=0)

    def lost(self, gone: OSError) -> Corrupt:
        """Why the keyring is not there, and what puts it back; `gone` is how reading it failed."""
        if not self._holds_files():
            return Corrupt(
                "this home has trust, and its trust folder is gone",
                evidence=f"the record shows that trust was begun; {self.root}: {gone.strerror}",
                hint="restore the folder from a backup; without it nothing is signed, registered "
                "or judged here. Where there is no backup: policyctl trust init --anew",
            )
        hint = "restore it from a backup; without it nothing is signed, registered or judged here"
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
