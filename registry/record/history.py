"""Looking back: who changed what, what ran then, and whether the audit still holds."""

from __future__ import annotations

from registry.record import audit
from registry.record.audit import AuditEvent, Head
from registry.record.desk import Desk
from registry.record.model import FleetThen
from registry.record.past import fleet_at


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
