"""Changes of the keyring that take several steps, and what they must not bring about. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from registry.errors import Refused
from registry.trust.keyring import ROLES, Keyring, PublicKey

WORKING = ("publisher", "runner", "director")


def hardened(keyring: Keyring, approvers: Iterable[PublicKey]) -> Keyring:
    """From now on these approve and nobody else does; the home's key keeps its other roles."""
    before = keyring.roles["approver"]
    for key in approvers:
        keyring = keyring.with_key("approver", key)
    named = {key.keyid for key in approvers}
    for keyid in before:
        if keyid not in named:
            keyring = keyring.retire("approver", keyid)
    return keyring.harden()


def require_no_role(keyring: Keyring, keyids: Iterable[str]) -> None:
    """Refused where one of root's keys, which stay offline, also acts in the keyring."""
    for keyid in keyids:
        acts = [act for act in keyring.roles_of(keyid) if not act.startswith("retired ")]
        if acts:
            raise Refused(
                "a key of root has no other role",
                evidence=f"{keyid[:12]}… acts as {', '.join(acts)}",
                hint="make another for root: policyctl trust key FILE",
            )


def replaced(keyring: Keyring, old: str, new: PublicKey, roles: Iterable[str]) -> Keyring:
    """`new` acts in place of `old` where that acted and `roles` names; what `old` signed stands."""
    held = [role for role in ROLES if old in keyring.roles[role] and role in set(roles)]
    for role in held:
        keyring = keyring.with_key(role, new)
    for role in held:
        keyring = keyring.retire(role, old)
    return keyring


def revoked(keyring: Keyring, keyid: str, *, stolen: bool) -> Keyring:
    """A key acts in no role any more; what it signed stands, unless it was stolen.

    Raises Refused for a robot's that was not.
    """
    if stolen:
        return keyring.without(keyid)
    if any(keyid in ids for ids in keyring.robots.values()):
        raise Refused(
            "a robot's key is not retired: without it the robot cannot report",
            evidence=f"{keyid[:12]}… acts as {', '.join(keyring.roles_of(keyid))}",
            hint="where it was stolen: --stolen; then enrol the robot with another key",
        )
    for role in ROLES:
        if keyid in keyring.roles[role]:
            keyring = keyring.retire(role, keyid)
    return keyring
