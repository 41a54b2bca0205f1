"""Who is about to need blobs that no version names yet.

While a claim lives, gc removes nothing. A process that was killed leaves a claim that runs out; one
that only slept for so long finds its claim gone at the end, and has to begin again.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from types import TracebackType

from sqlalchemy import Connection, delete, func, insert, select, update

from registry.blobs.tensors import Progress
from registry.errors import Conflict
from registry.ledger.tables import claims
from registry.ports import Batch, Source
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

    def renewed_by_batch(self, batch: Batch) -> Batch:
        """`batch`, whose reads keep the claim alive: uploads go on long after hashing ended."""
        return _Renewing(batch, self._keep)

    def renewed_by_progress(self, progress: Progress | None) -> Progress:
        """`progress`, which also keeps the claim alive."""

        def went_on(size: int) -> None:
            self._keep()
            if progress is not None:
                progress(size)

        return went_on

    def _keep(self) -> None:
        """Renews the claim where it is time; from any thread."""
        if self._desk.clock.now() - self._renewed <= RENEW_S:
            return
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


class _Renewing:
    """A Batch (contract: `registry.ports.Batch`) that calls `keep` whenever a source is read."""

    def __init__(self, batch: Batch, keep: Callable[[], None]) -> None:
        self._batch, self._keep = batch, keep

    @property
    def written(self) -> int:
        return self._batch.written

    def add(self, digest: str, source: Source) -> None:
        self._keep()
        # one in memory is short, and waits in a queue that is shorter than a claim lives
        self._batch.add(digest, source if source.fixed else _Watched(source, self._keep))


class _Watched:
    """A Source (contract: `registry.ports.Source`) that tells of every read."""

    def __init__(self, source: Source, keep: Callable[[], None]) -> None:
        self._source, self._keep = source, keep
        self.size, self.fixed = source.size, source.fixed

    def read_at(self, start: int, length: int) -> bytes:
        self._keep()
        return self._source.read_at(start, length)

    def close(self) -> None:
        self._source.close()


def live_claims(connection: Connection, now: float) -> int:
    """How many claims hold now; those that ran out are deleted."""
    connection.execute(delete(claims).where(claims.c.expires_at <= now))
    return int(connection.execute(select(func.count()).select_from(claims)).scalar_one())
