"""What nobody talks the record into: forged or stale evidence, ways forward that look like ways
back, and events that would keep a robot from being called back."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from record import HIL, POLICY, SIM, Record, write_files

from registry.errors import Refused
from registry.rollouts import Observed, Phase, step
from registry.stages import Stage
from registry.statistics.grid import order_digest
from registry.verdicts import Outcome, judge
from registry.versions import Provenance, VersionRef

pytestmark = pytest.mark.slow

BIMANUAL = "openarm-v2-bimanual"


@pytest.fixture
def record(tmp_path: Path, database: str | None) -> Record:
    return Record(tmp_path, robots=6, database=database)


def test_an_order_that_the_registry_did_not_draw_is_refused(record: Record) -> None:
    ref = record.register()
    found = record.evidence(ref, SIM, successes=100)
    chosen = replace(found, nonce="lucky", order_digest=order_digest("lucky", SIM.population))
    with pytest.raises(Refused, match="order that the registry chose"):
        record.registry.record_verdict(ref, SIM, chosen, judge(SIM, chosen))
    assert record.registry.version(ref).stage is Stage.REGISTERED
    assert record.registry.verdicts(ref) == []


def test_evidence_of_another_robot_class_is_refused(record: Record) -> None:
    ref = record.register()
    found = replace(record.evidence(ref, HIL, success=20, failure=0), robot_class=BIMANUAL)
    with pytest.raises(Refused, match="robot class"):
        record.registry.record_verdict(ref, HIL, found, judge(HIL, found))


def test_going_back_to_the_version_under_trial_would_be_going_forward(record: Record) -> None:
    record.to_fleet()
    record.to_fleet()
    record.registry.rollback(POLICY, "v2 drops boxes")
    again = record.promote(VersionRef(POLICY, 2), override="try again", reason="try again")
    with pytest.raises(Refused, match="not a version to go back to"):
        record.registry.rollback(POLICY, "the wrong number", to=2)
    assert record.registry.serving(POLICY) == 1
    assert record.registry.rollout(again.id).rollout.phase is Phase.CANARY


def class_a_in_the_candidate(record: Record, robot: str) -> None:
    """Attempts of a robot until one of the candidate ends with a class A event."""
    while (report := record.next_report(robot, "success")) is not None:
        if report.side == "candidate":
            break
        record.attempt(robot, "success")
    record.attempt(robot, "failure", safety_events=("contact_force",))


def test_a_stop_reaches_robots_though_the_next_rollout_opens_at_once(record: Record) -> None:
    record.to_fleet()
    opened = record.promote(record.ready())
    waiting = record.promote(record.ready(), queue=True)
    class_a_in_the_candidate(record, opened.rollout.cohort[0])
    assert record.observe(opened.id).rollout.phase is Phase.ROLLED_BACK
    following = record.registry.rollout(waiting.id).rollout
    assert following.phase is Phase.CANARY
    for robot in following.robots:
        told = record.registry.assignment(robot)
        assert told is not None
        assert told.generation == following.generation
        assert told.stop == "now"
        record.registry.heartbeat(robot, told.baseline, told.generation, {})
    record.registry.abort(POLICY, "why")
    for robot in following.robots:
        told = record.registry.assignment(robot)
        assert told is not None
        assert told.stop == "", "a stop that was heard is not said again"


def test_a_forged_verdict_moves_nothing(record: Record) -> None:
    record.to_fleet()
    opened = record.promote(record.ready())
    evidence = record.registry.canary_evidence(opened.id)
    forged = replace(judge(opened.rollout.gate, evidence), outcome=Outcome.PASS)
    after, commands = record.registry.advance(
        opened.id, opened.revision, Observed(evidence, forged)
    )
    assert (after.rollout.phase, commands) == (Phase.CANARY, ())


def test_what_arrives_between_the_look_and_the_decision_counts(record: Record) -> None:
    record.to_fleet()
    opened = record.promote(record.ready())
    while True:
        record.round({1: 1.0, 2: 1.0})
        seen = record.registry.rollout(opened.id)
        evidence = record.registry.canary_evidence(opened.id)
        event = Observed(evidence, judge(seen.rollout.gate, evidence))
        if step(seen.rollout, event, record.clock.now())[0].phase is Phase.DONE:
            break
        record.registry.advance(opened.id, seen.revision, event)
    for robot in seen.rollout.robots:
        class_a_in_the_candidate(record, robot)
    after, _ = record.registry.advance(opened.id, seen.revision, event)
    assert after.rollout.phase is Phase.ROLLED_BACK
    assert record.registry.serving(POLICY) == 1


def ready_for(record: Record, robot_class: str, policy: str, seed: int) -> VersionRef:
    """A version for a robot class that has passed both gates."""
    folder = write_files(record.folder / f"checkpoint-{seed}", seed)
    contract = {"robot_class": robot_class, "task": "box-grasp"}
    (folder / "contract.json").write_text(json.dumps(contract))
    ref = record.registry.register(folder, policy, Provenance(commit=f"c{seed}")).version.ref
    for found in (
        record.evidence(ref, SIM, successes=100),
        record.evidence(ref, HIL, success=20, failure=0),
    ):
        gate = SIM if found.gate_digest == SIM.digest else HIL
        seen = replace(found, robot_class=robot_class)
        record.registry.record_verdict(ref, gate, seen, judge(gate, seen))
    return ref


def test_a_version_for_another_robot_class_is_not_compared_with_what_the_fleet_runs(
    record: Record,
) -> None:
    record.to_fleet()
    record.registry.enrol_robot("bimanual-01", BIMANUAL, {"role": "robot"})
    ref = ready_for(record, BIMANUAL, POLICY, seed=77)
    with pytest.raises(Refused, match="another robot class"):
        record.promote(ref)
    assert record.registry.assignment("bimanual-01") is None
    own = ready_for(record, BIMANUAL, "two-hands", seed=78)
    assert record.promote(own).rollout.robots == ("bimanual-01",)


def test_a_rollout_that_cannot_open_does_not_keep_the_one_before_it_from_ending(
    record: Record,
) -> None:
    record.registry.enrol_robot("bimanual-01", BIMANUAL, {"role": "robot"})
    first = record.promote(record.ready())
    waiting = record.promote(ready_for(record, BIMANUAL, POLICY, seed=77), queue=True)
    record.promote(ready_for(record, BIMANUAL, "two-hands", seed=78))  # takes the only such robot
    assert record.registry.abort(POLICY, "it shakes").rollout.phase is Phase.ABORTED
    assert record.registry.rollout(first.id).rollout.phase is Phase.ABORTED
    left = record.registry.rollout(waiting.id).rollout
    assert left.phase is Phase.ABORTED
    assert "could not open" in left.reason


def test_a_first_version_is_called_back_by_aborting_it_and_the_refusal_says_so(
    record: Record,
) -> None:
    record.promote(record.ready())
    with pytest.raises(Refused, match="nothing to go back to") as caught:
        record.registry.rollback(POLICY, "it shakes")
    assert "policyctl abort" in caught.value.hint
    record.registry.abort(POLICY, "it shakes")
    assert record.told() == {(None, None)}


def test_abort_now_reaches_robots_also_when_the_next_rollout_opens_at_once(record: Record) -> None:
    """Its document is the only one that a robot which polls late will hear."""
    record.to_fleet()
    record.promote(record.ready())
    record.promote(record.ready(), queue=True)
    record.registry.abort(POLICY, "it shakes", now=True)
    told = [record.registry.assignment(robot.name) for robot in record.registry.robots()]
    assert {document.stop for document in told if document} == {"now"}
    assert {document.baseline for document in told if document} == {1}
    assert 3 in {document.candidate for document in told if document}
