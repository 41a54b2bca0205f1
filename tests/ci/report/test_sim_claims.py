"""What the simulation gate's report says is proven is what the verdict proves, with its error."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
from sim_rows import plain, play, report_on

from ci.report.sim.html import render
from ci.report.sim.model import SimReport
from ci.report.sim.words import HEADLINE
from registry.statistics.grid import decide, limit, log_fail, log_pass
from registry.verdicts import Outcome


@pytest.fixture(scope="module")
def full() -> SimReport:
    return report_on(play(rate=0.96))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rate", [0.75, 0.86, 0.97])
def test_the_claim_is_the_verdicts(rate: float, seed: int) -> None:
    run = play(rate=rate, seed=seed, full=False)
    report = report_on(run)
    answer = decide(5000, 0.85, 0.01, len(run.rows), run.evidence.successes)
    assert report.verdict.outcome == (Outcome.PASS if answer else Outcome.FAIL)
    side = "more" if answer else "no more"
    assert f"would succeed in {side} than 85 %" in report.claims[0]
    assert "at most 1 %" in report.claims[0]
    low, high = report.numbers.full_low, report.numbers.full_high
    assert low > 0.85 if answer else high <= 0.85


def test_an_undecided_run_claims_nothing_and_says_what_is_missing() -> None:
    run = play(rate=0.96, full=False, stop_after=40)
    report = report_on(run)
    assert report.exit_status == 4
    assert "do not yet tell" in report.claims[0]
    assert f"About {run.verdict.more:,} more would decide" in report.claims[0]
    assert HEADLINE[Outcome.INCONCLUSIVE] in plain(render(report))


@pytest.mark.slow
def test_paths_end_where_the_registry_says(full: SimReport) -> None:
    run = play(rate=0.96, full=False)
    passing, failing = report_on(run).paths
    n, k, s0 = len(run.rows), run.evidence.successes, limit(0.85, 5000)
    assert passing.drawn[-1] == n
    assert passing.log10_e[-1] == pytest.approx(log_pass(5000, s0, n, k) / log(10))
    assert failing.log10_e[-1] == pytest.approx(log_fail(5000, s0, n, k) / log(10))
    assert passing.log10_e[-1] >= passing.decides == pytest.approx(2.0)
    assert max(passing.log10_e[:-1]) < passing.decides
    assert full.paths[0].log10_e[-1] == 12.0, "a certain verdict is drawn at the top"


def test_repeated_tries_weaken_the_error(full: SimReport) -> None:
    assert full.lineage_error == pytest.approx(1 - 0.99**3)
    text = plain(render(full))
    assert "3 versions were judged by this gate since box-grasp v9" in text
    assert "= 3.0 %" in text


@pytest.mark.slow
def test_a_floor_is_claimed_with_the_cells_below_it() -> None:
    run = play(rate=0.93, floor=0.85)
    report = report_on(run)
    weak = [cell.name for cell in report.cells if cell.bad]
    assert len(weak) == run.verdict.numbers["cells_below"]
    assert report.claims[-1].startswith(f"{len(weak)} of 100 cells are proven to succeed in less")
    assert weak[0] in report.claims[-1]
    assert "at most 5 %" in report.claims[-1]


def test_an_older_edition_of_the_test_is_drawn_as_it_was() -> None:
    run = play(rate=0.96, full=False)
    gate = replace(run.gate, edition=1)
    path = report_on(run, gate=gate).paths[0]
    n, k = len(run.rows), run.evidence.successes
    expected = log_pass(5000, limit(0.85, 5000), n, k, 1)
    assert path.log10_e[-1] == pytest.approx(expected / log(10))
