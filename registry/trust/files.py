"""A home's `trust` folder, as far as the record uses it, and its keyring.

    keyring.json        which keys may act in which role (`registry.trust.keyring`)
    keyring.next.json   a changed keyring that waits for the approvers' signatures
    places.json         where this machine's private keys are (`registry.trust.places`)
    keys/               private keys of this home, if they are files (0600)

The keyring is what approvers have approved: the folder only holds it. Where it is gone or cannot be
read, whatever needs it raises Corrupt (`registry.trust.remains`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from registry.errors import Conflict, Corrupt
from registry.storage import disk_errors, write_whole
from registry.trust.keyring import Keyring, parse_keyring
from registry.trust.remains import KEYRING, NEXT, Remains, Traces


class TrustFolder:
    """Reads anew whenever a file has changed: a server sees a robot that was enrolled beside it.

    `traces` asks the record; without it nothing is known of that.
    """

    def __init__(self, root: Path, traces: Callable[[], Traces] = Traces) -> None:
        self.root = root
        self.remains = Remains(root, traces)
        self._seen: tuple[int, int, int] | None = None
        self._keyring = Keyring()

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
            raise self.remains.lost(gone) from gone
        if self._seen is not None and found.number < self._keyring.number:
            raise Corrupt(
                "the keyring was replaced by an older one",
                evidence=f"{path}: number {found.number}, it was {self._keyring.number}",
                hint="restore it from a backup",
            )
        self._seen, self._keyring = seen, found
        return found

    def write_keyring(self, keyring: Keyring) -> None:
        """Puts an approved keyring in the place of the last one. Raises Conflict."""
        held = self.keyring() if self.remains.has_keyring else None
        if held is not None and held != keyring and keyring.number <= held.number:
            raise Conflict(
                "the keyring has changed meanwhile",
                evidence=f"number {held.number} is there; the new one has {keyring.number}",
                hint="run the command again",
            )
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            write_whole(self.root / KEYRING, keyring.canonical())
            waits = self.proposed()
            if waits is None or waits.number <= keyring.number:
                (self.root / NEXT).unlink(missing_ok=True)

    def proposed(self) -> Keyring | None:
        """The keyring that was laid down for approval; see `Publishing.proposed`."""
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
