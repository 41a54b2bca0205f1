"""Known answers and properties of the canary tests (statistics reference: V1, V2, V3b, V8, 4.1)."""

from math import exp, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.gates import Weights
from registry.statistics.canary import (
    DESIGN_RATES,
    Block,
    Table,
    design_alternatives,
    e_path,
    history_weights,
    log_mixture,
    log_promote,
    log_rollback,
    more_candidates,
    project,
)

INFORMED = design_alternatives(history_weights(DESIGN_RATES, (90, 10)))
FLAT = design_alternatives([1 / 11] * 11)
LN20 = log(20)


def test_v1_history_weights() -> None:
    expected = [0, 0, 0.000004, 0.000350, 0.012534, 0.165313, 0.491493, 0.265544, 0.062304]
    assert history_weights(DESIGN_RATES, (90, 10)) == pytest.approx(
        [*expected, 0.002457, 0], abs=6e-7
    )


@pytest.mark.parametrize(
    ("n", "xc", "xk", "m", "informed", "flat"),
    [
        (2, 0, 38, 19, 4.617727, 4.895366),
        (10, 7, 171, 19, 0.808382, 0.485527),
        (30, 27, 513, 19, -1.708455, -1.640671),
        (10, 5, 9, 1, 1.280046, 1.082643),
        (50, 45, 45, 1, -1.472254, -1.502559),
    ],
)
def test_v2_grid_mixture(n: int, xc: int, xk: int, m: int, informed: float, flat: float) -> None:
    table = Table(n, xc, n * m, xk)
    assert log_mixture([table], INFORMED) == pytest.approx(informed, abs=1e-6)
    assert log_mixture([table], FLAT) == pytest.approx(flat, abs=1e-6)


def test_v3b_one_alternative_against_its_projection() -> None:
    # .70 against .90 at 1:19 has the null rate .89.
    bet = [(0.70, 0.90, 1.0)]
    alternatives = [type(FLAT[0])(*values) for values in bet]
    failed, fine = Table(1, 0, 19, 19), Table(1, 1, 19, 19)
    assert log_mixture([failed], alternatives) == pytest.approx(1.215595, abs=1e-6)
    assert log_mixture([fine], alternatives) == pytest.approx(-0.027848, abs=1e-6)


@pytest.mark.parametrize(
    ("margin", "null_c", "null_k", "kl"),
    [(0.05, 0.869727, 0.919727, 0.006807), (0.10, 0.831324, 0.931324, 0.025943)],
)
def test_v8_projection_on_the_margin(
    margin: float, null_c: float, null_k: float, kl: float
) -> None:
    c, k = project(0.9, margin, 1.0)
    assert (c, k) == pytest.approx((null_c, null_k), abs=1e-6)
    found = sum(0.9 * log(0.9 / p) + 0.1 * log(0.1 / (1 - p)) for p in (c, k))
    assert found == pytest.approx(kl, abs=1e-6)


@pytest.mark.slow
def test_exact_false_rollback_and_mean_of_the_one_to_one_test() -> None:
    """4.1: h = 20, 400 episodes, p = .9 both: .016286; a dead candidate is caught after 4.865."""
    false, _ = _exact(0.9, 0.9, horizon=400)
    assert false == pytest.approx(0.016286, abs=1e-6)
    caught, mean = _exact(0.0, 0.9, horizon=400)
    assert caught == pytest.approx(1.0, abs=1e-9)
    assert mean == pytest.approx(4.865, abs=1e-3)


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("m", [1, 3, 19])
def test_a_block_is_worth_at_most_one_on_the_null(p: float, m: int) -> None:
    """Every E is a mixture of products of such factors, so Ville bounds the whole process."""
    weights = Weights(history=(99, 1))
    nulls = [(p, p), (min(p + 0.3, 1.0), p), (1.0, p)]
    for pc, pk in nulls:
        assert _block_mean(lambda t: log_rollback({"s": [t]}, weights), pc, pk, m) <= 1 + 1e-12
    for pk in (p, 1.0):
        for worse in (0.10, 0.25):
            mean = _block_mean(
                lambda t: log_promote([t], weights, 0.10), max(pk - worse, 0.0), pk, m
            )
            assert mean <= 1 + 1e-12


def test_false_promotion_at_the_margin_stays_below_alpha() -> None:
    """4.3: a candidate that is exactly the margin worse is promoted in at most 5 % of rollouts."""
    weights, rng, runs, horizon = Weights(), np.random.default_rng(20), 400, 200
    wrong = 0
    xc = np.cumsum(rng.random((runs, horizon)) < 0.80, axis=1)
    xk = np.cumsum(rng.random((runs, horizon)) < 0.90, axis=1)
    for run in range(runs):
        wrong += any(
            log_promote([Table(n, int(xc[run, n - 1]), n, int(xk[run, n - 1]))], weights, 0.10)
            >= LN20
            for n in range(20, horizon + 1, 5)
        )
    assert wrong / runs <= 0.05 + 2 * (0.05 * 0.95 / runs) ** 0.5


@pytest.mark.parametrize(
    ("history", "failures", "episodes"),
    [((90, 10), 0, 55), ((99, 1), 0, 32), ((99, 1), 1, 60)],
)
def test_candidate_episodes_that_a_promotion_takes(
    history: tuple[int, int], failures: int, episodes: int
) -> None:
    """At margin .10, one control each, controls without failure."""
    weights = Weights(history=history)
    needed = next(
        n
        for n in range(failures + 1, 400)
        if log_promote([Table(n, n - failures, n, n)], weights, 0.10) >= LN20
    )
    assert needed == episodes


blocks_strategy = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans(), st.integers(0, 3)), max_size=30
)


@given(blocks_strategy, st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_e_depends_on_the_integers_alone_never_on_the_order(
    drawn: list[tuple[str, bool, int]], rnd: object
) -> None:
    weights = Weights()
    blocks = [Block(name, Table(1, int(ok), 3, xk)) for name, ok, xk in drawn]
    shuffled = list(blocks)
    rnd.shuffle(shuffled)  # type: ignore[attr-defined]
    strata: dict[str, list[Table]] = {}
    for name in {b.stratum for b in blocks}:
        of = [b.table for b in blocks if b.stratum == name]
        strata[name] = [Table(*map(sum, zip(*of, strict=True)))]
    pooled = [t for tables in strata.values() for t in tables]
    for path in (e_path(blocks, weights, 0.1), e_path(shuffled, weights, 0.1)):
        if path:
            assert path[-1].log_rollback == pytest.approx(log_rollback(strata, weights), abs=1e-9)
            assert path[-1].log_promote == pytest.approx(
                log_promote(pooled, weights, 0.1), abs=1e-9
            )


@given(st.integers(1, 60), st.data())
@settings(max_examples=60)
def test_more_candidate_failures_raise_rollback_and_lower_promotion(
    n: int, data: st.DataObject
) -> None:
    weights = Weights()
    xc, xk = data.draw(st.integers(1, n)), data.draw(st.integers(0, n))
    better, worse = Table(n, xc, n, xk), Table(n, xc - 1, n, xk)
    assert log_rollback({"s": [worse]}, weights) > log_rollback({"s": [better]}, weights)
    assert log_promote([worse], weights, 0.1) < log_promote([better], weights, 0.1)


@given(st.integers(0, 40), st.integers(0, 5))
def test_an_outstanding_attempt_never_helps_promotion(n: int, lost: int) -> None:
    weights = Weights()
    tables = [Table(n, n, n, n)] if n else []
    before = log_promote(tables, weights, 0.1, lost, 1.0)
    assert log_promote(tables, weights, 0.1, lost + 1, 1.0) < before
    failed = [*tables, Table(lost, 0, lost, lost)] if lost else tables
    assert before <= log_promote(failed, weights, 0.1) + 1e-9


def test_segments_of_different_ratio_add_inside_the_mixture() -> None:
    weights = Weights()
    one = {"s": [Table(5, 1, 5, 5), Table(2, 0, 38, 38)]}
    apart = log_rollback({"s": [one["s"][0]]}, weights) + log_rollback(
        {"s": [one["s"][1]]}, weights
    )
    assert log_rollback(one, weights) > apart  # the mixture learns across segments
    assert log_rollback(one, weights) > LN20


def test_tables_without_controls_carry_nothing() -> None:
    weights = Weights()
    assert log_rollback({"s": [Table(5, 0, 0, 0)]}, weights) == pytest.approx(0.0, abs=1e-12)
    assert log_rollback({}, weights) == pytest.approx(0.0, abs=1e-12)
    assert log_promote([], weights, 0.1) == pytest.approx(0.0, abs=1e-12)


def test_more_candidates_is_what_the_seen_rates_would_take() -> None:
    weights = Weights()
    strata = {"s": [Table(10, 10, 10, 10)]}
    more = more_candidates(strata, weights, 0.1, (LN20, LN20))
    assert more == 45  # 55 in all, see the promotion table above
    assert more_candidates({}, weights, 0.1, (LN20, LN20)) is None


def _block_mean(log_e, pc: float, pk: float, m: int) -> float:  # type: ignore[no-untyped-def]
    """E[E] over one block, exactly."""
    from math import comb

    total = 0.0
    for xc in (0, 1):
        for xk in range(m + 1):
            p = (pc if xc else 1 - pc) * comb(m, xk) * pk**xk * (1 - pk) ** (m - xk)
            total += p * exp(log_e(Table(1, xc, m, xk))) if p else 0.0
    return total


def _exact(pc: float, pk: float, horizon: int) -> tuple[float, float]:
    """(P(rollback), mean candidate episodes) of the 1:1 single-stratum test, exactly.

    ln E rises with the controls' successes, so after n blocks it is rolled back from some number
    of them on, which is found by bisection for every number of candidate successes at once.
    """
    arrays = [np.array(column) for column in zip(*INFORMED, strict=True)]
    rate_c, rate_k, weight = (column[:, None] for column in arrays)
    null = (rate_c + rate_k) / 2
    log_cs, log_cf = np.log(rate_c / null), np.log((1 - rate_c) / (1 - null))
    log_ks, log_kf = np.log(rate_k / null), np.log((1 - rate_k) / (1 - null))

    def log_e(n: int, xc: np.ndarray, xk: np.ndarray) -> np.ndarray:
        logs = np.log(weight) + xc * log_cs + (n - xc) * log_cf + xk * log_ks + (n - xk) * log_kf
        top = logs.max(axis=0)
        return top + np.log(np.exp(logs - top).sum(axis=0))

    mass = np.zeros((horizon + 1, horizon + 1))
    mass[0, 0] = 1.0
    stopped = mean = 0.0
    for n in range(1, horizon + 1):
        moved = (1 - pc) * (1 - pk) * mass
        moved[1:] += pc * (1 - pk) * mass[:-1]
        moved[:, 1:] += (1 - pc) * pk * mass[:, :-1]
        moved[1:, 1:] += pc * pk * mass[:-1, :-1]
        xc = np.arange(n + 1)
        low, high = np.full(n + 1, -1), np.full(n + 1, n + 1)  # low goes on, high is rolled back
        while (high - low > 1).any():
            middle = (low + high) // 2
            fires = (log_e(n, xc, middle) >= LN20) & (middle >= 0)
            open_ = high - low > 1
            low, high = np.where(open_ & ~fires, middle, low), np.where(open_ & fires, middle, high)
        out = np.zeros_like(mass, dtype=bool)
        out[: n + 1] = np.arange(horizon + 1) >= high[:, None]
        hit = float(moved[out].sum())
        stopped += hit
        mean += n * hit
        mass = np.where(out, 0.0, moved)
    return stopped, mean + horizon * (1 - stopped)
