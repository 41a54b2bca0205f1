"""Promotion: whether a version may climb, and the rollout that begins when it may.

The ladder is `registry.stages.check_promotion`; here it is asked with the newest verdicts that were
given under today's gates, and its answer gets the version's name, the gate's numbers and the next
command. A refusal changes nothing.

Where trust is set up a version climbs only with a publisher's registration and the runners'
verdicts signed as they stand, each judged again (`registry.record.statements`).

Counts begin anew with each rollout, and each has its own chance of a false promotion. So a version
whose earlier rollout has shown any candidate episode tries again by a recorded override only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select

from registry.errors import Conflict, GateFailed, Inconclusive, Refused, UsageError
from registry.gates import CanaryGate, Gates
from registry.ledger.tables import attempts, rollouts
from registry.record.desk import Desk
from registry.record.model import RolloutRecord, VersionRecord
from registry.record.rollouts import Rollouts, open_row, rollout_record, rollout_row
from registry.record.verdicts import read_verdicts, require_signed
from registry.record.versions import Versions, read_manifest, read_version, require_files
from registry.rollouts import Opened, Phase, Rollout, step
from registry.stages import GATES_BELOW, Stage, check_promotion, command_of
from registry.trust.home_approvals import HomeApprovals
from registry.verdicts import Verdict
from registry.versions import VersionRef, digest_of

Approvable = tuple[bytes, dict[str, str]]
"""A version's manifest, and by gate a digest of its last verdict with the evidence."""


@dataclass(frozen=True)
class _Asked:
    """A version, the rung it shall reach, and how."""

    ref: VersionRef
    stage: Stage
    gate: CanaryGate | Gates | None
    override: str | None
    queue: bool


class Promotion:
    def __init__(
        self,
        desk: Desk,
        versions: Versions,
        rollouts: Rollouts,
        approvals: HomeApprovals | None = None,
    ) -> None:
        self._desk = desk
        self._versions = versions
        self._rollouts = rollouts
        self._approvals = approvals

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
        Where trust is set up, a version is approved for robots at its entry to canary: Pending
        where signatures are missing. With `dry_run` the answer is the same and nothing is changed.
        """
        self._desk.actor.require("promote")
        if override is not None:
            self._desk.actor.require("override")
            if not override.strip():
                raise UsageError("an override needs its reason", hint="say it with --reason")
        ref = self._versions.resolve(ref)
        asked = _Asked(ref, stage, gate, override, queue)
        if stage is Stage.CANARY:
            done = self._to_canary(asked, override or reason or "", dry_run)
            if not dry_run:
                self._rollouts.sign_orders()
            return done
        with self._desk.ledger.write() as connection:
            record = self._checked(connection, asked)
            if stage is Stage.FLEET:
                return self._confirm(connection, record)
            if not dry_run:
                self._versions.set_stage(connection, ref, stage, reason=reason or "")
            return None

    def _to_canary(self, asked: _Asked, why: str, dry_run: bool) -> RolloutRecord:
        """Approved first, outside any transaction and last before the rollout: keys may be slow,
        and what no robot would install opens none. Nobody takes the approval back in between."""
        if self._approvals is None or not self._approvals.on:
            return self._open(asked, why, dry_run=dry_run)
        if dry_run:
            manifest, _ = self._approvable(asked)
            self._approvals.open().check(asked.ref, manifest)
            return self._open(asked, why, dry_run=True)
        with self._approvals.changing() as approvals:
            signed = self._approvable(asked)
            approvals.approve_now(asked.ref, *signed)
            return self._open(asked, why, signed)

    def _approvable(self, asked: _Asked) -> Approvable:
        """What is approved of a version that may open its rollout now."""
        with self._desk.ledger.read() as connection:
            self._drawn(connection, asked)
            return approvable(connection, asked.ref)

    def _open(
        self, asked: _Asked, why: str, signed: Approvable | None = None, *, dry_run: bool = False
    ) -> RolloutRecord:
        """Everything is asked again: a version is opened on what the record holds then. Raises
        Conflict where that is not what was `signed`."""
        with self._desk.ledger.write() as connection:
            rollout = self._drawn(connection, asked)
            if signed is not None and approvable(connection, asked.ref) != signed:
                raise Conflict(
                    f"{asked.ref} was judged anew while it was approved",
                    evidence="what its gates attest is not what was signed",
                    hint="run the same command again",
                )
            if dry_run:
                opened, _ = step(rollout, Opened(), self._desk.clock.now())
                return RolloutRecord(opened, 0, self._desk.clock.now(), self._desk.clock.now())
            self._insert(connection, rollout, why, overridden=asked.override is not None)
            if open_row(connection, rollout.policy) is None:
                self._rollouts.apply(connection, rollout, 1, Opened(), self._desk.clock.now())
            return rollout_record(rollout_row(connection, rollout.id))

    def _drawn(self, connection: Connection, asked: _Asked) -> Rollout:
        """A rollout that may open or queue. Raises what keeps it from that."""
        record = self._checked(connection, asked)
        canary = asked.gate.canary if isinstance(asked.gate, Gates) else asked.gate
        if canary is None:
            raise UsageError("a canary needs its gate", hint="name gates.yaml with --gates")
        self._check_turn(connection, record, asked.queue)
        if asked.override is None:
            _check_first_try(connection, record)
        return self._rollouts.draw(connection, record, canary)

    def _checked(self, connection: Connection, asked: _Asked) -> VersionRecord:
        """The version, where its files, verdicts and signatures let it climb."""
        record = read_version(connection, asked.ref)
        require_files(connection, record.ref)
        self._check_ladder(connection, record, asked)
        if self._desk.trust is not None and asked.stage is not Stage.FLEET:
            require_signed(connection, self._desk.trust, record, GATES_BELOW[asked.stage])
        return record

    def _check_ladder(self, connection: Connection, record: VersionRecord, asked: _Asked) -> None:
        """check_promotion, with verdicts under other gates than today's not counted."""
        gate, records = asked.gate, read_verdicts(connection, record.ref)
        newest = {one.verdict.gate: one.verdict for one in records}
        excused: Mapping[str, str] = {}
        if isinstance(gate, Gates):
            excused = gate.not_applicable
            contract = read_manifest(connection, record.ref).contract
            judged = {one.verdict.gate: one.gate.digest for one in records}
            for name, wanted in gate.not_judged_by(contract, judged):
                raise Refused(
                    f"{record}: its {name} verdict was given under another {name} gate",
                    evidence=f"judged by {judged[name][:15]}…, today's is {wanted.digest[:15]}…",
                    hint=command_of(name, f"'{record}'"),
                )
        try:
            check_promotion(
                record.stage,
                asked.stage,
                {name: one.outcome for name, one in newest.items()},
                excused,
                asked.override,
                evidence={name: _numbers_of(one) for name, one in newest.items()},
            )
        except (GateFailed, Inconclusive, Refused) as error:
            raise type(error)(
                f"{record}: {error.what}",
                evidence=error.evidence,
                hint=error.hint.replace("VERSION", f"'{record}'"),
            ) from None

    def _check_turn(self, connection: Connection, record: VersionRecord, queue: bool) -> None:
        waiting = connection.execute(
            select(rollouts.c.id).where(
                rollouts.c.policy == record.policy,
                rollouts.c.candidate == record.number,
                rollouts.c.phase == str(Phase.QUEUED),
            )
        ).scalar()
        row = open_row(connection, record.policy)
        if row is None:
            return
        if waiting is not None or row.candidate == record.number or not queue:
            raise Refused(
                f"a rollout of {record.policy} is already {'waiting' if waiting else 'open'}",
                evidence=f"{record.policy} v{row.candidate} is in {row.phase} ({row.id})",
                hint="wait for it, end it with `policyctl abort`, or wait in line with --queue",
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
        row = open_row(connection, record.policy)
        if row is None or row.candidate != record.number or row.phase != str(Phase.WAVE):
            raise Refused(
                f"{record} has no rollout that is filling the fleet",
                evidence=f"phase {row.phase}" if row else "no rollout of the policy is open",
                hint="`policyctl status` shows what is under way",
            )
        return rollout_record(row)


def approvable(connection: Connection, ref: VersionRef) -> Approvable:
    """What approvers sign of a version. Raises NotFound."""
    gates = {
        one.verdict.gate: digest_of([one.evidence.digest, one.verdict.to_json()])
        for one in read_verdicts(connection, ref)
    }
    return read_manifest(connection, ref).canonical(), gates


def _check_first_try(connection: Connection, record: VersionRecord) -> None:
    """Refused where an earlier rollout of this version has closed candidate attempts."""
    tried = connection.execute(
        select(rollouts.c.id, func.count().label("episodes"))
        .join(attempts, attempts.c.rollout == rollouts.c.id)
        .where(
            rollouts.c.policy == record.policy,
            rollouts.c.candidate == record.number,
            attempts.c.side == "candidate",
        )
        .group_by(rollouts.c.id)
        .order_by(rollouts.c.id)
    ).all()
    if tried:
        seen = ", ".join(f"{row.episodes} candidate episodes in {row.id}" for row in tried)
        raise Refused(
            f"{record} has been tried on the fleet; it tries again only by a recorded override",
            evidence=seen,
            hint=f"policyctl promote '{record}' --stage canary --override --reason WHY",
        )


def _numbers_of(verdict: Verdict) -> str:
    """A verdict's reason with the numbers behind it, for people."""
    numbers = ", ".join(f"{name} {_short(value)}" for name, value in verdict.numbers.items())
    return f"{verdict.gate}: {verdict.reason}" + (f" ({numbers})" if numbers else "")


def _short(value: float | int | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
