"""Snapshot and timestamp: what the online key says of all that others have signed.

The snapshot names version, length and sha256 of targets and every bin, the timestamp those of the
snapshot. A timestamp also says when it was made (`ISSUED`, seconds since the epoch): robots take it
as a floor under their clocks. So a key's time never goes back: where this machine's clock was ahead
and was put right, the key goes on from its last timestamp, or robots would take what it signs for
expired. Another key (`rotate`) begins with the clock again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from registry.errors import Corrupt, NotFound
from registry.ports import Clock
from registry.trust.published import LIFE_S, Published, expiry
from registry.trust.signers import Signers

ISSUED = "x-policyctl-issued"


def online_signed(
    published: Published,
    signers: Signers,
    clock: Clock,
    root: Root,
    ready: Mapping[str, Metadata[Any]],
) -> dict[str, Metadata[Any]]:
    """Snapshot and timestamp of what is published and `ready` together, signed as `root` says.

    Raises NotFound where the online key is not at hand.
    """
    now, made = clock.now(), made_at(published, root)
    if now < made < now + LIFE_S[Targets.type]:  # later than that all approvals have expired anyway
        now = made
    top = ready[Targets.type] if Targets.type in ready else published.targets()
    meta = {}
    for role in (Targets.type, *published.succinct(top.signed).get_roles()):
        data = ready[role].to_bytes() if role in ready else published.data(role)
        version = ready[role].signed.version if role in ready else published.version(role)
        meta[f"{role}.json"] = MetaFile.from_data(version, data, ["sha256"])
    snapshot = Metadata(
        Snapshot(
            version=published.version(Snapshot.type, 0) + 1,
            expires=expiry(Snapshot.type, now),
            meta=meta,
        )
    )
    _sign(signers, root, Snapshot.type, snapshot)
    about = MetaFile.from_data(snapshot.signed.version, snapshot.to_bytes(), ["sha256"])
    timestamp = Metadata(
        Timestamp(
            version=_next_timestamp(published, snapshot.signed.version),
            expires=expiry(Timestamp.type, now),
            snapshot_meta=about,
            unrecognized_fields={ISSUED: int(now)},
        )
    )
    _sign(signers, root, Timestamp.type, timestamp)
    return {Snapshot.type: snapshot, Timestamp.type: timestamp}


def made_at(published: Published, root: Root) -> float:
    """When the timestamp says it was made; 0 where it is lost or no key of this root signed it."""
    try:
        newest = published.timestamp()
        root.verify_delegate(Timestamp.type, newest.signed_bytes, newest.signatures)
        return issued(newest.signed)
    except (NotFound, Corrupt, UnsignedMetadataError):
        return 0.0


def issued(timestamp: Timestamp) -> float:
    """When it was made, as it says itself; 0 where it says none, or one after its own end."""
    try:
        said = float(timestamp.unrecognized_fields.get(ISSUED, 0))
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return said if 0 <= said <= timestamp.expires.timestamp() else 0.0


def _next_timestamp(published: Published, snapshot: int) -> int:
    """Higher than any before, also where the last one is lost or forged: there was one for each
    snapshot."""
    try:
        return max(snapshot, published.timestamp().signed.version + 1)
    except (NotFound, Corrupt):
        return snapshot


def _sign(signers: Signers, root: Root, role: str, metadata: Metadata[Any]) -> None:
    keys = [root.get_key(keyid) for keyid in root.roles[role].keyids]
    for key in keys:
        signers.sign(metadata, key)
    if not root.get_verification_result(role, metadata.signed_bytes, metadata.signatures):
        raise NotFound(
            "the online key is not here: nothing was published",
            evidence=f"{role} is signed by {', '.join(one.keyid[:12] + '…' for one in keys)}",
            hint="run it where the key is, or name its place with --key",
        )
