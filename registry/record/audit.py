"""The audit: who changed what, when and why. Rows are added with the change they describe, in its
transaction, and never touched again; each carries the hash of itself and the row before, so a row
altered, removed or slipped in breaks every hash that follows. The head is kept beside them, so that
the newest rows cannot vanish unseen. Whoever owns the database could rewrite all of it: a head that
was written down elsewhere, in a signed statement or by hand, finds that too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, Text, cast, insert, select, update

from registry.errors import Corrupt, UsageError
from registry.ledger.tables import audit, audit_head
from registry.record.actors import Actor
from registry.versions import canonical

GENESIS = "0" * 64
_HEAD = re.compile(r"[1-9][0-9]{0,17}:[0-9a-f]{64}")
_AS_WRITTEN: Select[Any] = select(
    *(column for column in audit.c if column is not audit.c.detail),
    cast(audit.c.detail, Text).label("detail"),
).order_by(audit.c.seq)
"""The rows with their detail as it is spelled in the database."""


@dataclass(frozen=True)
class AuditEvent:
    seq: int
    at: float
    actor: str
    role: str
    action: str
    policy: str | None
    subject: str
    reason: str
    detail: Mapping[str, Any]
    hash: str


@dataclass(frozen=True)
class Head:
    """The newest event, as a person can write it down: `42:9f86d081…`."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"

    @staticmethod
    def parse(text: str) -> Head:
        """Raises UsageError. Before the first event there is but one head."""
        if text != str(Head(0, GENESIS)) and not _HEAD.fullmatch(text):
            shown = text if len(text) < 100 else f"{text[:40]}…"
            raise UsageError(
                f"{shown!r} is not an audit's head",
                evidence="it reads NUMBER:HASH, of 64 hexadecimal digits",
                hint="copy it whole from what `policyctl audit verify` printed then; without "
                "--expect the audit is held against itself",
            )
        seq, _, digest = text.partition(":")
        return Head(int(seq), digest)


def append(
    connection: Connection,
    *,
    at: float,
    actor: Actor,
    action: str,
    subject: str,
    policy: str | None = None,
    reason: str = "",
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Adds one event; it becomes true only with the transaction."""
    last = _head(connection)
    row: dict[str, Any] = {
        "seq": last.seq + 1,
        "at": at,
        "actor": actor.name,
        "role": actor.role,
        "action": action,
        "policy": policy,
        "subject": subject,
        "reason": reason,
        "detail": dict(detail or {}),
    }
    row["hash"] = _hash(last.hash, row)
    connection.execute(insert(audit).values(row))
    connection.execute(update(audit_head).values(seq=row["seq"], hash=row["hash"]))


def events(connection: Connection, policy: str | None = None) -> Iterator[AuditEvent]:
    """Oldest first; of one policy if named. Raises Corrupt for what `append` did not write."""
    query = _AS_WRITTEN
    if policy is not None:
        query = query.where(audit.c.policy == policy)
    for row in connection.execute(query):
        yield AuditEvent(**_fields(row), hash=row.hash)


def check_chain(connection: Connection, known: Head | None = None) -> Head:
    """Recomputes every hash and returns the newest event. Raises Corrupt at the first break.

    `known` is what somebody wrote down earlier: an audit rewritten from that event on, or cut off
    before it, is found though all of its own hashes fit.
    """
    previous, expected = GENESIS, 1
    for row in connection.execute(_AS_WRITTEN):
        if row.seq != expected or row.hash != _hash_of(row, previous):
            raise _altered(f"event {expected} does not follow from the one before it")
        if known is not None and row.seq == known.seq and row.hash != known.hash:
            raise _altered(f"event {row.seq} is {row.hash[:12]}…, it was {known.hash[:12]}…")
        previous, expected = row.hash, expected + 1
    found = Head(expected - 1, previous)
    stored = _head(connection)
    if found != stored:
        raise _altered(f"it ends at event {found.seq}, the last one written was {stored.seq}")
    if known is not None and known.seq > found.seq:
        raise _altered(f"it ends at event {found.seq}, event {known.seq} was seen once")
    return found


def _altered(evidence: str) -> Corrupt:
    return Corrupt(
        "the audit was altered outside policyctl",
        evidence=evidence,
        hint="compare the record with its backup",
    )


def _head(connection: Connection) -> Head:
    heads = connection.execute(select(audit_head.c.seq, audit_head.c.hash)).all()
    if len(heads) != 1:
        raise _altered(f"its newest event is written down {len(heads)} times, not once")
    return Head(*heads[0])


def _fields(row: Row[Any]) -> dict[str, Any]:
    """What was hashed of a row. Raises Corrupt unless its detail is spelled as it was written: two
    readers of other spellings (a key twice) need not read the same."""
    try:
        detail = json.loads(row.detail)
        as_written = json.dumps(detail)
    except (ValueError, RecursionError) as error:
        raise _altered(f"the detail of event {row.seq} cannot be read: {error}") from None
    if as_written != row.detail:
        raise _altered(f"the detail of event {row.seq} is not spelled as it was written")
    return {key: value for key, value in row._mapping.items() if key != "hash"} | {"detail": detail}


def _hash_of(row: Row[Any], previous: str) -> str:
    fields = _fields(row)
    try:
        return _hash(previous, fields)
    except (ValueError, RecursionError) as error:  # bytes, infinity: never hashed, never written
        raise _altered(f"event {row.seq} holds what no event can: {error}") from None


def _hash(previous: str, row: Mapping[str, Any]) -> str:
    return hashlib.sha256(previous.encode() + canonical(row)).hexdigest()
