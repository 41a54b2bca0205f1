"""A controller's event on a rollout: judged as the record is now, and signed where it goes forward.

- A change names the revision it was decided on; when the rollout has moved on, Conflict, and
  nothing is written.
- A decision on a snapshot is taken on the snapshot as it is inside the transaction, judged there:
  neither a forged verdict nor one that an arriving report has overtaken moves a rollout.
- A verdict that leads forward is signed before the transaction that it decides, so that nobody
  waits for a key. Where the snapshot has moved by then it is signed again; what never stands still
  is a Conflict. A rollout that goes back, or holds, does so at once; its verdict is signed then.
- Where trust is set up a rollout goes forward only on attempts that their robots signed. It goes
  back, or holds, on any: who forges attempts can take a version back, never forward, nor keep it
  out there past its limits.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from registry.errors import Conflict, PolicyctlError
from registry.gates import CanaryGate
from registry.record.attempts import read_evidence, require_signed
from registry.record.desk import Desk
from registry.record.model import VersionRecord
from registry.record.rollouts import Advanced, Rollouts, exposes, rollout_record, rollout_row
from registry.record.statements import seal_verdict
from registry.record.verdicts import Verdicts
from registry.record.versions import read_version
from registry.rollouts import Event, Observed, Rollout, step
from registry.versions import VersionRef

if TYPE_CHECKING:
    from registry.trust.sealing import Envelope

SIGNINGS = 3  # of a verdict whose snapshot moves while it is signed


@dataclass(frozen=True)
class _Final:
    """A verdict that ends what its rollout is in, and is to be signed."""

    record: VersionRecord
    gate: CanaryGate
    seen: Observed
    stops: bool
    """Whether robots run the candidate no longer: that waits for no signature."""


class Advancing:
    def __init__(self, desk: Desk, verdicts: Verdicts, rollouts: Rollouts) -> None:
        self._desk = desk
        self._verdicts = verdicts
        self._rollouts = rollouts

    def advance(
        self, identity: str, expected_revision: int | None, event: Event, now: float | None = None
    ) -> Advanced:
        """Takes a rollout one step and does what follows from it, or nothing at all.

        Raises Conflict when the rollout is no longer at `expected_revision`, and what the
        director's key does where it goes forward.
        """
        self._desk.actor.require("advance")
        now = self._desk.clock.now() if now is None else now
        done, final = self._look(identity, expected_revision, event, now)
        for _ in range(SIGNINGS):
            if done is not None or final is None:
                break
            signed = final.seen, self._sealed(final)
            done, final = self._look(identity, expected_revision, event, now, signed)
        if done is None:
            raise Conflict(
                f"rollout {identity} moves faster than its verdict is signed",
                evidence=f"reports arrived while it was signed, {SIGNINGS} times",
                hint="run the same command again; `policyctl server` does so by itself",
            )
        if done[1]:
            self._rollouts.sign_orders()
        if final is not None and final.stops:
            with contextlib.suppress(PolicyctlError):
                self._sign_late(final)
        return done

    def _look(
        self,
        identity: str,
        expected: int | None,
        event: Event,
        now: float,
        signed: tuple[Observed, Envelope | None] | None = None,
    ) -> tuple[Advanced | None, _Final | None]:
        """One transaction: what was done, and the verdict that it makes final. Nothing is done
        where that has to be signed first, and is not the one that was `signed`."""
        with self._desk.ledger.write() as connection:
            row = rollout_row(connection, identity)
            if expected is not None and row.revision != expected:
                raise _moved_on(identity, row.revision, expected)
            rollout = rollout_record(row).rollout
            if isinstance(event, Observed):
                event = self._seen(connection, rollout, event, now)
            final, statement = self._final(connection, rollout, event, now), None
            if final is not None and not final.stops:
                if signed is None or signed[0] != final.seen:
                    return None, final
                statement = signed[1]
            done = self._rollouts.apply(connection, rollout, row.revision, event, now, statement)
            return done, final

    def _seen(
        self, connection: Connection, rollout: Rollout, event: Observed, now: float
    ) -> Observed:
        """The snapshot as the record holds it now, with the verdict that its own rule gives.

        Attempts that arrived since the caller looked count, and nobody's word is taken for either.
        """
        from registry.verdicts import judge

        step(rollout, event, now)  # refuses a snapshot that belongs to another rollout
        evidence = read_evidence(connection, rollout, self._desk.clock.now())
        seen = Observed(evidence, judge(rollout.gate, evidence))
        if self._desk.trust is not None and exposes(step(rollout, seen, now)[0]):
            require_signed(connection, rollout, self._desk.trust)
        return seen

    def _final(
        self, connection: Connection, rollout: Rollout, event: Event, now: float
    ) -> _Final | None:
        """The verdict that this event makes final, where such are signed."""
        if self._desk.trust is None or not isinstance(event, Observed):
            return None
        after, _ = step(rollout, event, now)
        if after.phase == rollout.phase:
            return None
        record = read_version(connection, VersionRef(rollout.policy, rollout.candidate))
        return _Final(record, rollout.gate, event, stops=not exposes(after))

    def _sealed(self, final: _Final) -> Envelope | None:
        """The director's statement. Raises what `seal_verdict` does."""
        seen = final.seen
        return seal_verdict(
            self._desk.trust, final.record.subject, final.gate, seen.evidence, seen.verdict, {}
        )

    def _sign_late(self, final: _Final) -> None:
        """After the transaction that stopped. Without the key its verdict stays unsigned."""
        statement, seen = self._sealed(final), final.seen
        with self._desk.ledger.write() as connection:
            self._verdicts.sign(connection, final.record, seen.evidence, seen.verdict, statement)


def _moved_on(identity: str, revision: int, expected: int) -> Conflict:
    return Conflict(
        f"rollout {identity} has moved on",
        evidence=f"it is at revision {revision}, the decision was on {expected}",
        hint="read it again and decide on what it is now",
    )
