"""Old against new on the same scenes: is the new one worse, and is it worse by the margin?

A *pair* is one scene of the full run played by both. D = +1 where the new one fixes what the old
one failed, −1 where it regresses, 0 where both end alike. Every number is a function of three
counts, (pairs, regressions, fixes), so a verdict does not depend on the order in which they came.
Logarithms are natural. Rules:

1. Regression, null "as many fixes as regressions, or more". Only discordant pairs speak:
       E = Σ_j w_j (2 θ_j)^regressions (2 (1 − θ_j))^fixes,   θ_j in (½, 1) on a fixed grid
   (McNemar's test as a bet). It is worth 1 at the start and reaches 1/alpha, ever, with
   probability ≤ alpha under the null.
2. Non-inferiority, null "the mean of D is −margin or less":
       E = Σ_j w_j Π (1 + λ_j (D + margin)),   0 < λ_j < 1/(1 − margin)
   The same guarantee, for the claim that the new one is less than `margin` worse.
3. What the guarantee is about. The N scenes of the full run that have a pair are fixed, and so is,
   under one engine, what either policy does on each. With B regressions and C fixes if all were
   played, the nulls are B ≤ C, and C − B ≤ −margin·N. Chance is only the order, a permutation
   seeded by the registry's nonce. So it is a statement about this population, not about scenes
   elsewhere; and which scenes have a pair may not depend on what the new one does on them.
4. Why it holds without replacement. With replacement each factor has mean ≤ 1 under the null, and
   Ville's inequality bounds the chance of ever reaching 1/alpha. A path of n draws without
   replacement has probability R times that with replacement from the population on the edge of the
   null. E ≥ 1/alpha needs counts far from that edge, n·KL(seen ‖ edge) ≥ ln(1/alpha), and there
   R ≤ 1: a fixed population is drawn back to its own mean. So the chance to reach 1/alpha is the
   smaller one. The tests check it without approximation: R path by path for the first null, and
   the chance itself over all orders of populations up to some hundreds for both.
5. The grids were tuned for a loss of two points in ninety at strongly paired scenes, and for equal
   policies at a margin of two points. They change the speed only, never the guarantee.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import exp, inf, log

SHARES = (0.60, 0.65, 0.70, 0.80, 0.95)
"""θ: the share of regressions among discordant pairs that the regression test bets on."""
SHARE_WEIGHTS = (2 / 15, 4 / 15, 4 / 15, 3 / 15, 2 / 15)
STAKES = (0.15, 0.30, 0.45, 0.60, 0.85)
"""λ·(1 − margin): the part of the stake that the non-inferiority test puts on each pair."""


@lru_cache(maxsize=1 << 16)
def log_regression(regressions: float, fixes: float) -> float:
    """ln E of "the new one is worse"."""
    return log_mixture(regressions, fixes, SHARES, SHARE_WEIGHTS)


def log_mixture(
    regressions: float, fixes: float, shares: Sequence[float], weights: Sequence[float]
) -> float:
    """ln Σ w (2θ)^regressions (2(1 − θ))^fixes over any grid of shares."""
    return _log_sum(
        [
            log(weight) + regressions * log(2 * share) + fixes * log(2 * (1 - share))
            for share, weight in zip(shares, weights, strict=True)
        ]
    )


@lru_cache(maxsize=1 << 16)
def log_sound(pairs: float, regressions: float, fixes: float, margin: float) -> float:
    """ln E of "the new one is less than `margin` worse"."""
    equal = pairs - regressions - fixes
    logs = []
    for stake in STAKES:
        bet = stake / (1 - margin)
        logs.append(
            regressions * log(1 + bet * (margin - 1))
            + fixes * log(1 + bet * (margin + 1))
            + equal * log(1 + bet * margin)
        )
    return _log_sum(logs) - log(len(STAKES))


def certain(
    population: int, pairs: int, regressions: int, fixes: int, margin: float
) -> bool | None:
    """The difference over the whole population where the scenes left cannot change the answer.

    True: less than or exactly `margin` worse; False: worse by more; None: they can.
    """
    left = population - pairs
    allowed = -margin * population - 1e-9  # margins are decimal: .02 of 5000 is 100
    if fixes - regressions - left >= allowed:
        return True
    return False if fixes - regressions + left < allowed else None


def more_pairs(
    population: int, pairs: int, regressions: int, fixes: int, margin: float, alpha: float
) -> int:
    """Pairs that would still decide if they go like those seen; the rest of the population where
    nothing was seen, or where only the whole of it would do."""
    if not pairs:
        return population

    def decided(total: int) -> bool:
        worse, better = regressions * total / pairs, fixes * total / pairs
        return log_regression(worse, better) >= log(1 / alpha) or log_sound(
            total, worse, better, margin
        ) >= log(1 / alpha)

    low, high = pairs, population
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle + 1, high)
    return low - pairs


def _log_sum(logs: Sequence[float]) -> float:
    top = max(logs)
    return -inf if top == -inf else top + log(sum(exp(value - top) for value in logs))
