"""Attempts that robots sign, and a server that lies about them: forged counts are found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from record import CANARY, GATES, POLICY, Record, keys_of
from sqlalchemy import Connection, Row, delete, select, update

from registry.attempts import AttemptReport
from registry.errors import Forged, NotSigned, PolicyctlError, Refused, WrongSigner
from registry.evidence import CanaryEvidence, evidence_from_json
from registry.ledger.tables import assignments, attempts, statements, verdicts
from registry.record.signed_attempts import as_ranges, from_ranges, leaf_of
from registry.rollouts import Observed
from registry.stages import Stage
from registry.trust.documents import check_attempt, seal_attempt
from registry.trust.merkle import proof, proves
from registry.verdicts import judge
from registry.versions import VersionRef

pytestmark = pytest.mark.slow


@pytest.fixture
def record(tmp_path: Path, database: str | None) -> Record:
    return Record(tmp_path, robots=6, database=database, trust=True)


# -- what robots hand over -------------------------------------------------------------------------


def test_a_robot_hands_over_only_what_it_signed(record: Record) -> None:
    opened = record.promote(record.ready())
    first, second = opened.rollout.cohort[:2]
    honest = record.next_report(first, "success")
    assert honest is not None
    bare = replace(honest, envelope=None)
    other = seal_attempt(honest, keys_of(record).robot(second))
    runner = seal_attempt(honest, keys_of(record).signer("runner"))
    edited = replace(honest, outcome="failure")
    terms = record.sealed(replace(honest, terms=""))
    elsewhere = record.sealed(replace(honest, terms="sha256:" + "0" * 64))
    refused: dict[type[PolicyctlError], list[AttemptReport]] = {
        NotSigned: [bare],
        WrongSigner: [other, runner],
        Forged: [edited],
        Refused: [terms, elsewhere],
    }
    for kind, reports in refused.items():
        for report in reports:
            with pytest.raises(kind, match=f"attempt 1 of {first}") as caught:
                record.registry.ingest(first, [report])
            assert caught.value.evidence
    assert record.registry.attempts() == []
    assert record.registry.ingest(first, [honest]) == 1


def test_a_robot_whose_key_is_not_listed_yet_reports_nothing(record: Record) -> None:
    keys = keys_of(record)
    keys.folder.write_keyring(keys.keyring.harden())
    record.enrol("robot-07")  # waits for the approvers
    opened = record.promote(record.ready())
    report = replace(
        record.next_report(opened.rollout.cohort[0], "success") or pytest.fail("no report"),
        robot="robot-07",
    )
    with pytest.raises(WrongSigner, match="not signed by a robot robot-07"):
        record.registry.ingest("robot-07", [seal_attempt(report, keys.robot("robot-07"))])
    proposed = keys.folder.proposed()
    assert proposed is not None
    keys.folder.write_keyring(proposed)
    check_attempt(seal_attempt(report, keys.robot("robot-07")), keys.keyring)


def test_evidence_carries_the_root_of_the_signed_reports(record: Record) -> None:
    opened = record.promote(record.ready())
    assert record.registry.canary_evidence(opened.id).attempts_root == ""
    for _ in range(3):
        record.round({1: 1.0})
    found = record.registry.canary_evidence(opened.id)
    assert found.attempts_root.startswith("sha256:")
    assert dict(found.reports) == dict.fromkeys(sorted(opened.rollout.cohort), "1-3")
    assert evidence_from_json(found.to_json()) == found
    record.round({1: 1.0})
    assert record.registry.canary_evidence(opened.id).attempts_root != found.attempts_root


def test_a_robot_can_be_shown_that_its_attempt_is_counted(record: Record) -> None:
    opened = record.promote(record.ready())
    for _ in range(3):
        record.round({1: 1.0})
    found = record.registry.canary_evidence(opened.id)
    with record.registry._ledger.read() as connection:
        rows = connection.execute(
            select(attempts).order_by(attempts.c.robot, attempts.c.number)
        ).all()
    leaves = [leaf_of(row.envelope) for row in rows]
    for index, leaf in enumerate(leaves):
        path = proof(leaves, index)
        assert proves(leaf, index, len(leaves), path, found.attempts_root)
        assert len(path) < len(leaves)


def test_unsigned_evidence_is_written_as_ever(tmp_path: Path) -> None:
    record = Record(tmp_path, robots=6)
    opened = record.promote(record.ready())
    record.round({1: 1.0})
    found = record.registry.canary_evidence(opened.id)
    assert "attempts_root" not in found.to_json()
    assert "reports" not in found.to_json()


@pytest.mark.parametrize("text", ["", "3-1", "1,2", "1-3,4", "1--2", "a"])
def test_ranges_have_one_spelling(text: str) -> None:
    assert from_ranges(as_ranges([1, 2, 3, 7, 9, 10])) == [1, 2, 3, 7, 9, 10]
    with pytest.raises(ValueError):
        from_ranges(text)


# -- a whole road ----------------------------------------------------------------------------------


def released(record: Record) -> VersionRef:
    """A second version that beat nobody and was promoted; its counts are what drills forge."""
    record.to_fleet()
    ref = record.ready()
    record.play(record.promote(ref).id, {1: 1.0, 2: 1.0})
    return ref


def test_the_whole_road_is_signed_and_can_be_counted_again(record: Record) -> None:
    ref = released(record)
    held = record.registry.statements(ref)
    judged = record.registry.verdicts(ref)
    assert [one.kind for one in held] == ["registration"] + ["verdict"] * len(judged)
    assert [one.verdict for one in held[1:]] == [one.id for one in judged]
    assert judged[-1].verdict.gate == "canary"
    assert record.registry.doubts(ref) == []
    assert record.registry.doubts(VersionRef(POLICY, 1)) == []


def test_a_weaker_version_is_caught_with_trust_as_without(record: Record) -> None:
    record.to_fleet()
    weak = record.ready()
    ended = record.play(record.promote(weak).id, {1: 1.0, 2: 0.4})
    assert str(ended.rollout.phase) == "rolled_back"
    assert record.registry.doubts(weak) == []


# -- forged counts by a stolen server --------------------------------------------------------------


def canary_row(connection: Any) -> Any:
    return connection.execute(
        select(verdicts).where(verdicts.c.gate == "canary").order_by(verdicts.c.id.desc())
    ).first()


def forge_evidence(record: Record, **changes: Any) -> None:
    """The canary's evidence and verdict are rewritten so that one follows from the other, and the
    stolen director's key signs that: what the server could do by itself."""
    from registry.record.statements import seal_verdict

    with record.registry._ledger.write() as connection:
        row = canary_row(connection)
        evidence = evidence_from_json({**row.evidence, **changes})
        assert isinstance(evidence, CanaryEvidence)
        gate = record.registry.verdicts(VersionRef(POLICY, row.number))[-1].gate
        said = judge(gate, evidence)
        envelope = seal_verdict(record.registry.trust, evidence.subject, gate, evidence, said, {})
        connection.execute(
            update(verdicts)
            .where(verdicts.c.id == row.id)
            .values(
                evidence=evidence.to_json(),
                verdict=said.to_json(),
                outcome=str(said.outcome),
            )
        )
        connection.execute(
            update(statements).where(statements.c.verdict == row.id).values(envelope=envelope)
        )


def doubts_after(record: Record, ref: VersionRef) -> str:
    return "\n".join(record.registry.doubts(ref))


def test_better_counts_than_robots_signed_are_found(record: Record) -> None:
    ref = released(record)
    with record.registry._ledger.read() as connection:
        segments = canary_row(connection).evidence["segments"]
    for segment in segments:
        for holder in (segment, *segment["strata"]):
            success, failure, void = holder["baseline"]
            holder["baseline"] = [0, success + failure, void]
    forge_evidence(record, segments=segments)
    assert "the reports do not give its counts" in doubts_after(record, ref)


def test_hidden_safety_events_are_found(record: Record) -> None:
    record.to_fleet()
    ref = record.ready()
    opened = record.promote(ref)
    cohort = opened.rollout.cohort[0]
    while True:
        report = record.next_report(cohort, "failure", safety_events=("contact_force",))
        assert report is not None
        if report.side == "candidate":
            break
        record.attempt(cohort, "success")
    record.attempt(cohort, "failure", safety_events=("contact_force",))
    record.observe(opened.id)
    assert record.registry.doubts(ref) == []
    forge_evidence(record, class_a_events=0)
    assert "1 class A events were reported, it says 0" in doubts_after(record, ref)


def test_stripping_the_root_hides_nothing(record: Record) -> None:
    ref = released(record)
    with record.registry._ledger.write() as connection:
        row = canary_row(connection)
        bare = dict(row.evidence)
        del bare["attempts_root"], bare["reports"]
        evidence = evidence_from_json(bare)
        gate = record.registry.verdicts(ref)[-1].gate
        connection.execute(
            update(verdicts)
            .where(verdicts.c.id == row.id)
            .values(evidence=bare, verdict=judge(gate, evidence).to_json())
        )
        connection.execute(delete(statements).where(statements.c.verdict == row.id))
    assert "its attempts are not signed" in doubts_after(record, ref)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"outcome": "success"}, "is filed as something else than its robot signed"),
        ({"side": "baseline", "version": 1}, "is filed as something else"),
        ({"generation": 1}, "is filed as something else"),
    ],
)
def test_a_filed_attempt_that_differs_from_the_signed_one_is_found(
    record: Record, values: dict[str, Any], found: str
) -> None:
    record.to_fleet()
    ref = record.ready()
    record.play(record.promote(ref).id, {1: 1.0, 2: 0.4})
    with record.registry._ledger.write() as connection:
        bad = (attempts.c.outcome == "failure") & (attempts.c.side == "candidate")
        number = connection.execute(select(attempts.c.number).where(bad).limit(1)).scalar()
        assert connection.execute(
            update(attempts).where(bad & (attempts.c.number == number)).values(**values)
        ).rowcount
    assert found in doubts_after(record, ref)


def test_an_edited_report_is_not_what_its_robot_signed(record: Record) -> None:
    record.to_fleet()
    ref = record.ready()
    record.play(record.promote(ref).id, {1: 1.0, 2: 0.4})
    with record.registry._ledger.write() as connection:
        row = connection.execute(
            select(attempts).where(attempts.c.outcome == "failure").limit(1)
        ).one()
        mine = (attempts.c.robot == row.robot) & (attempts.c.number == row.number)
        better = {**row.report, "outcome": "success", "failure_mode": ""}
        connection.execute(update(attempts).where(mine).values(report=better, outcome="success"))
    assert "says something else than what was signed" in doubts_after(record, ref)


def failure_before_the_last(connection: Connection, rollout: str) -> Row[Any]:
    """A failed attempt whose robot has reported another since: the newest can be withheld."""
    counted = connection.execute(
        select(attempts).where(attempts.c.rollout == rollout).order_by(attempts.c.number)
    ).all()
    last = {row.robot: row.number for row in counted}
    return next(r for r in counted if r.outcome == "failure" and r.number < last[r.robot])


def test_a_failure_that_is_left_out_leaves_a_gap(record: Record) -> None:
    """The server deletes a failed attempt, counts the rest again and signs that with its key."""
    record.to_fleet()
    ref = record.ready()
    opened = record.promote(ref)
    record.play(opened.id, {1: 1.0, 2: 0.4})
    with record.registry._ledger.write() as connection:
        row = failure_before_the_last(connection, opened.id)
        mine = (attempts.c.robot == row.robot) & (attempts.c.number == row.number)
        connection.execute(delete(attempts).where(mine))
    again = record.registry.canary_evidence(opened.id)
    forge_evidence(record, **{k: again.to_json()[k] for k in (
        "segments", "attempts_root", "reports", "attempts_digest", "outstanding")})  # fmt: skip
    assert f"attempt {row.number} of {row.robot} is gone" in doubts_after(record, ref)


def test_a_failure_that_is_filed_under_another_rollout_is_found(record: Record) -> None:
    record.to_fleet()
    ref = record.ready()
    opened = record.promote(ref)
    record.play(opened.id, {1: 1.0, 2: 0.4})
    with record.registry._ledger.write() as connection:
        row = failure_before_the_last(connection, opened.id)
        mine = (attempts.c.robot == row.robot) & (attempts.c.number == row.number)
        connection.execute(update(attempts).where(mine).values(rollout=None))
    again = record.registry.canary_evidence(opened.id)
    forge_evidence(record, **{k: again.to_json()[k] for k in (
        "segments", "attempts_root", "reports", "attempts_digest", "outstanding")})  # fmt: skip
    said = doubts_after(record, ref)
    assert f"attempt {row.number} of {row.robot} belongs to it and was left out" in said


def test_another_draw_told_afterwards_is_found(record: Record) -> None:
    """Robots signed the terms they ran under: salt and ratio cannot be changed behind them."""
    ref = released(record)
    with record.registry._ledger.write() as connection:
        for row in connection.execute(select(assignments).where(assignments.c.candidate == 2)):
            connection.execute(
                update(assignments)
                .where(assignments.c.robot == row.robot, assignments.c.generation == row.generation)
                .values(document={**row.document, "salt": "another"})
            )
    assert "it ran under other terms" in doubts_after(record, ref)


def test_good_attempts_of_another_version_are_not_this_ones(record: Record) -> None:
    """A rollout of v2 was fine; the server says that its attempts were those of v3."""
    released(record)
    bad = record.ready()
    record.play(record.promote(bad).id, {2: 1.0, 3: 0.4})
    with record.registry._ledger.read() as connection:
        rows = connection.execute(
            select(verdicts).where(verdicts.c.gate == "canary").order_by(verdicts.c.id)
        ).all()
    good = next(row for row in rows if row.number == 2)
    taken = ("segments", "attempts_root", "reports", "attempts_digest", "baseline", "rollout")
    forge_evidence(record, **{key: good.evidence[key] for key in taken}, outstanding=0)
    assert "runs another candidate" in doubts_after(record, bad)


def invent(record: Record, rollout: str) -> None:
    """Puts an attempt into the database that no robot signed."""
    with record.registry._ledger.write() as connection:
        row = connection.execute(select(attempts).where(attempts.c.rollout == rollout)).all()[0]
        report = replace(AttemptReport.from_json(row.report), outcome="success")
        forged = seal_attempt(report, keys_of(record).signer("publisher")).envelope
        mine = (attempts.c.robot == row.robot) & (attempts.c.number == row.number)
        connection.execute(update(attempts).where(mine).values(envelope=forged))


def test_an_invented_attempt_never_moves_a_rollout_forward(record: Record) -> None:
    """Rows slipped into the database while the controller runs."""
    record.to_fleet()
    ref = record.ready()
    opened = record.promote(ref)
    for _ in range(4):
        record.round({1: 1.0, 2: 1.0})
    invent(record, opened.id)
    evidence = record.registry.canary_evidence(opened.id)
    now = record.registry.rollout(opened.id)
    event = Observed(evidence, judge(now.rollout.gate, evidence))
    with pytest.raises(WrongSigner, match="not signed by a robot"):
        record.registry.advance(opened.id, now.revision, event)
    assert record.registry.rollout(opened.id) == now
    assert record.registry.abort(POLICY, "a forged attempt").rollout.phase == "aborted"


@pytest.mark.parametrize("limit", ["episodes", "deadline"])
def test_an_invented_attempt_keeps_no_candidate_out_there(record: Record, limit: str) -> None:
    """A canary at its limit takes the candidate from the robots, whoever slipped a row in."""
    record.to_fleet()
    few = replace(CANARY, max_candidate_episodes=4) if limit == "episodes" else CANARY
    opened = record.registry.promote(record.ready(), Stage.CANARY, replace(GATES, canary=few))
    assert opened is not None
    record.round({1: 0.5, 2: 0.5})
    invent(record, opened.id)
    for _ in range(5 if limit == "episodes" else 0):
        record.round({1: 0.5, 2: 0.5})
    record.clock.time += CANARY.deadline_s if limit == "deadline" else 0.0
    assert str(record.observe(opened.id).rollout.phase) == "holding"
    assert record.told() == {(None, 1)}


def test_forged_failures_can_only_take_a_version_back(record: Record) -> None:
    record.to_fleet()
    ref = record.ready()
    opened = record.promote(ref)
    for _ in range(12):
        record.round({1: 1.0, 2: 1.0})
    with record.registry._ledger.write() as connection:
        connection.execute(
            update(attempts)
            .where(attempts.c.rollout == opened.id, attempts.c.side == "candidate")
            .values(outcome="failure")
        )
    ended = record.observe(opened.id)
    assert str(ended.rollout.phase) == "rolled_back"
    assert "is filed as something else" in doubts_after(record, ref)
