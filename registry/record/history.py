"""Looking back: who changed what, what ran then, and whether the audit still holds."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, func, select

from registry.ledger.tables import audit as audit_rows
from registry.ledger.tables import policies, versions
from registry.record import audit
from registry.record.audit import AuditEvent, Head
from registry.record.desk import Desk
from registry.record.model import FleetThen
from registry.record.past import fleet_at
from registry.stages import Stage
from registry.versions import VersionRef


class History:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def events(self, policy: str | None = None) -> list[AuditEvent]:
        """What was changed, oldest first; of one policy if named."""
        with self._desk.ledger.read() as connection:
            return list(audit.events(connection, policy))

    def fleet_at(self, when: float, policy: str | None = None) -> list[FleetThen]:
        """What was in the fleet at a moment of the past [s since the epoch], by policy."""
        with self._desk.ledger.read() as connection:
            return fleet_at(connection, when, policy)

    def verify(self, known: Head | None = None) -> Head:
        """Recomputes the audit's hash chain and returns its newest event. Raises Corrupt.

        With trust it is also held against the head that the keyring was begun with.
        """
        trust = self._desk.trust
        if trust is not None and (since := trust.since):
            self.check_chain(Head.parse(since))
        return self.check_chain(known)

    def check_chain(self, known: Head | None = None) -> Head:
        """`verify` on the chain alone: what a new keyring begins with."""
        with self._desk.ledger.read() as connection:
            return audit.check_chain(connection, known)

    def doubts(self) -> list[str]:
        """Where versions say otherwise than the audit, which is to be checked first, in words."""
        with self._desk.ledger.read() as connection:
            return [*_other_stages(connection), *_other_numbers(connection)]


def _other_stages(connection: Connection) -> Iterator[str]:
    moves = select(audit_rows).where(audit_rows.c.action == "stage").order_by(audit_rows.c.seq)
    last = {row.subject: row.detail["to"] for row in connection.execute(moves)}
    query = select(versions.c.policy, versions.c.number, versions.c.stage)
    for policy, number, stage in connection.execute(query):
        name = str(VersionRef(policy, number))
        if stage != (audited := last.get(name, str(Stage.REGISTERED))):
            yield f"{name}: its stage is {stage}, in the audit it is {audited}"


def _other_numbers(connection: Connection) -> Iterator[str]:
    query = (
        select(policies.c.name, policies.c.next_number, func.max(versions.c.number))
        .outerjoin(versions, versions.c.policy == policies.c.name)
        .group_by(policies.c.name, policies.c.next_number)
    )
    for policy, following, last in connection.execute(query):
        if following != (last or 0) + 1:
            yield f"{policy}: its next version would be v{following}, its last is v{last}"
