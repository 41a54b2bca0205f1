"""Promotion with trust: who registered and judged a version, and whether the record agrees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from record import CANARY, GATES, HIL, POLICY, SIM, Record, keys_of, write_files
from sqlalchemy import select, update
from trusted import Keys

from registry.errors import Corrupt, Forged, NotAllowed, NotSigned, WrongSigner
from registry.evidence import evidence_from_json
from registry.gates import Gates
from registry.ledger.tables import audit_head, statements, verdicts, versions
from registry.record.audit import Head
from registry.service import Actor, Registry
from registry.stages import Stage
from registry.trust.sealing import IN_TOTO, seal
from registry.trust.statements import verdict as verdict_statement
from registry.verdicts import judge
from registry.versions import VersionRef

pytestmark = pytest.mark.slow


@pytest.fixture
def record(tmp_path: Path, database: str | None) -> Record:
    return Record(tmp_path, robots=4, database=database, trust=True)


def edit(record: Record, table: Any, **values: Any) -> None:
    """A change past policyctl, by whoever owns the database; all rows."""
    with record.registry._ledger.write() as connection:
        connection.execute(update(table).values(**values))


def edit_statement(record: Record, kind: str, envelope: Any) -> None:
    with record.registry._ledger.write() as connection:
        changed = connection.execute(
            update(statements).where(statements.c.kind == kind).values(envelope=envelope)
        )
        assert changed.rowcount > 0


def held(record: Record, ref: VersionRef) -> list[str]:
    return [one.kind for one in record.registry.statements(ref)]


# -- what is signed climbs -------------------------------------------------------------------------


def test_a_signed_version_climbs_and_what_was_signed_is_shown(record: Record) -> None:
    ref = record.ready()
    assert held(record, ref) == ["registration", "verdict", "verdict"]
    assert record.registry.doubts(ref) == []
    assert str(record.promote(ref).rollout.phase) == "canary"


def test_the_same_again_is_signed_once(record: Record) -> None:
    ref = record.ready()
    record.sim(ref)
    record.register(1)
    assert held(record, ref) == ["registration", "verdict", "verdict"]


def test_without_trust_nothing_is_signed_or_asked_for(tmp_path: Path) -> None:
    record = Record(tmp_path, robots=4)
    ref = record.ready()
    assert held(record, ref) == []
    record.promote(ref)


# -- what is not signed does not ------------------------------------------------------------------


def test_who_has_no_publishers_key_registers_nothing(record: Record) -> None:
    keys_of(record).signers.write({})
    folder = write_files(record.folder / "new", 9)
    with pytest.raises(NotAllowed, match="no publisher's key") as caught:
        record.registry.register(folder, POLICY)
    assert "POLICYCTL_SIGNER_PUBLISHER" in caught.value.hint
    assert record.registry.list_versions() == []


def test_who_has_no_runners_key_records_no_verdict(record: Record) -> None:
    ref = record.register()
    keys = keys_of(record)
    signers = dict(keys.signers.all())
    del signers["runner"]
    keys.signers.write(signers)
    with pytest.raises(NotAllowed, match="no runner's key"):
        record.sim(ref)
    assert record.registry.verdicts(ref) == []
    assert record.registry.version(ref).stage is Stage.REGISTERED


def test_what_was_registered_and_judged_before_trust_is_signed_by_doing_it_again(
    tmp_path: Path, database: str | None
) -> None:
    old = Record(tmp_path, robots=4, database=database)
    ref = old.ready()
    old.registry.close()
    keys = Keys(old.home)
    registry = Registry.open(old.home, Actor("tester"), clock=old.clock)
    old.registry, old.keys = registry, keys
    with pytest.raises(NotSigned, match="registration of box-grasp v1") as first:
        old.promote(ref)
    assert "policyctl register" in first.value.hint
    assert old.register(1) == ref
    with pytest.raises(NotSigned, match="sim verdict of box-grasp v1") as second:
        old.promote(ref)
    assert second.value.hint == "policyctl gate run sim 'box-grasp v1'"
    old.sim(ref), old.hil(ref)
    assert len(registry.verdicts(ref)) == 2
    old.promote(ref)


def test_looking_back_asks_no_signature_of_what_the_audit_held_before(
    tmp_path: Path, database: str | None
) -> None:
    old = Record(tmp_path, database=database)
    ref = old.ready()
    head = str(old.registry.verify_audit())
    old.keys = Keys(old.home, since=head)
    old.registry = Registry.open(old.home, Actor("tester"), clock=old.clock)
    assert old.registry.doubts(ref) == []
    old.register(1)  # signed now
    assert old.registry.doubts(ref) == []
    later = old.register(2)
    with old.registry._ledger.write() as connection:
        connection.execute(statements.delete().where(statements.c.number == later.number))
    assert any("is not signed" in line for line in old.registry.doubts(later))


def test_an_audit_rewritten_from_before_trust_is_found(
    tmp_path: Path, database: str | None
) -> None:
    old = Record(tmp_path, database=database)
    old.ready()
    head = old.registry.verify_audit()
    Keys(old.home, since=str(Head(head.seq, "0" * 64)))
    registry = Registry.open(old.home, Actor("tester"), clock=old.clock)
    with pytest.raises(Corrupt, match="altered"):
        registry.verify_audit()
    with registry._ledger.read() as connection:
        assert connection.execute(select(audit_head.c.seq)).scalar() == head.seq


# -- drills ----------------------------------------------------------------------------------------


def refused(record: Record, ref: VersionRef, kind: type[Exception], what: str) -> Any:
    """Promotion and verify both say so, and nothing has moved."""
    assert any(what in line for line in record.registry.doubts(ref)), record.registry.doubts(ref)
    with pytest.raises(kind, match=what) as caught:
        record.promote(ref)
    assert caught.value.evidence
    assert caught.value.hint
    assert record.registry.rollouts() == []
    assert record.registry.version(ref).stage is Stage.HIL
    return caught.value


def test_a_version_given_other_bytes_is_not_what_its_publisher_signed(record: Record) -> None:
    good, other = record.ready(), record.register()
    with record.registry._ledger.write() as connection:
        row = connection.execute(
            select(versions.c.digest, versions.c.manifest).where(versions.c.number == other.number)
        ).one()
        connection.execute(
            update(versions).where(versions.c.number == other.number).values(digest="sha256:gone")
        )
        connection.execute(
            update(versions)
            .where(versions.c.number == good.number)
            .values(digest=row.digest, manifest=row.manifest)
        )
    error = refused(record, good, Forged, "registration of box-grasp v1 was signed for something")
    assert row.digest in error.evidence


def test_another_versions_statement_is_none_of_this_one(record: Record) -> None:
    good, other = record.ready(), record.register()
    envelope = record.registry.statements(other)[0].envelope
    edit_statement(record, "registration", envelope)
    refused(record, good, Forged, "was signed for something else")


@pytest.mark.parametrize("kind", ["registration", "verdict"])
def test_a_key_of_another_role_signs_nothing_that_counts(record: Record, kind: str) -> None:
    """The runner registers, the publisher judges: each by its own key, and neither may."""
    ref = record.ready()
    keys = keys_of(record)
    statement = next(one for one in record.registry.statements(ref) if one.kind == kind)
    payload = _payload(statement.envelope)
    role = "runner" if kind == "registration" else "publisher"
    edit_statement(record, kind, seal(payload, IN_TOTO, keys.signer(role)))
    needs = "publisher" if kind == "registration" else "runner"
    error = refused(record, ref, WrongSigner, f"is not signed by a {needs}")
    assert f"is of {role}" in error.evidence
    assert error.exit_status == 7


def test_an_edited_verdict_is_not_what_its_evidence_gives(record: Record) -> None:
    """A failed gate is turned into a passed one in the database; its statement stays."""
    ref = record.ready()
    record.sim(ref, successes=40)
    passed = record.registry.verdicts(ref)[0].verdict
    with record.registry._ledger.write() as connection:
        last = connection.execute(select(verdicts.c.id).order_by(verdicts.c.id.desc())).scalar()
        connection.execute(
            update(verdicts)
            .where(verdicts.c.id == last)
            .values(outcome="pass", verdict=passed.to_json())
        )
        connection.execute(update(versions).values(stage="hil"))
    refused(record, ref, Forged, "is not what its evidence gives")


def test_edited_evidence_is_not_what_its_runner_signed(record: Record) -> None:
    """Evidence and verdict are edited together, so that the verdict follows from the evidence."""
    ref = record.ready()
    record.sim(ref, successes=40)
    with record.registry._ledger.write() as connection:
        row = connection.execute(select(verdicts).order_by(verdicts.c.id.desc())).first()
        assert row is not None
        evidence = evidence_from_json({**row.evidence, "successes": 100})
        said = judge(SIM, evidence)
        connection.execute(
            update(verdicts)
            .where(verdicts.c.id == row.id)
            .values(outcome="pass", evidence=evidence.to_json(), verdict=said.to_json())
        )
        connection.execute(update(versions).values(stage="hil"))
    refused(record, ref, Forged, "was signed for another evidence")


def test_a_softer_gate_is_not_the_one_that_was_signed(record: Record) -> None:
    ref = record.ready()
    softer = GATES.sim.__class__("box-grasp", {"friction": (0.5, 1.0)}, 50, threshold=0.1)  # type: ignore[union-attr]
    with record.registry._ledger.write() as connection:
        row = connection.execute(select(verdicts).order_by(verdicts.c.id)).first()
        assert row is not None
        evidence = evidence_from_json({**row.evidence, "gate_digest": softer.digest})
        connection.execute(
            update(verdicts)
            .where(verdicts.c.id == row.id)
            .values(
                gate_spec=softer.to_json(),
                evidence=evidence.to_json(),
                verdict=judge(softer, evidence).to_json(),
            )
        )
    assert any("another gate" in line for line in record.registry.doubts(ref))
    with pytest.raises(Forged, match="signed for another gate"):
        record.registry.promote(ref, Stage.CANARY, Gates(softer, HIL, CANARY))


def test_a_runner_that_lies_about_its_evidence_is_computed_again(record: Record) -> None:
    """A stolen runner's key signs a pass that the evidence does not give."""
    ref = record.ready()
    one = record.registry.verdicts(ref)[0]
    lie = one.verdict.__class__(**{**vars(one.verdict), "reason": "trust me"})
    payload = verdict_statement(
        record.registry.version(ref).subject, one.gate, one.evidence, lie, {}
    )
    keys = keys_of(record)
    with record.registry._ledger.write() as connection:
        connection.execute(
            update(statements)
            .where(statements.c.verdict == one.id)
            .values(envelope=seal(payload, IN_TOTO, keys.signer("runner")))
        )
    refused(record, ref, Forged, "is not what its evidence gives")


def test_artifacts_are_signed_too(record: Record) -> None:
    ref = record.ready()
    edit(record, verdicts, artifacts={"report": "sha256:" + "0" * 64})
    refused(record, ref, Forged, "was signed for another artifacts")


def test_a_statement_that_was_taken_away_is_missed(record: Record) -> None:
    ref = record.ready()
    with record.registry._ledger.write() as connection:
        connection.execute(statements.delete().where(statements.c.kind == "verdict"))
    refused(record, ref, NotSigned, "sim verdict of box-grasp v1 is not signed")


def test_altered_signed_bytes_are_forged(record: Record) -> None:
    ref = record.ready()
    statement = record.registry.statements(ref)[0]
    said = json.loads(_payload(statement.envelope))
    said["predicate"]["provenance"]["commit"] = "another"
    envelope = {**statement.envelope, "payload": _base64(json.dumps(said).encode())}
    edit_statement(record, "registration", envelope)
    refused(record, ref, Forged, "was not signed by whom it names")


def test_an_override_excuses_no_signature(record: Record) -> None:
    ref = record.ready()
    with record.registry._ledger.write() as connection:
        connection.execute(statements.delete())
    with pytest.raises(NotSigned):
        record.promote(ref, override="I know better")


# -- keys come and go ------------------------------------------------------------------------------


def test_what_a_retired_key_signed_stands_but_climbs_no_more(record: Record) -> None:
    ref = record.ready()
    keys_of(record).replace("runner", "second", stolen=False)
    assert record.registry.doubts(ref) == []
    with pytest.raises(WrongSigner, match="not signed by a runner") as caught:
        record.promote(ref)
    assert "retired runner" in caught.value.evidence
    record.sim(ref), record.hil(ref)
    record.promote(ref)


def test_what_a_stolen_key_signed_counts_no_more(record: Record) -> None:
    ref = record.ready()
    keys_of(record).replace("publisher", "second", stolen=True)
    assert any("not in the keyring" in line for line in record.registry.doubts(ref))
    with pytest.raises(WrongSigner, match="not signed by a publisher"):
        record.promote(ref)
    assert record.register(1) == ref
    assert record.registry.doubts(ref) == []
    record.promote(ref)


def test_going_back_needs_no_signature_of_anybody(record: Record) -> None:
    record.to_fleet(), record.to_fleet()
    keys_of(record).signers.write({})
    with record.registry._ledger.write() as connection:
        connection.execute(statements.delete())
    back = record.registry.rollback(POLICY, "it drops plates")
    assert back.number == 1
    assert {told.assigned_baseline for told in record.registry.robots()} == {1}


def _payload(envelope: Any) -> bytes:
    from base64 import b64decode

    return b64decode(envelope["payload"])


def _base64(data: bytes) -> str:
    from base64 import b64encode

    return b64encode(data).decode()
