"""Leases: at most one holder may move a station's arm. The token rises with every new lease, so a
holder whose lease ran out is told so at its next step, however late it wakes up.
"""

from __future__ import annotations

import math

from sqlalchemy import Connection, insert, select, update

from registry.errors import Refused, UsageError
from registry.ledger.tables import leases
from registry.record.desk import Desk
from registry.record.model import Lease


class Leases:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def acquire(self, station: str, holder: str, ttl_s: float) -> Lease:
        """A new lease. The same holder may take its own again, which fences off the older token.

        Raises Refused while somebody else holds it.
        """
        self._desk.actor.require("lease")
        if not 0 < ttl_s < math.inf:
            raise UsageError(f"a lease of {ttl_s} s never begins, or never ends")
        with self._desk.ledger.write() as connection:
            now = self._desk.clock.now()
            held = _read(connection, station)
            if held and held.expires_at > now and held.holder != holder:
                raise Refused(
                    f"{station} is leased",
                    evidence=f"by {held.holder}, for another {held.expires_at - now:.0f} s",
                    hint="wait, or ask its holder to release it",
                )
            token = held.token + 1 if held else 1
            lease = Lease(station, holder, token, now + ttl_s)
            values = {"holder": holder, "token": token, "expires_at": lease.expires_at}
            if held:
                connection.execute(
                    update(leases).where(leases.c.station == station).values(**values)
                )
            else:
                connection.execute(insert(leases).values(station=station, **values))
            self._desk.note(connection, "lease", station, detail=values)
            return lease

    def renew(self, lease: Lease, ttl_s: float) -> Lease:
        """The same lease for longer. Raises Refused when it was lost."""
        self._desk.actor.require("lease")
        with self._desk.ledger.write() as connection:
            now = self._desk.clock.now()
            self._check(connection, lease, now)
            renewed = Lease(lease.station, lease.holder, lease.token, now + ttl_s)
            connection.execute(
                update(leases)
                .where(leases.c.station == lease.station)
                .values(expires_at=renewed.expires_at)
            )
            return renewed

    def release(self, lease: Lease) -> None:
        """Gives it back; releasing one that was lost already changes nothing."""
        self._desk.actor.require("lease")
        with self._desk.ledger.write() as connection:
            now = self._desk.clock.now()
            held = _read(connection, lease.station)
            if held is None or held.token != lease.token or held.expires_at <= now:
                return
            connection.execute(
                update(leases).where(leases.c.station == lease.station).values(expires_at=now)
            )
            self._desk.note(connection, "release", lease.station, detail={"token": lease.token})

    def current(self, station: str) -> Lease | None:
        """The lease that holds now, if one does."""
        with self._desk.ledger.read() as connection:
            held = _read(connection, station)
        return held if held and held.expires_at > self._desk.clock.now() else None

    def _check(self, connection: Connection, lease: Lease, now: float) -> None:
        held = _read(connection, lease.station)
        if held is None or held.token != lease.token or held.expires_at <= now:
            what = f"token {held.token} of {held.holder}" if held else "none"
            raise Refused(
                f"the lease of {lease.station} was lost",
                evidence=f"holds now: {what}; this is token {lease.token}",
                hint="stop moving the arm; take a new lease when the station is free",
            )


def _read(connection: Connection, station: str) -> Lease | None:
    row = connection.execute(select(leases).where(leases.c.station == station)).first()
    return Lease(row.station, row.holder, row.token, row.expires_at) if row else None
