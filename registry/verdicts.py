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
4. sim: hypergeometric test against "more than `threshold` of the full run succeed".
5. hil: truncated sequential binomial test, looked at after every trial.
6. canary with a baseline: FAIL (roll back) when the stratified mixture e-value over complete
   blocks reaches 1/alpha; PASS (promote) when the non-inferiority e-value of the pooled blocks
   reaches 1/promote_alpha with every outstanding candidate attempt counted as a failed block.
   Inferiority is asked first. Every segment counts at its own ratio inside one mixture.
7. canary without a baseline: the `absolute` test over all closed candidate attempts, outstanding
   ones counted as failures for PASS. Its counts may arrive in batches; past `max_trials` the last
   boundary holds, so a late failure can only make it stricter. The ceiling on lesser safety events
   (Gamma-Poisson) is not computed yet: only class A events stop a rollout.
8. Evidence that was not gathered under this gate (its digest differs) is never judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from registry.errors import Refused
from registry.evidence import CanaryEvidence, Evidence, GridEvidence, Segment, Tally, TrialEvidence
from registry.gates import CanaryGate, Gate, GridGate, TrialGate, TrialTest

Number = float | int | None


class Outcome(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Verdict:
    """What a gate says, the numbers behind it, and the digest of the evidence it judged."""

    outcome: Outcome
    gate: str
    reason: str
    numbers: Mapping[str, Number] = field(default_factory=dict)
    more: int | None = None
    final: bool = False
    evidence: str = ""
    gate_digest: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "outcome": str(self.outcome),
            "gate": self.gate,
            "reason": self.reason,
            "numbers": dict(self.numbers),
            "more": self.more,
            "final": self.final,
            "evidence": self.evidence,
            "gate_digest": self.gate_digest,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Verdict:
        return Verdict(**{**data, "outcome": Outcome(data["outcome"])})
