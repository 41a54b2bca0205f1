"""Rollouts in the record: promotion, the canary, waves, stops, and who comes second."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from record import CANARY, GATES, POLICY, Record

from registry.errors import (
    Conflict,
    GateFailed,
    Inconclusive,
    PolicyctlError,
    Refused,
    UsageError,
)
from registry.evidence import Tally
from registry.gates import Gates, GridGate
from registry.home import Home
from registry.rollouts import ClassA, Observed, Phase, Tick
from registry.service import Actor, Registry
from registry.stages import Stage
from registry.verdicts import Outcome, judge
from registry.versions import VersionRef

pytestmark = pytest.mark.slow


@pytest.fixture
def record(tmp_path: Path, database: str | None) -> Record:
    return Record(tmp_path, robots=6, database=database)


# -- the ladder ------------------------------------------------------------------------------------


def test_promotion_out_of_order_is_refused_with_the_next_command(record: Record) -> None:
    ref = record.register()
    with pytest.raises(Refused) as caught:
        record.promote(ref)
    assert "box-grasp v1" in caught.value.what
    assert "sim" in caught.value.what
    assert caught.value.hint == "policyctl gate run sim 'box-grasp v1'"
    record.sim(ref)
    with pytest.raises(Refused, match="hil gate has not been run"):
        record.promote(ref)
    assert record.registry.rollouts() == []


def test_a_failed_gate_is_named_with_its_numbers(record: Record) -> None:
    ref = record.register()
    record.sim(ref, successes=40)
    with pytest.raises(GateFailed) as caught:
        record.promote(ref)
    assert caught.value.exit_status == 3
    assert "the sim gate failed" in caught.value.what
    assert "40 of 100 episodes" in caught.value.evidence
    assert "'box-grasp v1'" in caught.value.hint


def test_an_undecided_gate_is_inconclusive(record: Record) -> None:
    ref = record.register()
    record.sim(ref)
    record.hil(ref, success=3)
    with pytest.raises(Inconclusive, match="hil"):
        record.promote(ref)


def test_a_verdict_under_another_gates_file_does_not_count(record: Record) -> None:
    ref = record.ready()
    stricter = GridGate("box-grasp", {"friction": (0.5, 1.0)}, 50, threshold=0.95)
    with pytest.raises(Refused, match="under another sim gate"):
        record.registry.promote(ref, Stage.CANARY, Gates(stricter, GATES.hil, CANARY))


def test_a_gate_that_does_not_apply_is_not_asked_for(record: Record) -> None:
    ref = record.register()
    gates = Gates(None, None, CANARY, {"sim": "no simulator", "hil": "no lab"})
    done = record.registry.promote(ref, Stage.CANARY, gates)
    assert done is not None
    assert done.rollout.phase is Phase.CANARY
    record.registry.abort(POLICY, "enough")
    assert record.registry.version(ref).stage is Stage.REGISTERED


def test_the_fleet_is_reached_from_a_passed_canary_only(record: Record) -> None:
    ref = record.ready()
    with pytest.raises(Refused, match="canary gate has not been run"):
        record.registry.promote(ref, Stage.FLEET, GATES)


def test_without_robots_there_is_nothing_to_roll_out_to(tmp_path: Path) -> None:
    record = Record(tmp_path)
    with pytest.raises(Refused, match="no robot"):
        record.promote(record.ready())


def test_a_plan_changes_nothing(record: Record) -> None:
    ref = record.ready()
    before = record.registry.verify_audit().seq
    plan = record.promote(ref, dry_run=True)
    assert plan.rollout.phase is Phase.CANARY
    assert len(plan.rollout.cohort) == 4
    assert record.registry.rollouts() == []
    assert record.registry.version(ref).stage is Stage.HIL
    assert record.told() == {(None, None)}
    assert record.registry.verify_audit().seq == before


# -- two at once -----------------------------------------------------------------------------------


def _promote(home: Home, number: int, results: Any) -> None:
    registry = Registry.open(home, Actor(f"p{number}"))
    try:
        registry.promote(VersionRef(POLICY, number), Stage.CANARY, GATES)
        results.put("opened")
    except PolicyctlError as error:
        results.put(error.exit_status)
    finally:
        registry.close()


@pytest.mark.parametrize("numbers", [(1, 1), (1, 2)])
def test_of_two_promotions_at_once_one_wins_and_the_other_is_refused(
    record: Record, numbers: tuple[int, int]
) -> None:
    record.ready(), record.ready()
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    racers = [context.Process(target=_promote, args=(record.home, n, results)) for n in numbers]
    for racer in racers:
        racer.start()
    found = {results.get(timeout=120) for _ in racers}
    for racer in racers:
        racer.join()
    assert found == {"opened", 5}
    assert len(record.registry.rollouts()) == 1


def test_a_decision_on_an_old_revision_is_a_conflict_and_changes_nothing(record: Record) -> None:
    opened = record.promote(record.ready())
    stale = opened.revision
    record.registry.pause(POLICY, "look")
    with pytest.raises(Conflict, match="moved on"):
        record.registry.advance(opened.id, stale, ClassA("robot-01", "contact_force"))
    assert record.registry.rollout(opened.id).rollout.phase is Phase.PAUSED


def test_the_same_event_twice_changes_nothing_the_second_time(record: Record) -> None:
    opened = record.promote(record.ready())
    paused = record.registry.pause(POLICY, "look")
    events = record.registry.verify_audit().seq
    again, commands = record.registry.advance(opened.id, None, Tick())
    assert (again, commands) == (paused, ())
    assert record.registry.verify_audit().seq == events
    with pytest.raises(Refused, match="cannot pause a rollout that is paused"):
        record.registry.pause(POLICY, "again")


def test_a_newer_candidate_waits_in_line_and_opens_against_what_the_fleet_then_runs(
    record: Record,
) -> None:
    first, second, third = record.ready(), record.ready(), record.ready()
    opened = record.promote(first)
    with pytest.raises(Refused, match="already open"):
        record.promote(second)
    waiting = record.promote(second, queue=True)
    newest = record.promote(third, queue=True)
    assert waiting.rollout.phase is Phase.QUEUED
    record.play(opened.id, {1: 1.0})
    assert record.registry.rollout(waiting.id).rollout.phase is Phase.ABORTED
    now = record.registry.rollout(newest.id).rollout
    assert (now.phase, now.baseline, now.candidate) == (Phase.CANARY, 1, 3)
    assert record.registry.version(third).stage is Stage.CANARY
    assert record.play(newest.id, {1: 1.0, 3: 1.0}).rollout.phase is Phase.DONE


def test_a_version_rejected_while_it_waited_never_opens(record: Record) -> None:
    opened = record.promote(record.ready())
    second = record.ready()
    waiting = record.promote(second, queue=True)
    record.hil(second, success=2, failure=10)
    assert record.registry.version(second).stage is Stage.REJECTED
    record.play(opened.id, {1: 1.0})
    assert record.registry.rollout(waiting.id).rollout.phase is Phase.ABORTED
    assert record.registry.version(second).stage is Stage.REJECTED
    assert record.told() == {(None, 1)}


def test_observed_evidence_must_be_of_the_rollout(record: Record) -> None:
    record.to_fleet()
    opened = record.promote(record.ready())
    evidence = record.registry.canary_evidence(opened.id)
    verdict = judge(opened.rollout.gate, evidence)
    record.registry.abort(POLICY, "why")
    other = record.promote(record.ready())
    with pytest.raises(Conflict, match="does not belong"):
        record.registry.advance(other.id, other.revision, Observed(evidence, verdict))


# -- the road --------------------------------------------------------------------------------------


def test_a_first_version_is_judged_alone_and_then_fills_the_fleet(record: Record) -> None:
    ref = record.ready()
    opened = record.promote(ref)
    assert opened.rollout.baseline is None
    assert record.told() == {(1, None), (None, None)}
    done = record.play(opened.id, {1: 1.0})
    assert done.rollout.phase is Phase.DONE
    assert record.told() == {(None, 1)}
    assert record.registry.serving(POLICY) == 1
    assert record.registry.version(ref).stage is Stage.FLEET
    kept = record.registry.verdicts(ref)[-1].verdict
    assert (kept.gate, kept.outcome) == ("canary", Outcome.PASS)
    assert record.registry.verify(ref) == []


def test_a_weaker_version_is_caught_and_every_robot_returns(record: Record) -> None:
    record.to_fleet()
    weak = record.ready()
    opened = record.promote(weak)
    ended = record.play(opened.id, {1: 1.0, 2: 0.4})
    assert ended.rollout.phase is Phase.ROLLED_BACK
    assert record.registry.version(weak).stage is Stage.ROLLED_BACK
    assert record.told() == {(None, 1)}
    assert record.registry.verdicts(weak)[-1].verdict.outcome is Outcome.FAIL
    assert record.registry.verify(weak) == []


def test_an_equal_version_is_promoted_through_the_waves(record: Record) -> None:
    record.to_fleet()
    good = record.ready()
    opened = record.promote(good)
    done = record.play(opened.id, {1: 1.0, 2: 1.0})
    assert done.rollout.phase is Phase.DONE
    assert record.told() == {(None, 2)}
    said = [e.reason for e in record.registry.history(POLICY) if e.action == "notice"]
    assert any("wave 50 %" in line for line in said)
    assert any("runs on the whole fleet" in line for line in said)


def test_a_rolled_back_version_returns_only_by_a_recorded_override_with_new_counts(
    record: Record,
) -> None:
    record.to_fleet()
    again = record.ready()
    record.play(record.promote(again).id, {1: 1.0, 2: 0.3})
    with pytest.raises(Refused, match="recorded override"):
        record.promote(again)
    with pytest.raises(UsageError, match="needs its reason"):
        record.promote(again, override=" ")
    reopened = record.promote(again, override="the grippers were worn")
    assert record.registry.canary_evidence(reopened.id).candidate_total == Tally()
    events = [e for e in record.registry.history(POLICY) if e.action == "override"]
    assert [e.reason for e in events] == ["the grippers were worn"]
    record.registry.abort(POLICY, "enough")
    assert record.registry.version(again).stage is Stage.ROLLED_BACK


def test_an_aborted_version_that_was_seen_tries_again_only_by_a_recorded_override(
    record: Record,
) -> None:
    """Else each abort buys new counts, and another chance of a false promotion."""
    record.to_fleet()
    again = record.ready()
    record.promote(again)
    record.registry.abort(POLICY, "the wrong day")
    seen = record.promote(again)  # nobody was exposed: free
    record.round({1: 1.0, 2: 1.0})
    record.round({1: 1.0, 2: 1.0})
    count = record.registry.canary_evidence(seen.id).candidate_total.n
    record.registry.abort(POLICY, "not decided yet")
    with pytest.raises(Refused, match="recorded override") as caught:
        record.promote(again)
    assert caught.value.evidence == f"{count} candidate episodes in {seen.id}"
    assert caught.value.hint == (
        "policyctl promote 'box-grasp v2' --stage canary --override --reason WHY"
    )
    assert record.registry.version(again).stage is Stage.HIL
    reopened = record.promote(again, override="the table leg had broken")
    assert record.registry.canary_evidence(reopened.id).candidate_total == Tally()
    actions = [e.action for e in record.registry.history(POLICY)]
    assert actions.count("override") == 1


def test_promote_to_fleet_confirms_a_rollout_that_fills_it(record: Record) -> None:
    ref = record.ready()
    opened = record.promote(ref)
    while record.registry.rollout(opened.id).rollout.phase is not Phase.WAVE:
        record.round({1: 1.0})
        record.observe(opened.id)
    confirmed = record.registry.promote(ref, Stage.FLEET, GATES)
    assert confirmed == record.registry.rollout(opened.id)


# -- stops -----------------------------------------------------------------------------------------


def test_pause_exposes_nobody_and_resume_goes_on_in_a_new_segment(record: Record) -> None:
    record.to_fleet()
    opened = record.promote(record.ready())
    record.round({1: 1.0, 2: 1.0})
    record.registry.pause(POLICY, "look at it")
    assert record.told() == {(None, 1)}
    resumed = record.registry.resume(POLICY)
    assert resumed.rollout.phase is Phase.CANARY
    assert resumed.rollout.segment == opened.rollout.segment + 1
    record.round({1: 1.0, 2: 1.0})
    segments = record.registry.canary_evidence(opened.id).segments
    assert [segment.index for segment in segments] == [0, 1]


def test_abort_returns_the_candidate_to_its_stage_and_robots_to_the_baseline(
    record: Record,
) -> None:
    record.to_fleet()
    ref = record.ready()
    record.promote(ref)
    assert record.registry.version(ref).stage is Stage.CANARY
    record.registry.abort(POLICY, "wrong gripper")
    assert record.registry.version(ref).stage is Stage.HIL
    assert record.told() == {(None, 1)}
    with pytest.raises(Refused, match="nothing to abort"):
        record.registry.abort(POLICY, "again")


def test_a_class_a_event_rolls_back_at_once(record: Record) -> None:
    record.to_fleet()
    opened = record.promote(record.ready())
    while True:
        told = record.registry.assignment("robot-01")
        assert told is not None
        cohort = opened.rollout.cohort[0]
        report = record.next_report(cohort, "failure", safety_events=("contact_force",))
        assert report is not None
        if report.side == "candidate":
            break
        record.attempt(cohort, "success")
    record.attempt(cohort, "failure", safety_events=("contact_force",))
    evidence = record.registry.canary_evidence(opened.id)
    assert evidence.class_a_events == 1
    ended = record.observe(opened.id)
    assert ended.rollout.phase is Phase.ROLLED_BACK
    assignment = record.registry.assignment(cohort)
    assert assignment is not None
    assert assignment.stop == "now"
