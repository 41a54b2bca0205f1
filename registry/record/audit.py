"""The audit: who changed what, when and why. Rows are added with the change they describe, in its
transaction, and never touched again; each carries the hash of itself and the row before, so a row
altered, removed or slipped in breaks every hash that follows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from registry.errors import Corrupt
from registry.ledger.tables import audit
from registry.record.actors import Actor
from registry.versions import canonical

GENESIS = "0" * 64


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
) -> int:
    """Adds one event and returns its number; it becomes true only with the transaction."""
    last = connection.execute(
        select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1)
    ).first()
    row: dict[str, Any] = {
        "seq": last.seq + 1 if last else 1,
        "at": at,
        "actor": actor.name,
        "role": actor.role,
        "action": action,
        "policy": policy,
        "subject": subject,
        "reason": reason,
        "detail": dict(detail or {}),
    }
    row["hash"] = _hash(last.hash if last else GENESIS, row)
    connection.execute(insert(audit).values(row))
    return int(row["seq"])


def events(connection: Connection, policy: str | None = None) -> Iterator[AuditEvent]:
    """Oldest first; of one policy if named."""
    query = select(audit).order_by(audit.c.seq)
    if policy is not None:
        query = query.where(audit.c.policy == policy)
    for row in connection.execute(query):
        yield AuditEvent(**row._mapping)


def check_chain(connection: Connection) -> int:
    """Recomputes every hash and returns how many events hold. Raises Corrupt at the first break."""
    previous, expected = GENESIS, 1
    for row in connection.execute(select(audit).order_by(audit.c.seq)):
        if row.seq != expected or row.hash != _hash(previous, _fields(row)):
            raise Corrupt(
                "the audit was altered outside policyctl",
                evidence=f"event {expected} does not follow from the one before it",
                hint="compare the home with its backup",
            )
        previous, expected = row.hash, expected + 1
    return expected - 1


def _fields(row: Row[Any]) -> dict[str, Any]:
    return {key: value for key, value in row._mapping.items() if key != "hash"}


def _hash(previous: str, row: Mapping[str, Any]) -> str:
    return hashlib.sha256(previous.encode() + canonical(row)).hexdigest()
