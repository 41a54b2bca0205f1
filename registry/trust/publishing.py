"""The keyring among the approved files: robots learn from there whose signatures count.

- A changed keyring is published as the target `keyring.json`, signed like any approval. Before the
  home is hardened that happens at once, and the home takes it first, so that a kill in between is
  repaired by `settle`. Afterwards it is laid down as a draft, and becomes the home's own when
  enough approvers have signed: the draft says what waits, and what is published says what holds.
- Without a repository (a home whose keyring was made by hand) the folder alone decides.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from registry.errors import Corrupt, NotFound, Pending
from registry.trust.files import TrustFolder
from registry.trust.home_approvals import HomeApprovals
from registry.trust.keyring import Keyring, parse_keyring
from registry.trust.remains import KEYRING

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Targets

    from registry.trust.approvals import Approvals
    from registry.trust.published import Published

TARGETS = "targets"  # the role, as in `published`, which would import TUF's libraries


class Publishing:
    def __init__(self, folder: TrustFolder, approvals: HomeApprovals) -> None:
        self._folder = folder
        self._approvals = approvals

    def propose(self, keyring: Keyring, opened: Approvals | None = None) -> bool:
        """Makes a changed keyring the home's and the robots'; False where that waits.

        `opened` are approvals with further keys at hand.
        """
        # asked first: where it raises nothing is changed
        published = opened is not None or self._approvals.on
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
        if not self._folder.remains.begun or not self._approvals.on:
            return False
        public = self._approvals.open().repository.published
        published, held = _named(public, public.targets()), self._folder.keyring()
        if published is not None and published.number > held.number:
            self._folder.write_keyring(published)
            return True
        if held.hardened or published == held or self.proposed() is not None:
            return False
        return self.propose(held)

    def approved(self) -> Keyring:
        """What approvers signed last: the published one; the home's where that is newer and nobody
        has to sign it, and where what is published is forged or gone."""
        held = self._folder.keyring()
        if not self._approvals.begun:
            return held
        public = self._approvals.open().repository.published
        try:
            published = _named(public, public.targets())
        except (Corrupt, NotFound):
            return held
        if published is None or (held.number >= published.number and not published.hardened):
            return held
        return published

    def above(self, keyring: Keyring) -> Keyring:
        """The keyring with a number that is higher than any other that lies here, for robots may
        have seen that."""
        held = self._folder.keyring()
        seen = max(self._folder.remains.highest(keyring), held.number if held != keyring else 0)
        return keyring if keyring.number > seen else replace(keyring, number=seen + 1)

    def proposed(self) -> Keyring | None:
        """The keyring that approvers are asked to sign, or have signed without this home knowing.

        What was laid down in the folder and never drafted, or whose draft is gone, is none.
        """
        if not self._approvals.on:
            return self._folder.proposed()
        repository = self._approvals.open().repository
        targets = repository.draft(TARGETS) or repository.published.targets()
        waits = _named(repository.published, targets)
        return waits if waits and waits.number > self._folder.keyring().number else None


def _named(published: Published, targets: Metadata[Targets]) -> Keyring | None:
    """The keyring among these targets. Raises Corrupt."""
    info = targets.signed.targets.get(KEYRING)
    return None if info is None else parse_keyring(published.file(info), KEYRING)
