"""The report of the simulation gate: what it counts, proves and says, recomputed from its rows."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections import Counter
from dataclasses import replace
from math import log
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta
from sim_rows import SUBJECT, Run, play

from ci.report.sim import files
from ci.report.sim.build import build
from ci.report.sim.html import render
from ci.report.sim.intervals import clopper_pearson
from ci.report.sim.model import (
    Clip,
    Lineage,
    PairedCounts,
    SimReport,
    SuiteResult,
    from_json,
)
from ci.report.sim.words import HEADLINE
from harness.failures import names
from registry.statistics.grid import decide, limit, log_fail, log_pass
from registry.verdicts import Outcome

SMALL = {"friction": (0.3, 0.8, 1.5), "mass": (0.5, 1.0)}


def report_on(run: Run, **given: object) -> SimReport:
    told: dict[str, Any] = {
        "version": SUBJECT,
        "gate": run.gate,
        "evidence": run.evidence,
        "verdict": run.verdict,
        "rows": run.rows,
        "baseline_rows": run.baseline,
        "seconds": 20.0,
        "engine": run.evidence.engine,
        "executor": "in-process",
        "lineage": Lineage(3, "box-grasp v9", ("v10", "v11", "v12")),
        "clips": {},
        **given,
    }
    return build(**told)


@pytest.fixture(scope="module")
def full() -> SimReport:
    return report_on(play(rate=0.96))


def plain(page: str) -> str:
    """The page's text: no tags, one blank between words."""
    body = page[page.index("</style>") : page.index("<script>")]
    return " ".join(html.unescape(re.sub(r"<svg.*?</svg>|<[^>]+>", " ", body, flags=re.S)).split())


# what it counts


def test_rows_that_are_not_the_evidences_are_refused() -> None:
    run = play(axes=SMALL, episodes_per_cell=5)
    with pytest.raises(ValueError, match="the evidence counts"):
        report_on(replace(run, rows=run.rows[:-1]))


def test_the_page_says_what_its_rows_say(full: SimReport) -> None:
    text = plain(render(full))
    rows, wins = full.rows, sum(row.success for row in full.rows)
    assert f"{100 * wins / len(rows):.1f} % {wins} of {len(rows)}" in text
    by_cell = Counter(row.cell for row in rows)
    good = Counter(row.cell for row in rows if row.success)
    lowest = min(good[cell] / by_cell[cell] for cell in by_cell)
    worst = full.numbers.worst
    assert good[worst.name] / by_cell[worst.name] == lowest
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
    assert report_on(replace(run, rows=tuple(bare)), baseline_rows={}).curves == ()


# what it proves


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


def test_a_regression_has_its_path() -> None:
    run = play(rate=0.96, full=False)
    seen: list[tuple[int, int, int]] = []

    def log_e(pairs: int, regressions: int, fixes: int) -> float:
        seen.append((pairs, regressions, fixes))
        return float(regressions - fixes)

    report = report_on(run, log_regression=log_e)
    assert report.paired is not None
    counts = report.paired.counts
    assert seen[-1] == (counts.pairs, counts.regressions, counts.fixes)
    assert report.paths[2].name == "worse than the baseline"


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
    assert f"policyctl replay {key} --version v12" in render(report)


def test_recorded_counts_of_the_comparison_decide_what_is_claimed() -> None:
    run = play(axes=SMALL, episodes_per_cell=40)
    counts = PairedCounts("box-grasp v11", 240, 30, 4, margin=0.02, regression_e=50.0, sound_e=0.1)
    said = report_on(run, paired=counts).claims[1]
    assert said.startswith("It is worse than box-grasp v11: in 240 scenes")
    assert "at most 5 %" in said
    sound = replace(counts, pairs=150, regressions=4, regression_e=0.1, sound_e=30.0)
    assert "at most 2 points worse" in report_on(run, paired=sound).claims[1]
    open_ = replace(sound, sound_e=1.0)
    assert report_on(run, paired=open_).claims[1].startswith("No regression")
    same = replace(open_, regressions=0, fixes=0, identical=150)
    assert "to the last bit" in report_on(run, paired=same).claims[1]


def test_a_comparison_that_the_scenes_left_cannot_change_is_certain() -> None:
    run = play(axes=SMALL, episodes_per_cell=40)
    counts = PairedCounts("box-grasp v11", 235, 20, 4, margin=0.02, regression_e=1.5, sound_e=0.1)
    said = report_on(run, paired=counts).claims[1]
    assert said.startswith("It is more than 2 points worse")
    assert said.endswith("cannot change that.")
    equal = replace(counts, pairs=240, regressions=4)
    assert report_on(run, paired=equal).claims[1].startswith("It is at most 2 points worse")
    early = replace(counts, pairs=100)
    assert report_on(run, paired=early).claims[1].startswith("No regression")


def test_nothing_is_compared_without_a_baseline() -> None:
    report = report_on(play(axes=SMALL, episodes_per_cell=5), baseline_rows={})
    assert report.paired is None
    assert "Nothing to compare with" in render(report)


def test_repeated_tries_weaken_the_error(full: SimReport) -> None:
    assert full.lineage_error == pytest.approx(1 - 0.99**3)
    text = plain(render(full))
    assert "3 versions were judged by this gate since box-grasp v9" in text
    assert "= 3.0 %" in text


def test_cost_is_what_was_played_and_what_was_not_needed() -> None:
    run = play(rate=0.96, full=False)
    n = len(run.rows)
    report = report_on(run, seconds=50.0, played=n - 20, cores=4, price=0.36)
    cost = report.cost
    assert (cost.saved, cost.rate) == (5000 - n, pytest.approx((n - 20) / 50))
    assert cost.spent == pytest.approx(50 / 3600 * 4 * 0.36)
    text = plain(render(report))
    assert f"{n - 20:,} episodes played in 50 s" in text
    assert "20 came from the record" in text


def test_an_undecided_run_saved_nothing() -> None:
    report = report_on(play(rate=0.96, full=False, stop_after=40), price=0.1)
    said = plain(render(report))
    assert "4,960 of the full run's 5,000 are not played yet" in said
    assert "saved" not in said


def test_interventions_keep_shaping_and_protection_apart(full: SimReport) -> None:
    told = {(each.layer, each.name): each for each in full.interventions}
    assert set(told) == {("protection", "torque"), ("protection", "velocity"), ("shaping", "delta")}
    total = sum(row.interventions.get("velocity", 0) for row in full.rows)
    assert told["protection", "velocity"].total == total
    assert told["protection", "velocity"].per_episode == pytest.approx(total / 5000)


def test_a_floor_is_claimed_with_the_cells_below_it() -> None:
    run = play(rate=0.93)
    report = report_on(run, floor=0.85)
    weak = [cell.name for cell in report.cells if cell.bad]
    assert report.claims[-1].startswith(f"{len(weak)} of 100 cells are proven to succeed in less")
    assert weak[0] in report.claims[-1]
    assert "at most 5 %" in report.claims[-1]


def test_a_gate_of_ranges_only_has_curves_and_no_maps() -> None:
    report = report_on(play(axes={}, episodes_per_cell=60))
    assert (report.maps, report.marginals) == ((), ())
    assert [each.axis for each in report.sensitivity] == ["gravity"]
    assert "There are no two axes" in render(report)


def test_an_older_edition_of_the_test_is_drawn_as_it_was() -> None:
    run = play(rate=0.96, full=False)
    gate = replace(run.gate, edition=1)
    path = report_on(run, gate=gate).paths[0]
    n, k = len(run.rows), run.evidence.successes
    expected = log_pass(5000, limit(0.85, 5000), n, k, 1)
    assert path.log10_e[-1] == pytest.approx(expected / log(10))


def test_a_suites_episodes_are_played_again_in_the_suite() -> None:
    run = play(axes=SMALL, episodes_per_cell=20, flips=0.3)
    report = report_on(run, gate=replace(run.gate, name="sim:camera"))
    assert report.paired is not None
    assert report.paired.flips[0].command.endswith("--version v12 --suite camera")


def test_logs_of_actions_stay_out_of_the_report() -> None:
    run = play(axes=SMALL, episodes_per_cell=5)
    rows = tuple(replace(row, actions="QUFB" * 100) for row in run.rows)
    assert "QUFB" not in files.as_json(report_on(replace(run, rows=rows)))


# what it calls things


def test_a_mode_that_nobody_knows_is_still_counted() -> None:
    run = play(axes=SMALL, episodes_per_cell=20, rate=0.5)
    rows = tuple(
        row if row.success else replace(row, failure_mode="new_mode", detail="") for row in run.rows
    )
    report = report_on(replace(run, rows=rows))
    (mode,) = report.modes
    assert (mode.name, mode.of_failures, mode.names) == ("new_mode", 1.0, names("new_mode"))


# files


def test_json_gives_the_same_report_back() -> None:
    clips = {"box-grasp:0.0:1": Clip("image/png", "AAAA", "fell")}
    suites = (SuiteResult("camera", 80, 100, 0.9),)
    report = report_on(play(axes=SMALL, episodes_per_cell=5), clips=clips, suites=suites)
    text = files.as_json(report)
    data = json.loads(text)
    assert data["schema"] == "policyctl/1"
    assert "AAAA" not in text
    again = from_json(data)
    assert again == replace(report, clips=())
    assert files.as_json(again) == text
    assert render(again) == render(replace(report, clips=()))


def test_json_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="not a report"):
        from_json({"schema": "policyctl/2"})


def test_csv_has_the_rows() -> None:
    run = play(axes=SMALL, episodes_per_cell=5, detail='said "no", then\nleft')
    lines = list(csv.DictReader(io.StringIO(files.as_csv(report_on(run)))))
    assert [line["key"] for line in lines] == [row.key for row in run.rows]
    for line, row in zip(lines, run.rows, strict=True):
        assert (line["outcome"], line["failure_mode"]) == (row.outcome, row.failure_mode)
        assert (float(line["mass"]), int(line["episode"])) == (row.values["mass"], row.episode)
        assert float(line["gravity"]) == pytest.approx(row.values["gravity"], rel=1e-5)
        assert (line["digest"], line["detail"]) == (row.digest, row.detail)


def test_summary_is_short_and_has_verdict_cells_and_replays(full: SimReport) -> None:
    text = files.as_summary(full)
    assert text.startswith("### ✅ box-grasp v12 · sim · pass\n")
    assert len(text.encode()) < 16_000
    assert full.numbers.worst.name in text
    assert "`policyctl replay box-grasp:" in text


def test_words_of_users_cannot_become_markup() -> None:
    run = play(axes=SMALL, episodes_per_cell=5)
    bad = "<script>alert(1)</script> | @all \x00"
    verdict = replace(run.verdict, reason=bad)
    clips = {"k": Clip("image/png", "AAAA", bad)}
    report = report_on(run, verdict=verdict, clips=clips)
    page = render(report)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    summary = files.as_summary(report)
    assert "<script>" not in summary
    assert "\\|" in summary


# intervals


def test_exact_intervals_have_their_known_values() -> None:
    assert clopper_pearson(50, 50, 1 - 2 * 0.05 / 100)[0] == pytest.approx(0.858973, abs=1e-6)
    assert clopper_pearson(9, 10) == pytest.approx((0.5550, 0.9975), abs=1e-4)
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@given(st.integers(1, 200), st.data())
def test_an_exact_interval_always_holds_its_rate(episodes: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, episodes))
    low, high = clopper_pearson(successes, episodes)
    assert 0.0 <= low <= successes / episodes <= high <= 1.0
