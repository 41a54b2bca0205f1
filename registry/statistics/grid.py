"""Did more than `threshold` of a fixed full run of N episodes succeed? Answered before all are run.

The N episodes are a finite population, drawn without replacement in one random order. After n
draws with k successes, a population with S successes has likelihood ∝

    h(S) = S!/(S−k)! · (N−S)!/(N−S−(n−k))!        (0 where k > S or n−k > N−S)

With S0 = floor(threshold·N), the full run passes iff S > S0. Rules:
1. E_pass = mean over S in {S0+10, S0+25, …} of h(S)/h(S0): evidence that S > S0.
   E_fail = mean over S in {S0, S0−25, … > .4 N} of h(S)/h(S0+1): evidence that S ≤ S0.
   The offsets and steps are for N = 5000 and scale with N, never below 1. They change the speed
   only: h(S)/h(S0) for the null S0 bounds that for every S ≤ S0, because all alternatives lie on
   the other side (monotone likelihood ratio).
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
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor, inf, log

import numpy as np
from numpy.typing import NDArray

from registry.versions import digest_bytes

REFERENCE_POPULATION = 5000
Array = NDArray[np.float64]


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


def log_pass(population: int, s0: int, drawn: int, successes: int) -> float:
    """ln E_pass; −inf where it is 0."""
    return _log_e(population, s0, _above(population, s0), drawn, successes)


def log_fail(population: int, s0: int, drawn: int, successes: int) -> float:
    """ln E_fail; −inf where it is 0."""
    return _log_e(population, s0 + 1, _below(population, s0), drawn, successes)


def decide(
    population: int, threshold: float, alpha: float, drawn: int, successes: int
) -> bool | None:
    """True: passes; False: fails; None: go on."""
    s0 = limit(threshold, population)
    if successes > s0:
        return True
    if drawn - successes >= population - s0:
        return False
    if log_pass(population, s0, drawn, successes) >= log(1 / alpha):
        return True
    if log_fail(population, s0, drawn, successes) >= log(1 / alpha):
        return False
    return None


def more_draws(population: int, threshold: float, alpha: float, drawn: int, successes: int) -> int:
    """Draws that would still decide if they succeed at the rate seen so far (no draws yet: none
    is assumed better than half-way between the threshold and 1)."""
    rate = successes / drawn if drawn else (1 + threshold) / 2
    low, high = drawn, population
    while low < high:  # the certain rules decide at the end of the full run
        middle = (low + high) // 2
        guess = successes + round(rate * (middle - drawn))
        if decide(population, threshold, alpha, middle, guess) is None:
            low = middle + 1
        else:
            high = middle
    return low - drawn


@lru_cache(maxsize=8)
def _log_factorials(population: int) -> Array:
    return np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, population + 1)))))


@lru_cache(maxsize=32)
def _above(population: int, s0: int) -> NDArray[np.int64]:
    scale = population / REFERENCE_POPULATION
    first = s0 + max(1, round(10 * scale))
    found = np.arange(first, population, max(1, round(15 * scale)))
    return found if found.size else np.array([population])


@lru_cache(maxsize=32)
def _below(population: int, s0: int) -> NDArray[np.int64]:
    step = max(1, round(25 * population / REFERENCE_POPULATION))
    end = min(ceil(0.4 * population), s0 - 1)
    return np.arange(s0, end, -step)


def _log_h(population: int, s: NDArray[np.int64], drawn: int, successes: int) -> Array:
    table = _log_factorials(population)
    failures = drawn - successes
    possible = (s >= successes) & (population - s >= failures)
    left = np.where(possible, s - successes, 0)
    right = np.where(possible, population - s - failures, 0)
    value = table[s] - table[left] + table[population - s] - table[right]
    return np.where(possible, value, -inf)


def _log_e(
    population: int, null: int, alternatives: NDArray[np.int64], drawn: int, successes: int
) -> float:
    if not 0 <= successes <= drawn <= population:
        raise ValueError(f"{successes} successes in {drawn} draws of {population}")
    at_null = float(_log_h(population, np.array([null]), drawn, successes)[0])
    if at_null == -inf:
        return -inf
    logs = _log_h(population, alternatives, drawn, successes) - at_null
    top = float(logs.max())
    if top == -inf:
        return -inf
    return top + log(float(np.exp(logs - top).mean()))
