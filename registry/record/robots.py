"""Robots: who they are, what they were told, what they last said.

- An assignment is a row that never changes; the one with the highest generation holds. A robot's
  generations only rise, so an old document can never win.
- A stop that a robot has not been heard under yet is carried into the documents that follow it: a
  robot reads only the newest one, and what was stopped must stop all the same.
- Where trust is set up the director's key signs an assignment after it was written: stopping and
  going back wait for no key (`registry.record.renewals`).
- A heartbeat is telemetry: no audit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, select, update

from registry.assignments import Assignment
from registry.errors import Conflict, NotFound, Refused
from registry.ledger.tables import (
    assignments,
    heartbeats,
    policies,
    robots,
    versions,
)
from registry.record.assignments import document_of, newest_generations, with_renewal
from registry.record.desk import Desk
from registry.record.model import RobotRecord
from registry.record.renewals import Renewals
from registry.record.versions import read_version
from registry.rollouts import Assign, Rollout
from registry.trust.keyring import PublicKey
from registry.versions import VersionRef


class Robots:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._renewals = Renewals(desk)

    # Robots

    def enrol(
        self, name: str, robot_class: str, info: Mapping[str, Any], key: PublicKey | None = None
    ) -> RobotRecord:
        """Adds a robot, or changes what is known of it. It gets what its fleet runs.

        With trust its `key` is listed in the keyring, or waits there for the approvers; the robot
        reports nothing before that.
        """
        self._desk.actor.require("enrol")
        self._desk.require_keyring()
        if key is not None and self._desk.trust is not None:
            self._desk.trust.add_robot(name, key)
            info = {**info, "key": key.keyid}
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
            made = _robot(connection, name)
        self.sign_new()
        return made

    def all(self) -> list[RobotRecord]:
        with self._desk.ledger.read() as connection:
            return [_robot_record(row) for row in connection.execute(_robots_query())]

    def of_policy(self, connection: Connection, policy: str, robot_class: str) -> list[str]:
        """The robots that a policy reaches: of its class, and not given to another policy."""
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
                require_robot(connection, robot)
                connection.execute(insert(heartbeats).values(robot=robot, **values))

    # Assignments

    def assignment(self, robot: str) -> Assignment | None:
        """The newest document of a robot; None when it was never assigned anything."""
        with self._desk.ledger.read() as connection:
            mine = with_renewal().where(assignments.c.robot == robot)
            newest = mine.order_by(assignments.c.generation.desc()).limit(1)
            found = connection.execute(newest).first()
            if found is None:
                require_robot(connection, robot)
                return None
            return document_of(found)

    def renew(self) -> int:
        """See `Renewals.renew`."""
        return self._renewals.renew()

    def sign_new(self) -> None:
        """See `Renewals.sign_new`."""
        self._renewals.sign_new()

    def assign(
        self, connection: Connection, policy: str, order: Assign, rollout: Rollout | None
    ) -> bool:
        """Writes one assignment; an order not newer than the robot's own changes nothing."""
        newest = connection.execute(
            select(assignments.c.generation, assignments.c.document)
            .where(assignments.c.robot == order.robot)
            .order_by(assignments.c.generation.desc())
            .limit(1)
        ).first()
        if newest is not None and newest.generation >= order.generation:
            return False
        stop = order.stop
        if newest is not None and not _heard(connection, order.robot, newest.generation):
            stop = stop or Assignment.from_json(newest.document).stop
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
            stop=stop,
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
                envelope=None,
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
        if len(serving) != 1 or robot not in self.of_policy(
            connection, serving[0].policy, robot_class
        ):
            return
        policy, number = serving[0].policy, serving[0].number
        generation = max(1, self.newest_generation(connection, policy, [robot]))
        self.assign(connection, policy, only(robot, number, generation), None)


def _heard(connection: Connection, robot: str, generation: int) -> bool:
    """Whether the robot has said that it runs under this generation, or a newer one."""
    said = connection.execute(
        select(heartbeats.c.generation).where(heartbeats.c.robot == robot)
    ).scalar()
    return said is not None and said >= generation


def only(robot: str, number: int | None, generation: int, stop: str = "") -> Assign:
    """The order to run one version and nothing else, outside any rollout."""
    return Assign(robot, None, number, Fraction(0), "", -1, generation, stop)


def require_robot(connection: Connection, name: str) -> None:
    if connection.execute(select(robots.c.name).where(robots.c.name == name)).first() is None:
        raise NotFound(f"no robot {name} is enrolled", hint="policyctl robot enrol ROBOT.yaml")


def _robots_query() -> Any:
    newest = newest_generations()
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
