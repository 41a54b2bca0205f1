"""Versions, their provenance and verdicts.

- A number is given once, to one digest, for ever; numbers of a policy have no gaps, because number
  and row are written in one serialised transaction. The same bytes again are the same version.
- Blobs are stored before the row that names them: a full disk or a kill leaves at most blobs that
  nothing names, which are harmless and are found again by the next registration.
- No verdict is recorded that its own rule does not give on its evidence.
- A passed gate lifts the stage as far as the ladder allows; a failed sim or hil rejects.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, exists, insert, select, update

from registry.checkpoint import CONTRACT, open_regular, read_json, scan
from registry.errors import Conflict, Corrupt, NotFound, PolicyctlError, Refused, UsageError
from registry.evidence import Evidence, evidence_from_json
from registry.gates import Gate, gate_from_json
from registry.ledger.tables import climbs, policies, provenance, results, verdicts, versions
from registry.record.desk import Desk
from registry.record.model import ProvenanceRecord, Registration, VerdictRecord, VersionRecord
from registry.stages import GATES_BELOW, LADDER, Stage
from registry.storage import disk_errors
from registry.verdicts import Outcome, Verdict
from registry.versions import FileEntry, Manifest, Provenance, VersionRef, is_policy_name

Check = Callable[[Path], None]


class Versions:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    # Registration

    def register(
        self,
        folder: Path,
        policy: str,
        origin: Provenance,
        environment: str = "",
        check: Check | None = None,
    ) -> Registration:
        """Gives the checkpoint in `folder` its version of `policy`.

        `check` is the caller's own look at the folder (that the contract fits its robot class, that
        the policy loads), run before anything is stored. Raises Refused, ConfigError or
        ServiceFailed; then no version was made.
        """
        self._desk.actor.require("register")
        if not is_policy_name(policy):
            raise UsageError(
                f"{policy!r} is not a policy's name",
                evidence="lower-case words joined by hyphens, like box-grasp",
                hint="name it with --policy",
            )
        scan(folder)
        if check is not None:
            check(folder)
        manifest = self._store(folder, policy, environment)
        with self._desk.ledger.write() as connection:
            number = _number_of(connection, policy, manifest.digest)
            created = number is None
            if number is None:
                number = self._insert(connection, manifest)
            added = self._add_provenance(connection, policy, number, origin)
            if created or added:
                self._desk.note(
                    connection,
                    "register" if created else "provenance",
                    VersionRef(policy, number),
                    policy=policy,
                    detail={"digest": manifest.digest, "provenance": origin.to_json()},
                )
            record = _record(_row(connection, VersionRef(policy, number)))
        return Registration(record, created)

    def _store(self, folder: Path, policy: str, environment: str) -> Manifest:
        """Puts every file; the manifest is of the bytes that were stored, not of those checked."""
        blobs = self._desk.blobs
        entries = []
        for found in scan(folder):
            with disk_errors(found.path), open_regular(found.path) as stream:
                digest = blobs.put(stream)
                size = os.fstat(stream.fileno()).st_size
            if size != found.size:
                raise Conflict(
                    "the checkpoint changed while it was registered",
                    evidence=str(found.path),
                    hint="register it when whatever writes it has ended",
                )
            entries.append(FileEntry(found.name, digest, size))
        contract = next(entry for entry in entries if entry.path == CONTRACT)
        content = read_json(blobs.read(contract.sha256), str(folder / CONTRACT))
        manifest = Manifest(policy, tuple(entries), content, environment)
        blobs.put(manifest.canonical())  # robots fetch it by its digest, the version's own
        return manifest

    def _insert(self, connection: Connection, manifest: Manifest) -> int:
        now, policy = self._desk.clock.now(), manifest.policy
        number = connection.execute(
            select(policies.c.next_number).where(policies.c.name == policy)
        ).scalar()
        if number is None:
            number = 1
            connection.execute(
                insert(policies).values(name=policy, next_number=2, revision=1, created_at=now)
            )
        else:
            connection.execute(
                update(policies).where(policies.c.name == policy).values(next_number=number + 1)
            )
        connection.execute(
            insert(versions).values(
                policy=policy,
                number=number,
                digest=manifest.digest,
                manifest=manifest.canonical().decode(),
                nonce=secrets.token_hex(16),
                stage=str(Stage.REGISTERED),
                revision=1,
                created_at=now,
                created_by=self._desk.actor.name,
            )
        )
        self._add_climb(connection, VersionRef(policy, number), Stage.REGISTERED, "", None)
        return int(number)

    def _add_provenance(
        self, connection: Connection, policy: str, number: int, origin: Provenance
    ) -> bool:
        """Appends a record unless nothing is known or the very same is there already."""
        record = origin.to_json()
        known = connection.execute(
            select(provenance.c.record).where(
                provenance.c.policy == policy, provenance.c.number == number
            )
        ).scalars()
        if all(value is None for value in record.values()) or record in list(known):
            return False
        connection.execute(
            insert(provenance).values(
                policy=policy,
                number=number,
                at=self._desk.clock.now(),
                actor=self._desk.actor.name,
                record=record,
            )
        )
        return True

    # Reading

    def all(self, policy: str | None = None) -> list[VersionRecord]:
        """All versions, of one policy if named, in the order of their numbers."""
        query = _query().order_by(versions.c.policy, versions.c.number)
        if policy is not None:
            query = query.where(versions.c.policy == policy)
        with self._desk.ledger.read() as connection:
            return [_record(row) for row in connection.execute(query)]

    def get(self, ref: VersionRef) -> VersionRecord:
        ref = self.resolve(ref)
        with self._desk.ledger.read() as connection:
            return _record(_row(connection, ref))

    def resolve(self, ref: VersionRef) -> VersionRef:
        """The reference with its policy: a bare number means the only policy there is.

        Raises UsageError with the candidates where there are several, NotFound where none is.
        """
        if ref.policy is not None:
            return ref
        return VersionRef(self.only_policy(str(ref)), ref.number)

    def only_policy(self, wanted: str = "that") -> str:
        with self._desk.ledger.read() as connection:
            names = list(connection.execute(select(policies.c.name).order_by(policies.c.name)))
            if len(names) == 1:
                return str(names[0].name)
            if not names:
                raise NotFound(
                    "no policy is registered",
                    evidence="the registry is empty",
                    hint="policyctl register DIR --policy NAME",
                )
        raise UsageError(
            f"{wanted} of which policy?",
            evidence=f"candidates: {', '.join(row.name for row in names)}",
            hint=f"say --policy {names[0].name}",
        )

    def provenance(self, ref: VersionRef) -> list[ProvenanceRecord]:
        record = self.get(ref)
        query = (
            select(provenance)
            .where(provenance.c.policy == record.policy, provenance.c.number == record.number)
            .order_by(provenance.c.id)
        )
        with self._desk.ledger.read() as connection:
            return [
                ProvenanceRecord(row.at, row.actor, Provenance.from_json(row.record))
                for row in connection.execute(query)
            ]

    def materialize(self, ref: VersionRef, target: Path) -> Path:
        """Copies the version's files, each checked, into the folder `target`."""
        for entry in self.get(ref).manifest.files:
            self._desk.blobs.copy(entry.sha256, target / entry.path)
        return target

    def verify(self, ref: VersionRef) -> list[str]:
        """What is wrong with a version: its files re-hashed, its verdicts judged again."""
        from registry.verdicts import judge

        record, problems = self.get(ref), []
        if record.manifest.digest != record.digest:
            problems.append(f"manifest: is {record.manifest.digest}, was {record.digest}")
        for entry in record.manifest.files:
            try:
                size = len(self._desk.blobs.read(entry.sha256))
            except (Corrupt, NotFound) as error:
                problems.append(f"{entry.path}: {error.what} ({error.evidence})")
            else:
                if size != entry.size:
                    problems.append(f"{entry.path}: {size} bytes, was {entry.size}")
        for one in self.verdicts(ref):
            again = judge(one.gate, one.evidence)
            if again != one.verdict:
                problems.append(
                    f"{one.verdict.gate}: the evidence gives {again.outcome}, "
                    f"the record says {one.verdict.outcome}"
                )
        return problems

    # Verdicts

    def record_verdict(
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
        from registry.verdicts import judge

        self._desk.actor.require("record_verdict")
        again = judge(gate, evidence)
        if again != verdict:
            raise Refused(
                f"the verdict is not what the {gate.name} gate says on this evidence",
                evidence=f"given {verdict.outcome}, computed {again.outcome}: {again.reason}",
                hint=f"run the gate again: policyctl gate run {gate.name} '{ref}'",
            )
        with self._desk.ledger.write() as connection:
            row = _row(connection, self.resolve(ref))
            record = _record(row)
            self.add_verdict(connection, record, gate, evidence, verdict, artifacts or {})
            stage = _stage_after(connection, record, verdict)
            self.set_stage(connection, record.ref, stage, reason=verdict.reason)
            return _record(_row(connection, record.ref))

    def add_verdict(
        self,
        connection: Connection,
        record: VersionRecord,
        gate: Gate,
        evidence: Evidence,
        verdict: Verdict,
        artifacts: Mapping[str, str],
    ) -> None:
        """The row itself, unless the newest one of this gate says the very same."""
        subject = evidence.subject
        if (subject.policy, subject.number, subject.digest) != (
            record.policy,
            record.number,
            record.digest,
        ):
            raise Refused(
                f"the evidence is not of {record}",
                evidence=f"it is of {subject.policy} v{subject.number}, {subject.digest}",
                hint=f"run the gate on it: policyctl gate run {gate.name} '{record}'",
            )
        newest = connection.execute(
            select(verdicts.c.verdict)
            .where(
                verdicts.c.policy == record.policy,
                verdicts.c.number == record.number,
                verdicts.c.gate == gate.name,
            )
            .order_by(verdicts.c.id.desc())
            .limit(1)
        ).scalar()
        if newest == json.loads(json.dumps(verdict.to_json())):
            return
        connection.execute(
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

    def verdicts(self, ref: VersionRef) -> list[VerdictRecord]:
        """Every verdict on a version, oldest first."""
        record = self.get(ref)
        with self._desk.ledger.read() as connection:
            return read_verdicts(connection, record.ref)

    def set_stage(
        self,
        connection: Connection,
        ref: VersionRef,
        stage: Stage,
        *,
        reason: str = "",
        rollout: str | None = None,
    ) -> None:
        """Moves a version to a stage, with its place in history and the audit, if it moves."""
        row = _row(connection, ref)
        if row.stage == str(stage):
            return
        changed = connection.execute(
            update(versions)
            .where(
                versions.c.policy == ref.policy,
                versions.c.number == ref.number,
                versions.c.revision == row.revision,
            )
            .values(stage=str(stage), revision=row.revision + 1)
        ).rowcount
        if changed != 1:
            raise Conflict(f"{ref} was changed by somebody else", hint="run the command again")
        self._add_climb(connection, ref, stage, reason, rollout)
        self._desk.note(
            connection,
            "stage",
            ref,
            policy=ref.policy,
            reason=reason,
            detail={"from": row.stage, "to": str(stage), "rollout": rollout},
        )

    def _add_climb(
        self,
        connection: Connection,
        ref: VersionRef,
        stage: Stage,
        reason: str,
        rollout: str | None,
    ) -> None:
        connection.execute(
            insert(climbs).values(
                policy=ref.policy,
                number=ref.number,
                stage=str(stage),
                at=self._desk.clock.now(),
                actor=self._desk.actor.name,
                reason=reason,
                rollout=rollout,
            )
        )

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


def read_version(connection: Connection, ref: VersionRef) -> VersionRecord:
    """Inside a transaction. Raises NotFound."""
    return _record(_row(connection, ref))


def read_versions(connection: Connection, policy: str) -> list[VersionRecord]:
    query = _query().where(versions.c.policy == policy).order_by(versions.c.number)
    return [_record(row) for row in connection.execute(query)]


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
        )
        for row in connection.execute(query)
    ]


def _query() -> Any:
    held = exists().where(
        climbs.c.policy == versions.c.policy,
        climbs.c.number == versions.c.number,
        climbs.c.stage == str(Stage.FLEET),
    )
    return select(versions, held.label("held_fleet"))


def _row(connection: Connection, ref: VersionRef) -> Row[Any]:
    row = connection.execute(
        _query().where(versions.c.policy == ref.policy, versions.c.number == ref.number)
    ).first()
    if row is not None:
        found: Row[Any] = row
        return found
    known = connection.execute(
        select(versions.c.number)
        .where(versions.c.policy == ref.policy)
        .order_by(versions.c.number.desc())
        .limit(1)
    ).scalar()
    raise NotFound(
        f"there is no {ref}",
        evidence=f"the newest is {ref.policy} v{known}" if known else "no such policy",
        hint="policyctl list shows the versions of every policy",
    )


def _number_of(connection: Connection, policy: str, digest: str) -> int | None:
    return connection.execute(
        select(versions.c.number).where(versions.c.policy == policy, versions.c.digest == digest)
    ).scalar()


def _record(row: Row[Any]) -> VersionRecord:
    return VersionRecord(
        policy=row.policy,
        number=row.number,
        digest=row.digest,
        stage=Stage(row.stage),
        nonce=row.nonce,
        created_at=row.created_at,
        created_by=row.created_by,
        manifest=Manifest.from_json(json.loads(row.manifest)),
        held_fleet=bool(row.held_fleet),
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


def explain_gate(
    error: PolicyctlError, ref: VersionRef, records: list[VerdictRecord]
) -> PolicyctlError:
    """The ladder's refusal with the version, the numbers behind the gate, and the next command."""
    for gate in ("sim", "hil", "canary"):
        if f"the {gate} gate" not in error.what:
            continue
        mine = [one.verdict for one in records if one.verdict.gate == gate]
        if mine:
            numbers = ", ".join(f"{k} {_short(v)}" for k, v in mine[-1].numbers.items())
            evidence = f"{gate}: {mine[-1].reason}" + (f" ({numbers})" if numbers else "")
        else:
            evidence = error.evidence
        return type(error)(
            f"{ref}: {error.what}",
            evidence=evidence,
            hint=error.hint.replace("VERSION", f"'{ref}'"),
        )
    return type(error)(
        f"{ref}: {error.what}",
        evidence=error.evidence,
        hint=error.hint.replace("VERSION", f"'{ref}'"),
    )


def _short(value: float | int | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
