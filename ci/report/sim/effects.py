"""What moves success: axis by axis, pair by pair, and in which order of importance.

Episodes of a gate share their scenes: episode e draws the same scene in every cell. A *slot* is one
scene under one setting of all other axes; it is played at several values of the axis, or at those
of them that were drawn so far.

1. A grid axis is tested by shuffling its values inside slots. If the axis changed no outcome, every
   assignment of a slot's outcomes to its values would be equally likely, because the order of the
   draws is random; this holds at any stopping time. With y − p̄ of a drawn episode and 0 of one not
   drawn as its score, T(v) the sum of scores at value v and V the sum of the slots' score
   variances, Q = Σ (T(v) − T̄)² / V is about χ² with one degree of freedom less than values. On a
   full run it is Cochran's Q.
2. A random axis has one value a scene, so scenes, not episodes, are counted: Spearman's rank
   correlation of a scene's value with its success rate.
3. `points` is the range of success rates between the axis's values (or bins). Chance alone makes
   it positive, more so with many bins, hence the p-value beside it; the ranking puts axes that
   chance alone explains behind the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, spearmanr

from ci.report.sim.intervals import clopper_pearson
from ci.report.sim.model import Axis, Curve, HeatMap, Marginal, ModesOfAxis, Sensitivity, Share
from harness.sim.results import Row

BINS, PER_BIN = 8, 3
"""A random axis is shown in at most so many bins of at least so many of its values."""

LEVEL = 0.05
"""Significance at which the ranking tells an axis from chance, all axes together."""

SLOTS = "values shuffled within a scene, all else equal"
SCENES = "rank correlation over scenes"

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Episodes:
    """The rows as arrays: `levels[axis]` indexes its values, `drawn[axis]` the random values."""

    success: Ints
    scene: Ints
    grid: tuple[Axis, ...]
    levels: Mapping[str, Ints]
    drawn: Mapping[str, Floats]

    @classmethod
    def of(cls, rows: Sequence[Row], axes: Sequence[Axis]) -> Episodes:
        """Raises ValueError where a row's value is not one of its axis."""
        grid = tuple(axis for axis in axes if axis.values)
        levels = {}
        for axis in grid:
            place = {value: i for i, value in enumerate(axis.values)}
            strange = {row.values[axis.name] for row in rows} - set(place)
            if strange:
                raise ValueError(f"{axis.name} has no value {min(strange):g}")
            levels[axis.name] = np.array([place[row.values[axis.name]] for row in rows])
        drawn = {
            axis.name: np.array([row.values[axis.name] for row in rows])
            for axis in axes
            if not axis.values and all(axis.name in row.values for row in rows)
        }
        return cls(
            success=np.array([row.success for row in rows], dtype=np.int64),
            scene=np.array([row.episode for row in rows]),
            grid=grid,
            levels=levels,
            drawn=drawn,
        )


def share(successes: int, episodes: int) -> Share:
    return Share(int(successes), int(episodes), *clopper_pearson(int(successes), int(episodes)))


def marginals(episodes: Episodes) -> tuple[Marginal, ...]:
    found = []
    for axis in episodes.grid:
        level = episodes.levels[axis.name]
        counts = np.bincount(level, minlength=len(axis.values))
        wins = np.bincount(level, weights=episodes.success, minlength=len(axis.values))
        shares = tuple(
            (value, share(k, n)) for value, k, n in zip(axis.values, wins, counts, strict=True)
        )
        found.append(Marginal(axis.name, shares))
    return tuple(found)


def heat_maps(episodes: Episodes) -> tuple[HeatMap, ...]:
    """One map per pair of grid axes."""
    maps = []
    for down, across in combinations(episodes.grid, 2):
        shape = (len(down.values), len(across.values))
        flat = episodes.levels[down.name] * shape[1] + episodes.levels[across.name]
        counts = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)
        wins = np.bincount(flat, weights=episodes.success, minlength=shape[0] * shape[1])
        shares = tuple(
            tuple(share(k, n) for k, n in zip(*pair, strict=True))
            for pair in zip(wins.reshape(shape), counts, strict=True)
        )
        maps.append(HeatMap(down.name, across.name, down.values, across.values, shares))
    return tuple(maps)


def curves(episodes: Episodes) -> tuple[Curve, ...]:
    """Success over each random axis in bins that hold equally many of its values."""
    found = []
    for axis, values in episodes.drawn.items():
        different = np.unique(values)
        bins = []
        for part in np.array_split(different, min(BINS, max(1, len(different) // PER_BIN))):
            inside = (values >= part[0]) & (values <= part[-1])
            counts = share(int(episodes.success[inside].sum()), int(inside.sum()))
            bins.append((float(part[0]), float(part[-1]), counts))
        found.append(Curve(axis, tuple(bins), len(np.unique(episodes.scene))))
    return tuple(found)


def modes_by_axis(
    rows: Sequence[Row], axes: Sequence[Axis], modes: Sequence[str]
) -> tuple[ModesOfAxis, ...]:
    """How often each mode occurs at each value of each grid axis."""
    found = []
    for axis in axes:
        if not axis.values:
            continue
        counted = Counter((row.values[axis.name], row.failure_mode) for row in rows)
        drawn = Counter(row.values[axis.name] for row in rows)
        levels = tuple(
            (value, drawn[value], tuple(counted[value, mode] for mode in modes))
            for value in axis.values
        )
        found.append(ModesOfAxis(axis.name, levels))
    return tuple(found)


def sensitivity(
    episodes: Episodes, by_axis: Sequence[Marginal], by_bin: Sequence[Curve]
) -> tuple[Sensitivity, ...]:
    """Every axis, the one that moves success most first; behind, those that chance explains."""
    found = [_of_grid(episodes, marginal) for marginal in by_axis]
    found += [_of_random(episodes, curve) for curve in by_bin]
    level = LEVEL / max(1, len(found))
    ranked = [replace(each, told=each.p is not None and each.p < level) for each in found]
    return tuple(sorted(ranked, key=lambda each: (not each.told, -each.points, each.axis)))


def slot_test(outcomes: Floats) -> tuple[float, float] | None:
    """Q and its p-value; `outcomes` is (slots, values) of 0, 1 or NaN where not drawn.

    None where nothing can be told: one value, or all outcomes the same.
    """
    levels = outcomes.shape[1]
    scores = np.nan_to_num(outcomes - np.nanmean(outcomes), nan=0.0)
    variance = float((scores.var(axis=1, ddof=1)).sum()) if levels > 1 else 0.0
    if variance <= 0.0:
        return None
    sums = scores.sum(axis=0)
    statistic = float(((sums - sums.mean()) ** 2).sum() / variance)
    return statistic, float(chi2.sf(statistic, levels - 1))


def _of_grid(episodes: Episodes, marginal: Marginal) -> Sensitivity:
    seen = [(s.rate, value) for value, s in marginal.levels if s.rate is not None]
    (low, worst), (high, best) = min(seen), max(seen)
    outcomes = _slots(episodes, marginal.axis)
    tested = slot_test(outcomes)
    values = [value for value, _ in marginal.levels]
    at_worst, at_best = outcomes[:, values.index(worst)], outcomes[:, values.index(best)]
    both = ~np.isnan(at_worst) & ~np.isnan(at_best) & (worst != best)
    return Sensitivity(
        axis=marginal.axis,
        test=SLOTS,
        points=100 * (high - low),
        worst=f"{worst:g}" if high > low else "–",
        best=f"{best:g}" if high > low else "–",
        statistic=tested[0] if tested else None,
        p=tested[1] if tested else None,
        pairs=int(both.sum()),
        only_best=int((both & (at_best > at_worst)).sum()),
        only_worst=int((both & (at_worst > at_best)).sum()),
    )


def _slots(episodes: Episodes, axis: str) -> Floats:
    """Outcomes (slots, values) of one axis, NaN where an episode was not drawn."""
    others = [episodes.levels[other.name] for other in episodes.grid if other.name != axis]
    keys = np.stack([episodes.scene, *others], axis=1)
    _, slot = np.unique(keys, axis=0, return_inverse=True)
    values = next(len(each.values) for each in episodes.grid if each.name == axis)
    outcomes = np.full((int(slot.max()) + 1, values), np.nan)
    outcomes[slot.ravel(), episodes.levels[axis]] = episodes.success
    return outcomes


def _of_random(episodes: Episodes, curve: Curve) -> Sensitivity:
    rates = [(s.successes / s.episodes, f"{low:.3g} … {high:.3g}") for low, high, s in curve.bins]
    (low, worst), (high, best) = min(rates), max(rates)
    scenes, place = np.unique(episodes.scene, return_inverse=True)
    counts = np.bincount(place)
    rate = np.bincount(place, weights=episodes.success) / counts
    value = np.bincount(place, weights=episodes.drawn[curve.axis]) / counts
    told = len(scenes) > 2 and np.ptp(rate) > 0 and np.ptp(value) > 0
    found = spearmanr(value, rate) if told else None
    return Sensitivity(
        axis=curve.axis,
        test=SCENES,
        points=100 * (high - low),
        worst=worst if high > low else "–",
        best=best if high > low else "–",
        statistic=float(found.statistic) if found else None,
        p=float(found.pvalue) if found else None,
    )
