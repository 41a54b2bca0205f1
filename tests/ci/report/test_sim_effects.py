"""Sensitivity: the axis that moves success is found, one that does not is not."""

from __future__ import annotations

import numpy as np
import pytest
from sim_rows import FULL_AXES, play

from ci.report.sim.effects import Episodes, marginals, sensitivity, slot_test
from ci.report.sim.model import Axis


def test_on_a_full_table_it_is_cochrans_q() -> None:
    # 12 subjects under three treatments: Q = (k−1)(k ΣC² − T²)/(kT − ΣR²)
    rng = np.random.default_rng(4)
    table = (rng.random((12, 3)) < (0.3, 0.5, 0.8)).astype(float)
    k, total = 3, table.sum()
    columns, rows = table.sum(axis=0), table.sum(axis=1)
    expected = (k - 1) * (k * (columns**2).sum() - total**2) / (k * total - (rows**2).sum())
    found = slot_test(table)
    assert found is not None
    assert found[0] == pytest.approx(expected)


def test_equal_outcomes_tell_nothing() -> None:
    assert slot_test(np.ones((5, 3))) is None
    assert slot_test(np.array([[1.0], [0.0]])) is None


@pytest.mark.parametrize("share", [0.15, 0.6, 1.0])
def test_an_axis_without_effect_is_called_one_as_rarely_as_its_p_value_says(share: float) -> None:
    """Scenes differ a lot and are shared; a part of the table is drawn, as when a run stops."""
    rng = np.random.default_rng(7)
    called = 0
    for _ in range(400):
        ease = rng.normal(0, 2, (300, 1))
        table = (rng.random((300, 4)) < 1 / (1 + np.exp(-1 - ease))).astype(float)
        table[rng.random(table.shape) > share] = np.nan
        found = slot_test(table[~np.isnan(table).all(axis=1)])
        assert found is not None
        called += found[1] < 0.05
    assert 6 <= called <= 36  # 20 expected, 3.7 standard deviations either way


def test_the_strongest_axis_comes_first() -> None:
    run = play(rate=0.93)
    axes = [Axis(name, tuple(map(float, values))) for name, values in FULL_AXES.items()]
    episodes = Episodes.of(run.rows, axes)
    ranked = sensitivity(episodes, marginals(episodes), ())
    assert [each.axis for each in ranked] == ["friction", "mass", "delay"]
    first = ranked[0]
    assert (first.worst, first.best) == ("0.3", "1.5")
    assert first.p is not None
    assert first.p < 1e-6
    assert first.pairs == 1000
    outcome = {(r.values["mass"], r.values["delay"], r.episode, r.values["friction"]): r.success
               for r in run.rows}  # fmt: skip
    only = sum(ok and not outcome[(*key[:3], 0.3)] for key, ok in outcome.items() if key[3] == 1.5)
    assert first.only_best == only


def test_a_value_that_is_not_on_the_axis_is_refused() -> None:
    run = play(axes={"mass": (1.0, 2.0)}, episodes_per_cell=3)
    with pytest.raises(ValueError, match="mass has no value 2"):
        Episodes.of(run.rows, [Axis("mass", (1.0,))])
