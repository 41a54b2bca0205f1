"""Verdicts: what a gate said of a version, kept with all that it was computed from.

- No verdict is recorded that its own rule does not give on its evidence.
- A passed gate lifts the stage as far as the ladder allows; a failed sim or hil rejects. A
  robustness suite (`sim:NAME`) is a report: it moves no stage.
- A gate that asks for the comparison with the fleet's version takes no evidence without it.
- Where trust is set up a runner's key signs the verdict, before it is recorded.
- Anyone can judge again from what is kept, and is told where the answer differs, or where it is not
  what was signed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, insert, select

from registry.blobs.tensors import problems_of, whole_digest
from registry.errors import Conflict, Forged, NotSigned, Refused, WrongSigner
from registry.evidence import CanaryEvidence, Evidence, GridEvidence, evidence_from_json
from registry.gates import CanaryGate, Gate, GridGate, gate_from_json
from registry.ledger.tables import policies, results, verdicts
from registry.record.desk import Desk
from registry.record.model import StatementRecord, VerdictRecord, VersionRecord
from registry.record.signed_attempts import recount
from registry.record.statements import (
    REGISTRATION,
    VERDICT,
    check_registration,
    check_verdict,
    check_verdict_envelope,
    from_before,
    keep,
    read_statements,
    seal_verdict,
)
from registry.record.versions import Versions, read_manifest, read_version
from registry.stages import GATES_BELOW, LADDER, Stage, command_of
from registry.trust.authority import Trust
from registry.verdicts import Outcome, Verdict, judge
from registry.versions import VersionRef

if TYPE_CHECKING:
    from registry.trust.sealing import Envelope


class Verdicts:
    def __init__(self, desk: Desk, versions: Versions) -> None:
        self._desk = desk
        self._versions = versions

    def record(
        self,
        ref: VersionRef,
        gate: Gate,
        evidence: Evidence,
        verdict: Verdict,
        artifacts: Mapping[str, str] | None = None,
    ) -> VersionRecord:
        """Keeps a verdict with its evidence and moves the stage. The same one twice is kept once.

        Raises Refused when evidence or verdict are not of this version and gate.
        """
        self._desk.actor.require("record_verdict")
        again = judge(gate, evidence)
        if not again.agrees(verdict):
            raise Refused(
                f"the verdict is not what the {gate.name} gate says on this evidence",
                evidence=f"given {verdict.outcome}, computed {again.outcome}: {again.reason}",
                hint=command_of(gate.name, f"'{ref}'"),
            )
        kept = dict(artifacts or {})
        statement = seal_verdict(self._desk.trust, evidence.subject, gate, evidence, verdict, kept)
        with self._desk.ledger.write() as connection:
            self._must_have(kept)
            record = read_version(connection, self._versions.resolve(ref))
            self.add(connection, record, gate, evidence, verdict, kept, statement)
            stage = _stage_after(connection, record, verdict)
            self._versions.set_stage(connection, record.ref, stage, reason=verdict.reason)
            return read_version(connection, record.ref)

    def _must_have(self, artifacts: Mapping[str, str]) -> None:
        """Artifacts are stored before the verdict that names them: gc may have come in between."""
        gone = [name for name, digest in artifacts.items() if not self._desk.blobs.has(digest)]
        if gone:
            raise Conflict(
                "an artifact of the verdict is not in the store",
                evidence=", ".join(gone),
                hint="run the gate again: its episodes are kept",
            )

    def add(
        self,
        connection: Connection,
        record: VersionRecord,
        gate: Gate,
        evidence: Evidence,
        verdict: Verdict,
        artifacts: Mapping[str, str],
        statement: Envelope | None = None,
    ) -> None:
        """The row itself, unless the newest one of this gate says the very same; and its statement.

        A row that is there and was not signed is signed by this.
        """
        subject = evidence.subject
        if subject != record.subject:
            raise Refused(
                f"the evidence is not of {record}",
                evidence=f"it is of {subject.policy} v{subject.number}, {subject.digest}",
                hint=command_of(gate.name, f"'{record}'"),
            )
        if evidence.robot_class != record.robot_class:
            raise Refused(
                f"the evidence is not of {record}'s robot class",
                evidence=f"it was seen on {evidence.robot_class}, not on {record.robot_class}",
                hint="evidence counts for the robot class it was gathered on, and for no other",
            )
        if isinstance(evidence, GridEvidence) and evidence.nonce != record.nonce:
            raise Refused(
                "the episodes were not drawn in the order that the registry chose",
                evidence=f"nonce {evidence.nonce[:12]}, the registry drew {record.nonce[:12]}",
                hint=command_of(gate.name, f"'{record}'"),
            )
        if isinstance(gate, GridGate) and isinstance(evidence, GridEvidence):
            _check_baseline(connection, record, gate, evidence)
        newest = connection.execute(
            select(verdicts.c.id, verdicts.c.verdict, verdicts.c.artifacts)
            .where(
                verdicts.c.policy == record.policy,
                verdicts.c.number == record.number,
                verdicts.c.gate == gate.name,
            )
            .order_by(verdicts.c.id.desc())
            .limit(1)
        ).first()
        again = newest is not None and newest.verdict == json.loads(json.dumps(verdict.to_json()))
        if newest and again and (statement is None or newest.artifacts == dict(artifacts)):
            self._keep(connection, record, newest.id, statement)
            return
        added = connection.execute(
            insert(verdicts).values(
                policy=record.policy,
                number=record.number,
                gate=gate.name,
                outcome=str(verdict.outcome),
                gate_spec=gate.to_json(),
                evidence=evidence.to_json(),
                verdict=verdict.to_json(),
                artifacts=dict(artifacts),
                at=self._desk.clock.now(),
                actor=self._desk.actor.name,
            )
        )
        assert added.inserted_primary_key is not None
        self._keep(connection, record, added.inserted_primary_key[0], statement)
        self._desk.note(
            connection,
            "verdict",
            record,
            policy=record.policy,
            reason=verdict.reason,
            detail={
                "gate": gate.name,
                "outcome": str(verdict.outcome),
                "evidence": verdict.evidence,
            },
        )

    def sign(
        self,
        connection: Connection,
        record: VersionRecord,
        evidence: Evidence,
        verdict: Verdict,
        statement: Envelope | None,
    ) -> None:
        """A statement that was given after its verdict was kept, beside it."""
        for one in read_verdicts(connection, record.ref):
            if (one.evidence, one.verdict) == (evidence, verdict):
                self._keep(connection, record, one.id, statement)

    def _keep(
        self, connection: Connection, record: VersionRecord, row: int, statement: Envelope | None
    ) -> None:
        """The statement beside its verdict, if it would hold at a promotion."""
        trust = self._desk.trust
        if statement is None or trust is None:
            return
        one = next(one for one in read_verdicts(connection, record.ref) if one.id == row)
        check_verdict_envelope(trust, statement, record, one, "")
        keep(self._desk, connection, record.ref, VERDICT, statement, row)

    def of(self, ref: VersionRef) -> list[VerdictRecord]:
        """Every verdict on a version, oldest first."""
        record = self._versions.get(ref)
        with self._desk.ledger.read() as connection:
            return read_verdicts(connection, record.ref)

    def verify(self, ref: VersionRef) -> list[str]:
        """What is wrong with a version: its files re-hashed, its verdicts judged again."""
        record, problems = self._versions.get(ref), []
        manifest = self._versions.manifest(record.ref)
        if self._versions.released_at(record.ref) is None:
            for entry in manifest.files:
                broken = [said for _, said in problems_of(self._desk.blobs, entry)]
                if entry.header is not None and not broken:
                    whole = whole_digest(self._desk.blobs, entry)
                    if whole != entry.sha256:
                        broken.append(f"{entry.path}: its pieces make {whole}, was {entry.sha256}")
                problems += broken
        return problems + self.doubts(record.ref)

    def doubts(self, ref: VersionRef) -> list[str]:
        """What is wrong with what the record says: the manifest's digest, verdicts judged again."""
        record, problems = self._versions.get(ref), []
        manifest = self._versions.manifest(record.ref)
        if manifest.digest != record.digest:
            problems.append(f"manifest: is {manifest.digest}, was {record.digest}")
        for one in self.of(ref):
            again = judge(one.gate, one.evidence)
            if not again.agrees(one.verdict):
                problems.append(
                    f"{one.verdict.gate}: the evidence gives {again.outcome}, "
                    f"the record says {one.verdict.outcome}"
                )
        return problems + self._unproven(record)

    def _unproven(self, record: VersionRecord) -> list[str]:
        """What was not signed as it stands; nothing without trust.

        What the audit held before trust began need not be signed.
        """
        trust, problems = self._desk.trust, []
        if trust is None:
            return []
        with self._desk.ledger.read() as connection:
            held = read_statements(connection, record.ref)
            if any(one.kind == REGISTRATION for one in held) or not from_before(
                connection, trust, record
            ):
                problems += _said_by(partial(check_registration, trust, record, held, past=True))
            for one in read_verdicts(connection, record.ref):
                signed = any(statement.verdict == one.id for statement in held)
                if not signed and from_before(connection, trust, record, one):
                    continue
                if signed or not isinstance(one.evidence, CanaryEvidence):
                    look = partial(check_verdict, trust, record, one, held, past=True)
                    problems += _said_by(look)
                if isinstance(one.evidence, CanaryEvidence) and isinstance(one.gate, CanaryGate):
                    problems += recount(connection, trust.keyring, one.evidence, one.gate)
        return problems

    def statements(self, ref: VersionRef) -> list[StatementRecord]:
        """What was signed about a version, oldest first."""
        record = self._versions.get(ref)
        with self._desk.ledger.read() as connection:
            return read_statements(connection, record.ref)

    # Results kept by what made them

    def cached_result(self, key: str) -> dict[str, Any] | None:
        with self._desk.ledger.read() as connection:
            found = connection.execute(select(results.c.result).where(results.c.key == key))
            return found.scalar()

    def store_result(self, key: str, result: Mapping[str, Any]) -> None:
        """Keeps the first result under a key; what made it is in the key, so it cannot differ."""
        self._desk.actor.require("cache")
        with self._desk.ledger.write() as connection:
            if connection.execute(select(results.c.key).where(results.c.key == key)).first():
                return
            connection.execute(
                insert(results).values(key=key, result=dict(result), at=self._desk.clock.now())
            )


def read_verdicts(connection: Connection, ref: VersionRef) -> list[VerdictRecord]:
    query = (
        select(verdicts)
        .where(verdicts.c.policy == ref.policy, verdicts.c.number == ref.number)
        .order_by(verdicts.c.id)
    )
    return [
        VerdictRecord(
            ref=ref,
            gate=gate_from_json(row.gate_spec),
            evidence=evidence_from_json(row.evidence),
            verdict=Verdict.from_json(row.verdict),
            artifacts=row.artifacts,
            at=row.at,
            actor=row.actor,
            id=row.id,
        )
        for row in connection.execute(query)
    ]


def _said_by(check: Callable[[], str]) -> list[str]:
    try:
        check()
    except (NotSigned, WrongSigner, Forged) as error:
        return [f"{error.what} ({error.evidence})"]
    return []


def require_signed(
    connection: Connection, trust: Trust, record: VersionRecord, gates: Collection[str]
) -> None:
    """Returns where a publisher registered the version and a runner signed its newest verdicts of
    `gates`. Raises NotSigned, WrongSigner or Forged, with the next command."""
    manifest = read_manifest(connection, record.ref)
    if manifest.digest != record.digest:
        raise Forged(
            f"the manifest of {record} is not what its digest says",
            evidence=f"it makes {manifest.digest}, the record says {record.digest}",
            hint="restore the home's backup",
        )
    held = read_statements(connection, record.ref)
    check_registration(trust, record, held)
    newest = {one.verdict.gate: one for one in read_verdicts(connection, record.ref)}
    for gate in gates:
        if gate in newest:
            check_verdict(trust, record, newest[gate], held)


def _check_baseline(
    connection: Connection, record: VersionRecord, gate: GridGate, evidence: GridEvidence
) -> None:
    """Refused unless a gate that asks for the comparison was compared with the fleet's version.

    There is none to compare with where the fleet runs nothing, this very version, or a version of
    another task or robot class.
    """
    if gate.regression is None:
        return
    serving = connection.execute(
        select(policies.c.serving).where(policies.c.name == record.policy)
    ).scalar()
    if serving is None or serving == record.number:
        return
    fleet = read_version(connection, VersionRef(record.policy, serving))
    if (fleet.task, fleet.robot_class) != (record.task, record.robot_class):
        return
    found = evidence.paired
    if found is not None and found.baseline == fleet.subject:
        return
    again = command_of(gate.name, f"'{record}'")
    named = "no baseline" if found is None else f"v{found.baseline.number}"
    raise Refused(
        f"{record} was not compared with {fleet}, which the fleet runs",
        evidence=f"the {gate.name} gate asks for it, the evidence names {named}",
        hint=f"run it again, its own episodes are kept: {again}",
    )


def _stage_after(connection: Connection, record: VersionRecord, verdict: Verdict) -> Stage:
    """REJECTED on a failed sim or hil; else the highest of sim and hil whose gates have passed."""
    on_the_way = record.stage in (Stage.REGISTERED, Stage.SIM, Stage.HIL)
    if not on_the_way or verdict.gate not in ("sim", "hil"):
        return record.stage
    if verdict.outcome is Outcome.FAIL:
        return Stage.REJECTED
    newest = {
        one.verdict.gate: one.verdict.outcome for one in read_verdicts(connection, record.ref)
    }
    stage = record.stage
    for rung in (Stage.SIM, Stage.HIL):
        climbed = all(newest.get(gate) is Outcome.PASS for gate in GATES_BELOW[rung])
        if climbed and LADDER.index(rung) > LADDER.index(stage):
            stage = rung
    return stage
