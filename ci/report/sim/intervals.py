"""Exact intervals of success rates. Counts in, fractions out.

- `clopper_pearson` is the exact binomial interval for a number of episodes fixed beforehand.
- `full_run` is for a run that stops when it likes: bounds of the full run's total of successes that
  hold at every look at once, so also at the one at which the run stopped. A total is ruled out from
  below (above) while the gate's own e-value against it has reached 2/(1 − coverage); where
  that is at most the gate's own threshold 1/alpha, the bounds never contradict a verdict.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import log

import numpy as np
import numpy.typing as npt

from registry.statistics.cells import interval
from registry.statistics.grid import EDITION, log_fail_each, log_pass_each

Totals = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

COVERAGE = 0.95
_AT_ONCE = 1024
"""Totals of the full run that are tested in one sweep."""


@lru_cache(maxsize=65536)
def clopper_pearson(
    successes: int, episodes: int, coverage: float = COVERAGE
) -> tuple[float, float]:
    """The exact two-sided interval of a rate; (0, 1) where nothing was seen."""
    if not 0 <= successes <= episodes:
        raise ValueError(f"{successes} successes in {episodes} episodes")
    return interval(successes, episodes - successes, 1 - coverage)


def full_run(
    population: int,
    drawn: int,
    successes: int,
    coverage: float = COVERAGE,
    edition: int = EDITION,
) -> tuple[float, float]:
    """Bounds of the full run's success share, valid whenever the run stopped.

    Each side misses with at most half of 1 − coverage. `edition` is that of the gate's test.
    """
    if not 0 <= successes <= drawn <= population:
        raise ValueError(f"{successes} successes in {drawn} draws of {population}")
    decides = log(2 / (1 - coverage))
    low, high = successes, population - (drawn - successes)

    def too_low(totals: Totals) -> Flags:
        return log_pass_each(population, totals, drawn, successes, edition) >= decides

    def too_high(totals: Totals) -> Flags:
        return log_fail_each(population, totals - 1, drawn, successes, edition) >= decides

    low += _leading(too_low, np.arange(low, high))
    high -= _leading(too_high, np.arange(high, low, -1))
    return low / population, high / population


def _leading(ruled_out: Callable[[Totals], Flags], totals: Totals) -> int:
    """How many totals are ruled out before the first that is not."""
    for begin in range(0, totals.size, _AT_ONCE):
        flags = ruled_out(totals[begin : begin + _AT_ONCE])
        if not flags.all():
            return begin + int(np.argmin(flags))
    return totals.size
