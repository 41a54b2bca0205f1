"""What of a keyring people of root stand behind. Pure.

Whoever has as many approvers' keys as it takes signs keyrings as approvers do: after such a theft
the newest one proves nothing, however well it is signed. Root does, for no approver can change it.
Where approvers change it names the keyring that goes with them; and itself it says who approves,
and which key is the home's own. Of the rest a recovery keeps what a person says, key by key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from registry.trust.keyring import ROLES, Keyring, PublicKey

RETIRED = "retired "


@dataclass(frozen=True)
class Vouched:
    """`named` is the keyring that root names, `own` what root itself says, which counts for keys
    that came after `named`."""

    named: Keyring | None
    own: Keyring

    def allows(self, key: PublicKey, act: str) -> bool:
        """Whether a key may act so; to be retired from what it did is less, and never refused."""
        known = self.named is not None and key in self.named.keys
        base = self.named if known else self.own
        if base is None or key not in base.keys:
            return False
        acts = {act, act.removeprefix(RETIRED)}
        return any((key.keyid, one) in base.acts() for one in acts)

    def beyond(self, keyring: Keyring) -> list[tuple[str, str]]:
        """What it grants and nobody of root stands behind: each key's id, and what it acts as."""
        keys = {key.keyid: key for key in keyring.keys}
        return sorted(one for one in keyring.acts() if not self.allows(keys[one[0]], one[1]))

    def gone(self, keyring: Keyring) -> list[tuple[str, str]]:
        """What root's keyring granted and this one does not. That is never put back: an honest
        revocation of a stolen key would be undone."""
        return sorted(self.named.acts() - keyring.acts()) if self.named is not None else []

    def confined(self, keyring: Keyring, keep: Iterable[str]) -> Keyring:
        """The keyring without what is `beyond`, but for the keys in `keep` (their whole names).

        Raises Refused where its rules do not allow that.
        """
        kept = set(keep)
        for role in ROLES:
            for key in keyring.of_role(role):
                back = not self.allows(key, role) and self.allows(key, RETIRED + role)
                if back and key.keyid not in kept:  # retired again: what it signed stands
                    keyring = keyring.retire(role, key.keyid)
        return keyring.only(
            lambda key, act: key.keyid in kept or self.allows(key, act),
            hardened=keyring.hardened or self.own.hardened,
            since=keyring.since if self.named is None else self.named.since,
        )
