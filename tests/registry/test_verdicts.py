"""judge(): three gates, three answers, numbers behind each, and when it refuses to answer."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import Refused
from registry.evidence import (
    CanaryEvidence,
    GridEvidence,
    Segment,
    StratumCounts,
    Subject,
    Tally,
    TrialEvidence,
)
from registry.gates import CanaryGate, GridGate, TrialGate, Weights
from registry.statistics.grid import order_digest
from registry.verdicts import Outcome, Verdict, judge

GRID = GridGate("box-grasp", {"friction": (0.3, 0.5), "mass": (1.0,)}, episodes_per_cell=100)
TRIALS = TrialGate("hil/lift.yaml")
CANARY = CanaryGate(ratio=Fraction(1, 2), weights=Weights(history=(99, 1)))


def common(gate: GridGate | TrialGate | CanaryGate) -> dict[str, Any]:
    return {
        "subject": Subject("box-grasp", 4, "sha256:" + "1" * 64),
        "gate_digest": gate.digest,
        "robot_class": "openarm-v2-right",
        "engine": "exact",
        "judge": "exact",
        "attempts_digest": "sha256:" + "3" * 64,
    }


def grid_evidence(drawn: int, successes: int, gate: GridGate = GRID) -> GridEvidence:
    return GridEvidence(
        **common(gate),
        population=gate.population,
        drawn=drawn,
        successes=successes,
        nonce="nonce",
        order_digest=order_digest("nonce", gate.population),
    )


def trial_evidence(success: int, failure: int, void: int = 0) -> TrialEvidence:
    return TrialEvidence(**common(TRIALS), success=success, failure=failure, void=void)


def canary_evidence_of(
    candidate: Tally,
    baseline: Tally | None,
    *,
    gate: CanaryGate = CANARY,
    void: tuple[int, int] = (0, 0),
    outstanding: int = 0,
    class_a_events: int = 0,
) -> CanaryEvidence:
    """One stratum of complete blocks, plus void attempts outside them."""
    if baseline is None:
        closed = replace(candidate, void=void[0])
        segment = Segment(0, 1, 1, (StratumCounts("r1/lift", candidate, Tally()),), closed)
    else:
        segment = Segment(
            0,
            gate.ratio.numerator,
            gate.ratio.denominator,
            (StratumCounts("r1/lift", candidate, baseline),),
            replace(candidate, void=void[0]),
            replace(baseline, void=void[1]),
        )
    return CanaryEvidence(
        **common(gate),
        rollout="r1",
        baseline=None if baseline is None else 1,
        segments=(segment,),
        outstanding=outstanding,
        class_a_events=class_a_events,
        weights_digest=gate.weights.digest,
    )


def test_sim_passes_fails_and_says_how_many_more() -> None:
    passed = judge(GRID, grid_evidence(80, 79))
    failed = judge(GRID, grid_evidence(40, 20))
    undecided = judge(GRID, grid_evidence(10, 10))
    assert (passed.outcome, failed.outcome) == (Outcome.PASS, Outcome.FAIL)
    assert undecided.outcome is Outcome.INCONCLUSIVE
    assert undecided.more
    more = undecided.more
    assert judge(GRID, grid_evidence(10 + more, 10 + more)).outcome is Outcome.PASS
    assert passed.numbers["needed"] == 171
    assert passed.numbers["pass_e"] >= passed.numbers["threshold_e"]


def test_sim_refuses_episodes_in_another_order() -> None:
    evidence = grid_evidence(80, 79)
    with pytest.raises(Refused, match="nonce"):
        judge(GRID, replace(evidence, nonce="chosen by the author"))
    with pytest.raises(Refused, match="full run"):
        judge(GRID, replace(evidence, population=199))


def test_hil_follows_the_boundary() -> None:
    assert judge(TRIALS, trial_evidence(11, 0)).outcome is Outcome.PASS
    assert judge(TRIALS, trial_evidence(0, 2)).outcome is Outcome.FAIL
    undecided = judge(TRIALS, trial_evidence(5, 0))
    assert (undecided.outcome, undecided.more) == (Outcome.INCONCLUSIVE, 6)
    assert judge(TRIALS, trial_evidence(42, 8)).outcome is Outcome.PASS
    assert judge(TRIALS, trial_evidence(41, 9)).outcome is Outcome.FAIL


def test_too_many_void_trials_leave_it_undecided_until_there_is_no_room() -> None:
    verdict = judge(TRIALS, trial_evidence(11, 0, void=3))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "void" in verdict.reason
    assert (verdict.more, verdict.final) == (1, False)
    assert judge(TRIALS, trial_evidence(12, 0, void=3)).outcome is Outcome.PASS
    late = judge(TRIALS, trial_evidence(45, 5, void=13))
    assert (late.outcome, late.final, late.more) == (Outcome.INCONCLUSIVE, True, None)


def test_canary_rolls_back_promotes_and_waits() -> None:
    worse = judge(CANARY, canary_evidence_of(Tally(5, 7), Tally(12, 0)))
    assert worse.outcome is Outcome.FAIL
    assert worse.numbers["rollback_e"] >= 20
    assert worse.numbers["block_candidate_failure"] == 7
    equal = judge(CANARY, canary_evidence_of(Tally(32, 0), Tally(32, 0)))
    assert equal.outcome is Outcome.PASS
    waiting = judge(CANARY, canary_evidence_of(Tally(31, 0), Tally(31, 0)))
    assert waiting.outcome is Outcome.INCONCLUSIVE
    assert waiting.more == 1
    nothing = judge(CANARY, canary_evidence_of(Tally(), Tally()))
    assert (nothing.outcome, nothing.more) == (Outcome.INCONCLUSIVE, None)
    assert nothing.numbers["rollback_e"] == pytest.approx(1.0)


def test_outstanding_attempts_hold_a_promotion_and_never_a_rollback() -> None:
    assert (
        judge(CANARY, canary_evidence_of(Tally(32, 0), Tally(32, 0), outstanding=1)).outcome
        is Outcome.INCONCLUSIVE
    )
    assert (
        judge(CANARY, canary_evidence_of(Tally(5, 7), Tally(12, 0), outstanding=5)).outcome
        is Outcome.FAIL
    )


def test_a_class_a_event_fails_whatever_else_is_true() -> None:
    fine = canary_evidence_of(Tally(60, 0), Tally(60, 0), class_a_events=1)
    first = canary_evidence_of(Tally(60, 0), None, class_a_events=1)
    assert judge(CANARY, fine).outcome is Outcome.FAIL
    assert judge(CANARY, first).outcome is Outcome.FAIL


def test_void_attempts_forbid_a_canary_decision() -> None:
    many = judge(CANARY, canary_evidence_of(Tally(40, 0), Tally(40, 0), void=(15, 15)))
    assert many.outcome is Outcome.INCONCLUSIVE
    assert "30 of 110" in many.reason
    differing = judge(CANARY, canary_evidence_of(Tally(40, 0), Tally(40, 0), void=(12, 0)))
    assert differing.outcome is Outcome.INCONCLUSIVE
    assert "differ between the sides" in differing.reason
    assert not differing.final
    equal = judge(CANARY, canary_evidence_of(Tally(40, 0), Tally(40, 0), void=(6, 6)))
    assert equal.outcome is Outcome.PASS
    worse = judge(CANARY, canary_evidence_of(Tally(5, 7), Tally(12, 0), void=(0, 9)))
    assert (worse.outcome, worse.final) == (Outcome.INCONCLUSIVE, True)


def test_the_first_version_is_judged_alone() -> None:
    assert judge(CANARY, canary_evidence_of(Tally(11, 0), None)).outcome is Outcome.PASS
    assert judge(CANARY, canary_evidence_of(Tally(0, 2), None)).outcome is Outcome.FAIL
    lost = judge(CANARY, canary_evidence_of(Tally(11, 0), None, outstanding=1))
    assert lost.outcome is Outcome.INCONCLUSIVE
    # Long after it has passed, a version of 92 % is not failed by the count of its failures.
    assert judge(CANARY, canary_evidence_of(Tally(138, 12), None)).outcome is Outcome.PASS
    assert judge(CANARY, canary_evidence_of(Tally(100, 50), None)).outcome is Outcome.FAIL


def test_evidence_of_another_gate_is_never_judged() -> None:
    with pytest.raises(Refused, match="not gathered under"):
        judge(replace(TRIALS, max_trials=40), trial_evidence(11, 0))
    with pytest.raises(Refused, match="cannot judge"):
        judge(TRIALS, replace(grid_evidence(1, 1), gate_digest=TRIALS.digest))
    with pytest.raises(Refused, match="weights"):
        judge(CANARY, replace(canary_evidence_of(Tally(), Tally()), weights_digest=""))


def test_a_verdict_names_what_it_judged_and_survives_its_json() -> None:
    evidence = trial_evidence(11, 0)
    verdict = judge(TRIALS, evidence)
    assert (verdict.evidence, verdict.gate_digest) == (evidence.digest, TRIALS.digest)
    assert Verdict.from_json(verdict.to_json()) == verdict


@given(st.integers(0, 40), st.integers(0, 40), st.data())
@settings(max_examples=60)
def test_the_same_integers_always_give_the_same_verdict_and_one_more_failure_never_helps(
    n: int, lost: int, data: st.DataObject
) -> None:
    xc, xk = data.draw(st.integers(0, n)), data.draw(st.integers(0, n))
    evidence = canary_evidence_of(Tally(xc, n - xc), Tally(xk, n - xk), outstanding=lost)
    verdict = judge(CANARY, evidence)
    assert verdict == judge(CANARY, evidence)
    rank = {Outcome.FAIL: 0, Outcome.INCONCLUSIVE: 1, Outcome.PASS: 2}
    if xc:
        worse = canary_evidence_of(Tally(xc - 1, n - xc + 1), Tally(xk, n - xk), outstanding=lost)
        assert rank[judge(CANARY, worse).outcome] <= rank[verdict.outcome]
