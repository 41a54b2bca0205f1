"""Did more than `threshold` of a fixed full run of N episodes succeed? Answered before all are run.

The N episodes are a finite population, drawn without replacement in one random order. After n
draws with k successes, a population with S successes has likelihood ∝

    h(S) = S!/(S−k)! · (N−S)!/(N−S−(n−k))!        (0 where k > S or n−k > N−S)

With S0 = floor(threshold·N), the full run passes iff S > S0. Rules:
1. E_pass = Σ w h(S)/h(S0) over a fixed grid of S > S0: evidence that S > S0.
   E_fail = Σ w h(S)/h(S0+1) over a fixed grid of S ≤ S0: evidence that S ≤ S0.
   The grids lie in log-odds from the threshold, so they fit any threshold and N. They
   change the speed only: h(S)/h(S0) for the null S0 bounds that for every S ≤ S0, because all
   alternatives lie on the other side (monotone likelihood ratio). Edition 1 bet evenly on steps
   in S (S0+10, S0+25, …; S0, S0−25, … > .4 N, for N = 5000); its verdicts stay recomputable.
2. PASS once k > S0 (certain) or E_pass ≥ 1/alpha; FAIL once n−k ≥ N−S0 (certain) or
   E_fail ≥ 1/alpha. So a verdict differs from the full run's with probability ≤ alpha per side.
3. Where h(S0) = 0 the null is *excluded* because k > S0, which is certainty, or because there are
   more failures than N−S0: then the run has failed. E_pass is 0 there, never infinite, and
   likewise E_fail where h(S0+1) = 0.
4. The order is one permutation of all episodes, seeded by a nonce that the registry drew when the
   version was registered, so that the author cannot choose it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from math import ceil, exp, floor, inf, log

import numpy as np
from numpy.typing import NDArray

from registry.versions import digest_bytes

EDITION = 2
PASS_BETS = (
    (0.05, 0.03), (0.12, 0.06), (0.28, 0.14), (0.46, 0.27), (0.73, 0.18), (1.2, 0.20), (2.5, 0.12),
)  # fmt: skip
FAIL_BETS = (
    (0.05, 0.03), (0.12, 0.06), (0.25, 0.17), (0.38, 0.38), (0.60, 0.16), (1.0, 0.12), (2.0, 0.08),
)  # fmt: skip
"""How far above or below the threshold the alternatives lie [log-odds], with their weights."""
REFERENCE_POPULATION = 5000
Array = NDArray[np.float64]
Mixture = tuple[NDArray[np.int64], Array]
"""Alternatives S and the logarithms of their weights, which sum to 1."""


def order(nonce: str, population: int) -> NDArray[np.int64]:
    """The order of the full run's episodes: a permutation of 0 … population−1.

    Episodes are ranked by 64-bit words of PCG64 seeded with SHA-256 of the nonce; the bit stream of
    PCG64 is fixed for ever, so the order is the same under every version of numpy.
    """
    seed = int.from_bytes(hashlib.sha256(nonce.encode()).digest(), "big")
    keys = np.random.PCG64(seed).random_raw(population)
    return np.argsort(keys, kind="stable").astype(np.int64)


@lru_cache(maxsize=32)
def order_digest(nonce: str, population: int) -> str:
    return digest_bytes(order(nonce, population).astype("<i8").tobytes())


def limit(threshold: float, population: int) -> int:
    """S0, the largest number of successes that does not pass. .85 means 17/20 exactly."""
    return floor(Fraction(str(threshold)) * population)


def log_pass(population: int, s0: int, drawn: int, successes: int, edition: int = EDITION) -> float:
    """ln E_pass; −inf where it is 0."""
    return _log_e(population, s0, above(population, s0, edition), drawn, successes)


def log_fail(population: int, s0: int, drawn: int, successes: int, edition: int = EDITION) -> float:
    """ln E_fail; −inf where it is 0."""
    return _log_e(population, s0 + 1, below(population, s0, edition), drawn, successes)


def log_pass_each(
    population: int, s0: NDArray[np.int64], drawn: int, successes: int, edition: int = EDITION
) -> Array:
    """`log_pass` of each of s0 (n,)."""
    if edition == 1:
        return np.array([log_pass(population, int(s), drawn, successes, edition) for s in s0])
    mixture = _shifted_each(population, s0, PASS_BETS, 1)
    return _log_es(population, s0, mixture, np.array([drawn]), np.array([successes]))


def log_fail_each(
    population: int, s0: NDArray[np.int64], drawn: int, successes: int, edition: int = EDITION
) -> Array:
    """`log_fail` of each of s0 (n,)."""
    if edition == 1:
        return np.array([log_fail(population, int(s), drawn, successes, edition) for s in s0])
    mixture = _shifted_each(population, s0, FAIL_BETS, -1)
    return _log_es(population, s0 + 1, mixture, np.array([drawn]), np.array([successes]))


def decide(
    population: int,
    threshold: float,
    alpha: float,
    drawn: int,
    successes: int,
    edition: int = EDITION,
) -> bool | None:
    """True: passes; False: fails; None: go on."""
    passes, fails = _listed_bounds(population, threshold, alpha, edition)
    if not 0 <= successes <= drawn <= population:
        raise ValueError(f"{successes} successes in {drawn} draws of {population}")
    if successes >= passes[drawn]:
        return True
    return False if successes <= fails[drawn] else None


@lru_cache(maxsize=32)
def bounds(
    population: int, threshold: float, alpha: float, edition: int = EDITION
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(least successes that pass, most that fail) after 0 … population draws; each (N+1,).

    Where no count does, they are n + 1 and −1. Both e-values are monotone in the successes, so
    two bounds say all there is to a look.
    """
    s0 = limit(threshold, population)
    drawn = np.arange(population + 1)
    pass_grid, fail_grid = above(population, s0, edition), below(population, s0, edition)

    def passes(k: NDArray[np.int64]) -> NDArray[np.bool_]:
        enough = _log_es(population, s0, pass_grid, drawn, k) >= log(1 / alpha)
        return np.asarray((k > s0) | enough)

    def fails_not(k: NDArray[np.int64]) -> NDArray[np.bool_]:
        enough = _log_es(population, s0 + 1, fail_grid, drawn, k) >= log(1 / alpha)
        return np.asarray(~((drawn - k >= population - s0) | enough))

    return _first(drawn, passes), _first(drawn, fails_not) - 1


def more_draws(
    population: int,
    threshold: float,
    alpha: float,
    drawn: int,
    successes: int,
    edition: int = EDITION,
) -> int:
    """Draws that would still decide if they succeed at the rate seen so far (no draws yet: none
    is assumed better than half-way between the threshold and 1)."""
    rate = successes / drawn if drawn else (1 + threshold) / 2
    low, high = drawn, population
    while low < high:  # the certain rules decide at the end of the full run
        middle = (low + high) // 2
        guess = successes + round(rate * (middle - drawn))
        if decide(population, threshold, alpha, middle, guess, edition) is None:
            low = middle + 1
        else:
            high = middle
    return low - drawn


@lru_cache(maxsize=8)
def _log_factorials(population: int) -> Array:
    return np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, population + 1)))))


@lru_cache(maxsize=32)
def above(population: int, s0: int, edition: int = EDITION) -> Mixture:
    """The alternatives S > s0 of E_pass."""
    if edition == 1:
        scale = population / REFERENCE_POPULATION
        first = s0 + max(1, round(10 * scale))
        found = np.arange(first, population, max(1, round(15 * scale)))
        return _even(found if found.size else np.array([population]))
    return _shifted(population, s0, PASS_BETS, 1)


@lru_cache(maxsize=32)
def below(population: int, s0: int, edition: int = EDITION) -> Mixture:
    """The alternatives S ≤ s0 of E_fail."""
    if edition == 1:
        step = max(1, round(25 * population / REFERENCE_POPULATION))
        return _even(np.arange(s0, min(ceil(0.4 * population), s0 - 1), -step))
    return _shifted(population, s0, FAIL_BETS, -1)


def _even(alternatives: NDArray[np.int64]) -> Mixture:
    return alternatives, np.full(alternatives.size, -log(alternatives.size))


def _shifted(population: int, s0: int, bets: tuple[tuple[float, float], ...], side: int) -> Mixture:
    """Shifted from the rate half-way between s0 and s0 + 1, each on its own side of it."""
    alternatives, weights = _shifted_each(population, np.array([s0]), bets, side)
    return alternatives[:, 0], weights


def _shifted_each(
    population: int, s0: NDArray[np.int64], bets: tuple[tuple[float, float], ...], side: int
) -> Mixture:
    """The same for each of s0 (n,): alternatives (bets, n)."""
    odds = (s0 + 0.5) / (population - s0 - 0.5)
    rates = odds * np.array([exp(side * shift) for shift, _ in bets])[:, None]
    found = np.rint(population * rates / (1 + rates)).astype(np.int64)
    low, high = (s0 + 1, population) if side > 0 else (0, s0)
    return np.clip(found, low, high), np.log([weight for _, weight in bets])


@lru_cache(maxsize=32)
def _listed_bounds(
    population: int, threshold: float, alpha: float, edition: int
) -> tuple[list[int], list[int]]:
    """The same as plain integers: one look costs a look-up."""
    passes, fails = bounds(population, threshold, alpha, edition)
    return passes.tolist(), fails.tolist()


def _first(
    drawn: NDArray[np.int64], holds: Callable[[NDArray[np.int64]], NDArray[np.bool_]]
) -> NDArray[np.int64]:
    """For each n, the least k in 0 … n at which a monotone condition holds; n + 1 where none."""
    low, high = np.zeros_like(drawn), drawn + 1
    while (low < high).any():
        middle = (low + high) // 2
        held = holds(np.minimum(middle, drawn))
        high = np.where((low < high) & held, middle, high)
        low = np.where((low < high) & ~held, middle + 1, low)
    return low


def _log_h(
    population: int, s: NDArray[np.int64], drawn: NDArray[np.int64], k: NDArray[np.int64]
) -> Array:
    """ln h, of the shape that s, drawn and k are broadcast to."""
    table = _log_factorials(population)
    left, right = s - k, population - s - (drawn - k)
    possible = (left >= 0) & (right >= 0)
    value = (
        table[s]
        - table[np.where(possible, left, 0)]
        + table[population - s]
        - table[np.where(possible, right, 0)]
    )
    return np.where(possible, value, -inf)


def _log_es(
    population: int,
    null: int | NDArray[np.int64],
    mixture: Mixture,
    drawn: NDArray[np.int64],
    successes: NDArray[np.int64],
) -> Array:
    """ln E after each of `drawn` with `successes`; −inf where the null is impossible.

    One null with its alternatives (m,) for all, or as many as there are looks with (m, n) of them.
    """
    alternatives, weights = mixture
    if alternatives.ndim == 1:
        alternatives = alternatives[:, None]
    at_null = _log_h(population, np.asarray(null), drawn, successes)
    logs = _log_h(population, alternatives, drawn, successes) + weights[:, None]
    top = logs.max(axis=0)
    usable = np.isfinite(at_null) & np.isfinite(top)
    offset = np.where(usable, top, 0.0)
    total = np.exp(np.where(usable, logs, -inf) - offset).sum(axis=0)
    value = offset + np.log(np.where(usable, total, 1.0)) - np.where(usable, at_null, 0.0)
    return np.where(usable, value, -inf)


def _log_e(population: int, null: int, mixture: Mixture, drawn: int, successes: int) -> float:
    if not 0 <= successes <= drawn <= population:
        raise ValueError(f"{successes} successes in {drawn} draws of {population}")
    found = _log_es(population, null, mixture, np.array([drawn]), np.array([successes]))
    return float(found[0])
