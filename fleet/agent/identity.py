"""Who a robot is to others, and whom it believes: two files in its state folder.

    robot.pem      its private key, made at its enrolment; it never leaves the robot
    keyring.json   the keys it believes, given at its enrolment; a newer one that approvers signed
                   replaces it (`fleet.agent.admission`)

Without a keyring the robot believes the registry, as before trust was set up; without a key its
reports are not signed. A keyring of a lower number never replaces one of a higher. A robot that has
none and is shown forged approvals, or kept from the keyring that they name, believes nobody. Nor
does one whose keyring is damaged, until approvers or its enrolment give it a good one: the damaged
file stays where it is until then, since without any file the next agent would need no signatures.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from registry.attempts import AttemptReport
from registry.errors import Corrupt, NotFound, UsageError
from registry.storage import disk_errors, write_whole
from registry.trust.keyring import Keyring, PublicKey, parse_keyring

if TYPE_CHECKING:
    from registry.trust.keys import Signer

KEY, KEYRING = "robot.pem", "keyring.json"
NOBODY = Keyring()


class Identity:
    """`source` answers the newest keyring that approvers signed, or None where there is none."""

    def __init__(self, folder: Path, source: Callable[[], bytes | None] = lambda: None) -> None:
        self._folder = folder
        self._source = source
        self._seen: tuple[int, int] | None = None
        self._keyring: Keyring | None = None
        self._damage: Corrupt | None = None
        self._deceived = False
        self._signer: Signer | None = None

    def keyring(self) -> Keyring | None:
        """What the file says now; what it said last where it is gone, damaged or older.

        Raises Corrupt where there is one that was never readable: such a robot believes nobody.
        """
        found = self._read()
        return NOBODY if found is None and self._deceived else found

    def believed(self) -> Keyring | None:
        """As `keyring`, where nobody stands for one that was never readable."""
        try:
            return self.keyring()
        except Corrupt:
            return NOBODY

    @property
    def damage(self) -> str:
        """Why nobody is believed, where the keyring cannot be read; else ""."""
        try:
            self._read()
        except Corrupt as damaged:
            return f"this robot's keyring is damaged: it believes nobody ({damaged.evidence})"
        return ""

    def _read(self) -> Keyring | None:
        path = self._folder / KEYRING
        try:
            status = path.stat()
            seen = (status.st_mtime_ns, status.st_ino)
            if seen != self._seen:
                self._take(path.read_bytes(), path)
                self._seen = seen
        except FileNotFoundError:
            pass  # what was believed, or damaged, once: nobody took that back
        except OSError as unread:
            self._damage = Corrupt("the keyring cannot be read", evidence=str(unread))
        if self._keyring is None and self._damage is not None:
            raise self._damage.with_traceback(None)
        return self._keyring

    def _take(self, content: bytes, path: Path) -> None:
        try:
            found = parse_keyring(content, str(path))
        except Corrupt as damaged:
            self._damage = damaged
            return
        self._damage = None
        if self._keyring is None or found.number > self._keyring.number:
            self._keyring = found

    def refresh(self) -> None:
        """Believes what the source shows, where it is newer. Raises what the source does."""
        try:
            found = self._source()
        except NotFound:
            found = None  # a repository without a keyring
        except Corrupt:
            self._deceived = True
            raise
        self._deceived = False
        if found is not None:
            self.believe(parse_keyring(found, "the approved keyring.json"))

    def believe(self, keyring: Keyring) -> bool:
        """Takes a keyring that somebody vouches for; False where a newer one is held. One that
        cannot be read is replaced by any."""
        try:
            held = self._read()
        except Corrupt:
            held = None
        if held is not None and held.number >= keyring.number:
            return held == keyring
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._folder / KEYRING, keyring.canonical())
        return True

    def forget(self) -> None:
        """Believes no keyring any more, for a robot that is given another root by hand."""
        with disk_errors(self._folder):
            (self._folder / KEYRING).unlink(missing_ok=True)
        self._seen = self._keyring = self._damage = None

    @property
    def has_key(self) -> bool:
        return (self._folder / KEY).is_file()

    def make_key(self) -> PublicKey:
        """The robot's public key, made now if it has none."""
        from registry.trust.keys import is_key, new_key, public_key
        from registry.trust.sealing import public_of

        path = self._folder / KEY
        return public_of(public_key(path) if is_key(path) else new_key(path))

    def require_usable(self) -> None:
        """Raises UsageError or ServiceFailed for a key that cannot sign, before anything moves."""
        if (self._folder / KEY).exists():
            self._signer = self._own_signer()

    def seal(self, report: AttemptReport) -> AttemptReport:
        """Signs a report. Raises NotFound for a robot that believes a keyring and has no key."""
        if self._signer is None:
            if not self.has_key and self.keyring() is None:
                return report
            self._signer = self._own_signer()
        from registry.trust.documents import seal_attempt

        return seal_attempt(report, self._signer)

    def _own_signer(self) -> Signer:
        from registry.trust.keys import signer

        path = self._folder / KEY
        if not path.exists():
            raise NotFound(
                "this robot has no key of its own",
                evidence=str(path),
                hint="policyctl robot enrol ROBOT.yaml makes one",
            )
        try:
            return signer(f"file:{path}")
        except UsageError as wrong:
            raise UsageError(
                "this robot's key cannot be used",
                evidence=wrong.evidence,
                hint="restore it, or move it away: policyctl robot enrol ROBOT.yaml makes another",
            ) from wrong
