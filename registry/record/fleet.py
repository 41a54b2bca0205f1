"""Robots: who they are, what they were told, what they said, what they tried.

- An assignment is a row that never changes; the one with the highest generation holds. A robot's
  generations only rise, so an old document can never win.
- Heartbeats and attempts are telemetry: no audit. An attempt is stored once by (robot, number); a
  repeat is harmless, another story under the same number is refused.
- An attempt counts only if it ran the side that its index draws under the assignment it names. One
  that did not is refused with everything reported beside it: a robot that draws again never counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, select, update

from registry.assignments import Assignment
from registry.attempts import AttemptReport
from registry.errors import Conflict, NotFound, Refused
from registry.evidence import CanaryEvidence, Subject
from registry.gates import CanaryGate
from registry.interleave import side
from registry.ledger.tables import (
    assignments,
    attempts,
    heartbeats,
    policies,
    robots,
    rollouts,
    versions,
)
from registry.record import counts
from registry.record.desk import Desk
from registry.record.model import CanaryBlock, RobotRecord
from registry.record.versions import read_version
from registry.rollouts import Assign, Rollout
from registry.versions import VersionRef, digest_of


class Fleet:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    # Robots

    def enrol(self, name: str, robot_class: str, info: Mapping[str, Any]) -> RobotRecord:
        """Adds a robot, or changes what is known of it. It gets what its fleet runs."""
        self._desk.actor.require("enrol")
        with self._desk.ledger.write() as connection:
            known = connection.execute(select(robots).where(robots.c.name == name)).first()
            if known is None:
                connection.execute(
                    insert(robots).values(
                        name=name,
                        robot_class=robot_class,
                        info=dict(info),
                        enrolled_at=self._desk.clock.now(),
                    )
                )
                self._desk.note(
                    connection, "enrol", name, detail={"class": robot_class, **dict(info)}
                )
                self._join(connection, name, robot_class)
            elif known.robot_class != robot_class:
                raise Refused(
                    f"{name} is enrolled as {known.robot_class}",
                    evidence=f"this enrolment says {robot_class}",
                    hint="a changed robot is a new robot: enrol it under a new name",
                )
            elif known.info != dict(info):
                connection.execute(
                    update(robots).where(robots.c.name == name).values(info=dict(info))
                )
                self._desk.note(connection, "enrol", name, detail=dict(info))
            return _robot(connection, name)

    def robots(self) -> list[RobotRecord]:
        with self._desk.ledger.read() as connection:
            return [_robot_record(row) for row in connection.execute(_robots_query())]

    def robots_for(self, connection: Connection, policy: str, robot_class: str) -> list[str]:
        """The robots a rollout of this policy reaches: of its class, not given to another policy."""
        found = connection.execute(
            select(robots).where(robots.c.robot_class == robot_class).order_by(robots.c.name)
        )
        return [
            row.name
            for row in found
            if row.policy in (None, policy) and row.info.get("role", "robot") == "robot"
        ]

    def heartbeat(
        self, robot: str, running: int | None, generation: int, status: Mapping[str, Any]
    ) -> None:
        """What a robot's runtime holds now, and under which generation."""
        self._desk.actor.require("report")
        values = {
            "at": self._desk.clock.now(),
            "running": running,
            "generation": generation,
            "status": dict(status),
        }
        with self._desk.ledger.write() as connection:
            changed = connection.execute(
                update(heartbeats).where(heartbeats.c.robot == robot).values(**values)
            ).rowcount
            if changed == 0:
                _require_robot(connection, robot)
                connection.execute(insert(heartbeats).values(robot=robot, **values))

    # Assignments

    def assignment(self, robot: str) -> Assignment | None:
        """The newest document of a robot; None when it was never assigned anything."""
        query = (
            select(assignments.c.document)
            .where(assignments.c.robot == robot)
            .order_by(assignments.c.generation.desc())
            .limit(1)
        )
        with self._desk.ledger.read() as connection:
            document = connection.execute(query).scalar()
            if document is None:
                _require_robot(connection, robot)
                return None
            return Assignment.from_json(document)

    def assign(
        self, connection: Connection, policy: str, order: Assign, rollout: Rollout | None
    ) -> bool:
        """Writes one assignment; an order that is not newer than the robot's own changes nothing."""
        newest = connection.execute(
            select(func.max(assignments.c.generation)).where(assignments.c.robot == order.robot)
        ).scalar()
        if newest is not None and newest >= order.generation:
            return False
        numbers = [n for n in (order.candidate, order.baseline) if n is not None]
        digests = connection.execute(
            select(versions.c.number, versions.c.digest).where(
                versions.c.policy == policy, versions.c.number.in_(numbers)
            )
        )
        now = self._desk.clock.now()
        document = Assignment(
            robot=order.robot,
            policy=policy,
            generation=order.generation,
            candidate=order.candidate,
            baseline=order.baseline,
            ratio=str(order.ratio),
            salt=order.salt,
            segment=order.segment,
            digests={row.number: row.digest for row in digests},
            issued_at=now,
            interleave=rollout.gate.interleave if rollout else "attempt",
            stop=order.stop,
        )
        connection.execute(
            insert(assignments).values(
                robot=order.robot,
                generation=order.generation,
                policy=policy,
                rollout=rollout.id if rollout else None,
                candidate=order.candidate,
                baseline=order.baseline,
                segment=order.segment,
                ratio=str(order.ratio),
                issued_at=now,
                document=document.to_json(),
            )
        )
        connection.execute(update(robots).where(robots.c.name == order.robot).values(policy=policy))
        return True

    def newest_generation(self, connection: Connection, policy: str, names: Sequence[str]) -> int:
        """The highest generation that the policy, or any of these robots, was ever given."""
        found = connection.execute(
            select(func.max(assignments.c.generation)).where(
                (assignments.c.policy == policy) | assignments.c.robot.in_(names)
            )
        ).scalar()
        return int(found or 0)

    def _join(self, connection: Connection, robot: str, robot_class: str) -> None:
        """A new robot runs what its fleet runs, where exactly one policy serves its class."""
        serving = [
            record
            for row in connection.execute(select(policies).where(policies.c.serving.is_not(None)))
            if (record := read_version(connection, VersionRef(row.name, row.serving))).robot_class
            == robot_class
        ]
        if len(serving) != 1 or robot not in self.robots_for(
            connection, serving[0].policy, robot_class
        ):
            return
        policy, number = serving[0].policy, serving[0].number
        generation = max(1, self.newest_generation(connection, policy, [robot]))
        self.assign(connection, policy, only(robot, number, generation), None)

    # Attempts

    def ingest(self, robot: str, reports: Sequence[AttemptReport]) -> int:
        """Stores attempts; returns the highest number below which none is missing.

        Raises Refused, and stores none of them, when one did not run what it was assigned or tells
        another story than the one stored under its number.
        """
        self._desk.actor.require("report")
        with self._desk.ledger.write() as connection:
            _require_robot(connection, robot)
            for report in reports:
                self._store(connection, robot, report)
            return _contiguous(connection, robot)

    def _store(self, connection: Connection, robot: str, report: AttemptReport) -> None:
        stored = connection.execute(
            select(attempts.c.report).where(
                attempts.c.robot == robot, attempts.c.number == report.number
            )
        ).scalar()
        if stored is not None:
            if AttemptReport.from_json(stored) != report:
                raise _refused(report, "another attempt is stored under this number")
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
            )
        )

    def attempts(
        self,
        policy: str | None = None,
        version: int | None = None,
        rollout: str | None = None,
        robot: str | None = None,
    ) -> list[AttemptReport]:
        """Stored attempts in the order of arrival, of what is named."""
        given = {"policy": policy, "version": version, "rollout": rollout, "robot": robot}
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
            return _evidence(connection, rollout, self._desk.clock.now())

    def canary_blocks(self, identity: str) -> list[CanaryBlock]:
        """The rollout's complete blocks in the order in which they were completed."""
        with self._desk.ledger.read() as connection:
            rollout = read_rollout(connection, identity)
            rows = _attempt_rows(connection, rollout.id)
            ratios, _ = _segments(connection, rollout.id)
            return counts.complete_blocks([_counted(row) for row in rows], ratios)


def only(robot: str, number: int | None, generation: int, stop: str = "") -> Assign:
    """The order to run one version and nothing else, outside any rollout."""
    from fractions import Fraction

    return Assign(robot, None, number, Fraction(0), "", -1, generation, stop)


def read_rollout(connection: Connection, identity: str) -> Rollout:
    """Inside a transaction. Raises NotFound."""
    state = connection.execute(select(rollouts.c.state).where(rollouts.c.id == identity)).scalar()
    if state is None:
        raise NotFound(
            f"there is no rollout {identity}", hint="policyctl status shows what is under way"
        )
    return Rollout.from_json(state)


def _evidence(connection: Connection, rollout: Rollout, now: float) -> CanaryEvidence:
    rows = _attempt_rows(connection, rollout.id)
    ratios, salts = _segments(connection, rollout.id)
    counted = [_counted(row) for row in rows]
    subject = read_version(connection, VersionRef(rollout.policy, rollout.candidate))
    gate: CanaryGate = rollout.gate
    return CanaryEvidence(
        subject=Subject(rollout.policy, rollout.candidate, subject.digest),
        gate_digest=gate.digest,
        robot_class=subject.robot_class,
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
    )


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
    from fractions import Fraction

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
    if report.policy != document.policy:
        raise _refused(report, f"generation {report.generation} is of {document.policy}")
    if report.side == "only":
        if report.version != document.baseline:
            raise _refused(report, f"it ran v{report.version} outside the comparison")
        return
    if document.candidate is None or report.segment != document.segment:
        raise _refused(report, f"segment {report.segment} is not what it was assigned")
    drawn = side(document.salt, report.robot, report.stratum, report.index, document.fraction)
    number = document.candidate if drawn == "candidate" else document.baseline
    if (report.side, report.version) != (drawn, number):
        raise _refused(
            report,
            f"index {report.index} of {report.stratum} draws {drawn} (v{number}), "
            f"it ran {report.side} (v{report.version})",
        )
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


def _require_robot(connection: Connection, name: str) -> None:
    if connection.execute(select(robots.c.name).where(robots.c.name == name)).first() is None:
        raise NotFound(f"no robot {name} is enrolled", hint="policyctl robot enrol FILE")


def _robots_query() -> Any:
    newest = (
        select(assignments.c.robot, func.max(assignments.c.generation).label("generation"))
        .group_by(assignments.c.robot)
        .subquery()
    )
    current = assignments.alias("current")
    return (
        select(
            robots,
            heartbeats.c.at,
            heartbeats.c.running,
            heartbeats.c.generation,
            heartbeats.c.status,
            current.c.generation.label("assigned_generation"),
            current.c.candidate,
            current.c.baseline,
        )
        .outerjoin(heartbeats, heartbeats.c.robot == robots.c.name)
        .outerjoin(newest, newest.c.robot == robots.c.name)
        .outerjoin(
            current,
            and_(current.c.robot == robots.c.name, current.c.generation == newest.c.generation),
        )
        .order_by(robots.c.name)
    )


def _robot(connection: Connection, name: str) -> RobotRecord:
    row = connection.execute(_robots_query().where(robots.c.name == name)).first()
    if row is None:
        raise Conflict(f"{name} vanished", hint="run the command again")
    return _robot_record(row)


def _robot_record(row: Row[Any]) -> RobotRecord:
    return RobotRecord(
        name=row.name,
        robot_class=row.robot_class,
        policy=row.policy,
        info=row.info,
        enrolled_at=row.enrolled_at,
        last_seen=row.at,
        running=row.running,
        generation=row.generation or 0,
        status=row.status or {},
        assigned_generation=row.assigned_generation or 0,
        assigned_candidate=row.candidate,
        assigned_baseline=row.baseline,
    )
