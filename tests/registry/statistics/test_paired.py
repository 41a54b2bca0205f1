"""Known answers and guarantees of the paired tests (statistics reference: 3.4, 4.6, V6, V6b)."""

from functools import cache
from math import comb, exp, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.statistics.paired import (
    SHARE_WEIGHTS,
    SHARES,
    certain,
    log_mixture,
    log_regression,
    log_sound,
    more_pairs,
)

ALPHA = 0.05
counts = st.integers(0, 400)


@pytest.mark.parametrize(
    ("regressions", "fixes", "value"), [(5, 0, 10.5), (10, 2, 9.440559), (40, 25, 1.660610)]
)
def test_v6_the_uniform_mixture(regressions: int, fixes: int, value: float) -> None:
    """A fine even grid over (½, 1) is the closed form of the reference."""
    points = 20_000
    shares = [0.5 + (i + 0.5) / (2 * points) for i in range(points)]
    found = log_mixture(regressions, fixes, shares, [1 / points] * points)
    assert exp(found) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(("regressions", "fixes", "value"), [(6, 1, 4.202143), (20, 8, 5.271712)])
def test_v6b_the_mixture_of_six_points(regressions: int, fixes: int, value: float) -> None:
    found = log_mixture(regressions, fixes, (0.55, 0.6, 0.7, 0.8, 0.9, 0.97), (1 / 6,) * 6)
    assert exp(found) == pytest.approx(value, abs=1e-6)


def test_the_values_by_hand() -> None:
    """6 regressions and 1 fix; then 1 regression and 2 fixes in 10 pairs at a margin of .02."""
    by_hand = (
        2 * 1.2**6 * 0.8 + 4 * 1.3**6 * 0.7 + 4 * 1.4**6 * 0.6 + 3 * 1.6**6 * 0.4
        + 2 * 1.9**6 * 0.1
    ) / 15  # fmt: skip
    assert exp(log_regression(6, 1)) == pytest.approx(by_hand)
    assert sum(SHARE_WEIGHTS) == pytest.approx(1)
    total = 0.0
    for stake in (0.15, 0.30, 0.45, 0.60, 0.85):
        bet = stake / 0.98
        total += (1 - stake) * (1 + 1.02 * bet) ** 2 * (1 + 0.02 * bet) ** 7
    assert exp(log_sound(10, 1, 2, 0.02)) == pytest.approx(total / 5)


def test_nothing_seen_is_worth_one() -> None:
    assert log_regression(0, 0) == pytest.approx(0)
    assert log_sound(0, 0, 0, 0.02) == pytest.approx(0)


@given(counts, counts)
def test_one_more_regression_never_speaks_for_the_new_one(regressions: int, fixes: int) -> None:
    pairs = regressions + fixes + 100
    assert log_regression(regressions + 1, fixes) > log_regression(regressions, fixes)
    assert log_regression(regressions, fixes + 1) < log_regression(regressions, fixes)
    assert log_sound(pairs, regressions + 1, fixes, 0.02) < log_sound(
        pairs, regressions, fixes, 0.02
    )
    assert log_sound(pairs, regressions, fixes + 1, 0.02) > log_sound(
        pairs, regressions, fixes, 0.02
    )


@given(st.floats(0.001, 0.5), st.floats(0, 1), st.floats(0, 1))
def test_a_pair_is_worth_at_most_one_under_the_null(
    margin: float, discordant: float, share: float
) -> None:
    worse = margin + (1 - margin) * discordant
    better = min(worse - margin, 1 - worse) * share
    mean = (
        worse * exp(log_sound(1, 1, 0, margin))
        + better * exp(log_sound(1, 0, 1, margin))
        + (1 - worse - better) * exp(log_sound(1, 0, 0, margin))
    )
    assert mean <= 1 + 1e-12


def chance_of_alarm(regressions: int, fixes: int, alpha: float = ALPHA) -> float:
    """P(the regression test ever alarms) in a random order of a population, exactly."""
    total = regressions + fixes

    @cache
    def after(b: int, c: int) -> float:
        if log_regression(b, c) >= log(1 / alpha):
            return 1.0
        left = total - b - c
        if not left:
            return 0.0
        worse = (regressions - b) / left
        found = worse * after(b + 1, c) if worse else 0.0
        return found + ((1 - worse) * after(b, c + 1) if worse < 1 else 0.0)

    return after(0, 0)


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_a_false_alarm_is_never_likelier_than_alpha_without_replacement(alpha: float) -> None:
    """Exactly, for every number of discordant pairs up to 60 and more on the edge of the null."""
    for regressions in range(31):
        for fixes in (regressions, regressions + 1):
            assert chance_of_alarm(regressions, fixes, alpha) <= alpha
    for regressions in (60, 100):
        assert chance_of_alarm(regressions, regressions, alpha) <= alpha


def test_where_the_alarm_sounds_an_order_is_likelier_with_replacement() -> None:
    """Rule 4's R ≤ 1, exactly: the balanced population against the coin."""
    for half in (5, 10, 40, 150):
        for b in range(half + 1):
            for c in range(b + 1):
                if log_regression(b, c) >= log(1 / ALPHA):
                    left = comb(2 * half - b - c, half - b)
                    assert left * 2 ** (b + c) <= comb(2 * half, half)


def chance_of_sound(
    population: int, regressions: int, fixes: int, margin: float, alpha: float
) -> float:
    """P(the non-inferiority test ever says yes) in a random order of a population, exactly."""
    shape = (regressions + 1, fixes + 1)
    worse, better = np.indices(shape)
    alive = np.zeros(shape)  # by regressions and fixes drawn, given that it has not spoken
    alive[0, 0] = 1.0
    chance = 0.0
    for n in range(population):
        left = population - n
        equal = np.clip(left - (regressions - worse) - (fixes - better), 0, None)
        drawn = alive * equal / left
        drawn[1:] += (alive * (regressions - worse) / left)[:-1]
        drawn[:, 1:] += (alive * (fixes - better) / left)[:, :-1]
        for b, c in np.argwhere(drawn):
            if log_sound(n + 1, int(b), int(c), margin) >= log(1 / alpha):
                chance += drawn[b, c]
                drawn[b, c] = 0.0
        alive = drawn
    return chance


@pytest.mark.parametrize("alpha", [0.05, 0.45])
@pytest.mark.parametrize(("population", "margin"), [(20, 0.2), (60, 0.3), (150, 0.1), (200, 0.02)])
def test_a_false_pass_is_never_likelier_than_alpha_without_replacement(
    population: int, margin: float, alpha: float
) -> None:
    """Exactly, for populations on the edge of the null."""
    lost = round(margin * population)
    for fixes in {0, 1, 4, min(16, (population - lost) // 2)}:
        assert chance_of_sound(population, fixes + lost, fixes, margin, alpha) <= alpha


def test_simulated_error_rates_and_cost_at_five_thousand_scenes() -> None:
    """Orders of one population: old .90, strongly paired scenes (.95), so 3.5 and 1.5 points of
    regressions and fixes at a loss of two points."""
    seed, reps, scenes = 20_261, 200, 5000
    rng = np.random.default_rng(seed)

    def paths(regressions: int, fixes: int) -> list[tuple[np.ndarray, np.ndarray]]:
        kind = np.zeros(scenes, np.int8)
        kind[:regressions], kind[regressions : regressions + fixes] = 1, 2
        orders = [rng.permutation(kind) for _ in range(reps)]
        return [(np.cumsum(o == 1), np.cumsum(o == 2)) for o in orders]

    def first(path: tuple[np.ndarray, np.ndarray], sound: bool) -> int:
        """Pairs until the test speaks, looked at after each discordant pair or each 25."""
        for n in range(scenes):
            b, c = int(path[0][n]), int(path[1][n])
            if sound:
                if n % 25 == 24 and log_sound(n + 1, b, c, 0.02) >= log(20):
                    return n + 1
            elif log_regression(b, c) >= log(20):
                return n + 1
        return scenes + 1

    alarms = [first(path, sound=False) for path in paths(113, 113)]
    slack = 2 * (ALPHA / reps) ** 0.5  # two standard errors of the simulation
    assert np.mean([n <= scenes for n in alarms]) <= ALPHA + slack, f"seed {seed}"
    caught = [first(path, sound=False) for path in paths(175, 75)]
    assert np.median(caught) <= 800, f"seed {seed}"
    passed = [first(path, sound=True) for path in paths(175, 75)]
    assert np.mean([n <= scenes for n in passed]) <= ALPHA + slack, f"seed {seed}"
    equal = [first(path, sound=True) for path in paths(113, 113)]
    assert np.median(equal) <= 800, f"seed {seed}"


def test_the_whole_population_is_certain_and_margins_are_decimal() -> None:
    assert certain(5000, 5000, 200, 100, 0.02) is True
    assert certain(5000, 5000, 201, 100, 0.02) is False
    assert certain(5000, 4999, 201, 100, 0.02) is None
    assert certain(5000, 4990, 211, 100, 0.02) is False
    assert certain(100, 99, 8, 7, 0.02) is True
    assert certain(0, 0, 0, 0, 0.02) is True


@given(st.integers(1, 300), st.data())
@settings(max_examples=80)
def test_more_pairs_would_decide_at_the_rates_seen(pairs: int, data: st.DataObject) -> None:
    regressions = data.draw(st.integers(0, min(pairs, 40)))
    fixes = data.draw(st.integers(0, min(pairs - regressions, 40)))
    more = more_pairs(5000, pairs, regressions, fixes, 0.02, ALPHA)
    assert 0 <= more <= 5000 - pairs
    if 0 < more < 5000 - pairs:
        total = pairs + more
        worse, better = regressions * total / pairs, fixes * total / pairs
        reached = max(log_regression(worse, better), log_sound(total, worse, better, 0.02))
        assert reached >= log(20)


def test_every_bet_is_on_a_loss() -> None:
    assert all(0.5 < share < 1 for share in SHARES)
