"""Known answers and guarantees of the tests of single cells (statistics reference: 3.8, V7 ff.)."""

from functools import cache
from math import exp, inf, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.evidence import Tally
from registry.statistics.cells import below, interval, log_below, summary


@pytest.mark.parametrize(
    ("success", "n", "low"),
    [
        (19, 19, 0.854131), (43, 50, 0.753065), (45, 50, 0.801167), (47, 50, 0.852163),
        (50, 50, 0.941845), (27, 30, 0.761402), (9, 10, 0.605837),
    ],
)  # fmt: skip
def test_clopper_pearson_known_answers(success: int, n: int, low: float) -> None:
    """The reference's one-sided 95 % bounds are two-sided ones at 10 %."""
    assert interval(success, n - success, 0.10)[0] == pytest.approx(low, abs=1e-6)


def test_fifty_of_fifty_certify_what_the_reference_says() -> None:
    assert interval(50, 0, 2 * 0.05 / 100)[0] == pytest.approx(0.858973, abs=1e-6)
    assert interval(0, 50)[0] == 0
    assert interval(50, 0)[1] == 1
    low, high = interval(10, 40)
    assert (1 - high, 1 - low) == pytest.approx(interval(40, 10))


def test_the_e_value_is_its_integral() -> None:
    for success, failure, floor in [(3, 7, 0.6), (0, 5, 0.6), (20, 30, 0.6), (8, 2, 0.5)]:
        steps = 200_000
        t = (np.arange(steps) + 0.5) * floor / steps
        ratio = (t / floor) ** success * ((1 - t) / (1 - floor)) ** failure
        assert exp(log_below(success, failure, floor)) == pytest.approx(ratio.mean(), rel=1e-6)
    assert log_below(0, 0, 0.6) == pytest.approx(0)
    assert log_below(50_000, 0, 0.1) == -inf


@pytest.mark.parametrize("rate", [0.6, 0.7, 0.9])
def test_a_sound_cell_is_never_likelier_than_alpha_to_be_called_weak(rate: float) -> None:
    """Exactly, looked at after each of 200 episodes."""
    limit, alpha = 200, 0.05

    @cache
    def after(success: int, failure: int) -> float:
        if log_below(success, failure, 0.6) >= log(1 / alpha):
            return 1.0
        if success + failure == limit:
            return 0.0
        return rate * after(success + 1, failure) + (1 - rate) * after(success, failure + 1)

    assert after(0, 0) <= alpha


@given(st.integers(0, 60), st.integers(0, 60))
def test_one_more_success_never_speaks_for_weakness(success: int, failure: int) -> None:
    assert log_below(success + 1, failure, 0.6) < log_below(success, failure, 0.6)
    assert log_below(success, failure + 1, 0.6) > log_below(success, failure, 0.6)


def test_e_bh_takes_the_longest_list_over_all_cells() -> None:
    """The reference's check, K = 4, alpha = .05: thresholds 80, 40, 26.67 and 20."""
    assert exp(log_below(0, 5, 0.6)) == pytest.approx((1 - 0.4**6) / (6 * 0.6 * 0.4**5))
    weak = (0, 5)  # worth 27: not enough alone, enough as one of three
    assert below([weak], 0.6, 0.05, 4) == []
    assert below([weak, (5, 0), weak], 0.6, 0.05, 4) == []
    assert below([weak, (5, 0), weak, weak], 0.6, 0.05, 4) == [0, 2, 3]
    assert below([weak, weak, weak], 0.6, 0.05, 100) == []
    assert below([(9, 1), (0, 12)], 0.6, 0.05, 100) == [1]


def test_simulated_lists_of_sound_cells_are_empty() -> None:
    """100 cells on the floor, fifty episodes each, looked at after every round."""
    seed, runs = 5, 200
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(runs):
        successes = np.cumsum(rng.random((50, 100)) < 0.6, axis=0)
        wrong += any(
            below([(int(s), n + 1 - int(s)) for s in successes[n]], 0.6, 0.05, 100)
            for n in range(50)
        )
    assert wrong / runs <= 0.05, f"seed {seed}"


def test_the_summary_of_cells() -> None:
    cells = [Tally(9, 1), Tally(), Tally(2, 8), Tally(10, 0), Tally(10, 0)]
    found = summary(cells, 100)
    assert found is not None
    assert (found.count, found.worst, found.best) == (4, 2, 3)
    assert (found.min, found.max) == (0.2, 1.0)
    assert found.mean == pytest.approx(0.775)
    assert found.std == pytest.approx(np.std([0.9, 0.2, 1.0, 1.0]))
    assert found.worst_interval == pytest.approx(interval(2, 8, 0.05 / 100))
    assert summary([Tally()], 4) is None
