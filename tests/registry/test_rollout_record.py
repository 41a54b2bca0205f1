"""Rollouts in the record: promotion, the canary, waves, stops, going back, and who comes second."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from record import CANARY, CLASS, GATES, POLICY, Record

from registry.errors import (
    Conflict,
    GateFailed,
    Inconclusive,
    NotFound,
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


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path, robots=6)


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
    before = record.registry.check_audit()
    plan = record.promote(ref, dry_run=True)
    assert plan.rollout.phase is Phase.CANARY
    assert len(plan.rollout.cohort) == 4
    assert record.registry.rollouts() == []
    assert record.registry.version(ref).stage is Stage.HIL
    assert record.told() == {(None, None)}
    assert record.registry.check_audit() == before


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


@pytest.mark.slow
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
    events = record.registry.check_audit()
    again, commands = record.registry.advance(opened.id, None, Tick())
    assert (again, commands) == (paused, ())
    assert record.registry.check_audit() == events
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


# -- going back ------------------------------------------------------------------------------------


def test_rollback_with_nothing_to_go_back_to_is_refused(record: Record) -> None:
    with pytest.raises(NotFound, match="no policy"):
        record.registry.rollback(POLICY, "why")
    record.ready()
    with pytest.raises(Refused, match="nothing to go back to"):
        record.registry.rollback(POLICY, "why")
    record.to_fleet()
    with pytest.raises(Refused, match="nothing to go back to"):
        record.registry.rollback(POLICY, "why")


def test_rollback_returns_every_robot_to_the_newest_good_version(record: Record) -> None:
    for _ in range(3):
        record.to_fleet()
    before = {robot.assigned_generation for robot in record.registry.robots()}
    target = record.registry.rollback(POLICY, "drops the red ones", now=True)
    assert target.number == 2
    assert record.told() == {(None, 2)}
    assert record.registry.version(VersionRef(POLICY, 3)).stage is Stage.ROLLED_BACK
    after = {robot.assigned_generation for robot in record.registry.robots()}
    assert min(after) > max(before)
    told = record.registry.assignment("robot-01")
    assert told is not None
    assert (told.stop, told.digests) == ("now", {2: target.digest})
    assert record.registry.rollback(POLICY, "that one too").number == 1


def test_rollback_may_name_its_target_but_never_goes_forward(record: Record) -> None:
    for _ in range(3):
        record.to_fleet()
    new = record.ready()
    with pytest.raises(Refused, match="never held the fleet"):
        record.registry.rollback(POLICY, "why", to=new.number)
    with pytest.raises(Refused, match="already told to run"):
        record.registry.rollback(POLICY, "why", to=3)
    assert record.registry.rollback(POLICY, "why", to=1, dry_run=True).number == 1
    assert record.told() == {(None, 3)}
    assert record.registry.rollback(POLICY, "why", to=1).number == 1
    assert record.told() == {(None, 1)}
    with pytest.raises(Refused, match="stage is rolled_back"):
        record.registry.rollback(POLICY, "why", to=3)
    with pytest.raises(UsageError, match="reason"):
        record.registry.rollback(POLICY, " ")


def test_rollback_ends_an_open_rollout_and_those_that_wait(record: Record) -> None:
    record.to_fleet()
    opened = record.promote(record.ready())
    waiting = record.promote(record.ready(), queue=True)
    assert record.registry.rollback(POLICY, "why").number == 1
    assert record.registry.rollout(opened.id).rollout.phase is Phase.ROLLED_BACK
    assert record.registry.rollout(waiting.id).rollout.phase is Phase.ABORTED
    assert record.told() == {(None, 1)}
    assert record.registry.serving(POLICY) == 1


def test_rollback_out_of_a_rollout_to_an_older_version(record: Record) -> None:
    record.to_fleet()
    record.to_fleet()
    record.promote(record.ready())
    assert record.registry.rollback(POLICY, "both are bad", to=1).number == 1
    assert record.told() == {(None, 1)}
    stages = [version.stage for version in record.registry.list_versions(POLICY)]
    assert stages == [Stage.FLEET, Stage.ROLLED_BACK, Stage.ROLLED_BACK]


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
    events = record.registry.check_audit()
    record.registry.heartbeat("robot-01", 1, 3, {"state": "idle"})
    seen = {robot.name: robot for robot in record.registry.robots()}["robot-01"]
    assert (seen.running, seen.generation, seen.status) == (1, 3, {"state": "idle"})
    assert seen.last_seen == record.clock.now()
    assert record.registry.check_audit() == events
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


# -- always ----------------------------------------------------------------------------------------


class Road(RuleBasedStateMachine):
    """Whatever people, robots and the controller do, in whatever order."""

    @initialize()
    def open(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.record = Record(Path(self.folder.name), robots=5)
        self.generations: dict[str, int] = {}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.record.registry.close()
            self.folder.cleanup()

    def _any(self, data: st.DataObject) -> VersionRef:
        return data.draw(st.sampled_from([v.ref for v in self.record.registry.list_versions()]))

    def _has_versions(self) -> bool:
        return bool(self.record.registry.list_versions())

    @rule()
    def register(self) -> None:
        self.record.register()

    @precondition(_has_versions)
    @rule(data=st.data(), successes=st.sampled_from([40, 100]))
    def sim(self, data: st.DataObject, successes: int) -> None:
        self.record.sim(self._any(data), successes)

    @precondition(_has_versions)
    @rule(data=st.data(), failure=st.sampled_from([0, 0, 10]))
    def hil(self, data: st.DataObject, failure: int) -> None:
        self.record.hil(self._any(data), 20 if not failure else 2, failure)

    @rule()
    def prepare(self) -> None:
        self.record.ready()

    @precondition(_has_versions)
    @rule(data=st.data(), override=st.booleans(), queue=st.booleans())
    def promote(self, data: st.DataObject, override: bool, queue: bool) -> None:
        self._try(
            lambda: self.record.promote(
                self._any(data), override="try again" if override else None, queue=queue
            )
        )

    @rule(good=st.sampled_from([0.3, 1.0]), rounds=st.integers(1, 8))
    def run(self, good: float, rounds: int) -> None:
        rates = {v.number: good for v in self.record.registry.list_versions()}
        for _ in range(rounds):
            self.record.round(rates)
        for open_one in self.record.registry.rollouts(open_only=True):
            if open_one.rollout.open:
                self.record.observe(open_one.id)

    @rule(which=st.sampled_from(["pause", "resume", "abort", "rollback"]))
    def person(self, which: str) -> None:
        registry = self.record.registry
        self._try(
            {
                "pause": lambda: registry.pause(POLICY, "why"),
                "resume": lambda: registry.resume(POLICY),
                "abort": lambda: registry.abort(POLICY, "why"),
                "rollback": lambda: registry.rollback(POLICY, "why"),
            }[which]
        )

    def _try(self, act: Any) -> None:
        audit = self.record.registry.check_audit()
        refusal = None
        try:
            act()
        except PolicyctlError as error:
            refusal = error
        if refusal is not None:
            assert refusal.exit_status in (3, 4, 5, 6)
            assert self.record.registry.check_audit() == audit, "a refusal changed the record"

    @invariant()
    def a_promoted_version_has_passed_every_earlier_gate(self) -> None:
        if not hasattr(self, "record"):
            return
        for version in self.record.registry.list_versions():
            if version.stage in (Stage.CANARY, Stage.FLEET, Stage.ROLLED_BACK):
                passed = {
                    one.verdict.gate
                    for one in self.record.registry.verdicts(version.ref)
                    if one.verdict.outcome is Outcome.PASS
                }
                assert {"sim", "hil"} <= passed
                if version.stage is Stage.FLEET:
                    assert "canary" in passed

    @invariant()
    def generations_only_rise_and_one_rollout_is_open(self) -> None:
        if not hasattr(self, "record"):
            return
        for robot in self.record.registry.robots():
            assert robot.assigned_generation >= self.generations.get(robot.name, 0)
            self.generations[robot.name] = robot.assigned_generation
        rollouts = self.record.registry.rollouts()
        assert sum(one.rollout.open for one in rollouts) <= 1

    @invariant()
    def every_attempt_ran_the_version_of_its_side(self) -> None:
        if not hasattr(self, "record"):
            return
        for one in self.record.registry.rollouts():
            numbers = {"candidate": one.rollout.candidate, "baseline": one.rollout.baseline}
            for report in self.record.registry.attempts(rollout=one.id):
                assert report.version == numbers[report.side]


Road.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestRoad = pytest.mark.slow(Road.TestCase)


def test_observed_evidence_must_be_of_the_rollout(record: Record) -> None:
    record.to_fleet()
    opened = record.promote(record.ready())
    evidence = record.registry.canary_evidence(opened.id)
    verdict = judge(opened.rollout.gate, evidence)
    record.registry.abort(POLICY, "why")
    other = record.promote(record.ready())
    with pytest.raises(Conflict, match="does not belong"):
        record.registry.advance(other.id, other.revision, Observed(evidence, verdict))
