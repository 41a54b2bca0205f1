"""Attempts that robots report, and the canary evidence counted from them.

- Attempts are telemetry: no audit. One is stored once by (robot, number); a repeat is harmless,
  another story under the same number is refused.
- An attempt counts only if it ran the side that its index draws under the assignment it names. One
  that did not is refused with everything reported beside it: a robot that draws again never counts.
- Evidence is counted from one snapshot, by `registry.record.counts`.
- Where trust is set up an attempt is stored only if its robot signed it, and the evidence carries
  the Merkle root of the signed reports (`registry.record.signed_attempts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, null, select, update

from registry.assignments import Assignment, terms_of
from registry.attempts import AttemptReport
from registry.errors import NotFound, Refused
from registry.evidence import CanaryEvidence
from registry.gates import CanaryGate
from registry.ledger.tables import assignments, attempts, heartbeats, rollouts
from registry.record import counts
from registry.record.desk import Desk
from registry.record.model import CanaryBlock
from registry.record.robots import require_robot
from registry.record.signed_attempts import check_signed, objection, snapshot_of
from registry.record.versions import read_version
from registry.rollouts import Rollout
from registry.trust.authority import Trust
from registry.versions import VersionRef, digest_of


class Attempts:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def ingest(self, robot: str, reports: Sequence[AttemptReport]) -> int:
        """Stores attempts; returns the highest number below which none is missing.

        Raises Refused, and stores none of them, when one did not run what it was assigned or tells
        another story than the one stored under its number; with trust NotSigned, WrongSigner or
        Forged where one was not signed by its robot.
        """
        self._desk.actor.require("report")
        self._check_seals(reports)
        with self._desk.ledger.write() as connection:
            require_robot(connection, robot)
            for report in reports:
                self._store(connection, robot, report)
            return _contiguous(connection, robot)

    def _check_seals(self, reports: Sequence[AttemptReport]) -> None:
        if self._desk.trust is None or not reports:
            return
        from registry.trust.documents import check_attempt

        keyring = self._desk.trust.keyring
        for report in reports:
            check_attempt(report, keyring)
            if not report.terms:
                raise _refused(report, "it does not say under which terms it ran")

    def _store(self, connection: Connection, robot: str, report: AttemptReport) -> None:
        stored = connection.execute(
            select(attempts.c.report).where(
                attempts.c.robot == robot, attempts.c.number == report.number
            )
        ).scalar()
        if stored is not None:
            if AttemptReport.from_json(stored) != report:
                raise _refused(report, "another attempt is stored under this number")
            if report.envelope is not None:  # made before trust was set up, and told again since
                _seal_stored(connection, report)
            return
        row = connection.execute(
            select(assignments).where(
                assignments.c.robot == robot, assignments.c.generation == report.generation
            )
        ).first()
        if report.robot != robot or row is None:
            raise _refused(report, f"{robot} was never given generation {report.generation}")
        _check_draw(connection, report, row)
        connection.execute(
            insert(attempts).values(
                robot=robot,
                number=report.number,
                policy=report.policy,
                version=report.version,
                side=report.side,
                rollout=row.rollout if report.side != "only" else None,
                generation=report.generation,
                segment=report.segment,
                stratum=report.stratum,
                index=report.index,
                outcome=report.outcome,
                received_at=self._desk.clock.now(),
                report=report.to_json(),
                envelope=None if report.envelope is None else dict(report.envelope),
            )
        )

    def all(
        self,
        policy: str | None = None,
        rollout: str | None = None,
        robot: str | None = None,
    ) -> list[AttemptReport]:
        """Stored attempts in the order of arrival, of what is named."""
        given = {"policy": policy, "rollout": rollout, "robot": robot}
        query = select(attempts.c.report).where(
            and_(True, *(attempts.c[key] == value for key, value in given.items() if value))
        )
        query = query.order_by(attempts.c.received_at, attempts.c.robot, attempts.c.number)
        with self._desk.ledger.read() as connection:
            return [AttemptReport.from_json(found) for found in connection.execute(query).scalars()]

    # Evidence

    def canary_evidence(self, identity: str) -> CanaryEvidence:
        """The rollout as the stored attempts show it, from one snapshot."""
        with self._desk.ledger.read() as connection:
            rollout = read_rollout(connection, identity)
            return read_evidence(connection, rollout, self._desk.clock.now())

    def canary_blocks(self, identity: str) -> list[CanaryBlock]:
        """The rollout's complete blocks in the order in which they were completed."""
        with self._desk.ledger.read() as connection:
            rollout = read_rollout(connection, identity)
            rows = _attempt_rows(connection, rollout.id)
            ratios, _ = _segments(connection, rollout.id)
            return counts.complete_blocks([_counted(row) for row in rows], ratios)


def read_rollout(connection: Connection, identity: str) -> Rollout:
    """Inside a transaction. Raises NotFound."""
    state = connection.execute(select(rollouts.c.state).where(rollouts.c.id == identity)).scalar()
    if state is None:
        raise NotFound(
            f"there is no rollout {identity}", hint="`policyctl status` shows what is under way"
        )
    return Rollout.from_json(state)


def read_evidence(connection: Connection, rollout: Rollout, now: float) -> CanaryEvidence:
    """Inside a transaction: what all stored attempts of a rollout show at `now`."""
    rows = _attempt_rows(connection, rollout.id)
    ratios, salts = _segments(connection, rollout.id)
    counted = [_counted(row) for row in rows]
    signed_root, reports = snapshot_of(rows)
    version = read_version(connection, VersionRef(rollout.policy, rollout.candidate))
    gate: CanaryGate = rollout.gate
    return CanaryEvidence(
        subject=version.subject,
        gate_digest=gate.digest,
        robot_class=version.robot_class,
        engine="fleet",
        judge=", ".join(sorted({row.report["judge"] for row in rows})),
        attempts_digest=digest_of(
            [[a.robot, a.number, a.side, a.segment, a.stratum, a.index, a.outcome] for a in counted]
        ),
        rollout=rollout.id,
        baseline=rollout.baseline,
        segments=counts.segments(counted, ratios),
        outstanding=counts.overtaken(counted, ratios, salts)
        + _silent(connection, rollout.id, now - counts.SILENT_S),
        class_a_events=sum(
            event in gate.class_a
            for row in rows
            if row.side == "candidate"
            for event in row.report["safety_events"]
        ),
        weights_digest=gate.weights.digest,
        attempts_root=signed_root,
        reports=reports,
    )


def require_signed(connection: Connection, rollout: Rollout, trust: Trust) -> None:
    """Raises NotSigned, WrongSigner or Forged unless robots signed all that a rollout counts."""
    check_signed(connection, trust.keyring, _attempt_rows(connection, rollout.id))


def _silent(connection: Connection, rollout: str, horizon: float) -> int:
    """Candidate attempts that robots said they had open, before they fell silent."""
    query = (
        select(heartbeats.c.robot, heartbeats.c.status)
        .join(assignments, assignments.c.robot == heartbeats.c.robot)
        .where(
            assignments.c.rollout == rollout,
            assignments.c.generation == heartbeats.c.generation,
            heartbeats.c.at < horizon,
        )
    )
    lost = 0
    for row in connection.execute(query):
        opened = row.status.get("open_attempt") or {}
        if opened.get("side") != "candidate":
            continue
        known = connection.execute(
            select(attempts.c.number).where(
                attempts.c.robot == row.robot, attempts.c.number == opened["number"]
            )
        ).first()
        lost += known is None
    return lost


def _attempt_rows(connection: Connection, rollout: str) -> Sequence[Row[Any]]:
    return connection.execute(
        select(attempts)
        .where(attempts.c.rollout == rollout)
        .order_by(attempts.c.robot, attempts.c.number)
    ).all()


def _segments(connection: Connection, rollout: str) -> tuple[dict[int, Any], dict[int, str]]:
    """Ratio and salt of each segment in which robots were given the candidate."""
    rows = connection.execute(
        select(assignments.c.segment, assignments.c.ratio, assignments.c.document).where(
            assignments.c.rollout == rollout, assignments.c.candidate.is_not(None)
        )
    ).all()
    ratios = {row.segment: Fraction(row.ratio) for row in rows}
    return ratios, {row.segment: row.document["salt"] for row in rows}


def _counted(row: Row[Any]) -> counts.Counted:
    return counts.Counted(
        row.robot,
        row.number,
        row.side,
        row.segment,
        row.stratum,
        row._mapping["index"],
        row.outcome,
        row.received_at,
    )


def _check_draw(connection: Connection, report: AttemptReport, row: Row[Any]) -> None:
    """The attempt must have run what its assignment and its index name."""
    document = Assignment.from_json(row.document)
    if why := objection(report, document, terms_of(row.document)):
        raise _refused(report, why)
    if report.side == "only":
        return
    twin = connection.execute(
        select(attempts.c.number).where(
            attempts.c.rollout == row.rollout,
            attempts.c.segment == report.segment,
            attempts.c.robot == report.robot,
            attempts.c.stratum == report.stratum,
            attempts.c.index == report.index,
            attempts.c.side != "only",
        )
    ).scalar()
    if twin is not None:
        raise _refused(report, f"index {report.index} was drawn already, by attempt {twin}")


def _seal_stored(connection: Connection, report: AttemptReport) -> None:
    """Adds the seal to an attempt that was stored without; one that has a seal keeps it."""
    connection.execute(
        update(attempts)
        .where(
            attempts.c.robot == report.robot,
            attempts.c.number == report.number,
            attempts.c.envelope.is_(null()),
        )
        .values(envelope=dict(report.envelope or {}))
    )


def _refused(report: AttemptReport, why: str) -> Refused:
    return Refused(
        f"attempt {report.number} of {report.robot} is not what it was assigned to run",
        evidence=why,
        hint="the robot's spool was altered or lost: enrol it anew under another name",
    )


def _contiguous(connection: Connection, robot: str) -> int:
    """The highest n such that 1…n are all stored."""
    total, newest = connection.execute(
        select(func.count(), func.max(attempts.c.number)).where(attempts.c.robot == robot)
    ).one()
    if total == (newest or 0):
        return int(total)
    numbers = connection.execute(
        select(attempts.c.number).where(attempts.c.robot == robot).order_by(attempts.c.number)
    ).scalars()
    return next(n for n, found in enumerate(numbers) if found != n + 1)
