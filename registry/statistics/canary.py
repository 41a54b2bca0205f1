"""Candidate against baseline on counts of complete blocks, by tests valid at every look.

A *block* is a candidate attempts and b control attempts of one stratum, m = b/a. For an
alternative (pc, pk) and the null pair (null_c, null_k) nearest to it, a table of counts has

    log L = xc ln(pc/null_c) + (nc-xc) ln((1-pc)/(1-null_c)) + xk ln(pk/null_k) + (nk-xk) ln(…)

Rules:
1. Rollback, null p_c ≥ p_k: null_c = null_k = (pc + m pk)/(1 + m). One log-odds shift s is common
   to all strata and each stratum has its own baseline rate:
       E = Σ_j w_j Π_strata [ Σ_p π_p L(stratum; expit(logit p + s_j), p) ]
   Segments of different ratio add their log L inside the same (j, stratum, p).
2. Promotion, null p_c ≤ p_k − margin: alternatives have equal rates p, the null pair minimises
   KL(p‖q−margin) + m KL(p‖q) over q. Blocks are pooled over strata, which is valid because
   controls and candidates of a block share their stratum.
3. P(E ever ≥ 1/alpha) ≤ alpha under the null, for any way of looking, also when rates drift for
   both sides together: each factor is the likelihood ratio to the null's KL projection, whose
   expectation over a block is at most 1 on the convex null; Ville's inequality does the rest.
4. Everything is recomputable from integers: E does not depend on the order of the blocks.
5. Tables without controls carry no factor (m = 0: nothing to compare with).

Counts are attempts with an outcome; logarithms are natural. Method: Turner, Ly and Grünwald
(arXiv 2106.02693), stratified (2302.11401), with mixtures on a fixed grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, exp, log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from registry.evidence import Segment
from registry.gates import Weights

Array = NDArray[np.float64]


class Table(NamedTuple):
    """Complete blocks: nc candidate attempts, xc of them successes; nk controls, xk successes.

    Whole numbers, but for the projections that ask how many more episodes would decide.
    """

    nc: float
    xc: float
    nk: float
    xk: float

    @property
    def m(self) -> float:
        """Controls per candidate, by design the same in every block of the table."""
        return self.nk / self.nc


class Alternative(NamedTuple):
    """A bet: rates of both sides and its weight."""

    pc: float
    pk: float
    weight: float


@dataclass(frozen=True)
class Block:
    """One complete block, in the order in which blocks were completed."""

    stratum: str
    table: Table


MOST_MORE = 10_000
"""Further candidate episodes that a rollout is told of; more are as good as none."""
# The single-stratum design grid of the literature run: effects in rate, and "dead" (pc = .02).
DESIGN_RATES = (0.50, 0.60, 0.70, 0.75, 0.80, 0.85, 0.90, 0.93, 0.95, 0.97, 0.99)
DESIGN_EFFECTS = ((-0.05, 0.15), (-0.10, 0.20), (-0.20, 0.25), (-0.40, 0.15))
DEAD_RATE, DEAD_WEIGHT = 0.02, 0.25


def history_weights(rates: Sequence[float], history: tuple[int, int]) -> tuple[float, ...]:
    """Weights ∝ p^successes (1−p)^failures over the grid of rates, summing to 1."""
    successes, failures = history
    logs = [successes * log(p) + failures * log(1 - p) for p in rates]
    top = max(logs)
    terms = [exp(value - top) for value in logs]
    return tuple(term / sum(terms) for term in terms)


def design_alternatives(rate_weights: Sequence[float]) -> tuple[Alternative, ...]:
    """The alternatives of the single-stratum test, each baseline rate with the given weight."""
    found = []
    for pk, weight in zip(DESIGN_RATES, rate_weights, strict=True):
        found += [Alternative(pk + effect, pk, weight * share) for effect, share in DESIGN_EFFECTS]
        found.append(Alternative(DEAD_RATE, pk, weight * DEAD_WEIGHT))
    return tuple(found)


def log_mixture(tables: Iterable[Table], alternatives: Sequence[Alternative]) -> float:
    """ln E of the single-stratum rollback test: null p_c ≥ p_k."""
    pc = np.array([alternative.pc for alternative in alternatives])
    pk = np.array([alternative.pk for alternative in alternatives])
    logs = np.log([alternative.weight for alternative in alternatives])
    for table in _compared(tables):
        null = (pc + table.m * pk) / (1 + table.m)
        logs = logs + np.dot(_counts(table), _factors(pc, pk, null, null))
    return float(_log_sum(logs))


def log_rollback(strata: Mapping[str, Sequence[Table]], weights: Weights) -> float:
    """ln E of the stratified rollback test; `strata` maps a stratum to a table per segment."""
    inner = [_stratum_logs(tables, weights) for tables in strata.values()]
    return _combine(inner, weights)


def log_promote(
    tables: Iterable[Table], weights: Weights, margin: float, lost: int = 0, lost_m: float = 1.0
) -> float:
    """ln E of the non-inferiority test over pooled tables.

    `lost` candidate attempts that were opened and not closed count as failures, each in a block of
    `lost_m` controls per candidate that all succeeded: the worst they can turn out to be.
    """
    logs = _log_weights(weights.promote_rates, weights.history, weights.uniform)
    for table in _compared(tables):
        logs = logs + np.dot(_counts(table), _promote_factors(weights, margin, table.m))
    if lost:
        _, failure_c, success_k, _ = _promote_factors(weights, margin, lost_m)
        logs = logs + lost * (failure_c + lost_m * np.minimum(success_k, 0.0))
    return float(_log_sum(logs))


def project(p: float, margin: float, m: float) -> tuple[float, float]:
    """(null_c, null_k): the pair with null_c = null_k − margin nearest in KL to equal rates p."""
    low, high = margin, 1.0
    for _ in range(200):
        q = (low + high) / 2
        if q in (low, high):
            break
        c = q - margin
        slope = (c - p) / (c * (1 - c)) + m * (q - p) / (q * (1 - q))
        low, high = (q, high) if slope < 0 else (low, q)
    return (low + high) / 2 - margin, (low + high) / 2


def more_candidates(
    strata: Mapping[str, Sequence[Table]],
    weights: Weights,
    margin: float,
    thresholds: tuple[float, float],
) -> int | None:
    """Further candidate episodes in complete blocks that would decide at the rates seen so far.

    `thresholds` are ln(1/alpha) of rollback and promotion. None where nothing was seen, or where
    `MOST_MORE` episodes would not do.
    """
    seen = sum(table.nc for tables in strata.values() for table in tables)
    if not seen:
        return None

    def decided(total: float) -> bool:
        grown = {
            stratum: [Table(*(count * total / seen for count in table)) for table in tables]
            for stratum, tables in strata.items()
        }
        pooled = [table for tables in grown.values() for table in tables]
        return (
            log_rollback(grown, weights) >= thresholds[0]
            or log_promote(pooled, weights, margin) >= thresholds[1]
        )

    high = seen
    while not decided(high):
        if high >= seen + MOST_MORE:
            return None
        high = min(2 * high, seen + MOST_MORE)
    low = seen
    while high - low > 0.5:
        middle = (low + high) / 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return ceil(high - seen)


def strata_of(segments: Iterable[Segment]) -> dict[str, list[Table]]:
    """The tables of each stratum, one per segment that holds complete blocks of it."""
    strata: dict[str, list[Table]] = {}
    for segment in segments:
        for counts in segment.strata:
            candidate, baseline = counts.candidate, counts.baseline
            if candidate.n and baseline.n:
                table = Table(candidate.n, candidate.success, baseline.n, baseline.success)
                strata.setdefault(counts.stratum, []).append(table)
    return strata


@dataclass(frozen=True)
class PathPoint:
    """Where the tests stood after a block: candidate and control attempts so far, and ln E."""

    candidates: int
    controls: int
    log_rollback: float
    log_promote: float


def e_path(blocks: Sequence[Block], weights: Weights, margin: float) -> list[PathPoint]:
    """ln E of both tests after each block: the line a report draws."""
    strata: dict[str, dict[float, Table]] = {}
    inner: dict[str, Array] = {}
    pooled: dict[float, Table] = {}
    points = []
    for block in blocks:
        table, m = block.table, block.table.m
        of_stratum = strata.setdefault(block.stratum, {})
        of_stratum[m] = _add(of_stratum.get(m), table)
        pooled[m] = _add(pooled.get(m), table)
        inner[block.stratum] = _stratum_logs(of_stratum.values(), weights)
        points.append(
            PathPoint(
                round(sum(t.nc for t in pooled.values())),
                round(sum(t.nk for t in pooled.values())),
                _combine(inner.values(), weights),
                log_promote(pooled.values(), weights, margin),
            )
        )
    return points


def _stratum_logs(tables: Iterable[Table], weights: Weights) -> Array:
    """(J,): for each shift j, ln Σ_p π_p Π_tables L(table; j, p)."""
    logs = np.broadcast_to(
        _log_weights(weights.rates, weights.history, weights.uniform),
        (len(weights.shifts), len(weights.rates)),
    )
    for table in _compared(tables):
        logs = logs + np.tensordot(_counts(table), _rollback_factors(weights, table.m), axes=1)
    return _log_sum(logs)


def _combine(inner: Iterable[Array], weights: Weights) -> float:
    """ln Σ_j w_j Π_strata of the inner mixtures."""
    return float(_log_sum(np.log(weights.shift_weights) + sum(inner, np.zeros(1))))


def _compared(tables: Iterable[Table]) -> list[Table]:
    return [table for table in tables if table.nc and table.nk]


def _counts(table: Table) -> Array:
    return np.array([table.xc, table.nc - table.xc, table.xk, table.nk - table.xk], dtype=float)


def _factors(pc: Array, pk: Array, null_c: Array, null_k: Array) -> Array:
    """(4, …): what a candidate success and failure, a control success and failure add to ln L."""
    ratios = [pc / null_c, (1 - pc) / (1 - null_c), pk / null_k, (1 - pk) / (1 - null_k)]
    logs: Array = np.log(np.stack(ratios))
    return logs


@lru_cache(maxsize=256)
def _rollback_factors(weights: Weights, m: float) -> Array:
    """(4, J, P)."""
    pk = np.broadcast_to(np.array(weights.rates), (len(weights.shifts), len(weights.rates)))
    odds = np.log(pk / (1 - pk)) + np.array(weights.shifts)[:, None]
    pc = 1 / (1 + np.exp(-odds))
    null = (pc + m * pk) / (1 + m)
    return _factors(pc, pk, null, null)


@lru_cache(maxsize=256)
def _promote_factors(weights: Weights, margin: float, m: float) -> Array:
    """(4, P)."""
    p = np.array(weights.promote_rates)
    null_c, null_k = np.array([project(rate, margin, m) for rate in weights.promote_rates]).T
    return _factors(p, p, null_c, null_k)


@lru_cache(maxsize=64)
def _log_weights(rates: tuple[float, ...], history: tuple[int, int], uniform: float) -> Array:
    informed = np.array(history_weights(rates, history))
    logs: Array = np.log((1 - uniform) * informed + uniform / len(rates))
    return logs


def _add(held: Table | None, more: Table) -> Table:
    if held is None:
        return more
    return Table(held.nc + more.nc, held.xc + more.xc, held.nk + more.nk, held.xk + more.xk)


def _log_sum(logs: Array) -> Array:
    """ln Σ exp over the last axis, without overflow."""
    top = logs.max(axis=-1, keepdims=True)
    total: Array = top + np.log(np.exp(logs - top).sum(axis=-1, keepdims=True))
    return total[..., 0]
