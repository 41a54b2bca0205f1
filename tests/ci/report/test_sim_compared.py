"""The simulation gate's report against a baseline: which scenes flipped, and what that proves."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
from scipy.stats import binomtest
from sim_rows import BASELINE, SMALL, play, report_on

from ci.report.sim.html import render
from ci.report.sim.model import PairedCounts, SimReport
from ci.report.sim.words import claims
from registry.statistics.paired import log_regression

COUNTS = PairedCounts(
    "box-grasp v11", 240, 30, 4, 0, alpha=0.05, margin=0.02, regression_e=50.0, sound_e=0.1
)


@pytest.fixture(scope="module")
def report() -> SimReport:
    """Of 240 scenes, all paired."""
    return report_on(play(axes=SMALL, episodes_per_cell=40, flips=0.06))


def said(report: SimReport, counts: PairedCounts) -> str:
    """What is claimed of the comparison where its counts are these."""
    assert report.paired is not None
    told = replace(report.paired, counts=counts)
    mean = report.numbers.mean
    return claims(report.rules, report.verdict, mean.episodes, mean.successes, told, report.cells)[
        1
    ]


def test_a_regression_has_its_path() -> None:
    run = play(rate=0.9, full=False, stop_after=60, flips=0.2)
    report = report_on(run)
    assert report.paired is not None
    counts, path = report.paired.counts, report.paths[2]
    assert path.name == "worse than box-grasp v11"
    assert path.drawn[-1] == counts.pairs == len(run.rows)
    last = log_regression(counts.regressions, counts.fixes) / log(10)
    assert path.log10_e[-1] == pytest.approx(last)
    assert 10**last == pytest.approx(counts.regression_e)


def test_the_baselines_rows_are_those_of_the_evidence() -> None:
    run = play(axes=SMALL, episodes_per_cell=40, flips=0.2)
    same = {row.key: row for row in run.rows}
    with pytest.raises(ValueError, match="the baseline's rows"):
        report_on(replace(run, baseline=same))


def test_flips_are_counted_named_and_can_be_played_again() -> None:
    run = play(axes=SMALL, episodes_per_cell=40, flips=0.2)
    report = report_on(run)
    assert report.paired is not None
    lost = {r.key for r in run.rows if run.baseline[r.key].success and not r.success}
    won = {r.key for r in run.rows if r.success and not run.baseline[r.key].success}
    flips = report.paired.flips
    assert {flip.key for flip in flips if flip.kind == "regression"} == lost
    assert {flip.key for flip in flips if flip.kind == "fix"} == won
    assert report.paired.counts.identical == len(run.rows) - len(lost) - len(won)
    key = min(lost)
    assert f"policyctl replay {key} --version v12 --policy box-grasp" in render(report)


def test_the_evidences_counts_and_the_verdicts_e_values_are_told() -> None:
    run = play(axes=SMALL, episodes_per_cell=40, flips=0.2)
    report, seen = report_on(run), run.evidence.paired
    assert report.paired is not None
    assert seen is not None
    c, numbers = report.paired.counts, run.verdict.numbers
    assert c.baseline == f"{BASELINE.policy} v{BASELINE.number}"
    assert (c.pairs, c.regressions, c.fixes, c.identical) == (
        seen.pairs, seen.regressions, seen.fixes, seen.identical,
    )  # fmt: skip
    assert (c.regression_e, c.sound_e) == (numbers["regression_e"], numbers["sound_e"])
    exact = binomtest(seen.regressions, seen.regressions + seen.fixes).pvalue
    assert report.paired.p == pytest.approx(exact)


def test_the_e_values_decide_what_is_claimed(report: SimReport) -> None:
    worse = said(report, COUNTS)
    assert worse.startswith("It is worse than box-grasp v11: in 240 scenes")
    assert "at most 5 %" in worse
    sound = replace(COUNTS, pairs=150, regressions=4, regression_e=0.1, sound_e=30.0)
    assert "at most 2 points worse" in said(report, sound)
    open_ = replace(sound, sound_e=1.0)
    assert said(report, open_).startswith("No regression")
    same = replace(open_, regressions=0, fixes=0, identical=150)
    assert "to the last bit" in said(report, same)


def test_a_comparison_that_the_scenes_left_cannot_change_is_certain(report: SimReport) -> None:
    counts = replace(COUNTS, pairs=235, regressions=20, regression_e=1.5)
    lost = said(report, counts)
    assert lost.startswith("It is more than 2 points worse")
    assert lost.endswith("cannot change that.")
    equal = replace(counts, pairs=240, regressions=4)
    assert said(report, equal).startswith("It is at most 2 points worse")
    early = replace(counts, pairs=100)
    assert said(report, early).startswith("No regression")


def test_nothing_is_compared_without_a_baseline() -> None:
    report = report_on(play(axes=SMALL, episodes_per_cell=5))
    assert report.paired is None
    assert "Nothing to compare with" in render(report)


def test_a_suites_episodes_are_played_again_in_the_suite() -> None:
    run = play(axes=SMALL, episodes_per_cell=20, flips=0.3)
    report = report_on(run, gate=replace(run.gate, name="sim:camera"))
    assert report.paired is not None
    assert report.paired.flips[0].command.endswith(
        "--version v12 --policy box-grasp --suite camera"
    )
