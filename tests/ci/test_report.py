"""The report as its reader sees it: one file in a real browser without a network."""

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from ci.report import charts
from ci.report.html import render
from ci.report.model import (
    Frames,
    Gap,
    GateView,
    Report,
    RobotView,
    RolloutView,
    VersionView,
)
from registry.evidence import Tally

CHROMIUM = shutil.which("chromium")


def gate(name: str, outcome: str, reason: str, *pictures: str) -> GateView:
    return GateView(name, outcome, reason, 38, 40, "judge/1", "engine 1", "sha256:0", pictures, ())


def sample(reason: str = "decided") -> Report:
    path = charts.evidence_path(
        "v2 against v1", [0, 1, 2], [("worse: roll back", [1.0, 4.0, 30.0], 20.0)], x_label="n"
    )
    cells = charts.heat_map(
        "success by cell", ["0.3"], ["1", "2"], [[(3, 4), (0, 0)]],
        row_label="friction", column_label="mass",
    )  # fmt: skip
    rollout = RolloutView(
        "rolled_back", "fail", "worse", Tally(3, 9), Tally(12, 0), 1, path, (("dropped", 9),)
    )
    version = VersionView(
        2, "rolled_back", "sha256:1", ("commit abc",), gate("sim", "pass", reason, cells),
        gate("hil", "pass", "fine", charts.trial_strip("trials", ["success", "void"])), rollout,
    )  # fmt: skip
    gap_chart = charts.grouped_shares("gap", ["v2"], [("sim", [(38, 40)]), ("fleet", [(3, 12)])])
    return Report(
        policy="box-grasp",
        written="2026-01-01 00:00:00 UTC",
        program="0",
        versions=(version,),
        gaps=(Gap(2, "95.0%", "95.0%", "25.0%", "-70.0 points", "below 80% in reality"),),
        gap_chart=gap_chart,
        robots=(RobotView("robot-01", "v1", 3, 12, 4, 0),),
        frames=Frames(1, 1000, 0),
        audit=({"when": "now", "who": "me", "what": "promote", "why": "because"},),
    )


def test_words_from_the_record_cannot_become_markup() -> None:
    page = render(sample(reason="<script>alert(1)</script>"))
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_every_chart_is_in_the_page_and_carries_its_numbers_as_text() -> None:
    page = render(sample())
    assert page.count("<svg") == 4
    for said in ("3/4", "worse: roll back", "38/40", "void 1"):
        assert said in page


def test_wilson_interval_has_its_known_values() -> None:
    low, high = charts.wilson(9, 10)
    assert (low, high) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert charts.wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.slow
def test_a_browser_shows_it_offline_wide_and_narrow(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(render(sample()))
    asked: list[str] = []
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        context = browser.new_context(offline=True)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(file.as_uri())
        assert page.title() == "box-grasp · policyctl"
        for chart in page.locator("svg").all():
            box = chart.bounding_box()
            assert box is not None
            assert box["width"] > 100
        page.get_by_role("link", name="v2").click()
        assert page.url.endswith("#v2")
        page.set_viewport_size({"width": 360, "height": 700})
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0
        browser.close()
    assert asked == [file.as_uri()]
    assert complaints == []
