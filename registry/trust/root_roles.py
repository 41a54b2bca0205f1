"""What root says of a key: that it is one of root's, one of the approvers', or the online key."""

from __future__ import annotations

from copy import deepcopy

from tuf.api.metadata import Root, TargetFile

from registry.errors import Corrupt, NotFound, Refused
from registry.trust.keyring import Keyring, parse_keyring, the_key
from registry.trust.published import ROOT, SNAPSHOT, TARGETS, TIMESTAMP, Published
from registry.trust.remains import KEYRING
from registry.trust.repository import Repository
from registry.trust.roles import WORKING
from registry.trust.sealing import public_of
from registry.trust.vouched import Vouched

NAMED = "x-policyctl-keyring"  # in root: the keyring that went with the last change of approvers
METADATA_OF = {"root": (ROOT,), "approver": (TARGETS,), "online": (SNAPSHOT, TIMESTAMP)}


def roles_in(root: Root, keyid: str) -> tuple[str, ...]:
    """What a key is by this root: some of root, approver and online."""
    return tuple(
        role
        for role, names in METADATA_OF.items()
        if any(keyid in root.roles[name].keyids for name in names)
    )


def holds(repository: Repository, beginning: str) -> list[tuple[str, str]]:
    """The roles of the one key whose name begins so, each with its whole name. Raises NotFound."""
    root = repository.published.root().signed
    whole = the_key(beginning, root.keys, "`policyctl trust status` lists the keys")
    return [(role, whole) for role in roles_in(root, whole)]


def name_keyring(root: Root, info: TargetFile) -> None:
    """Has root's people sign, too, which keyring goes with this root."""
    root.unrecognized_fields[NAMED] = info.to_dict()


def named_keyring(published: Published, root: Root) -> Keyring | None:
    """The keyring that root names. Raises Corrupt where its file is not that one any more."""
    said = root.unrecognized_fields.get(NAMED)
    if said is None:
        return None
    info = TargetFile.from_dict(deepcopy(said), KEYRING)
    return parse_keyring(published.file(info), KEYRING)


def vouched(published: Published) -> Vouched:
    """What the newest root stands behind. A named keyring that is gone counts as none."""
    root = published.root().signed
    online, approvers = tuple(root.roles[TIMESTAMP].keyids), tuple(root.roles[TARGETS].keyids)
    apart = not set(online) & set(approvers)
    own = Keyring(
        keys=tuple(public_of(root.keys[keyid]) for keyid in {*online, *approvers}),
        roles=dict.fromkeys(WORKING, online) | {"approver": approvers},
        hardened=apart,
        retired={"approver": online} if apart else {},  # the home's key begins with every role
    )
    try:
        return Vouched(named_keyring(published, root), own)
    except Corrupt:
        return Vouched(None, own)


def roles_soon(repository: Repository, keyid: str) -> set[str]:
    """What a key is by the root that holds, and by one that waits: that may hold any moment."""
    roots = (repository.published.root(), repository.draft(ROOT))
    return {role for one in roots if one is not None for role in roles_in(one.signed, keyid)}


def is_named(repository: Repository, keyid: str) -> bool:
    """Whether a root names the key, or may: one that waits and cannot be read."""
    try:
        return bool(roles_soon(repository, keyid))
    except (Corrupt, NotFound):
        return True


def require_online(repository: Repository, keyid: str) -> None:
    """Refused where the key must stay offline, for it says whose the keys are, or approves."""
    for role in sorted(roles_soon(repository, keyid) & {"root", "approver"}):
        raise Refused(
            f"a key of {role} has no other role",
            evidence=f"{keyid[:12]}… is {role}'s",
            hint="grant it to another key: policyctl trust key FILE makes one",
        )
