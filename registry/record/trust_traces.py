"""Whether the record shows that trust was begun here: it outlives a trust folder that is lost."""

from __future__ import annotations

from registry.ports import Ledger
from registry.trust.remains import Traces

# The driver's own words: asked at each opening, and composing them takes longer than the answer.
_TRACES = """
SELECT EXISTS (SELECT 1 FROM audit WHERE action = 'trust_init') AS noted,
       EXISTS (SELECT 1 FROM statements) OR EXISTS (SELECT 1 FROM renewals) AS signed
"""


def traces(ledger: Ledger) -> Traces:
    """One look at the first row of each: its time does not grow with the record."""
    with ledger.read() as connection:
        found = connection.exec_driver_sql(_TRACES).one()
    return Traces(bool(found.noted), bool(found.signed))
