"""The simulation gate's report as files for programs."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest
from sim_rows import SMALL, play, report_on

from ci.report.sim import files
from ci.report.sim.html import render
from ci.report.sim.model import Clip, SimReport, SuiteResult, from_json


@pytest.fixture(scope="module")
def full() -> SimReport:
    return report_on(play(rate=0.96, flips=0.06))


def test_logs_of_actions_stay_out_of_the_report() -> None:
    run = play(axes=SMALL, episodes_per_cell=5)
    rows = tuple(replace(row, actions="QUFB" * 100) for row in run.rows)
    assert "QUFB" not in files.as_json(report_on(replace(run, rows=rows)))


def test_json_gives_the_same_report_back() -> None:
    clips = {"box-grasp:0.0:1": Clip("image/png", "AAAA", "fell")}
    suites = (SuiteResult("camera", 80, 100, 0.9),)
    run = play(axes=SMALL, episodes_per_cell=5, flips=0.2)
    report = report_on(run, clips=clips, suites=suites)
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
    report = report_on(replace(run, verdict=verdict), clips=clips)
    page = render(report)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    summary = files.as_summary(report)
    assert "<script>" not in summary
    assert "\\|" in summary
