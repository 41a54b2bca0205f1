"""What the record says of trust: it outlives a trust folder that is lost."""

from __future__ import annotations

from sqlalchemy import exists, select, text

from registry.ledger.tables import audit, renewals, statements
from registry.ports import Ledger
from registry.trust.files import Traces

# The words of the partial index: a bound parameter would not find it.
_NOTED = exists(select(audit.c.seq).where(text("action = 'trust_init'")))
_SIGNED = exists(select(statements.c.id)) | exists(select(renewals.c.robot))
_TRACES = select(_NOTED.label("noted"), _SIGNED.label("signed"))


def traces(ledger: Ledger) -> Traces:
    """One look at the first row of each: its time does not grow with the record."""
    with ledger.read() as connection:
        found = connection.execute(_TRACES).one()
    return Traces(bool(found.noted), bool(found.signed))
