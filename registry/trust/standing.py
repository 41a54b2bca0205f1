"""How trust stands, for people: who signs what, until when, what waits, what should be better, and
what is forged or gone, with the command that puts it right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from tuf.api.metadata import Root, TargetFile

from registry.errors import Corrupt, NotFound
from registry.trust.forged import ONLINE, what_is_forged
from registry.trust.online import made_at
from registry.trust.published import BIN, DAY, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, Published
from registry.trust.remains import KEYRING
from registry.trust.repository import Missing, Repository

WARNING_S = 30 * DAY
AHEAD_S = 300.0


@dataclass(frozen=True)
class KeyState:
    keyid: str
    here: bool  # this machine can sign with it


@dataclass(frozen=True)
class RoleState:
    role: str  # root, approver or online
    threshold: int
    keys: tuple[KeyState, ...]
    expires: float | None  # None: what it signed is forged or gone


@dataclass(frozen=True)
class Status:
    """How trust stands. `nags` are the sentences that go away when it is as it should be."""

    roles: tuple[RoleState, ...]
    hardened: bool
    approved: tuple[str, ...]
    pending: tuple[Missing, ...]
    nags: tuple[str, ...]
    forged: Mapping[str, str]  # what robots refuse, by role, each with why
    remedy: str  # what puts that right


def standing(repository: Repository) -> Status:
    """Raises Corrupt where root is forged: nothing can be told then."""
    published = repository.published
    root = published.root().signed
    forged = what_is_forged(published)
    if forged:  # another process may be publishing: what it has ended is looked at again
        with repository.changing():
            forged = what_is_forged(published)
    below = [] if TARGETS in forged else published.bins()
    roles = (
        _role(repository, root, "root", root.expires.timestamp()),
        _role(repository, root, "approver", _ends(published, forged, [TARGETS, *below])),
        _role(repository, root, "online", _ends(published, forged, [SNAPSHOT, TIMESTAMP])),
    )
    # of bins alone nobody can count the signatures where targets, which say whose count, are forged
    counted = TARGETS not in forged or repository.draft(TARGETS) is not None
    missing = repository.missing() if counted else []
    return Status(
        roles=roles,
        hardened=is_hardened(root),
        approved=tuple(sorted(everything_approved(published))),
        pending=tuple(missing),
        nags=(
            *_nags(root, roles, missing, repository.now()),
            *_clock_nags(published, root, repository.now()),
        ),
        forged=forged,
        remedy=_remedy(repository, forged) if forged else "",
    )


def is_hardened(root: Root) -> bool:
    """Whether root and approvals each need several of more keys than that."""
    return all(_enough(root.roles[one].threshold, len(root.roles[one].keyids)) for one in _FIRM)


def everything_approved(published: Published) -> dict[str, TargetFile]:
    """Every target but the keyring, as far as what is published holds."""
    found: dict[str, TargetFile] = {}
    with suppress(Corrupt, NotFound):
        found |= published.targets().signed.targets
        for name in published.bins():
            with suppress(Corrupt, NotFound):
                found |= published.targets(name).signed.targets
    found.pop(KEYRING, None)
    return found


def lacking_lines(missing: Iterable[Missing]) -> list[str]:
    """A line for each set of drafts that lack the same signatures, such as all bins."""
    alike: dict[tuple[int, int, tuple[str, ...]], list[str]] = {}
    for one in missing:
        alike.setdefault((one.have, one.need, one.unsigned), []).append(one.role)
    lines = []
    for (have, need, unsigned), roles in alike.items():
        bins = [role for role in roles if role.startswith(f"{BIN}-")]
        if len(bins) > 3:
            roles = [role for role in roles if role not in bins] + [f"{len(bins)} bins"]
        keys = ", ".join(keyid[:12] + "…" for keyid in unsigned)
        has = "has" if len(roles) == 1 and len(bins) <= 3 else "have"
        lines.append(f"{', '.join(roles)} {has} {have} of {need} signatures, not signed: {keys}")
    return lines


_FIRM = (ROOT, TARGETS)
_METADATA = {"root": ROOT, "approver": TARGETS, "online": TIMESTAMP}


def _role(repository: Repository, root: Root, role: str, expires: float | None) -> RoleState:
    said = root.roles[_METADATA[role]]
    keys = [root.keys[keyid] for keyid in said.keyids]
    states = tuple(KeyState(key.keyid, repository.signers.has(key)) for key in keys)
    return RoleState(role, said.threshold, states, expires)


def _ends(published: Published, forged: Mapping[str, str], signed: Iterable[str]) -> float | None:
    """When the first of these expires; None where one is not to be believed."""
    if forged.keys() & set(signed):
        return None
    return min(_expires(published, role) for role in signed).timestamp()


def _expires(published: Published, role: str) -> datetime:
    if role == SNAPSHOT:
        return published.newest_snapshot().expires
    if role == TIMESTAMP:
        return published.timestamp().signed.expires
    return published.targets(role).signed.expires


def _nags(
    root: Root, roles: tuple[RoleState, ...], missing: list[Missing], now: float
) -> list[str]:
    said = []
    if any(not _strong(one) for one in roles[:2]):
        said.append("one stolen key is enough to approve anything: `policyctl trust harden`")
    online = {one.keyid for one in roles[2].keys}
    for state in roles[:2]:
        here = [one.keyid for one in state.keys if one.here and one.keyid not in online]
        if _strong(state) and len(here) >= state.threshold:
            said.append(f"enough {state.role} keys for a signature lie on this machine")
    for keyid in sorted({key.keyid for state in roles for key in state.keys}):
        both = [one.role for one in roles if keyid in [key.keyid for key in one.keys]]
        if len(both) > 1 and all(_strong(one) for one in roles[:2]):
            said.append(f"{keyid[:12]}… is {' and '.join(both)}: `policyctl trust harden`")
    if {*root.roles[SNAPSHOT].keyids} != {*root.roles[TIMESTAMP].keyids}:
        said.append("snapshot and timestamp have different keys")
    for state in roles:
        if state.expires is None:
            continue
        left = state.expires - now
        limit = WARNING_S if state.role != "online" else 0.0
        if left < limit:
            how = "expired" if left < 0 else f"expires in {left / DAY:.0f} days"
            told = datetime.fromtimestamp(state.expires, UTC).date()
            again = "freshen" if state.role == "online" else "renew"
            said.append(f"what {state.role} signed {how} ({told}): `policyctl trust {again}`")
    said += [f"{line}: `policyctl trust sign --key KEY`" for line in lacking_lines(missing)]
    return said


def _clock_nags(published: Published, root: Root, now: float) -> Iterator[str]:
    made = made_at(published, root)
    if made > now + AHEAD_S:
        told = datetime.fromtimestamp(made, UTC).isoformat(timespec="minutes")
        online = root.roles[TIMESTAMP].keyids[0][:12]
        yield (
            f"what online signed was made at {told}, which this clock has not reached: robots "
            "notice frozen metadata that much later; put the wrong clock right, then "
            f"`policyctl trust rotate {online}`"
        )


def _remedy(repository: Repository, forged: Mapping[str, str]) -> str:
    """What to type."""
    drafts = repository.drafts()
    if ROOT in drafts and (TARGETS in drafts or forged.keys() <= ONLINE):
        return "a recovery waits for signatures: `policyctl trust sign --key KEY`"
    online = repository.published.root().signed.roles[TIMESTAMP].keyids[0][:12]
    if forged.keys() <= ONLINE:
        return (
            "`policyctl trust freshen`; where the online key was stolen, too: "
            f"`policyctl trust recover {online}`"
        )
    return (
        f"`policyctl trust recover {online}`; where an approver's key was stolen: "
        "`policyctl trust recover KEY --new KEY.pub`"
    )


def _strong(state: RoleState) -> bool:
    return _enough(state.threshold, len(state.keys))


def _enough(threshold: int, keys: int) -> bool:
    return threshold >= 2 and keys > threshold
