"""Who is about to need blobs that no version names yet.

While a claim lives, gc removes nothing. A process that was killed leaves a claim that runs out; one
that only slept for so long finds its claim gone at the end, and has to begin again.
"""

from __future__ import annotations

import uuid
from types import TracebackType

from sqlalchemy import Connection, delete, func, insert, select, update

from registry.blobs.tensors import Progress
from registry.errors import Conflict
from registry.ledger.tables import claims
from registry.record.desk import Desk

LASTS_S = 900.0
RENEW_S = 60.0


class Claim:
    """Held from before the first blob is looked for until the row that names it is written."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._id = uuid.uuid4().hex
        self._renewed = 0.0

    def __enter__(self) -> Claim:
        self._renewed = self._desk.clock.now()
        with self._desk.ledger.write() as connection:
            connection.execute(
                insert(claims).values(
                    id=self._id,
                    actor=self._desk.actor.name,
                    expires_at=self._renewed + LASTS_S,
                )
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            with self._desk.ledger.write() as connection:
                connection.execute(delete(claims).where(claims.c.id == self._id))

    def while_(self, progress: Progress | None) -> Progress:
        """`progress`, which also keeps the claim alive."""

        def went_on(size: int) -> None:
            if self._desk.clock.now() - self._renewed > RENEW_S:
                self._renew()
            if progress is not None:
                progress(size)

        return went_on

    def _renew(self) -> None:
        self._renewed = self._desk.clock.now()
        with self._desk.ledger.write() as connection:
            connection.execute(
                update(claims)
                .where(claims.c.id == self._id)
                .values(expires_at=self._renewed + LASTS_S)
            )

    def settle(self, connection: Connection) -> None:
        """Ends the claim in the transaction that names the blobs. Raises Conflict if it ran out."""
        gone = connection.execute(delete(claims).where(claims.c.id == self._id)).rowcount
        if not gone:
            raise Conflict(
                "registering took so long that its claim on the store ran out",
                evidence=f"not a word for {LASTS_S / 60:.0f} min, and gc ran meanwhile",
                hint="run the same command again; what is stored is not stored twice",
            )


def live_claims(connection: Connection, now: float) -> int:
    """How many claims hold now; those that ran out are deleted."""
    connection.execute(delete(claims).where(claims.c.expires_at <= now))
    return int(connection.execute(select(func.count()).select_from(claims)).scalar_one())
