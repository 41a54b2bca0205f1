"""What changes who is believed: the first keys, thresholds, rotation, and recovery from theft.

    role       signs                              kept
    root       which keys the others are          offline, a threshold of several people
    approver   which versions robots may run      offline, a threshold of several people
    online     that this is the newest of it all  with the registry; worth little when stolen alone

Each is one step (`Repository`, rule 3) that drafts a new root, and where approvers change new
targets and all bins. The keys at hand sign at once; what then lacks signatures waits as drafts for
`policyctl trust sign`, and robots go on with what was published before.

One key may be everything while a home is young. Afterwards a key has one of these roles: where one
has two, who publishes the news approves it, or who approves says who approves. A replacement never
brings two together, and `harden` takes them apart.

`rotate` replaces a key that nobody stole. `recover` does so after a theft: approvals are rebuilt
from the ledger, so that nothing a thief approved stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from tuf.api.metadata import (
    Delegations,
    Key,
    Metadata,
    Root,
    SuccinctRoles,
    TargetFile,
    Targets,
)

from registry.errors import Corrupt, NotFound, Refused, UsageError
from registry.trust.files import KEYRING, TrustFolder
from registry.trust.keyring import Keyring
from registry.trust.repository import BIN, BIN_BITS, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, Repository
from registry.trust.roles import WORKING, replaced
from registry.trust.sealing import public_of

ROLES = {"root": (ROOT,), "approver": (TARGETS,), "online": (SNAPSHOT, TIMESTAMP)}


def init(
    repository: Repository, key: Key | None = None, approved: Iterable[TargetFile] = ()
) -> Key:
    """Sets trust up with one key for everything, made in the home unless it is given.

    `approved` are the versions that robots run already. Raises Refused where trust is set up.
    """
    with repository.changing():
        if repository.exists:
            raise Refused(
                "trust is set up here already",
                evidence=str(repository.folder),
                hint="`policyctl trust status` says how",
            )
        key = key or repository.signers.make_first()
        root = Root(expires=repository.expiry(ROOT), consistent_snapshot=True)
        for role in (ROOT, TARGETS, SNAPSHOT, TIMESTAMP):
            root.add_key(key, role)
        targets = Targets(expires=repository.expiry(TARGETS))
        succinct = SuccinctRoles([key.keyid], 1, BIN_BITS, BIN)
        targets.delegations = Delegations({key.keyid: key}, succinct_roles=succinct)
        made: dict[str, Metadata[Any]] = {ROOT: Metadata(root), TARGETS: Metadata(targets)}
        for name in succinct.get_roles():
            made[name] = Metadata(Targets(expires=repository.expiry(name)))
        for info in approved:
            made[succinct.get_role_for_target(info.path)].signed.targets[info.path] = info
        for metadata in made.values():
            if not repository.sign_with(metadata, key):
                raise NotFound("the key is not at hand", evidence=key.keyid, hint="give its place")
        repository.first(made)
    return key


def begun(folder: TrustFolder, repository: Repository, *, anew: bool) -> Key | None:
    """The one key of a home whose `trust init` was killed before it had a keyring.

    Raises Corrupt where a keyring was lost and shall not be begun `anew`, Refused where one lies
    there, or what approvers signed of one.
    """
    lost = folder.exists and not folder.unfinished
    if lost and (folder.has_keyring or not anew):
        folder.keyring()  # one that was lost is restored, not begun anew
    if folder.has_keyring:
        raise Refused(
            "trust is set up here already",
            evidence=str(folder.root / KEYRING),
            hint="`policyctl trust roles` says whose; one that is given up is moved away first",
        )
    if anew and folder.has_signed:  # robots that hold a keyring of it would believe no new one
        raise Refused(
            "not all of this home's trust is gone",
            evidence=f"approvers signed keyrings that are in {folder.root}",
            hint="`policyctl trust roles` says what puts it back; to give it up move it away",
        )
    if not repository.exists:
        return None
    root = repository.root().signed
    keys = {keyid for role in root.roles.values() for keyid in role.keyids}
    return root.keys[keys.pop()] if len(keys) == 1 else None


def harden(
    repository: Repository,
    roots: Sequence[Key],
    root_threshold: int,
    approvers: Sequence[Key],
    threshold: int,
) -> list[str]:
    """Moves root and approvals to thresholds of the given keys; the old key stays online only.

    Answers what was published; empty while signatures are missing.
    """
    _check("root", roots, root_threshold)
    _check("approver", approvers, threshold)
    with repository.changing():
        _nothing_pending(repository)
        root = _next_root(repository)
        online = {*root.roles[SNAPSHOT].keyids, *root.roles[TIMESTAMP].keyids}
        shared = sorted(key.keyid for key in (*roots, *approvers) if key.keyid in online)
        if shared:
            raise Refused(
                "a key that lies with the registry would be worth nothing offline",
                evidence=f"{shared[0][:12]}… is the online key",
                hint="make keys where they will stay: policyctl trust key FILE",
            )
        _set_keys(root, ROOT, roots, root_threshold)
        _set_keys(root, TARGETS, approvers, threshold)
        for key in roots:
            _of_one_role(root, key)
        repository.put_draft(ROOT, Metadata(root))
        _redelegate(repository, approvers, threshold, None)
        return _finish(repository)


@dataclass(frozen=True)
class Replacement:
    """In this role, this key (by its whole name) gives way to another."""

    role: str  # root, approver or online
    old: str
    new: Key


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
        after = replaced(after, one.old, public_of(one.new), given_up(keyring, one, stolen))
    if stolen is not None and after.roles_of(stolen):
        after = after.without(stolen)
    return after


def given_up(keyring: Keyring, one: Replacement, stolen: str | None) -> tuple[str, ...]:
    """The roles of the keyring in which a replacement gives way, too, where it has them."""
    if one.role == "approver":
        return ("approver",)
    mine = stolen in (None, one.old)
    follows = one.role == "online" and mine and (stolen or not keyring.hardened)
    return WORKING if follows else ()


def rotate(repository: Repository, replacements: Sequence[Replacement]) -> list[str]:
    """Replaces keys that nobody stole. Answers what was published; empty while it waits."""
    with repository.changing():
        _nothing_pending(repository)
        return _replace(repository, replacements, None)


def recover(
    repository: Repository,
    replacements: Sequence[Replacement],
    approved: Mapping[str, TargetFile],
) -> list[str]:
    """Replaces keys that a thief may hold. Whatever waits is dropped; where an approver's key was
    stolen, robots may run exactly `approved` afterwards. Answers what was published.

    One of the replacements must be of the online key, stolen or not: robots then forget the version
    numbers they have seen, so that a thief who made them absurdly high cannot lock them out.
    """
    if not any(one.role == "online" for one in replacements):
        raise UsageError("a recovery replaces the online key, too")
    with repository.changing():
        _root_with(repository, replacements)  # what is refused drops nothing
        repository.drop_drafts()
        stolen = any(one.role == "approver" for one in replacements)
        return _replace(repository, replacements, approved if stolen else None)


def holds(repository: Repository, beginning: str) -> list[tuple[str, str]]:
    """The roles of the one key whose name begins so, each with its whole name. Raises NotFound."""
    root = repository.root().signed
    found = [
        (role, keyid)
        for role, names in ROLES.items()
        for keyid in root.roles[names[0]].keyids
        if beginning and keyid.startswith(beginning)
    ]
    if len({keyid for _, keyid in found}) != 1:
        raise NotFound(
            f"{'more than one' if found else 'no'} key is called {beginning!r}",
            evidence=", ".join(sorted(keyid[:12] + "…" for keyid in root.keys)),
            hint="`policyctl trust status` lists the keys",
        )
    return found


def _replace(
    repository: Repository,
    replacements: Sequence[Replacement],
    rebuilt: Mapping[str, TargetFile] | None,
) -> list[str]:
    root = _root_with(repository, replacements)
    repository.put_draft(ROOT, Metadata(root))
    if any(one.role == "approver" for one in replacements):
        approvers = [root.keys[keyid] for keyid in root.roles[TARGETS].keyids]
        _redelegate(repository, approvers, root.roles[TARGETS].threshold, rebuilt)
    return _finish(repository)


def _root_with(repository: Repository, replacements: Sequence[Replacement]) -> Root:
    """The next root. Raises UsageError or Refused where it may not be so."""
    root = _next_root(repository)
    before = deepcopy(root)
    for one in replacements:
        for name in ROLES[one.role]:
            current = root.roles[name]
            if one.old not in current.keyids or one.new.keyid in current.keyids:
                raise UsageError(
                    "the new key is the old one or has that role already",
                    evidence=f"{one.role}: {one.new.keyid[:12]}…",
                    hint="make another: policyctl trust key FILE",
                )
            keys = [root.keys[keyid] for keyid in current.keyids if keyid != one.old]
            _set_keys(root, name, [*keys, one.new], current.threshold)
    for one in replacements:
        _of_one_role(root, one.new, ones_before=roles_in(before, one.old))
    return root


def roles_in(root: Root, keyid: str) -> tuple[str, ...]:
    """What a key is by the metadata of root: root, approver, online."""
    return tuple(
        role
        for role, names in ROLES.items()
        if any(keyid in root.roles[name].keyids for name in names)
    )


def _of_one_role(root: Root, key: Key, ones_before: Sequence[str] = ()) -> None:
    """Refused where a key has two roles that no key had together before."""
    roles = roles_in(root, key.keyid)
    if len(roles) > 1 and not set(roles) <= set(ones_before):
        raise Refused(
            f"a key of {roles[0]} cannot be one of {roles[1]}, too",
            evidence=f"{key.keyid[:12]}… would be {' and '.join(roles)}",
            hint="each role has keys of its own: policyctl trust key FILE makes one",
        )


def renew(repository: Repository) -> list[str]:
    """New signatures under root, targets and every bin, before the old ones expire."""
    with repository.changing():
        _nothing_pending(repository)
        root = _next_root(repository)
        repository.put_draft(ROOT, Metadata(root))
        approvers = [root.keys[keyid] for keyid in root.roles[TARGETS].keyids]
        _redelegate(repository, approvers, root.roles[TARGETS].threshold, None)
        return _finish(repository)


def _finish(repository: Repository) -> list[str]:
    repository.sign()
    return repository.publish()


def _check(role: str, keys: Sequence[Key], threshold: int) -> None:
    names = {key.keyid for key in keys}
    if len(names) != len(keys):
        raise UsageError(f"a key of {role} is given twice", hint="each person has one of their own")
    if not 1 <= threshold <= len(keys):
        raise UsageError(
            f"{threshold} of {len(keys)} keys of {role} can never sign",
            hint="a threshold is at least 1 and at most the number of keys",
        )
    if threshold < 2 or len(keys) <= threshold:
        raise UsageError(
            f"{threshold} of {len(keys)} keys of {role} is no protection",
            evidence="one stolen key must not be enough, and one lost key must not lock you out",
            hint="at least 2 of 3",
        )


def _nothing_pending(repository: Repository) -> None:
    """A ceremony changes every role, so that what waits would lose its signatures."""
    repository.publish()
    waiting = sorted(repository.drafts())
    if waiting:
        raise Refused(
            "something else waits for signatures",
            evidence=", ".join(waiting),
            hint="sign it (`policyctl trust sign --key KEY`) or drop it (`policyctl trust drop`)",
        )


def _next_root(repository: Repository) -> Root:
    root = repository.successor(repository.root(), ROOT).signed
    assert isinstance(root, Root)
    return root


def _set_keys(root: Root, role: str, keys: Sequence[Key], threshold: int) -> None:
    for keyid in list(root.roles[role].keyids):
        root.revoke_key(keyid, role)
    for key in keys:
        root.add_key(key, role)
    root.roles[role].threshold = threshold


def _redelegate(
    repository: Repository,
    approvers: Sequence[Key],
    threshold: int,
    rebuilt: Mapping[str, TargetFile] | None,
) -> None:
    """Drafts targets and every bin for these approvers, as they are or with what is `rebuilt`."""
    targets = _next_targets(repository, TARGETS, rebuilding=rebuilt is not None)
    succinct = SuccinctRoles([key.keyid for key in approvers], threshold, BIN_BITS, BIN)
    targets.delegations = Delegations(
        {key.keyid: key for key in approvers}, succinct_roles=succinct
    )
    repository.put_draft(TARGETS, Metadata(targets))
    for name in succinct.get_roles():
        fresh = _next_targets(repository, name, rebuilding=rebuilt is not None)
        if rebuilt is not None:
            fresh.targets = {
                path: deepcopy(info)
                for path, info in rebuilt.items()
                if succinct.get_role_for_target(path) == name
            }
        repository.put_draft(name, Metadata(fresh))


def _next_targets(repository: Repository, role: str, *, rebuilding: bool) -> Targets:
    """The successor of what is published; an empty one where that was forged and is rebuilt."""
    try:
        fresh = repository.successor(repository.targets(role), role).signed
    except Corrupt:
        if not rebuilding:
            raise
        fresh = Targets(version=repository.version(role) + 1, expires=repository.expiry(role))
    assert isinstance(fresh, Targets)
    return fresh
