"""Rollouts: every change is `registry.rollouts.step` and its commands, in one transaction.

- One rollout of a policy is open at a time (the database itself refuses a second). A newer
  candidate may queue; when the open one ends, the newest waiting opens, the others give way.
- A change names the revision it was decided on; when the rollout has moved on, Conflict, and
  nothing is written. An event that changes nothing writes nothing.
- Assignments, stages and what the policy serves change with the rollout or not at all, so a
  controller killed at any instruction leaves the record whole; `Repair` gives the commands again.
- Going back is never gated. It ends an open rollout, then names the target to every robot of the
  policy under a generation higher than any before.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from registry.errors import Conflict, GateFailed, Inconclusive, NotFound, Refused, UsageError
from registry.gates import CanaryGate, Gates
from registry.ledger.tables import policies, rollouts
from registry.record.desk import Desk
from registry.record.fleet import Fleet, only
from registry.record.model import RolloutRecord, VersionRecord
from registry.record.versions import (
    Versions,
    explain_gate,
    read_verdicts,
    read_version,
    read_versions,
)
from registry.rollouts import (
    TERMINAL,
    Abort,
    Assign,
    Command,
    Event,
    Held,
    Observed,
    Opened,
    Phase,
    RollBack,
    Rollout,
    SetStage,
    Superseded,
    next_queued,
    open_rollout,
    rollback_target,
    step,
)
from registry.stages import Stage, check_promotion
from registry.verdicts import Outcome
from registry.versions import VersionRef

Advanced = tuple[RolloutRecord, tuple[Command, ...]]


class Rollouts:
    def __init__(self, desk: Desk, versions: Versions, fleet: Fleet) -> None:
        self._desk = desk
        self._versions = versions
        self._fleet = fleet

    # Reading

    def all(self, policy: str | None = None, open_only: bool = False) -> list[RolloutRecord]:
        """Oldest first; open_only: those that change what robots run, and those waiting."""
        query = select(rollouts).order_by(rollouts.c.opened_at, rollouts.c.id)
        if policy is not None:
            query = query.where(rollouts.c.policy == policy)
        if open_only:
            query = query.where(rollouts.c.phase.not_in([str(phase) for phase in TERMINAL]))
        with self._desk.ledger.read() as connection:
            return [_record(row) for row in connection.execute(query)]

    def get(self, identity: str) -> RolloutRecord:
        with self._desk.ledger.read() as connection:
            return _record(_row(connection, identity))

    def serving(self, policy: str) -> int | None:
        """The version that a policy's robots run when no rollout says otherwise."""
        with self._desk.ledger.read() as connection:
            return _serving(connection, policy)

    # Forward

    def promote(
        self,
        ref: VersionRef,
        stage: Stage,
        gate: CanaryGate | Gates | None = None,
        override: str | None = None,
        reason: str | None = None,
        *,
        queue: bool = False,
        dry_run: bool = False,
    ) -> RolloutRecord | None:
        """Takes a version one rung up. To CANARY: opens its rollout, or queues it where asked to.

        To FLEET it only confirms: the rollout fills the fleet by itself once its canary has
        passed. Raises GateFailed, Inconclusive or Refused naming gate, numbers and next command.
        With `dry_run` the answer is the same and nothing is changed.
        """
        self._desk.actor.require("promote")
        if override is not None:
            self._desk.actor.require("override")
            if not override.strip():
                raise UsageError("an override needs its reason", hint="say it with --reason")
        ref = self._versions.resolve(ref)
        with self._desk.ledger.write() as connection:
            record = read_version(connection, ref)
            self._check_ladder(connection, record, stage, gate, override)
            if stage is Stage.FLEET:
                return self._confirm(connection, record)
            if stage is not Stage.CANARY:
                if not dry_run:
                    self._versions.set_stage(connection, ref, stage, reason=reason or "")
                return None
            canary = gate.canary if isinstance(gate, Gates) else gate
            if canary is None:
                raise UsageError("a canary needs its gate", hint="name gates.yaml with --gates")
            self._check_turn(connection, record, queue)
            rollout = self._draw(connection, record, canary)
            if dry_run:
                opened, _ = step(rollout, Opened(), self._desk.clock.now())
                return RolloutRecord(opened, 0, self._desk.clock.now(), self._desk.clock.now())
            why = override or reason or ""
            self._insert(connection, rollout, why, overridden=override is not None)
            if _open_row(connection, record.policy) is None:
                self._apply(connection, rollout, 1, Opened(), self._desk.clock.now())
            return _record(_row(connection, rollout.id))

    def _check_ladder(
        self,
        connection: Connection,
        record: VersionRecord,
        stage: Stage,
        gate: CanaryGate | Gates | None,
        override: str | None,
    ) -> None:
        """check_promotion, with verdicts under other gates than today's not counted."""
        records = read_verdicts(connection, record.ref)
        newest: dict[str, Outcome | None] = {}
        for one in records:
            newest[one.verdict.gate] = one.verdict.outcome
        excused: Mapping[str, str] = {}
        if isinstance(gate, Gates):
            excused = gate.not_applicable
            today = {"sim": gate.sim, "hil": gate.hil}
            for name, wanted in today.items():
                digests = [one.gate.digest for one in records if one.verdict.gate == name]
                if wanted is not None and digests and digests[-1] != wanted.digest:
                    raise Refused(
                        f"{record}: its {name} verdict was given under another {name} gate",
                        evidence=f"judged by {digests[-1][:19]}…, gates.yaml is {wanted.digest[:19]}…",
                        hint=f"policyctl gate run {name} '{record}'",
                    )
        try:
            check_promotion(record.stage, stage, newest, excused, override)
        except (GateFailed, Inconclusive, Refused) as error:
            raise explain_gate(error, record.ref, records) from None

    def _check_turn(self, connection: Connection, record: VersionRecord, queue: bool) -> None:
        waiting = connection.execute(
            select(rollouts.c.id).where(
                rollouts.c.policy == record.policy,
                rollouts.c.candidate == record.number,
                rollouts.c.phase == str(Phase.QUEUED),
            )
        ).scalar()
        row = _open_row(connection, record.policy)
        if row is None:
            return
        if waiting is not None or row.candidate == record.number or not queue:
            raise Refused(
                f"a rollout of {record.policy} is already {'waiting' if waiting else 'open'}",
                evidence=f"{record.policy} v{row.candidate} is in {row.phase} ({row.id})",
                hint="wait for it, end it with `policyctl abort`, or wait in line with --queue",
            )

    def _draw(self, connection: Connection, record: VersionRecord, gate: CanaryGate) -> Rollout:
        """A new QUEUED rollout over the robots there are, against what they run."""
        names = self._fleet.robots_for(connection, record.policy, record.robot_class)
        total = connection.execute(select(func.count()).select_from(rollouts)).scalar() or 0
        return open_rollout(
            id=f"r{total + 1}",
            policy=record.policy,
            candidate=record.number,
            baseline=_serving(connection, record.policy),
            gate=gate,
            robots=names,
            salt=secrets.token_hex(16),
            generation=self._fleet.newest_generation(connection, record.policy, names),
            prior_stage=record.stage,
        )

    def _insert(
        self, connection: Connection, rollout: Rollout, why: str, *, overridden: bool
    ) -> None:
        now = self._desk.clock.now()
        connection.execute(
            insert(rollouts).values(
                id=rollout.id,
                policy=rollout.policy,
                candidate=rollout.candidate,
                baseline=rollout.baseline,
                phase=str(rollout.phase),
                is_open=0,
                revision=1,
                state=rollout.to_json(),
                opened_at=now,
                updated_at=now,
            )
        )
        self._desk.note(
            connection,
            "override" if overridden else "promote",
            VersionRef(rollout.policy, rollout.candidate),
            policy=rollout.policy,
            reason=why,
            detail={"rollout": rollout.id, "gate": rollout.gate.digest},
        )

    def _confirm(self, connection: Connection, record: VersionRecord) -> RolloutRecord:
        row = _open_row(connection, record.policy)
        if row is None or row.candidate != record.number or row.phase != str(Phase.WAVE):
            raise Refused(
                f"{record} has no rollout that is filling the fleet",
                evidence=f"phase {row.phase}" if row else "no rollout of the policy is open",
                hint="policyctl status shows what is under way",
            )
        return _record(row)

    # Any event

    def advance(
        self, identity: str, expected_revision: int | None, event: Event, now: float | None = None
    ) -> Advanced:
        """Takes a rollout one step and does what follows from it, or nothing at all.

        Raises Conflict when the rollout is no longer at `expected_revision`.
        """
        self._desk.actor.require("advance")
        return self._advance(identity, expected_revision, event, now)

    def act(self, policy: str, right: str, event: Event, doing: str) -> RolloutRecord:
        """A person's event on the open rollout of a policy. Raises Refused where it does not fit."""
        self._desk.actor.require(right)
        with self._desk.ledger.write() as connection:
            row = _open_row(connection, policy)
            if row is None:
                raise Refused(
                    f"there is nothing to {doing}",
                    evidence=f"no rollout of {policy} is open",
                    hint="policyctl status shows what is under way",
                )
            before = _record(row)
            after, _ = self._apply(
                connection, before.rollout, before.revision, event, self._desk.clock.now()
            )
            if after == before:
                raise Refused(
                    f"cannot {doing} a rollout that is {before.rollout.phase}",
                    evidence=f"{policy} v{before.rollout.candidate} ({before.id})",
                    hint="policyctl status shows what is under way",
                )
            return after

    def _advance(
        self, identity: str, expected: int | None, event: Event, now: float | None
    ) -> Advanced:
        with self._desk.ledger.write() as connection:
            row = _row(connection, identity)
            if expected is not None and row.revision != expected:
                raise Conflict(
                    f"rollout {identity} has moved on",
                    evidence=f"it is at revision {row.revision}, the decision was on {expected}",
                    hint="read it again and decide on what it is now",
                )
            now = self._desk.clock.now() if now is None else now
            return self._apply(connection, _record(row).rollout, row.revision, event, now)

    def _apply(
        self, connection: Connection, before: Rollout, revision: int, event: Event, now: float
    ) -> Advanced:
        after, commands = step(before, event, now)
        if after != before:
            self._write(connection, before, after, revision, event)
        if isinstance(event, Observed) and after.phase != before.phase:
            self._versions.add_verdict(
                connection,
                read_version(connection, VersionRef(after.policy, after.candidate)),
                after.gate,
                event.evidence,
                event.verdict,
                {},
            )
        for command in commands:
            self._obey(connection, after, command)
        if after.phase in TERMINAL and before.phase not in TERMINAL:
            self._settle(connection, after)
            if before.phase is not Phase.QUEUED:
                self._next(connection, after.policy, now)
        return _record(_row(connection, after.id)), commands

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
            self._fleet.assign(connection, rollout.policy, command, rollout)
        elif isinstance(command, SetStage):
            ref = VersionRef(rollout.policy, command.number)
            self._versions.set_stage(
                connection, ref, command.stage, reason=rollout.reason, rollout=rollout.id
            )
            if command.stage is Stage.FLEET:
                self._serve(connection, rollout.policy, command.number)
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
        """Robots enrolled while the rollout ran were not part of it: they get what it ended with."""
        number = _serving(connection, rollout.policy)
        if number is None:
            return
        record = read_version(connection, VersionRef(rollout.policy, number))
        for name in self._fleet.robots_for(connection, rollout.policy, record.robot_class):
            if name not in rollout.robots:
                order = only(name, number, rollout.generation, rollout.stop)
                self._fleet.assign(connection, rollout.policy, order, None)

    def _next(self, connection: Connection, policy: str, now: float) -> None:
        """Opens the newest waiting rollout against what the fleet runs now."""
        rows = connection.execute(
            select(rollouts).where(
                rollouts.c.policy == policy, rollouts.c.phase == str(Phase.QUEUED)
            )
        ).all()
        records = {row.id: _record(row) for row in rows}
        newest, outdated = next_queued([one.rollout for one in records.values()])
        if newest is None:
            return
        for rollout in outdated:
            revision = records[rollout.id].revision
            self._apply(connection, rollout, revision, Superseded(newest.candidate), now)
        record = read_version(connection, VersionRef(policy, newest.candidate))
        fresh = replace(
            self._draw(connection, record, newest.gate),
            id=newest.id,
            prior_stage=newest.prior_stage,
        )
        self._apply(connection, fresh, records[newest.id].revision, Opened(), now)

    # Back

    def rollback(
        self,
        policy: str,
        reason: str,
        to: int | None = None,
        *,
        now: bool = False,
        dry_run: bool = False,
    ) -> VersionRecord:
        """Returns every robot of a policy to the version that `to` names, else to the newest good
        one, and answers which that is. `now`: running episodes stop at once.

        Raises Refused where there is nothing to go back to. With `dry_run` nothing is changed.
        """
        self._desk.actor.require("stop")
        if not reason.strip():
            raise UsageError("a rollback needs its reason", hint="say it with --reason '…'")
        with self._desk.ledger.write() as connection:
            target = self._target(connection, policy, to)
            if dry_run:
                return target
            self._withdraw_queued(connection, policy, reason)
            row = _open_row(connection, policy)
            if row is not None:
                open_one = _record(row)
                self._apply(
                    connection,
                    open_one.rollout,
                    open_one.revision,
                    RollBack(reason, now),
                    self._desk.clock.now(),
                )
            if _serving(connection, policy) != target.number:
                self._return(connection, target, reason, "now" if now else "")
            return read_version(connection, target.ref)

    def _target(self, connection: Connection, policy: str, to: int | None) -> VersionRecord:
        row, serving = _open_row(connection, policy), _serving(connection, policy)
        leaving = row.candidate if row is not None else serving
        if leaving is None and to is None:
            _require_policy(connection, policy)
            raise Refused(
                "there is nothing to go back to",
                evidence=f"no version of {policy} has reached a robot",
                hint=f"policyctl list --policy {policy} shows how far each has climbed",
            )
        if to is None:
            if row is not None and serving is not None:
                return read_version(connection, VersionRef(policy, serving))
            past = [
                Held(one.number, one.held_fleet, one.stage)
                for one in read_versions(connection, policy)
            ]
            return read_version(connection, VersionRef(policy, rollback_target(past, leaving)))
        target = read_version(connection, VersionRef(policy, to))
        if row is None and to == serving:
            raise Refused(
                f"every robot is already told to run {target}",
                evidence="no rollout is open and it is what the fleet serves",
                hint="policyctl fleet list shows what each robot runs",
            )
        ended = target.stage in (Stage.REJECTED, Stage.ROLLED_BACK, Stage.RETIRED)
        if ended or not target.held_fleet:
            was = f"its stage is {target.stage}" if ended else "it never held the fleet"
            raise Refused(
                f"{target} is not a version to go back to",
                evidence=was,
                hint=f"going forward is `policyctl promote '{target}' --stage canary`",
            )
        return target

    def _return(
        self, connection: Connection, target: VersionRecord, reason: str, stop: str
    ) -> None:
        """A new generation that names the target to every robot; what they leave is rolled back."""
        policy, leaving = target.policy, _serving(connection, target.policy)
        if leaving is not None:
            self._versions.set_stage(
                connection, VersionRef(policy, leaving), Stage.ROLLED_BACK, reason=reason
            )
        self._serve(connection, policy, target.number)
        names = self._fleet.robots_for(connection, policy, target.robot_class)
        generation = self._fleet.newest_generation(connection, policy, names) + 1
        for name in names:
            order = only(name, target.number, generation, stop)
            self._fleet.assign(connection, policy, order, None)
        self._desk.note(
            connection,
            "rollback",
            target.ref,
            policy=policy,
            reason=reason,
            detail={"from": leaving, "to": target.number, "generation": generation},
        )

    def _withdraw_queued(self, connection: Connection, policy: str, reason: str) -> None:
        for row in connection.execute(
            select(rollouts).where(
                rollouts.c.policy == policy, rollouts.c.phase == str(Phase.QUEUED)
            )
        ).all():
            one = _record(row)
            now = self._desk.clock.now()
            self._apply(connection, one.rollout, one.revision, Abort(reason), now)

    def _serve(self, connection: Connection, policy: str, number: int) -> None:
        connection.execute(
            update(policies)
            .where(policies.c.name == policy)
            .values(serving=number, revision=policies.c.revision + 1)
        )


def _serving(connection: Connection, policy: str) -> int | None:
    return connection.execute(select(policies.c.serving).where(policies.c.name == policy)).scalar()


def _open_row(connection: Connection, policy: str) -> Row[Any] | None:
    return connection.execute(
        select(rollouts).where(rollouts.c.policy == policy, rollouts.c.is_open == 1)
    ).first()


def _row(connection: Connection, identity: str) -> Row[Any]:
    row = connection.execute(select(rollouts).where(rollouts.c.id == identity)).first()
    if row is None:
        raise NotFound(
            f"there is no rollout {identity}", hint="policyctl status shows what is under way"
        )
    return row


def _require_policy(connection: Connection, policy: str) -> None:
    if connection.execute(select(policies.c.name).where(policies.c.name == policy)).first():
        return
    known = list(connection.execute(select(policies.c.name).order_by(policies.c.name)).scalars())
    raise NotFound(
        f"there is no policy {policy}",
        evidence=f"known: {', '.join(known)}" if known else "the registry is empty",
        hint="policyctl list shows the versions of every policy",
    )


def _record(row: Row[Any]) -> RolloutRecord:
    return RolloutRecord(Rollout.from_json(row.state), row.revision, row.opened_at, row.updated_at)
