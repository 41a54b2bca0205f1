"""Several versions on the same episodes: which pairs differ, with one error for all of them.

For a pair, only episodes where exactly one succeeded tell anything: of b + c such, each side is
equally likely to have won where there is no difference, so the exact two-sided McNemar p-value is
that of a fair coin. Holm's step-down over all pairs keeps the family-wise error at alpha under any
dependence between them. The number of episodes is fixed beforehand: this is no sequential test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb


@dataclass(frozen=True)
class Comparison:
    """`first` against `second`: wins are episodes in which only that one succeeded."""

    first: str
    second: str
    first_wins: int
    second_wins: int
    episodes: int
    p: float
    """Exact two-sided p-value, corrected by Holm over all pairs."""
    different: bool

    @property
    def points(self) -> float:
        """How much more often the first succeeded, in points."""
        return 100.0 * (self.first_wins - self.second_wins) / self.episodes


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p-value of a fair coin."""
    n, k = wins + losses, min(wins, losses)
    return min(1.0, float(2 * sum(comb(n, i) for i in range(k + 1)) / 2**n))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: reject those at most alpha."""
    ranked = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(ranked):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def compare_all(
    outcomes: Mapping[str, Sequence[bool]], alpha: float = 0.05
) -> tuple[Comparison, ...]:
    """Every pair of the named versions; outcomes are of the same episodes in the same order."""
    counts = []
    for first, second in combinations(outcomes, 2):
        pairs = list(zip(outcomes[first], outcomes[second], strict=True))
        counts.append((first, second, sum(a > b for a, b in pairs), sum(b > a for a, b in pairs)))
    corrected = holm([mcnemar(wins, losses) for *_, wins, losses in counts])
    episodes = len(next(iter(outcomes.values()))) if outcomes else 0
    return tuple(
        Comparison(first, second, wins, losses, episodes, p, p <= alpha)
        for (first, second, wins, losses), p in zip(counts, corrected, strict=True)
    )
