"""A key gives way to another: in root by a ceremony, then in the keyring and on this machine.

Where approvers change, the keyring is signed together with them. Otherwise a process that was
killed after its root leaves a keyring that lists the old key: `Replacing.cut_off` says what it left
to go on with.
"""

from __future__ import annotations

from collections.abc import Sequence

from registry.errors import UsageError
from registry.trust.approvals import Approvals
from registry.trust.authority import Trust
from registry.trust.ceremony import Replacement, is_rebuilt
from registry.trust.keyring import ROLES, Keyring, the_key
from registry.trust.published import ROOT
from registry.trust.repository import Repository
from registry.trust.roles import WORKING, replaced, require_no_role
from registry.trust.root_roles import METADATA_OF, vouched
from registry.trust.sealing import public_of


class Replacing:
    """Replacements that belong together. After a `theft` the first is of the stolen key; the online
    key, if it is another one, goes with it.
    """

    def __init__(self, trust: Trust, approvals: Approvals, *, theft: bool) -> None:
        self._trust = trust
        self._approvals = approvals
        self.theft = theft
        self._kept: frozenset[str] | None = None
        self.dropped: list[str] = []

    def _before(self, changed: Sequence[Replacement]) -> Keyring:
        """What a change begins with. Not with what waits after a theft: a thief may have laid it
        down, and it is dropped; nor, after `confine`, with what only approvers signed. A new key
        keeps what it has, and is refused where that does not go together."""
        if not self.theft:
            return self._trust.newest
        if self._kept is None:
            return self._trust.approved
        kept = self._kept | {one.new.keyid for one in changed}
        return vouched(self._approvals.repository.published).confined(self._trust.approved, kept)

    def confine(self, stolen: str, roles: Sequence[str], keep: Sequence[str]) -> list[str]:
        """Where what approvers signed proves nothing, because the `stolen` key has that role or it
        is forged: their keyring is followed only as far as root stands behind it, and in the keys
        whose names begin as `keep` says. Answers a line for each that root does not stand behind,
        and for what is gone; what is dropped is in `dropped`. The stolen key goes anyway.

        Raises NotFound where there is nothing of that name to keep.
        """
        if not is_rebuilt(self._approvals.repository, roles):
            if keep:
                raise UsageError("nothing is dropped here, so that nothing needs to be kept")
            return []
        keyring, base = self._trust.approved, vouched(self._approvals.repository.published)
        beyond = [one for one in base.beyond(keyring) if one[0] != stolen]
        self._kept = frozenset(
            the_key(keep_one, {keyid for keyid, _ in beyond}, "`recover` names what it drops")
            for keep_one in keep
        )
        lines = []
        for keyid, act in beyond:
            if keyid in self._kept:
                lines.append(f"+ key {keyid} as {act}: kept")
            else:
                self.dropped.append(f"{keyid} as {act}")
                lines.append(
                    f"+ key {keyid} as {act}: DROPPED, only approvers signed it; "
                    f"if it is yours: --keep {keyid[:12]}"
                )
        lines += [f"- key {keyid} as {act}: gone" for keyid, act in base.gone(keyring)]
        if base.named is not None and base.named.since != keyring.since:
            lines.append(
                f"  unsigned up to audit {keyring.since or '0'}: put back to {base.named.since}"
            )
        return lines

    def _stolen(self, changed: Sequence[Replacement]) -> str | None:
        return changed[0].old if self.theft else None

    def cut_off(self, beginning: str) -> list[Replacement]:
        """What was replaced in root already, for the key whose name begins so, by a process that
        was killed then; empty where there is nothing to go on with.
        """
        changed = _replaced_already(self._approvals.repository, beginning)
        changed.sort(key=lambda one: not one.old.startswith(beginning))
        if not changed:
            return []
        old = changed[0].old
        if not self.theft:
            return changed if all(one.old == old for one in changed) else []
        keyring = self._trust.approved
        # a key that was rotated is retired: what it approved before is still to be looked at
        retired = any(old in ids for ids in keyring.retired.values())
        rotated = retired and not any(old in keyring.roles[role] for role in ROLES)
        recovered = any(one.role == "online" for one in changed)
        return changed if recovered and not rotated else []

    def next_keyring(self, changed: Sequence[Replacement]) -> Keyring:
        """The keyring that goes with it. Raises Refused where its rules do not allow it."""
        keyring = keyring_after(self._before(changed), changed, self._stolen(changed))
        if keyring.hardened:
            require_no_role(keyring, [one.new.keyid for one in changed if one.role == "root"])
        return self._trust.above(keyring) if self.theft else keyring

    def hand_over(self, changed: Sequence[Replacement]) -> list[str]:
        """This machine signs with the new keys in the roles they take over, as soon as the keyring
        lists them. A line for each key that goes on acting.
        """
        before, places = self._before(changed), self._approvals.repository.signers.places()
        stolen, lines = self._stolen(changed), []
        for one in changed:
            named = _given_up(before, one, stolen)
            acts = [role for role in WORKING if one.old in before.roles[role]]
            if one.role == "online" and acts and not named and stolen in (None, one.old):
                lines.append(
                    f"{one.old[:12]}… still acts as {', '.join(acts)}; to end that: "
                    "policyctl trust grant ROLE KEY.pub, then policyctl trust revoke KEY"
                )
            for role in set(named) & set(acts):
                if one.new.keyid in places:
                    self._trust.use(role, places[one.new.keyid], one.new.keyid)
        return lines

    def follow(self, changed: Sequence[Replacement], keyring: Keyring) -> list[str]:
        """After root: `next_keyring` becomes the home's, or waits. Answers as `hand_over` does."""
        if keyring == self._trust.keyring:
            return []
        lines = self.hand_over(changed)
        self._trust.propose(keyring, self._approvals)
        return lines


def keyring_after(
    keyring: Keyring, replacements: Sequence[Replacement], stolen: str | None
) -> Keyring:
    """The keyring that goes with replacements. An approver's key also approves keyrings; the home's
    may publish, judge and direct, too.

    A stolen key (its whole name) is taken out at once. One that is only replaced goes on in its
    other roles where approvers would have to sign that: nobody stole it. Raises Refused where the
    keyring's rules do not allow it.
    """
    after = keyring
    for one in replacements:
        after = replaced(after, one.old, public_of(one.new), _given_up(keyring, one, stolen))
    if stolen is not None and after.roles_of(stolen):
        after = after.without(stolen)
    return after


def _given_up(keyring: Keyring, one: Replacement, stolen: str | None) -> tuple[str, ...]:
    """The roles of the keyring in which a replacement gives way, too, where it has them."""
    if one.role == "approver":
        return ("approver",)
    mine = stolen in (None, one.old)
    follows = one.role == "online" and mine and (stolen or not keyring.hardened)
    return WORKING if follows else ()


def _replaced_already(repository: Repository, beginning: str) -> list[Replacement]:
    """The replacements that took the key whose name begins so out of root; none where no one step
    put keys in its place that are still there, or where a key of root is called so. A command that
    was killed after its root goes on with them.
    """
    published = repository.published
    held = {keyid for role in published.root().signed.roles.values() for keyid in role.keyids}
    if not beginning or any(keyid.startswith(beginning) for keyid in held):
        return []
    for number in range(published.version(ROOT), 1, -1):
        before, after = published.root(number - 1).signed, published.root(number).signed
        step = []
        for role, names in METADATA_OF.items():
            old, new = (set(root.roles[names[0]].keyids) for root in (before, after))
            if len(old - new) == len(new - old) == 1:
                step.append(Replacement(role, (old - new).pop(), after.keys[(new - old).pop()]))
        if any(one.old.startswith(beginning) for one in step):
            return step if all(one.new.keyid in held for one in step) else []
    return []
