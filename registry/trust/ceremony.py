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

from registry.errors import NotFound, Refused, UsageError
from registry.trust.files import TrustFolder
from registry.trust.forged import ONLINE, what_is_forged
from registry.trust.keyring import Keyring
from registry.trust.published import BIN, BIN_BITS, ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from registry.trust.remains import KEYRING
from registry.trust.repository import Repository
from registry.trust.root_roles import METADATA_OF, name_keyring, roles_in


def init(
    repository: Repository, key: Key | None = None, approved: Iterable[TargetFile] = ()
) -> Key:
    """Sets trust up with one key for everything, made in the home unless it is given.

    `approved` are the versions that robots run already. Raises Refused where trust is set up.
    """
    with repository.changing():
        if repository.published.exists:
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
        succinct = _delegate_bins(targets, root)
        made: dict[str, Metadata[Any]] = {ROOT: Metadata(root), TARGETS: Metadata(targets)}
        for name in succinct.get_roles():
            made[name] = Metadata(Targets(expires=repository.expiry(name)))
        for info in approved:
            made[succinct.get_role_for_target(info.path)].signed.targets[info.path] = info
        for metadata in made.values():
            if not repository.signers.sign(metadata, key):
                raise NotFound("the key is not at hand", evidence=key.keyid, hint="give its place")
        repository.first(made)
    return key


def cut_off_init(folder: TrustFolder, repository: Repository, *, anew: bool) -> Key | None:
    """The one key of a home whose `trust init` was killed before it had a keyring.

    Raises Corrupt where a keyring was lost and shall not be begun `anew`, Refused where one lies
    there, or what approvers signed of one.
    """
    remains = folder.remains
    lost = remains.begun and not remains.unfinished
    if lost and (remains.has_keyring or not anew):
        folder.keyring()  # one that was lost is restored, not begun anew
    if remains.has_keyring:
        raise Refused(
            "trust is set up here already",
            evidence=str(folder.root / KEYRING),
            hint="`policyctl trust roles` says whose; one that is given up is moved away first",
        )
    if anew and remains.has_signed:  # robots that hold a keyring of it would believe no new one
        raise Refused(
            "not all of this home's trust is gone",
            evidence=f"approvers signed keyrings that are in {folder.root}",
            hint="`policyctl trust roles` says what puts it back; to give it up move it away",
        )
    if not repository.published.exists:
        return None
    root = repository.published.root().signed
    keys = {keyid for role in root.roles.values() for keyid in role.keyids}
    return root.keys[keys.pop()] if len(keys) == 1 else None


def harden(
    repository: Repository,
    roots: Sequence[Key],
    root_threshold: int,
    approvers: Sequence[Key],
    threshold: int,
    keyring: Keyring | None = None,
) -> list[str]:
    """Moves root and approvals to thresholds of the given keys; the old key stays online only.

    `keyring` is what the approvers shall sign with it. Answers what was published; empty while
    signatures are missing.
    """
    _require_threshold("root", roots, root_threshold)
    _require_threshold("approver", approvers, threshold)
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
            _require_one_role(root, key)
        return _finish(repository, root, _redelegated(repository, root), keyring)


@dataclass(frozen=True)
class Replacement:
    """In this role, this key (by its whole name) gives way to another."""

    role: str  # root, approver or online
    old: str
    new: Key


def rotate(
    repository: Repository, replacements: Sequence[Replacement], keyring: Keyring | None = None
) -> list[str]:
    """Replaces keys that nobody stole. Answers what was published; empty while it waits.

    `keyring` is the one that follows: where approvers change it is signed together with that.
    """
    with repository.changing():
        _nothing_pending(repository)
        return _replace(repository, replacements, None, keyring)


def recover(
    repository: Repository,
    replacements: Sequence[Replacement],
    approved: Mapping[str, TargetFile],
    keyring: Keyring | None = None,
) -> list[str]:
    """Replaces keys that a thief may hold. Whatever waits is dropped; where an approver's key was
    stolen, or something that approvers signed was forged, robots may run exactly `approved`
    afterwards. `keyring` as for `rotate`. Answers what was published.

    One of the replacements must be of the online key, stolen or not: robots then forget the version
    numbers they have seen, so that a thief who made them absurdly high cannot lock them out.
    """
    if not any(one.role == "online" for one in replacements):
        raise UsageError("a recovery replaces the online key, too")
    with repository.changing():
        _root_with(repository, replacements)  # what is refused drops nothing
        repository.drop_drafts()
        again = approved if is_rebuilt(repository, [one.role for one in replacements]) else None
        return _replace(repository, replacements, again, keyring)


def is_rebuilt(repository: Repository, roles: Sequence[str]) -> bool:
    """Whether the recovery of a key of these roles makes approvals again: what is published of them
    is not to be believed."""
    return "approver" in roles or bool(what_is_forged(repository.published).keys() - ONLINE)


def _replace(
    repository: Repository,
    replacements: Sequence[Replacement],
    rebuilt: Mapping[str, TargetFile] | None,
    keyring: Keyring | None,
) -> list[str]:
    root = _root_with(repository, replacements)
    drafts = {}
    if rebuilt is not None or any(one.role == "approver" for one in replacements):
        drafts = _redelegated(repository, root, rebuilt)
    return _finish(repository, root, drafts, keyring)


def _root_with(repository: Repository, replacements: Sequence[Replacement]) -> Root:
    """The next root. Raises UsageError or Refused where it may not be so."""
    root = _next_root(repository)
    before = deepcopy(root)
    for one in replacements:
        for name in METADATA_OF[one.role]:
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
        _require_one_role(root, one.new, ones_before=roles_in(before, one.old))
    return root


def _require_one_role(root: Root, key: Key, ones_before: Sequence[str] = ()) -> None:
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
        return _finish(repository, root, _redelegated(repository, root))


def _finish(
    repository: Repository,
    root: Root,
    others: Mapping[str, Metadata[Targets]],
    keyring: Keyring | None = None,
) -> list[str]:
    if keyring is not None and TARGETS in others:
        info = repository.keep_file(KEYRING, keyring.canonical())
        others[TARGETS].signed.targets[KEYRING] = info
        name_keyring(root, info)
    repository.put_drafts({ROOT: Metadata(root), **others})
    repository.sign()
    return repository.publish()


def _require_threshold(role: str, keys: Sequence[Key], threshold: int) -> None:
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
    root = repository.successor(repository.published.root(), ROOT).signed
    assert isinstance(root, Root)
    return root


def _set_keys(root: Root, role: str, keys: Sequence[Key], threshold: int) -> None:
    for keyid in list(root.roles[role].keyids):
        root.revoke_key(keyid, role)
    for key in keys:
        root.add_key(key, role)
    root.roles[role].threshold = threshold


def _delegate_bins(targets: Targets, root: Root) -> SuccinctRoles:
    """Lets the approvers of this root sign every bin, as many of them as for targets itself."""
    role = root.roles[TARGETS]
    succinct = SuccinctRoles(list(role.keyids), role.threshold, BIN_BITS, BIN)
    keys = {keyid: root.keys[keyid] for keyid in role.keyids}
    targets.delegations = Delegations(keys, succinct_roles=succinct)
    return succinct


def _redelegated(
    repository: Repository, root: Root, rebuilt: Mapping[str, TargetFile] | None = None
) -> dict[str, Metadata[Targets]]:
    """Targets and every bin for the approvers of this root, as they are or as `rebuilt`."""
    if rebuilt is None:
        published = repository.published
        targets = _next_targets(repository, published.targets(), TARGETS)
        succinct = _delegate_bins(targets, root)
        bins = {
            name: _next_targets(repository, published.targets(name), name)
            for name in succinct.get_roles()
        }
    else:
        targets = _empty(repository, TARGETS)
        succinct = _delegate_bins(targets, root)
        bins = {name: _empty(repository, name) for name in succinct.get_roles()}
        for path, info in rebuilt.items():
            bins[succinct.get_role_for_target(path)].targets[path] = deepcopy(info)
    return {TARGETS: Metadata(targets)} | {name: Metadata(one) for name, one in bins.items()}


def _next_targets(repository: Repository, published: Metadata[Targets], role: str) -> Targets:
    fresh = repository.successor(published, role).signed
    assert isinstance(fresh, Targets)
    return fresh


def _empty(repository: Repository, role: str) -> Targets:
    """Newer than what is published, and nothing of it: a thief may have put anything there."""
    version = repository.published.version(role, 0) + 1
    return Targets(version=version, expires=repository.expiry(role))
