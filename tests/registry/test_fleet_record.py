"""What robots report, what they are told, and the evidence that is counted from it."""

from pathlib import Path
from typing import Any

import pytest
from record import CLASS, POLICY, Record

from registry.errors import (
    NotFound,
    Refused,
)
from registry.evidence import Tally

pytestmark = pytest.mark.slow


@pytest.fixture
def record(tmp_path: Path, database: str | None) -> Record:
    return Record(tmp_path, robots=6, database=database)


# -- robots ----------------------------------------------------------------------------------------


def test_a_robot_enrolled_later_runs_what_the_fleet_runs(record: Record) -> None:
    record.to_fleet()
    record.registry.enrol_robot("late", CLASS, {"role": "robot"})
    told = record.registry.assignment("late")
    assert told is not None
    assert told.baseline == 1
    opened = record.promote(record.ready())
    record.registry.enrol_robot("later", CLASS, {"role": "robot"})
    record.play(opened.id, {1: 1.0, 2: 1.0})
    assert record.told() == {(None, 2)}


def test_a_lab_station_and_another_class_are_no_part_of_the_fleet(record: Record) -> None:
    record.registry.enrol_robot("lab", CLASS, {"role": "lab"})
    record.registry.enrol_robot("left", "openarm-v2-left", {"role": "robot"})
    record.to_fleet()
    assert record.registry.assignment("lab") is None
    assert record.registry.assignment("left") is None
    with pytest.raises(NotFound, match="no robot ghost"):
        record.registry.assignment("ghost")


def test_heartbeats_are_telemetry(record: Record) -> None:
    record.to_fleet()
    events = record.registry.verify_audit().seq
    record.registry.heartbeat("robot-01", 1, 3, {"state": "idle"})
    seen = {robot.name: robot for robot in record.registry.robots()}["robot-01"]
    assert (seen.running, seen.generation, seen.status) == (1, 3, {"state": "idle"})
    assert seen.last_seen == record.clock.now()
    assert record.registry.verify_audit().seq == events
    with pytest.raises(NotFound):
        record.registry.heartbeat("ghost", 1, 3, {})


# -- attempts and evidence -------------------------------------------------------------------------


def test_an_attempt_reported_twice_counts_once(record: Record) -> None:
    opened = record.promote(record.ready())
    robot = opened.rollout.cohort[0]
    report = record.attempt(robot, "success")
    assert report is not None
    assert record.registry.ingest(robot, [report, report]) == 1
    assert record.registry.canary_evidence(opened.id).candidate_total.n == 1
    other = record.next_report(robot, "failure", number=1, index=report.index)
    assert other is not None
    with pytest.raises(Refused, match=f"attempt 1 of {robot}"):
        record.registry.ingest(robot, [other])


def test_the_answer_is_the_highest_number_without_a_gap(record: Record) -> None:
    opened = record.promote(record.ready())
    robot = opened.rollout.cohort[0]
    reports = [record.next_report(robot, "success", number=n, index=n - 1) for n in (1, 2, 3, 4)]
    one, two, three, four = (report for report in reports if report is not None)
    assert record.registry.ingest(robot, [four, two]) == 0
    assert record.registry.ingest(robot, [one]) == 2
    assert record.registry.ingest(robot, [three]) == 4
    assert record.registry.ingest(robot, []) == 4


@pytest.mark.parametrize(
    "lie", ["side", "version", "segment", "generation", "index", "policy", "only"]
)
def test_an_attempt_that_did_not_run_what_was_drawn_never_counts(record: Record, lie: str) -> None:
    record.to_fleet()
    opened = record.promote(record.ready())
    robot = opened.rollout.cohort[0]
    done = record.attempt(robot, "success")
    honest = record.next_report(robot, "success")
    assert done is not None
    assert honest is not None
    other = "baseline" if honest.side == "candidate" else "candidate"
    changes: dict[str, Any] = {
        "side": {"side": other},
        "version": {"version": 3 - honest.version},
        "segment": {"segment": honest.segment + 1},
        "generation": {"generation": honest.generation + 7},
        "index": {"index": done.index, "side": done.side, "version": done.version},
        "policy": {"policy": "pick-place"},
        "only": {"side": "only", "version": 2},
    }[lie]
    before = record.registry.canary_evidence(opened.id)
    report = record.next_report(robot, "success", **changes)
    assert report is not None
    with pytest.raises(Refused, match=f"attempt {report.number} of {robot}"):
        record.registry.ingest(robot, [report])
    assert record.registry.canary_evidence(opened.id) == before


def test_only_complete_blocks_enter_and_a_void_keeps_its_block_out(record: Record) -> None:
    record.to_fleet()
    opened = record.promote(record.ready())
    robot = opened.rollout.cohort[0]
    for outcome in ("success", "failure", "void", "success", "success"):
        record.attempt(robot, outcome)
    (segment,) = record.registry.canary_evidence(opened.id).segments
    (stratum,) = segment.strata
    assert stratum.stratum == f"{robot}/lift"
    assert stratum.candidate.n == stratum.baseline.n == 1
    assert (segment.candidate + segment.baseline) == Tally(3, 1, 1)
    blocks = record.registry.canary_blocks(opened.id)
    assert [(b.candidate + b.baseline) for b in blocks] == [Tally(1, 1, 0)]


def test_the_ratio_of_complete_blocks_is_exact_whatever_is_reported(record: Record) -> None:
    record.to_fleet()
    opened = record.promote(record.ready())
    for _ in range(40):
        record.attempt(record.random.choice(opened.rollout.cohort), "success")
        for segment in record.registry.canary_evidence(opened.id).segments:
            for stratum in segment.strata:
                assert stratum.candidate.n == stratum.baseline.n


def test_a_candidate_place_passed_over_is_outstanding(record: Record) -> None:
    opened = record.promote(record.ready())
    robot = opened.rollout.cohort[0]
    report = record.next_report(robot, "success", index=2)
    assert report is not None
    record.registry.ingest(robot, [report])
    assert record.registry.canary_evidence(opened.id).outstanding == 2


def test_a_robot_that_fell_silent_in_a_candidate_attempt_is_outstanding(record: Record) -> None:
    opened = record.promote(record.ready())
    robot = opened.rollout.cohort[0]
    status = {"open_attempt": {"number": 1, "side": "candidate"}}
    record.registry.heartbeat(robot, 1, opened.rollout.generation, status)
    assert record.registry.canary_evidence(opened.id).outstanding == 0
    record.clock.time += 301.0
    assert record.registry.canary_evidence(opened.id).outstanding == 1
    record.attempt(robot, "failure")
    assert record.registry.canary_evidence(opened.id).outstanding == 0


def test_late_reports_of_a_paused_segment_still_count(record: Record) -> None:
    record.to_fleet()
    opened = record.promote(record.ready())
    robot = opened.rollout.cohort[0]
    report = record.next_report(robot, "success")
    assert report is not None
    record.registry.pause(POLICY, "look")
    record.registry.ingest(robot, [report])
    evidence = record.registry.canary_evidence(opened.id)
    assert (evidence.candidate_total + evidence.baseline_total).n == 1
