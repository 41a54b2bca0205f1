"""Who signs on this machine in a role of the keyring: publisher, runner, approver, director.

A key's URI may name a file, an environment variable, or any service that securesystemslib knows;
`POLICYCTL_SIGNER_<ROLE>` in the environment wins over `places.json`, so that a pipeline brings its
own runner's key.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from registry.errors import NotAllowed, PolicyctlError, WrongSigner
from registry.trust.files import TrustFolder
from registry.trust.keyring import Keyring
from registry.trust.places import PLACES, Kept, SignerEntry, read_places, resolved, write_places

if TYPE_CHECKING:
    from registry.trust.keys import Signer

VARIABLE = "POLICYCTL_SIGNER_"


class RoleSigners:
    """Opens a key anew for each `signer`; `Trust` holds on to them."""

    def __init__(self, folder: TrustFolder) -> None:
        self._folder = folder

    def all(self) -> Mapping[str, SignerEntry]:
        """Who signs here by `places.json`, by role. Raises Corrupt."""
        return read_places(self._folder.root).signers

    def write(self, signers: Mapping[str, SignerEntry]) -> None:
        """From now on these sign here and nobody else; places of other keys stay known."""
        known = read_places(self._folder.root).places
        places = {**known, **{entry.keyid: entry.place for entry in signers.values()}}
        roles = {role: entry.keyid for role, entry in signers.items()}
        write_places(self._folder.root, Kept(places, roles))

    def has(self, role: str) -> bool:
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

        keyring, entry = self._folder.keyring(), self.entry(role)
        if not entry.keyid:
            return self._of_environment(role, entry.place, keyring)
        (key,) = (one for one in keyring.of_role(role) if one.keyid == entry.keyid)
        return signer(resolved(self._folder.root, entry.place), as_key(key), role)

    def entry(self, role: str) -> SignerEntry:
        """Which key `signer` opens, and where; no key's name for one of the environment.

        Raises NotAllowed or WrongSigner.
        """
        uri = os.environ.get(VARIABLE + role.upper())
        if uri is not None:
            return SignerEntry(uri, "")
        keyring, kept = self._folder.keyring(), read_places(self._folder.root)
        named = kept.roles.get(role)
        if named is None or named not in kept.places:
            raise NotAllowed(
                f"this machine has no {role}'s key",
                evidence=f"{self._folder.root / PLACES} names none",
                hint=f"set {VARIABLE}{role.upper()} to the key's URI, or run it where the key is",
            )
        known = [one.keyid for one in keyring.of_role(role) if one.keyid in kept.places]
        if not known or named in keyring.retired.get(role, ()):
            raise self._wrong(role, named, keyring)
        keyid = named if named in known else known[0]
        return SignerEntry(kept.places[keyid], keyid)

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
