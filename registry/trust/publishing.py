"""The keyring among the approved files: robots learn from there whose signatures count.

- A changed keyring is published as the target `keyring.json`, signed like any approval. Before the
  home is hardened that happens at once, and the home takes it first, so that a kill in between is
  repaired by `settle`. Afterwards it is laid down as a draft, and becomes the home's own when
  enough approvers have signed.
- Without a repository (a home whose keyring was made by hand) the folder alone decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.errors import Pending
from registry.trust.files import KEYRING, TrustFolder
from registry.trust.home_approvals import HomeApprovals
from registry.trust.keyring import Keyring

if TYPE_CHECKING:
    from registry.trust.approvals import Approvals


class Publishing:
    def __init__(self, folder: TrustFolder, approvals: HomeApprovals) -> None:
        self._folder = folder
        self._approvals = approvals

    def propose(self, keyring: Keyring, opened: Approvals | None = None) -> bool:
        """Makes a changed keyring the home's and the robots'; False where that waits.

        `opened` are approvals with further keys at hand.
        """
        published = self._approvals.on  # asked first: where it raises nothing is changed
        taken = self._folder.propose(keyring)
        if not published:
            return taken
        try:
            (opened or self._approvals.open()).put_file(KEYRING, keyring.canonical())
        except Pending:
            return taken
        self._folder.write_keyring(keyring)
        return True

    def settle(self) -> bool:
        """Takes over what approvers have signed, publishes what was not; whether anything moved."""
        if not self._folder.exists or not self._approvals.on:
            return False
        published, proposed = self._published(), self._folder.proposed()
        if proposed is not None and published == proposed.digest:
            self._folder.write_keyring(proposed)
            return True
        held = self._folder.keyring()
        if proposed is not None or held.hardened or published == held.digest:
            return False
        return self.propose(held)

    def _published(self) -> str | None:
        info = self._approvals.open().repository.targets().signed.targets.get(KEYRING)
        return None if info is None else f"sha256:{info.hashes['sha256']}"
