"""What is published and robots refuse: what whoever had the store wrote over, or took away.

What the online key alone signed (snapshot, timestamp) it signs again: `policyctl trust freshen`.
What approvers signed is made again from the ledger, and signed by them: `policyctl trust recover`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import MetaFile

from registry.errors import Corrupt, NotFound
from registry.trust.published import ROOT, SNAPSHOT, TARGETS, TIMESTAMP, Published, require_signed
from registry.trust.remains import KEYRING

ONLINE = frozenset({SNAPSHOT, TIMESTAMP})


def what_is_forged(published: Published) -> dict[str, str]:
    """By role, each with why; `keyring.json` where that is not what approvers signed.

    Where targets do not hold no bin is looked at: they say whose signatures count there. Raises
    what `require_root` does.
    """
    require_root(published)
    found = _failures(
        {
            TARGETS: published.targets,
            SNAPSHOT: published.newest_snapshot,
            TIMESTAMP: published.timestamp,
        }
    )
    if TARGETS in found:
        return found
    below: dict[str, Callable[[], object]] = {
        name: partial(published.targets, name) for name in published.bins()
    }
    if info := published.targets().signed.targets.get(KEYRING):
        below[KEYRING] = partial(published.file, info)
    found |= _failures(below)
    if not found.keys() & ONLINE:
        found |= _failures(
            {SNAPSHOT: partial(_require_named, published, SNAPSHOT, _named_by_timestamp(published))}
            | {
                role: partial(_require_named, published, role, _named_by_snapshot(published, role))
                for role in (TARGETS, *published.bins())
                if role not in found
            }
        )
    return found


def _named_by_timestamp(published: Published) -> MetaFile | None:
    return published.timestamp().signed.snapshot_meta


def _named_by_snapshot(published: Published, role: str) -> MetaFile | None:
    return published.newest_snapshot().meta.get(f"{role}.json")


def _require_named(published: Published, role: str, named: MetaFile | None) -> None:
    """Raises Corrupt where the newest of a role is not what the online key says it is: newer ones
    were taken away, or others put there."""
    newest = published.version(role)
    if named is None or named.version != newest:
        said = named.version if named is not None else "none"
        raise Corrupt("mixed", evidence=f"version {said} was announced, {newest} is here")
    try:
        named.verify_length_and_hashes(published.data(role))
    except LengthOrHashMismatchError as wrong:
        raise Corrupt("mixed", evidence=str(wrong)) from wrong


def require_root(published: Published) -> None:
    """Raises Corrupt where the newest root does not follow from the first: a command that goes on
    from it would do as the thief says.
    """
    for number in range(1, published.version(ROOT) + 1):
        try:
            signed = published.read(ROOT, number)
            require_signed(ROOT, signed, published.root(max(1, number - 1)).signed)
            require_signed(ROOT, signed, signed.signed)
            if signed.signed.version != number:
                raise Corrupt("another root", evidence=f"it says version {signed.signed.version}")
        except (Corrupt, NotFound) as wrong:
            raise Corrupt(
                "a published root does not follow from the one before",
                evidence=f"{number}.{ROOT}.json: {wrong.evidence}",
                hint=f"whoever wrote {number}.{ROOT}.json had the store, not the keys of root: "
                "move it away, and later ones, or restore them from a backup",
            ) from wrong


def require_rest(published: Published) -> None:
    """Raises Corrupt where more is forged than the online key signs."""
    wrong = {role: why for role, why in what_is_forged(published).items() if role not in ONLINE}
    if wrong:
        raise Corrupt(
            f"robots would refuse what is published here: {', '.join(wrong)}",
            evidence="; ".join(f"{role}: {why}" for role, why in wrong.items()),
            hint="`policyctl trust status` says what puts it right",
        )


def _failures(looks: Mapping[str, Callable[[], object]]) -> dict[str, str]:
    found = {}
    for role, look in looks.items():
        try:
            look()
        except (Corrupt, NotFound) as wrong:
            found[role] = wrong.evidence
    return found
