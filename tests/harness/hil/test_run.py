"""A whole run: the gate ends it, the technician errs, the bench breaks, the stock runs out."""

import pytest
from hil_bench import SUBJECT, SUITE, Bench, ScriptedRobot

from harness.hil.model import InfraCode
from harness.hil.prompts.broker import Broker, Unanswered
from harness.hil.prompts.scripted import Act, in_turn, moody
from registry.errors import Interrupted, Refused, ServiceFailed
from registry.evidence import Subject
from registry.verdicts import Outcome


def states(records, attempt):
    return [r.data["state"] for r in records if r.kind == "edge" and r.data["attempt"] == attempt]


def test_a_perfect_policy_passes_after_eleven_trials_with_every_edge_in_order(bench):
    result = bench.go()
    assert result.verdict.outcome is Outcome.PASS
    assert (result.evidence.success, result.evidence.failure, result.evidence.void) == (11, 0, 0)
    assert states(bench.records, 1) == [
        "leased", "reset", "verify_scene", "policy_reset", "start_pose", "armed", "run", "judge",
        "evidence", "record",
    ]  # fmt: skip
    assert bench.policy.resets == 2 * 11
    assert sorted(tally.n for _, tally in result.evidence.tasks) == [3, 4, 4]


def test_a_hopeless_policy_fails_after_two_trials(tmp_path):
    bench = Bench(tmp_path, ScriptedRobot(lifts_at=lambda n: False))
    result = bench.go()
    assert result.verdict.outcome is Outcome.FAIL
    assert [a.mode for a in result.attempts] == ["miss_grasp"] * 2


def test_a_finished_run_answers_again_without_touching_the_arm(bench):
    first = bench.go()
    moved, size = len(bench.robot.moves), bench.journal.stat().st_size
    again = bench.go()
    assert again.evidence == first.evidence
    assert again.verdict == first.verdict
    assert len(bench.robot.moves) == moved
    assert bench.journal.stat().st_size == size


def test_the_scene_is_asked_for_again_after_a_wrong_done(bench):
    bench.technician.script = in_turn([Act("wrong"), Act("wrong")])
    result = bench.go()
    assert result.verdict.outcome is Outcome.PASS
    asked = [r for r in bench.records if r.kind == "prompt"]
    assert [r.data["revision"] for r in asked[:3]] == [1, 2, 3]
    assert "Not ready yet: the object is" in asked[1].data["detail"]
    assert result.evidence.void == 0


def test_a_technician_who_never_gets_it_right_makes_the_trial_void_and_then_the_bench_broken(bench):
    bench.technician.script = lambda prompt: Act("wrong")
    result = bench.go()
    voids = [a for a in result.attempts if a.outcome == "void"]
    assert [a.mode for a in voids] == [InfraCode.SCENE] * 3
    assert result.broken
    assert result.verdict.outcome is Outcome.INCONCLUSIVE


def test_nobody_answers_and_the_run_waits_for_a_person_instead_of_deciding(bench):
    bench.technician.script = in_turn([Act(), Act("silence")])
    with pytest.raises(Unanswered) as error:
        bench.go()
    assert error.value.exit_status == 8
    levels = [r.data["level"] for r in bench.records if r.kind == "escalated"]
    assert levels == ["sound", "message", "pause"]
    times = [r.t for r in bench.records if r.kind == "escalated"]
    asked = [r.t for r in bench.records if r.kind == "prompt"][-1]
    assert [round(t - asked) for t in times] == [30, 120, 600]
    assert bench.robot.held
    result = bench.go()
    assert result.verdict.outcome is Outcome.PASS
    assert result.evidence.void == 0, "an attempt put down in good order goes on"
    assert [a.number for a in result.attempts] == list(range(1, 12))


def test_an_answer_that_comes_after_the_pause_is_refused(bench):
    bench.technician.script = in_turn([Act(after_s=603.0)])
    with pytest.raises(Unanswered):
        bench.go()
    result = bench.go()
    stale = [r for r in bench.records if r.kind == "refused"]
    assert [r.data["why"] for r in stale] == ["stale"]
    assert result.verdict.outcome is Outcome.PASS


def test_a_moody_technician_costs_time_but_no_trial(bench):
    bench.technician.script = moody(5, late=0.3, wrong=0.3)
    result = bench.go()
    assert result.verdict.outcome is Outcome.PASS
    assert result.evidence.void == 0
    assert any(r.kind == "escalated" for r in bench.records)


def test_a_reported_problem_is_the_rigs(bench):
    bench.technician.script = in_turn([Act("problem", note="the table leg broke")])
    result = bench.go()
    void = [a for a in result.attempts if a.outcome == "void"]
    assert [(a.mode, a.why) for a in void] == [(InfraCode.RESET, "the table leg broke")]


def test_a_robot_that_cannot_reset_itself_three_times_hands_over_to_the_technician(bench):
    bench.robot.resets_fail = 3
    result = bench.go()
    edges = [r.data for r in bench.records if r.data.get("state") == "reset"]
    first = next(e["attempt"] for e in edges if e["task"] == "self-reset")
    assert [e["hook"] for e in edges if e["attempt"] == first] == ["robot"] * 3 + ["technician"]
    assert result.evidence.void == 0


def test_an_empty_stock_refuses_before_anybody_is_asked_and_goes_on_after_restocking(tmp_path):
    bench = Bench(tmp_path, suite=SUITE.replace("initial: 50", "initial: 1"))
    with pytest.raises(Refused, match="0 bag left"):
        bench.go()
    from harness.hil.hooks.stock import StockFile

    stock = StockFile(bench.journal.with_name("stock.json"))
    stock.set("bag", 9)
    result = bench.go()
    assert result.verdict.outcome is Outcome.PASS
    assert result.evidence.void == 0
    fresh = dict(result.evidence.tasks)["fresh"].n
    assert stock.count("bag") == 9 - (fresh - 1)


def test_a_broken_bench_stays_broken_until_somebody_says_by_name_that_it_is_repaired(tmp_path):
    robot = ScriptedRobot(rig_at=lambda n: ("run", InfraCode.BUS) if n == 2 else None)
    bench = Bench(tmp_path, robot)
    result = bench.go()
    assert "E_BUS" in result.broken
    assert result.verdict.outcome is Outcome.INCONCLUSIVE
    assert len(result.attempts) == 3
    assert robot.held
    with pytest.raises(ServiceFailed, match="broken"):
        bench.go()
    result = bench.go(repaired="Ada replaced the cable")
    assert result.verdict.outcome is Outcome.PASS
    assert (result.evidence.success, result.evidence.void) == (11, 1)


def test_too_many_voids_are_never_a_pass(tmp_path):
    robot = ScriptedRobot(rig_at=lambda n: ("run", InfraCode.POSE) if n % 2 else None)
    bench = Bench(tmp_path, robot)
    result = bench.go()
    assert result.verdict.outcome is Outcome.INCONCLUSIVE
    assert result.evidence.void > 0.2 * result.evidence.tally.total


def test_a_journal_is_refused_to_another_version(bench):
    bench.go()
    with pytest.raises(Refused, match="another run") as error:
        bench.go(subject=Subject("lift", 4, "sha256:" + "4" * 64))
    assert "subject" in error.value.evidence


def test_a_suite_is_refused_to_another_robot_class(bench):
    bench.robot.robot_class = "other"
    with pytest.raises(Refused, match="bench-arm"):
        bench.go()


def test_truth_scores_the_judge_and_never_decides(bench):
    bench.robot.knows_truth = "failure"
    result = bench.go()
    assert result.verdict.outcome is Outcome.PASS
    assert result.judge_agreement.compared == 11
    assert result.judge_agreement.false_success == 11


def test_a_share_of_trials_is_audited_by_a_person_who_changes_nothing(tmp_path):
    bench = Bench(tmp_path, suite="audit_fraction: 1.0\n" + SUITE)
    bench.technician.eyes = lambda prompt: "failure"
    result = bench.go()
    assert result.verdict.outcome is Outcome.PASS
    assert result.audit_agreement.compared == 11
    assert result.audit_agreement.agreed == 0


def test_a_silent_auditor_stops_nothing(tmp_path):
    bench = Bench(tmp_path, suite="audit_fraction: 1.0\n" + SUITE)
    bench.technician.script = lambda p: Act("silence") if p.question.kind == "audit" else Act()
    result = bench.go()
    assert result.verdict.outcome is Outcome.PASS
    assert result.audit_agreement.compared == 0


def test_where_a_technician_judges_silence_waits_and_the_episode_is_kept(tmp_path):
    suite = SUITE.replace("judge: bench", "judge: technician")
    bench = Bench(tmp_path, suite=suite)
    silent = in_turn([Act("silence")])
    bench.technician.script = lambda p: silent(p) if p.question.kind == "judge" else Act()
    with pytest.raises(Unanswered):
        bench.go()
    moved = len(bench.robot.moves)
    answered = []
    bench.technician.script = lambda p: (answered.append((p.id, p.revision)), Act())[1]
    result = bench.go()
    assert answered[0] == ("1-judge", 2), "the question is asked again before anything else"
    assert result.verdict.outcome is Outcome.PASS
    assert len(bench.robot.moves) == moved + 10 * 5


def test_a_stop_at_the_station_after_arming_is_a_failure(bench):
    pressed = []
    bench.stop_requested = lambda: bool(pressed)
    bench.robot.on_step = lambda step: pressed.append(1) if step == 3 else None
    with pytest.raises(Interrupted) as error:
        bench.go()
    assert error.value.exit_status == 130
    assert bench.robot.held
    pressed.clear()
    bench.robot.on_step = lambda step: None
    result = bench.go()
    assert result.attempts[0].mode == "operator_stop"
    assert [a.outcome for a in result.attempts[:2]] == ["failure", "success"]


def test_a_stop_before_arming_costs_no_trial(bench):
    pressed = []
    bench.stop_requested = lambda: bool(pressed)

    def press(prompt):
        pressed.append(1)
        return Act()

    bench.technician.script = press
    with pytest.raises(Interrupted):
        bench.go()
    pressed.clear()
    bench.technician.script = lambda prompt: Act()
    result = bench.go()
    assert (result.evidence.success, result.evidence.failure, result.evidence.void) == (11, 0, 0)


def test_a_run_nobody_can_answer_does_not_start(bench):
    from registry.errors import UsageError

    with pytest.raises(UsageError, match="nobody can answer"):
        bench.go(broker=Broker([], bench.clock))
    assert not bench.robot.moves


def test_a_journal_written_by_another_process_is_refused(bench):
    from harness.hil.journal import Journal

    other = Journal(bench.journal, bench.clock)
    with pytest.raises(Refused, match="another process"):
        bench.go()
    other.close()
    assert bench.go().verdict.outcome is Outcome.PASS


def test_prompts_never_name_the_version(bench):
    bench.go()
    for record in bench.records:
        if record.kind == "prompt":
            assert SUBJECT.policy + " v" not in str(record.data)
            assert SUBJECT.digest not in str(record.data)
