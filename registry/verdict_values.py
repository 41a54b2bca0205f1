"""What a gate says, as a value: the outcome, the numbers behind it and what it was judged on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import exp, isclose
from typing import Any

from registry.evidence import Evidence
from registry.gates import Gate

Number = float | int | None

_LARGEST_LOG = 700.0  # e-values are shown as finite numbers


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

    def agrees(self, other: Verdict) -> bool:
        """The same verdict, its numbers to one in a million: the last digits are a library's."""
        mine, theirs = self.numbers, other.numbers
        return replace(self, numbers={}) == replace(other, numbers={}) and (
            mine.keys() == theirs.keys() and all(_close(mine[name], theirs[name]) for name in mine)
        )

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Verdict:
        return Verdict(**{**data, "outcome": Outcome(data["outcome"])})


def _close(first: Number, second: Number) -> bool:
    if first is None or second is None:
        return first is second
    return isclose(first, second, rel_tol=1e-6)


def shown_e(log_value: float) -> float:
    """An e-value from its logarithm."""
    return exp(min(log_value, _LARGEST_LOG))


def verdict_on(
    gate: Gate,
    evidence: Evidence,
    outcome: Outcome,
    reason: str,
    numbers: Mapping[str, Number],
    more: int | None = None,
    final: bool = False,
) -> Verdict:
    """A verdict that names the evidence and the gate."""
    return Verdict(
        outcome=outcome,
        gate=gate.name,
        reason=reason,
        numbers=dict(numbers),
        more=more,
        final=final,
        evidence=evidence.digest,
        gate_digest=gate.digest,
    )
