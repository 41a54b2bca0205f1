"""Robots: who they are, what they were told, what they last said.

- An assignment is a row that never changes; the one with the highest generation holds. A robot's
  generations only rise, so an old document can never win.
- A stop that a robot has not been heard under yet is carried into the documents that follow it: a
  robot reads only the newest one, and what was stopped must stop all the same.
- Where trust is set up assignments are signed by the director's key, after they are written and
  outside any transaction: stopping and going back wait for no key, and no writer for a slow one.
  `sign_new` follows each change at once; what it cannot sign, `renew` does. `renew` also signs
  anew, with a later `issued_at`, what names a candidate: unrenewed, its permission ends.
- A signature is kept only where the order that it is of is still the newest of its robot.
- A heartbeat is telemetry: no audit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, null, select, update

from registry.assignments import Assignment
from registry.errors import Conflict, NotFound, PolicyctlError, Refused
from registry.ledger.tables import (
    assignments,
    heartbeats,
    policies,
    renewals,
    robots,
    versions,
)
from registry.record.desk import Desk
from registry.record.model import RobotRecord
from registry.record.versions import read_version
from registry.rollouts import Assign, Rollout
from registry.trust.authority import Trust
from registry.trust.keyring import Keyring, PublicKey
from registry.versions import VersionRef

LOOKS = 3  # how often orders that were overtaken while they were signed are looked at again


class Robots:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._signed_under: Keyring | None = None  # the keyring under which all were looked at

    # Robots

    def enrol(
        self, name: str, robot_class: str, info: Mapping[str, Any], key: PublicKey | None = None
    ) -> RobotRecord:
        """Adds a robot, or changes what is known of it. It gets what its fleet runs.

        With trust its `key` is listed in the keyring, or waits there for the approvers; the robot
        reports nothing before that.
        """
        self._desk.actor.require("enrol")
        if self._desk.trust is not None:
            self._desk.trust.require()
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
            mine = _with_renewal().where(assignments.c.robot == robot)
            newest = mine.order_by(assignments.c.generation.desc()).limit(1)
            found = connection.execute(newest).first()
            if found is None:
                require_robot(connection, robot)
                return None
            return _document(found)

    def renew(self) -> int:
        """Signs what robots were last told and what needs it; how many documents.

        Those are documents without a signature of a key that is a director's now, and those that
        name a candidate and have used up a third of its permission. Raises NotAllowed without the
        director's key; without trust there is nothing to do.
        """
        self._desk.actor.require("advance")
        if self._desk.trust is None:
            return 0
        keyring = self._desk.trust.keyring
        done = self._sign_due(self._desk.trust, everything=keyring is not self._signed_under)
        self._signed_under = keyring
        return done

    def sign_new(self) -> None:
        """Signs what was just written, where the director's key can be used here now; whatever
        keeps it from that: no robot is stopped later for want of a key. The server's next round
        signs it, and raises.
        """
        if self._desk.trust is None:
            return
        with contextlib.suppress(PolicyctlError):
            self._sign_due(self._desk.trust, everything=False)

    def _sign_due(self, trust: Trust, *, everything: bool) -> int:
        """Looks, signs with nothing locked, and writes what still holds; until nothing is due."""
        done = 0
        for _ in range(LOOKS):
            with self._desk.ledger.read() as connection:
                due = [one for one in self._told(connection, everything) if self._is_due(one)]
            if not due:
                break
            now = self._desk.clock.now()
            signed = [
                trust.seal_assignment(replace(one, issued_at=max(now, one.issued_at)))
                for one in due
            ]
            with self._desk.ledger.write() as connection:
                done += sum(self._put(connection, one) for one in signed)
        return done

    def _put(self, connection: Connection, signed: Assignment) -> bool:
        """Keeps a signed order, unless a newer one was written or signed meanwhile."""
        assert signed.envelope is not None
        held = connection.execute(_newest().where(assignments.c.robot == signed.robot)).first()
        newest = None if held is None else _document(held)
        if newest is None or newest.generation != signed.generation:
            return False
        if newest.issued_at > signed.issued_at and not self._is_due(newest):
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

    @staticmethod
    def _told(connection: Connection, everything: bool) -> list[Assignment]:
        """What robots were last told, of those whose signature time may end or that have none."""
        query = _newest()
        if not everything:
            bare = assignments.c.envelope.is_(null()) & renewals.c.robot.is_(None)
            query = query.where(assignments.c.candidate.is_not(None) | bare)
        return [_document(row) for row in connection.execute(query)]

    def _is_due(self, document: Assignment) -> bool:
        if self._desk.trust is None:
            return False
        directors = {key.keyid for key in self._desk.trust.keyring.of_role("director")}
        seals = (document.envelope or {}).get("signatures", ())
        if not directors & {one["keyid"] for one in seals}:
            return True
        age = self._desk.clock.now() - document.issued_at
        return document.candidate is not None and age >= document.max_offline_s / 3

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


def _with_renewal() -> Any:
    return select(
        assignments,
        renewals.c.document.label("renewed"),
        renewals.c.envelope.label("renewed_envelope"),
    ).outerjoin(
        renewals,
        and_(
            renewals.c.robot == assignments.c.robot,
            renewals.c.generation == assignments.c.generation,
        ),
    )


def _newest() -> Any:
    """The newest assignment of each robot, beside its renewal."""
    last = (
        select(assignments.c.robot, func.max(assignments.c.generation).label("generation"))
        .group_by(assignments.c.robot)
        .subquery()
    )
    return (
        _with_renewal()
        .join(
            last,
            and_(
                last.c.robot == assignments.c.robot,
                last.c.generation == assignments.c.generation,
            ),
        )
        .order_by(assignments.c.robot)
    )


def _document(row: Row[Any]) -> Assignment:
    """What a robot was last told, as it was last signed."""
    said, envelope = row.document, row.envelope
    if row.renewed is not None:
        said, envelope = row.renewed, row.renewed_envelope
    return replace(Assignment.from_json(said), envelope=envelope)


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
