"""The rule book of decisions: `judge(gate, evidence) -> Verdict`. Values in, values out.

1. A verdict is computed from the integers of the evidence and the numbers of the gate, nothing
   else; the same evidence always gives the same verdict. The statistics are in
   `registry/statistics`, each valid however often one looks.
2. Three answers. INCONCLUSIVE is not a failure: the evidence does not decide yet. `more` estimates
   how many further episodes (draws, trials, candidate episodes) would decide if they went like
   those seen; None where nothing can be said. `final` says that going on would not help.
3. Void attempts enter no rate. Where they are more than the gate's share of all, or differ between
   the sides (two-sided exact test, 1 %), the answer is inconclusive instead of pass or fail.
   A class A safety event fails at once, whatever else is true.
4. sim, in `registry/grid_verdict.py`: FAIL when the hypergeometric test denies "more than
   `threshold` of the full run succeed", or the version is proven worse than the fleet's on the same
   scenes, or a cell is proven below the floor; PASS when the first is shown and the version is
   proven less than the margin worse, wherever that was asked and there was a baseline.
5. hil: truncated sequential binomial test, looked at after every trial.
6. canary with a baseline: FAIL (roll back) when the stratified mixture e-value over complete
   blocks reaches 1/alpha; PASS (promote) when the non-inferiority e-value of the pooled blocks
   reaches 1/promote_alpha with every outstanding candidate attempt counted as a failed block.
   Inferiority is asked first. Every segment counts at its own ratio inside one mixture.
7. canary without a baseline: the `absolute` test over all closed candidate attempts, outstanding
   ones counted as failures for PASS. Past `max_trials`, as in the waves after it has passed, its
   last bound holds as a rate. The ceiling on lesser safety events (Gamma-Poisson) is not computed
   yet: only class A events stop a rollout.
8. Evidence that was not gathered under this gate (its digest differs) is never judged.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, comb, log

from registry.errors import Refused
from registry.evidence import CanaryEvidence, Evidence, GridEvidence, Tally, TrialEvidence
from registry.gates import CanaryGate, Gate, GridGate, TrialGate
from registry.grid_verdict import judge_grid
from registry.verdict_values import Number, Outcome, Verdict, shown_e, verdict_on

__all__ = ["Number", "Outcome", "Verdict", "judge"]

VOIDS_DIFFER = 0.01  # significance at which the void shares of the two sides are called different


def judge(gate: Gate, evidence: Evidence) -> Verdict:
    """The verdict on a snapshot. Refused where the evidence was not gathered under this gate."""
    if evidence.gate_digest != gate.digest:
        raise Refused(
            f"the evidence was not gathered under this {gate.name} gate",
            evidence=f"gate {gate.digest}, evidence {evidence.gate_digest}",
            hint="run the gate again, or judge by the gate that the evidence names",
        )
    match gate, evidence:
        case GridGate(), GridEvidence():
            return judge_grid(gate, evidence)
        case TrialGate(), TrialEvidence():
            return _judge_trials(gate, evidence)
        case CanaryGate(), CanaryEvidence():
            return _judge_canary(gate, evidence)
    raise Refused(
        f"the {gate.name} gate cannot judge this kind of evidence",
        evidence=type(evidence).__name__,
    )


def _judge_trials(gate: TrialGate, evidence: TrialEvidence) -> Verdict:
    from registry.statistics import trials

    plan = trials.plan(gate.test)
    n, failures, void = evidence.tally.n, evidence.failure, evidence.void
    accept, reject = plan.boundary(n)
    numbers: dict[str, Number] = {
        "trials": n,
        "success": evidence.success,
        "failure": failures,
        "void": void,
        "pass_at_failures": accept,
        "fail_at_failures": reject,
        "max_trials": gate.max_trials,
    }
    seen = f"{evidence.success} of {n} trials succeeded, {void} void"
    answer = plan.decide(n, failures)
    if answer is None:
        more = trials.more_trials(plan, n, failures)
        return verdict_on(gate, evidence, Outcome.INCONCLUSIVE, seen, numbers, more)
    trouble = _void_trouble(gate.max_void_fraction, evidence.tally)
    if trouble:
        # More sound trials would bring the share of void ones down, if there is room for them.
        share = Fraction(str(gate.max_void_fraction))
        more = max(ceil(void * (1 - share) / share) - n, 1) if share else 0
        final = not share or n + more > gate.max_trials
        reason = f"{trouble}: {seen}"
        return verdict_on(
            gate, evidence, Outcome.INCONCLUSIVE, reason, numbers, None if final else more, final
        )
    bound = f"{'≤' if answer else '≥'} {accept if answer else reject}"
    reason = f"{failures} failures {bound} after {n} trials: {seen}"
    return verdict_on(gate, evidence, Outcome.PASS if answer else Outcome.FAIL, reason, numbers)


def _judge_canary(gate: CanaryGate, evidence: CanaryEvidence) -> Verdict:
    if evidence.weights_digest != gate.weights.digest:
        raise Refused(
            "the evidence names other weights than the gate froze",
            evidence=f"gate {gate.weights.digest}, evidence {evidence.weights_digest or 'none'}",
        )
    numbers = _canary_counts(evidence)
    if evidence.class_a_events:
        reason = f"{evidence.class_a_events} class A safety events in candidate attempts"
        return verdict_on(gate, evidence, Outcome.FAIL, reason, numbers)
    if evidence.baseline is None:
        return _judge_absolute(gate, evidence, numbers)
    return _judge_comparison(gate, evidence, numbers)


def _judge_comparison(
    gate: CanaryGate, evidence: CanaryEvidence, numbers: dict[str, Number]
) -> Verdict:
    from registry.statistics import canary

    strata = canary.strata_of(evidence.segments)
    tables = [table for of_stratum in strata.values() for table in of_stratum]
    controls = float((1 - gate.ratio) / gate.ratio)
    worse = canary.log_rollback(strata, gate.weights)
    lost = evidence.outstanding
    sound = canary.log_promote(tables, gate.weights, gate.margin, lost, controls)
    nc, xc, nk, xk = (int(sum(column)) for column in zip(*tables, strict=True)) if tables else (
        0, 0, 0, 0,
    )  # fmt: skip
    numbers |= {
        "block_candidate_success": xc,
        "block_candidate_failure": nc - xc,
        "block_baseline_success": xk,
        "block_baseline_failure": nk - xk,
        "strata": len(strata),
        "rollback_e": shown_e(worse),
        "rollback_threshold": 1 / gate.alpha,
        "promote_e": shown_e(sound),
        "promote_threshold": 1 / gate.promote_alpha,
        "margin": gate.margin,
    }
    seen = f"candidate {xc} of {nc}, baseline {xk} of {nk} in complete blocks"
    trouble = _void_trouble(
        gate.max_void_fraction, evidence.candidate_total, evidence.baseline_total
    )
    if worse >= log(1 / gate.alpha):
        reason = (
            f"worse than the baseline, e-value {shown_e(worse):.3g} ≥ {1 / gate.alpha:g}: {seen}"
        )
        if trouble:
            reason = f"{trouble}; {reason}"
            return verdict_on(gate, evidence, Outcome.INCONCLUSIVE, reason, numbers, final=True)
        return verdict_on(gate, evidence, Outcome.FAIL, reason, numbers)
    if sound >= log(1 / gate.promote_alpha):
        reason = (
            f"at most {gate.margin:g} worse than the baseline, "
            f"e-value {shown_e(sound):.3g} ≥ {1 / gate.promote_alpha:g}: {seen}"
        )
        if trouble:
            reason = f"{trouble}; {reason}"
            return verdict_on(gate, evidence, Outcome.INCONCLUSIVE, reason, numbers)
        return verdict_on(gate, evidence, Outcome.PASS, reason, numbers)
    thresholds = (log(1 / gate.alpha), log(1 / gate.promote_alpha))
    more = canary.more_candidates(strata, gate.weights, gate.margin, thresholds)
    return verdict_on(gate, evidence, Outcome.INCONCLUSIVE, seen, numbers, more)


def _judge_absolute(
    gate: CanaryGate, evidence: CanaryEvidence, numbers: dict[str, Number]
) -> Verdict:
    from registry.statistics import trials

    plan = trials.plan(gate.absolute)
    tally, lost = evidence.candidate_total, evidence.outstanding
    accept, reject = plan.boundary(tally.n)
    numbers |= {
        "pass_at_failures": accept,
        "fail_at_failures": reject,
        "max_trials": gate.absolute.max_trials,
    }
    seen = f"candidate {tally.success} of {tally.n}, no baseline"
    answer = plan.decide(tally.n, tally.failure)
    if answer and lost:
        answer = plan.decide(tally.n + lost, tally.failure + lost) or None
    if answer is None:
        more = trials.more_trials(plan, tally.n, tally.failure)
        return verdict_on(gate, evidence, Outcome.INCONCLUSIVE, seen, numbers, more)
    trouble = _void_trouble(gate.max_void_fraction, tally)
    if trouble:
        reason = f"{trouble}: {seen}"
        final = not answer
        return verdict_on(gate, evidence, Outcome.INCONCLUSIVE, reason, numbers, final=final)
    bound = f"{'≤' if answer else '≥'} {accept if answer else reject}"
    reason = f"{tally.failure} failures {bound} after {tally.n} episodes: {seen}"
    return verdict_on(gate, evidence, Outcome.PASS if answer else Outcome.FAIL, reason, numbers)


def _canary_counts(evidence: CanaryEvidence) -> dict[str, Number]:
    candidate, baseline = evidence.candidate_total, evidence.baseline_total
    return {
        "candidate_success": candidate.success,
        "candidate_failure": candidate.failure,
        "candidate_void": candidate.void,
        "baseline_success": baseline.success,
        "baseline_failure": baseline.failure,
        "baseline_void": baseline.void,
        "outstanding": evidence.outstanding,
        "class_a_events": evidence.class_a_events,
    }


def _void_trouble(limit: float, first: Tally, second: Tally | None = None) -> str:
    """Why the void attempts forbid a decision; "" where they do not."""
    second = second or Tally()
    void, total = first.void + second.void, first.total + second.total
    if void > Fraction(str(limit)) * total:  # .2 means a fifth, not the binary number near it
        return f"{void} of {total} attempts were void, above {limit:.0%}"
    if second.total and _two_sided(first.void, first.total, second.void, second.total) < (
        VOIDS_DIFFER
    ):
        return (
            f"void attempts differ between the sides: {first.void} of {first.total}, "
            f"{second.void} of {second.total}"
        )
    return ""


def _two_sided(x: int, n: int, y: int, m: int) -> float:
    """Fisher's exact two-sided p-value of x of n against y of m."""
    total = comb(n + m, x + y)
    low, high = max(0, x + y - m), min(n, x + y)
    weights = [comb(n, k) * comb(m, x + y - k) for k in range(low, high + 1)]
    seen = comb(n, x) * comb(m, y)
    return sum(weight for weight in weights if weight <= seen) / total
