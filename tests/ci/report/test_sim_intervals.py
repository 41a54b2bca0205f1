"""Intervals of success rates: their known values, and that they hold as often as they say."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.report.sim.intervals import COVERAGE, clopper_pearson, full_run
from registry.statistics.grid import log_fail, log_pass

pytestmark = pytest.mark.slow


def test_exact_intervals_have_their_known_values() -> None:
    assert clopper_pearson(50, 50, 1 - 2 * 0.05 / 100)[0] == pytest.approx(0.858973, abs=1e-6)
    assert clopper_pearson(9, 10) == pytest.approx((0.5550, 0.9975), abs=1e-4)
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@given(st.integers(1, 200), st.data())
def test_an_exact_interval_always_holds_its_rate(episodes: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, episodes))
    low, high = clopper_pearson(successes, episodes)
    assert 0.0 <= low <= successes / episodes <= high <= 1.0


def test_bounds_of_the_full_run_hold_at_every_look() -> None:
    rng = np.random.default_rng(3)
    population, missed, runs = 120, 0, 80
    for _ in range(runs):
        total = int(rng.integers(40, 120))
        wins = np.cumsum(rng.permutation(np.arange(population) < total))
        for drawn in range(1, population + 1, 8):
            low, high = full_run(population, drawn, int(wins[drawn - 1]))
            if not low <= total / population <= high:
                missed += 1
                break
    assert missed <= 9  # 4 would be the 5 % that is promised
    assert full_run(120, 120, 77) == (77 / 120, 77 / 120)


@given(st.integers(2, 1500), st.sampled_from([1, 2]), st.data())
def test_bounds_of_the_full_run_end_at_the_first_total_that_the_gate_would_not_rule_out(
    population: int, edition: int, data: st.DataObject
) -> None:
    drawn = data.draw(st.integers(0, population))
    successes = data.draw(st.integers(0, drawn))
    decides = log(2 / (1 - COVERAGE))
    low, high = full_run(population, drawn, successes, edition=edition)
    first, last = round(low * population), round(high * population)
    assert successes <= first <= last <= population - (drawn - successes)
    told = (drawn, successes, edition)
    for total in {successes, (successes + first) // 2, first - 1} & set(range(successes, first)):
        assert log_pass(population, total, *told) >= decides
    assert first == last or log_pass(population, first, *told) < decides
    most = population - (drawn - successes)
    for total in {most, (most + last) // 2 + 1, last + 1} & set(range(last + 1, most + 1)):
        assert log_fail(population, total - 1, *told) >= decides
    assert first == last or log_fail(population, last - 1, *told) < decides
