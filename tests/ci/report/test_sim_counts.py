"""What the simulation gate's report counts is what its rows say."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest
from scipy.stats import beta
from sim_rows import SMALL, plain, play, report_on

from ci.report.sim.html import render
from ci.report.sim.model import SimReport
from harness.failures import names


@pytest.fixture(scope="module")
def full() -> SimReport:
    return report_on(play(rate=0.96))


def test_rows_that_are_not_the_evidences_are_refused() -> None:
    run = play(axes=SMALL, episodes_per_cell=5)
    with pytest.raises(ValueError, match="the evidence counts"):
        report_on(replace(run, rows=run.rows[:-1]))


@pytest.mark.parametrize("seed", range(4))
def test_worst_and_best_cell_are_those_of_the_verdict(seed: int) -> None:
    """Few episodes a cell, so that many cells are equally bad."""
    run = play(axes=SMALL, episodes_per_cell=3, seed=seed)
    n, said = report_on(run).numbers, run.verdict.numbers
    names_of = [name for name, _ in run.evidence.cells]
    assert n.worst.name == names_of[int(said["worst_cell"] or 0)]
    assert n.best.name == names_of[int(said["best_cell"] or 0)]
    assert (n.spread, n.worst_bound) == (said["cell_std"], said["worst_high"])


@pytest.mark.slow
def test_the_page_says_what_its_rows_say(full: SimReport) -> None:
    text = plain(render(full))
    rows, wins = full.rows, sum(row.success for row in full.rows)
    assert f"{100 * wins / len(rows):.1f} % {wins} of {len(rows)}" in text
    by_cell = Counter(row.cell for row in rows)
    good = Counter(row.cell for row in rows if row.success)
    lowest = min(good[cell] / by_cell[cell] for cell in by_cell)
    worst = full.numbers.worst
    assert good[worst.name] / by_cell[worst.name] == lowest == full.verdict.numbers["cell_min"]
    assert f"worst cell {100 * lowest:.0f} % {worst.name}: {good[worst.name]} of 50" in text
    low, high = exact(good[worst.name], 50)
    assert f"{worst.name}: {good[worst.name]} of 50, {100 * low:.0f}–{100 * high:.0f} %" in text
    modes = Counter(row.failure_mode for row in rows if not row.success)
    for mode, count in modes.items():
        share = 100 * count / (len(rows) - wins)
        assert re.search(rf"{mode} [a-z ,]*{count} {share:.1f} % ", text), mode


def exact(successes: int, episodes: int) -> tuple[float, float]:
    """Clopper–Pearson by beta quantiles, apart from how the report computes it."""
    low = beta.ppf(0.025, successes, episodes - successes + 1) if successes else 0.0
    high = beta.ppf(0.975, successes + 1, episodes - successes) if successes < episodes else 1.0
    return float(low), float(high)


def test_every_pair_of_axes_has_a_heat_map_of_its_counts(full: SimReport) -> None:
    page = render(full)
    tables = re.findall(r'<table class="heat">(.*?)</table>', page, flags=re.S)
    pairs = [tuple(re.findall(r"<b>(\w+)</b>", table)) for table in tables]
    assert pairs == [("friction", "mass"), ("friction", "delay"), ("mass", "delay")]
    for (down, across), table in zip(pairs, tables, strict=True):
        for field in re.findall(r'title="([^"]+)">(.*?)</td>', table, flags=re.S):
            at = dict(part.split("=") for part in field[0].split(", "))
            mine = [
                row.success
                for row in full.rows
                if f"{row.values[down]:g}" == at[down] and f"{row.values[across]:g}" == at[across]
            ]
            low, high = exact(sum(mine), len(mine))
            assert f">{sum(mine)}/{len(mine)}<" in field[1]
            assert f">{100 * low:.0f}–{100 * high:.0f} %<" in field[1]


def test_every_axis_has_its_marginal_counts(full: SimReport) -> None:
    for marginal in full.marginals:
        for value, share in marginal.levels:
            mine = [row.success for row in full.rows if row.values[marginal.axis] == value]
            assert (share.successes, share.episodes) == (sum(mine), len(mine))
            assert (share.low, share.high) == pytest.approx(exact(sum(mine), len(mine)))


def test_a_random_axis_is_a_curve_over_all_episodes(full: SimReport) -> None:
    (curve,) = full.curves
    assert curve.axis == "gravity"
    assert curve.scenes == 50
    assert sum(share.episodes for _, _, share in curve.bins) == 5000
    edges = [edge for low, high, _ in curve.bins for edge in (low, high)]
    assert edges == sorted(edges)
    assert "success by gravity" in render(full)


def test_modes_by_axis_sum_to_the_modes(full: SimReport) -> None:
    for table in full.modes_by_axis:
        columns = zip(*(counts for _, _, counts in table.levels), strict=True)
        assert [sum(column) for column in columns] == [mode.count for mode in full.modes]


def test_an_axis_that_was_not_drawn_per_row_is_left_out() -> None:
    run = play(axes=SMALL, episodes_per_cell=5)
    bare = [
        replace(row, values={"mass": row.values["mass"], "friction": row.values["friction"]})
        for row in run.rows
    ]
    assert report_on(replace(run, rows=tuple(bare))).curves == ()


def test_a_mode_that_nobody_knows_is_still_counted() -> None:
    run = play(axes=SMALL, episodes_per_cell=20, rate=0.5)
    rows = tuple(
        row if row.success else replace(row, failure_mode="new_mode", detail="") for row in run.rows
    )
    report = report_on(replace(run, rows=rows))
    (mode,) = report.modes
    assert (mode.name, mode.of_failures, mode.names) == ("new_mode", 1.0, names("new_mode"))


def test_interventions_keep_shaping_and_protection_apart(full: SimReport) -> None:
    told = {(each.layer, each.name): each for each in full.interventions}
    assert set(told) == {("protection", "torque"), ("protection", "velocity"), ("shaping", "delta")}
    total = sum(row.interventions.get("velocity", 0) for row in full.rows)
    assert told["protection", "velocity"].total == total
    assert told["protection", "velocity"].per_episode == pytest.approx(total / 5000)


def test_a_gate_of_ranges_only_has_curves_and_no_maps() -> None:
    report = report_on(play(axes={}, episodes_per_cell=60))
    assert (report.maps, report.marginals) == ((), ())
    assert [each.axis for each in report.sensitivity] == ["gravity"]
    assert "There are no two axes" in render(report)


def test_cost_is_what_was_played_and_what_was_not_needed() -> None:
    run = play(rate=0.96, full=False)
    n = len(run.rows)
    report = report_on(run, seconds=50.0, played=n - 20, cores=4, price=0.36)
    cost = report.cost
    assert cost.saved == 5000 - n
    assert cost.rate == pytest.approx((n - 20) / 50)
    assert cost.spent == pytest.approx(50 / 3600 * 4 * 0.36)
    text = plain(render(report))
    assert f"{n - 20:,} episodes played in 50 s" in text
    assert "20 came from the record" in text


def test_an_undecided_run_saved_nothing() -> None:
    report = report_on(play(rate=0.96, full=False, stop_after=40), price=0.1)
    said = plain(render(report))
    assert "4,960 of the full run's 5,000 are not played yet" in said
    assert "saved" not in said
