"""Rollouts: every change is `registry.rollouts.step` and its commands, in one transaction.

- One rollout of a policy is open at a time (the database itself refuses a second). A newer
  candidate may queue; when the open one ends, the newest waiting opens, the others give way.
- An event that changes nothing writes nothing. What an event must have shown before, and whose
  signature it needs, is in `registry.record.advancing`.
- Assignments, stages and what the policy serves change with the rollout or not at all, so a
  controller killed at any instruction leaves the record whole; `Repair` gives the commands again.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, func, insert, select, update

from registry.errors import Conflict, Corrupt, NotFound, Refused
from registry.gates import CanaryGate
from registry.ledger.tables import policies, rollouts, serves
from registry.record.desk import Desk
from registry.record.model import RolloutRecord, VersionRecord
from registry.record.robots import Robots, only
from registry.record.verdicts import Verdicts
from registry.record.versions import Versions, read_version, require_files
from registry.rollouts import (
    EXPOSING,
    TERMINAL,
    Abort,
    Assign,
    Command,
    Event,
    Joined,
    Observed,
    Opened,
    Phase,
    Resume,
    Rollout,
    SetStage,
    Superseded,
    next_queued,
    open_rollout,
    step,
)
from registry.stages import Stage
from registry.versions import VersionRef

if TYPE_CHECKING:
    from registry.trust.sealing import Envelope

Advanced = tuple[RolloutRecord, tuple[Command, ...]]

_STAYS = frozenset({Stage.REJECTED, Stage.RETIRED})


class Rollouts:
    def __init__(self, desk: Desk, versions: Versions, verdicts: Verdicts, robots: Robots) -> None:
        self._desk = desk
        self._versions = versions
        self._verdicts = verdicts
        self._robots = robots

    # Reading

    def all(
        self,
        policy: str | None = None,
        open_only: bool = False,
        candidate: int | None = None,
    ) -> list[RolloutRecord]:
        """Oldest first; open_only: those that change what robots run, and those waiting."""
        query = select(rollouts).order_by(rollouts.c.opened_at, rollouts.c.id)
        if candidate is not None:
            query = query.where(rollouts.c.candidate == candidate)
        if policy is not None:
            query = query.where(rollouts.c.policy == policy)
        if open_only:
            query = query.where(rollouts.c.phase.not_in([str(phase) for phase in TERMINAL]))
        with self._desk.ledger.read() as connection:
            return [rollout_record(row) for row in connection.execute(query)]

    def get(self, identity: str) -> RolloutRecord:
        with self._desk.ledger.read() as connection:
            return rollout_record(rollout_row(connection, identity))

    def serving(self, policy: str) -> int | None:
        """The version that a policy's robots run when no rollout says otherwise."""
        with self._desk.ledger.read() as connection:
            return read_serving(connection, policy)

    # Changing

    def act(self, policy: str, right: str, event: Event, doing: str) -> RolloutRecord:
        """A person's event on a policy's open rollout. Raises Refused where it does not fit."""
        self._desk.actor.require(right)
        with self._desk.ledger.write() as connection:
            row = open_row(connection, policy)
            if row is None:
                raise Refused(
                    f"there is nothing to {doing}",
                    evidence=f"no rollout of {policy} is open",
                    hint="`policyctl status` shows what is under way",
                )
            before = rollout_record(row)
            after, _ = self.apply(
                connection, before.rollout, before.revision, event, self._desk.clock.now()
            )
            if after == before:
                raise Refused(
                    f"cannot {doing} a rollout that is {before.rollout.phase}",
                    evidence=f"{policy} v{before.rollout.candidate} ({before.id})",
                    hint="`policyctl status` shows what is under way",
                )
        self.sign_orders()
        return after

    def sign_orders(self) -> None:
        """After the transaction that gave them. See `Robots.sign_new`."""
        self._robots.sign_new()

    def apply(
        self,
        connection: Connection,
        before: Rollout,
        revision: int,
        event: Event,
        now: float,
        statement: Envelope | None = None,
    ) -> Advanced:
        """Inside a transaction. `statement` is what the director signed of an observed verdict."""
        after, commands = step(before, event, now)
        if _goes_forward(event, after, commands):
            self._desk.require_keyring()
        if after != before:
            self._write(connection, before, after, revision, event)
        if isinstance(event, Observed) and after.phase != before.phase:
            record = read_version(connection, VersionRef(after.policy, after.candidate))
            self._verdicts.add(
                connection, record, after.gate, event.evidence, event.verdict, {}, statement
            )
        for command in commands:
            self._obey(connection, after, command)
        if after.phase in TERMINAL and before.phase not in TERMINAL:
            self._settle(connection, after)
            if before.phase is not Phase.QUEUED:
                self._next(connection, after.policy, after.stop, now)
        return rollout_record(rollout_row(connection, after.id)), commands

    def _write(
        self, connection: Connection, before: Rollout, after: Rollout, revision: int, event: Event
    ) -> None:
        changed = connection.execute(
            update(rollouts)
            .where(rollouts.c.id == after.id, rollouts.c.revision == revision)
            .values(
                baseline=after.baseline,
                phase=str(after.phase),
                is_open=int(after.open),
                revision=revision + 1,
                state=after.to_json(),
                updated_at=self._desk.clock.now(),
            )
        ).rowcount
        if changed != 1:
            raise Conflict(f"rollout {after.id} has moved on", hint="run the command again")
        self._desk.note(
            connection,
            type(event).__name__.lower(),
            VersionRef(after.policy, after.candidate),
            policy=after.policy,
            reason=after.reason,
            detail={
                "rollout": after.id,
                "from": str(before.phase),
                "to": str(after.phase),
                "generation": after.generation,
            },
        )

    def _obey(self, connection: Connection, rollout: Rollout, command: Command) -> None:
        if isinstance(command, Assign):
            self._robots.assign(connection, rollout.policy, command, rollout)
        elif isinstance(command, SetStage):
            ref = VersionRef(rollout.policy, command.number)
            if read_version(connection, ref).stage in _STAYS:
                return  # a rollout that ends gives no rejected version its stage back
            self._versions.set_stage(
                connection, ref, command.stage, reason=rollout.reason, rollout=rollout.id
            )
            if command.stage is Stage.FLEET:
                self.serve(connection, rollout.policy, command.number)
        else:
            self._desk.note(
                connection,
                "notice",
                VersionRef(rollout.policy, rollout.candidate),
                policy=rollout.policy,
                reason=command.text,
                detail={"rollout": rollout.id},
            )

    def _settle(self, connection: Connection, rollout: Rollout) -> None:
        """Robots enrolled while the rollout ran were no part of it: they get what it ended with."""
        number = read_serving(connection, rollout.policy)
        if number is None:
            return
        record = read_version(connection, VersionRef(rollout.policy, number))
        for name in self._robots.of_policy(connection, rollout.policy, record.robot_class):
            if name not in rollout.robots:
                order = only(name, number, rollout.generation, rollout.stop)
                self._robots.assign(connection, rollout.policy, order, None)

    def _next(self, connection: Connection, policy: str, stop: str, now: float) -> None:
        """Opens the newest waiting rollout against what the fleet runs now; `stop` is how the
        episodes of the one before it end."""
        rows = connection.execute(
            select(rollouts).where(
                rollouts.c.policy == policy, rollouts.c.phase == str(Phase.QUEUED)
            )
        ).all()
        records = {row.id: rollout_record(row) for row in rows}
        newest, outdated = next_queued([one.rollout for one in records.values()])
        if newest is None:
            return
        for rollout in outdated:
            revision = records[rollout.id].revision
            self.apply(connection, rollout, revision, Superseded(newest.candidate), now)
        record = read_version(connection, VersionRef(policy, newest.candidate))
        if record.stage in _STAYS:
            why = Abort(f"it was {record.stage} while it waited")
            self.apply(connection, newest, records[newest.id].revision, why, now)
            return
        try:
            self._desk.require_keyring()
            require_files(connection, record.ref)
            drawn = self.draw(connection, record, newest.gate)
        except (Refused, Corrupt) as none:
            # The rollout that ends must end, whatever became of the one behind it.
            why = Abort(f"it could not open: {none.what}")
            self.apply(connection, newest, records[newest.id].revision, why, now)
            return
        fresh = replace(drawn, id=newest.id, prior_stage=newest.prior_stage, stop=stop)
        self.apply(connection, fresh, records[newest.id].revision, Opened(), now)

    def draw(self, connection: Connection, record: VersionRecord, gate: CanaryGate) -> Rollout:
        """A new QUEUED rollout over the robots there are, against what they run.

        Raises Refused where there is no robot, or where the fleet runs a version of another robot
        class: that version could neither be compared on these robots nor returned to.
        """
        serving = read_serving(connection, record.policy)
        if serving is not None:
            baseline = read_version(connection, VersionRef(record.policy, serving))
            if baseline.robot_class != record.robot_class:
                raise Refused(
                    f"{record} is for another robot class than what the fleet runs",
                    evidence=f"{record}: {record.robot_class}; {baseline}: {baseline.robot_class}",
                    hint="register it under a policy name of its own",
                )
        names = self._robots.of_policy(connection, record.policy, record.robot_class)
        total = connection.execute(select(func.count()).select_from(rollouts)).scalar() or 0
        return open_rollout(
            id=f"rollout-{total + 1}",
            policy=record.policy,
            candidate=record.number,
            baseline=serving,
            gate=gate,
            robots=names,
            salt=secrets.token_hex(16),
            generation=self._robots.newest_generation(connection, record.policy, names),
            prior_stage=record.stage,
        )

    def serve(self, connection: Connection, policy: str, number: int) -> None:
        connection.execute(
            update(policies)
            .where(policies.c.name == policy)
            .values(serving=number, revision=policies.c.revision + 1)
        )
        connection.execute(
            insert(serves).values(policy=policy, number=number, at=self._desk.clock.now())
        )


def _goes_forward(event: Event, after: Rollout, commands: tuple[Command, ...]) -> bool:
    """Whether robots are sent a candidate, or a robot is taken in: what a keyring is needed for.

    Whatever the event was: a repair of a canary sends it out again, one of a pause only stops, and
    a deadline does nothing else.
    """
    if isinstance(event, Opened | Resume | Joined):
        return True
    return exposes(after) and any(isinstance(command, Assign) for command in commands)


def exposes(rollout: Rollout) -> bool:
    """Whether robots run its candidate."""
    return rollout.phase in EXPOSING or rollout.phase is Phase.DONE


def read_serving(connection: Connection, policy: str) -> int | None:
    return connection.execute(select(policies.c.serving).where(policies.c.name == policy)).scalar()


def open_row(connection: Connection, policy: str) -> Row[Any] | None:
    return connection.execute(
        select(rollouts).where(rollouts.c.policy == policy, rollouts.c.is_open == 1)
    ).first()


def rollout_row(connection: Connection, identity: str) -> Row[Any]:
    row = connection.execute(select(rollouts).where(rollouts.c.id == identity)).first()
    if row is None:
        raise NotFound(
            f"there is no rollout {identity}", hint="`policyctl status` shows what is under way"
        )
    return row


def rollout_record(row: Row[Any]) -> RolloutRecord:
    return RolloutRecord(Rollout.from_json(row.state), row.revision, row.opened_at, row.updated_at)
