"""The director's signatures under orders: given after an order is written, outside any transaction.

- Stopping and going back wait for no key, and no writer for a slow one. `sign_new` follows each
  change at once; what it cannot sign, `renew` does.
- `renew` also signs anew what names a candidate and does not answer the challenge that the robot
  last said: unanswered, its permission ends. No clock decides that.
- A round of `renew` signs `TOGETHER` orders or for `ROUND_S` at most: bare ones first, then those
  that were signed longest ago. So slow keys hold up no rollback, and no robot is always the last.
- A signature is kept only where the order that it is of is still the newest of its robot, and its
  key a director's.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, and_, insert, null, update

from registry.assignments import Assignment
from registry.ledger.tables import assignments, heartbeats, renewals
from registry.record.assignments import document_of, newest_generations, with_renewal
from registry.record.desk import Desk
from registry.trust.authority import Trust
from registry.trust.keyring import Keyring

LOOKS = 3  # how often orders that were overtaken while they were signed are looked at again
CHALLENGE_LENGTH = 64  # ASCII letters and digits; anything else is no robot's of ours
ROUND_S = 10.0
TOGETHER = 50  # orders that are written in one transaction
_BARE = assignments.c.envelope.is_(null()) & renewals.c.robot.is_(None)  # never signed


class Renewals:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._signed_under: Keyring | None = None  # the keyring under which all were looked at

    def renew(self) -> int:
        """Signs what robots were last told and what needs it; how many documents.

        Those are documents without a signature of a key that is a director's now, and those that
        name a candidate and answer another challenge than the robot's newest. Raises NotAllowed
        without the director's key; without trust there is nothing to do.
        """
        self._desk.actor.require("advance")
        if self._desk.trust is None:
            return 0
        keyring = self._desk.trust.keyring
        told = _newest()
        if keyring is self._signed_under:
            told = told.where(assignments.c.candidate.is_not(None) | _BARE)
        due = self._read(told)
        done = self._sign(self._desk.trust, due[:TOGETHER])
        if not due and keyring is self._desk.trust.keyring:
            self._signed_under = keyring
        return done

    def sign_new(self) -> None:
        """Signs what was just written, where the director's key can be used here now; whatever
        keeps it from that: no robot is stopped later for want of a key. The server's next round
        signs it, and raises.
        """
        if self._desk.trust is None:
            return
        with contextlib.suppress(Exception):
            for _ in range(LOOKS):
                due = self._read(_newest().where(_BARE))
                if not due:
                    return
                for first in range(0, len(due), TOGETHER):
                    self._sign(self._desk.trust, due[first : first + TOGETHER])

    def _read(self, told: Any) -> list[Assignment]:
        """What is to be signed of that, in its turn."""
        with self._desk.ledger.read() as connection:
            due = [asked for row in connection.execute(told) if (asked := self._due(row))]
        return sorted(due, key=lambda one: (not self._lacks_seal(one), one.issued_at, one.robot))

    def _sign(self, trust: Trust, due: list[Assignment]) -> int:
        """How many, for `ROUND_S` at most. What was signed before a key fails is kept; then the
        error is raised."""
        now, signed = self._desk.clock.now(), list[Assignment]()
        until = time.monotonic() + ROUND_S
        try:
            for one in due:
                signed.append(trust.seal_assignment(replace(one, issued_at=now)))
                if time.monotonic() > until:
                    break
        finally:
            kept = self._keep(signed)
        return kept

    def _keep(self, signed: list[Assignment]) -> int:
        """How many still hold; nothing waits for the record's writer where nothing was signed."""
        if not signed:
            return 0
        with self._desk.ledger.write() as connection:
            return sum(self._put(connection, one) for one in signed)

    def _put(self, connection: Connection, signed: Assignment) -> bool:
        """Keeps a signed order, unless a newer one was written or signed meanwhile, or its key is a
        director's no longer."""
        assert signed.envelope is not None
        held = connection.execute(_newest().where(assignments.c.robot == signed.robot)).first()
        newest = None if held is None else self._due(held)
        if newest is None or newest.generation != signed.generation or self._lacks_seal(signed):
            return False
        values = {
            "generation": signed.generation,
            "document": signed.to_json(),
            "envelope": dict(signed.envelope),
        }
        mine = renewals.c.robot == signed.robot
        if not connection.execute(update(renewals).where(mine).values(**values)).rowcount:
            connection.execute(insert(renewals).values(robot=signed.robot, **values))
        return True

    def _due(self, row: Row[Any]) -> Assignment | None:
        """What is to be signed for the robot of a row of `_newest`; None where nothing is."""
        said = document_of(row)
        asked = replace(said, answers=_challenge(row.status))
        if self._lacks_seal(said) or (said.candidate is not None and asked != said):
            return asked
        return None

    def _lacks_seal(self, document: Assignment) -> bool:
        """No key that is a director's now has signed it, and one should."""
        if self._desk.trust is None:
            return False
        directors = {key.keyid for key in self._desk.trust.keyring.of_role("director")}
        seals = (document.envelope or {}).get("signatures", ())
        return not directors & {one["keyid"] for one in seals}


def _challenge(status: Any) -> str:
    """What the robot's newest heartbeat asks to be answered; "" where it says none."""
    said = status.get("challenge") if isinstance(status, dict) else None
    if not isinstance(said, str) or len(said) > CHALLENGE_LENGTH:
        return ""
    return said if said.isascii() and said.isalnum() else ""


def _newest() -> Any:
    """The newest assignment of each robot, beside its renewal and what the robot said last."""
    last = newest_generations()
    return (
        with_renewal()
        .add_columns(heartbeats.c.status)
        .outerjoin(heartbeats, heartbeats.c.robot == assignments.c.robot)
        .join(
            last,
            and_(
                last.c.robot == assignments.c.robot,
                last.c.generation == assignments.c.generation,
            ),
        )
        .order_by(assignments.c.robot)
    )
