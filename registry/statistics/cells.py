"""The cells of a grid one by one: intervals, the worst and the best, and which are proven too weak.

Within a cell the scenes are independent draws of the task's generator, so the cell has a success
probability p of its own; that, not the cell's full run, is what is judged here: thirty of fifty
is too few to call a cell of .60 weak. Rules:

1. Intervals are Clopper and Pearson's, exact, two-sided.
2. "This cell is below the floor", null p ≥ floor, after s successes and f failures:
       E = ∫ t^s (1−t)^f dt / floor / (floor^s (1−floor)^f),   t uniform on (0, floor)
   Valid however often one looks at the cell: for p ≥ floor the likelihood ratio of any t below the
   floor to the floor itself has mean ≤ 1.
3. The list of cells proven below the floor is that of e-BH at level alpha over all K cells of the
   grid, drawn or not: with e-values in falling order, the first k, for the largest k with
   e_(k) ≥ K/(k·alpha). Its share of wrong cells is at most alpha in the mean, under any dependence,
   which cells have because they share their scenes. Where no cell is below the floor, one ever
   reaches K/alpha, which a list of one needs, with probability ≤ alpha, whatever stops the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf, log, sqrt

from registry.evidence import Tally


@dataclass(frozen=True)
class Summary:
    """Cells with any episode. `worst` and `best` index the given cells, the first of equals; their
    intervals hold for all K cells together at 1 − alpha."""

    count: int
    mean: float
    min: float
    max: float
    std: float
    worst: int
    best: int
    worst_interval: tuple[float, float]
    best_interval: tuple[float, float]


def interval(success: int, failure: int, alpha: float = 0.05) -> tuple[float, float]:
    """Clopper and Pearson's exact two-sided interval of a success rate at 1 − alpha."""
    from scipy.special import betaincinv

    low = float(betaincinv(success, failure + 1, alpha / 2)) if success else 0.0
    high = float(betaincinv(success + 1, failure, 1 - alpha / 2)) if failure else 1.0
    return low, high


def summary(cells: Sequence[Tally], total: int, alpha: float = 0.05) -> Summary | None:
    """Over the cells that have episodes, of `total` in the grid; None where none has.

    `mean` and `std` are those of the cells' rates, each cell weighing the same.
    """
    rates = [(tally.success / tally.n, index) for index, tally in enumerate(cells) if tally.n]
    if not rates:
        return None
    mean = sum(rate for rate, _ in rates) / len(rates)
    worst = min(rates)[1]
    best = max(rates, key=lambda found: (found[0], -found[1]))[1]
    around: list[tuple[float, float]] = [
        interval(cells[index].success, cells[index].failure, alpha / total)
        for index in (worst, best)
    ]
    return Summary(
        count=len(rates),
        mean=mean,
        min=min(rates)[0],
        max=max(rates)[0],
        std=sqrt(sum((rate - mean) ** 2 for rate, _ in rates) / len(rates)),
        worst=worst,
        best=best,
        worst_interval=around[0],
        best_interval=around[1],
    )


@lru_cache(maxsize=1 << 18)
def log_below(success: int, failure: int, floor: float) -> float:
    """ln E of "this cell's success probability is below `floor`"; −inf where it is next to 0."""
    from scipy.special import betainc, betaln

    share = float(betainc(success + 1, failure + 1, floor))
    if share == 0:
        return -inf
    at_floor = success * log(floor) + failure * log(1 - floor)
    return log(share) + float(betaln(success + 1, failure + 1)) - log(floor) - at_floor


def below(cells: Iterable[Sequence[int]], floor: float, alpha: float, total: int) -> list[int]:
    """The cells of the e-BH list, by index, the most certain first.

    `cells` are (success, failure) of any cells of the grid; `total` counts all of them.
    """
    least = log(1 / alpha)  # K of K cells would do with it
    found = sorted(
        (
            (value, index)
            for index, (success, failure) in enumerate(cells)
            if (value := log_below(success, failure, floor)) >= least
        ),
        key=lambda one: (-one[0], one[1]),
    )
    for k in range(len(found), 0, -1):
        if found[k - 1][0] >= log(total / (k * alpha)):
            return [index for _, index in found[:k]]
    return []
