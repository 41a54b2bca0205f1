"""Trust as the record uses it: a keyring to check by, and the keys that this machine holds.

Where a home has none of it (`None` in place of a `Trust`), nothing is signed and nothing asked for.
Where it has lost its keyring, or all of its folder, there is a `Trust` all the same, and what asks
it raises Corrupt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.trust.files import TrustFolder
from registry.trust.home_approvals import HomeApprovals
from registry.trust.keyring import Keyring, PublicKey
from registry.trust.places import SignerEntry
from registry.trust.publishing import Publishing
from registry.trust.remains import Traces
from registry.trust.role_signers import RoleSigners

if TYPE_CHECKING:
    from registry.assignments import Assignment
    from registry.trust.approvals import Approvals
    from registry.trust.keys import Signer


class Trust:
    """The trust of one folder; `approvals` are the same home's."""

    def __init__(self, folder: TrustFolder, approvals: HomeApprovals) -> None:
        self._folder = folder
        self._signers = RoleSigners(folder)
        self._publishing = Publishing(folder, approvals)
        self._held: dict[str, tuple[Keyring, SignerEntry, Signer]] = {}

    @property
    def keyring(self) -> Keyring:
        """The newest approved one. Raises Corrupt."""
        return self._folder.keyring()

    def require(self) -> None:
        """Raises Corrupt where the keyring cannot be read: then nothing that it guards is done."""
        _ = self.keyring

    @property
    def unfinished(self) -> bool:
        """See `Remains.unfinished`."""
        return self._folder.remains.unfinished

    @property
    def since(self) -> str:
        """The audit's head when trust began; "" while its first set-up has not ended."""
        return "" if self.unfinished else self.keyring.since

    def has_signer(self, role: str) -> bool:
        return self._signers.has(role)

    def signer(self, role: str) -> Signer:
        """Raises NotAllowed, WrongSigner, or what opening the key raises."""
        keyring, entry = self.keyring, self._signers.entry(role)
        held = self._held.get(role)
        if held is None or held[0] is not keyring or held[1] != entry:
            held = self._held[role] = (keyring, entry, self._signers.signer(role))
        return held[2]

    def seal_statement(self, payload: bytes, role: str) -> Mapping[str, Any]:
        from registry.trust.sealing import IN_TOTO, seal

        return seal(payload, IN_TOTO, self.signer(role))

    def seal_assignment(self, document: Assignment) -> Assignment:
        from registry.trust.documents import seal_assignment

        return seal_assignment(document, self.signer("director"))

    def add_robot(self, name: str, key: PublicKey) -> bool:
        """Lists a robot's key; False where that waits for the approvers."""
        newest = self.newest
        changed = newest.with_robot(name, key)
        if changed is newest:
            return newest is self.keyring
        return self.propose(changed)

    @property
    def newest(self) -> Keyring:
        """What a change begins with: the keyring that waits, or else the one that holds."""
        return self.proposed() or self.keyring

    @property
    def approved(self) -> Keyring:
        """See `Publishing.approved`. Raises Corrupt."""
        return self._publishing.approved()

    def above(self, keyring: Keyring) -> Keyring:
        """See `Publishing.above`."""
        return self._publishing.above(keyring)

    def propose(self, keyring: Keyring, opened: Approvals | None = None) -> bool:
        """Makes a changed keyring the home's; False where that waits for the approvers.

        `opened` are approvals with further keys at hand.
        """
        return self._publishing.propose(keyring, opened)

    def proposed(self) -> Keyring | None:
        """The keyring that waits."""
        return self._publishing.proposed()

    def use(self, role: str, place: str, keyid: str) -> None:
        """From now on this machine signs with that key in a role."""
        entry = SignerEntry(place, keyid)
        self._signers.write({**self._signers.all(), role: entry})


def open_trust(
    root: Path, approvals: HomeApprovals, traces: Callable[[], Traces] = Traces
) -> Trust | None:
    """The trust of a home's folder, or None where none was set up.

    `traces` asks the record what it holds of trust: asked where the folder holds nothing.
    """
    folder = TrustFolder(root, traces)
    return Trust(folder, approvals) if folder.remains.begun else None
