"""The report of the simulation gate as its reader sees it: a real browser without a network."""

from __future__ import annotations

import base64
import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from sim_rows import play, report_on

from ci.report.sim.html import render
from ci.report.sim.model import Clip, SuiteResult

CHROMIUM = shutil.which("chromium")
ORDER = [
    "numbers", "maps", "axes", "sensitivity", "failures", "baseline", "suites", "paths", "cost",
    "lineage", "interventions", "clips", "recompute",
]  # fmt: skip


HIDDEN = "each => each.scrollWidth - each.clientWidth"
CUE = "each => getComputedStyle(each, '::before').content"
MASK = "each => getComputedStyle(each).maskImage"


def picture() -> str:
    out = io.BytesIO()
    Image.new("RGB", (640, 480), "#456").save(out, "WEBP")
    return base64.b64encode(out.getvalue()).decode()


def write(path: Path) -> Path:
    run = play(rate=0.96, full=False, flips=0.2)
    failed = next(row for row in run.rows if not row.success)
    engine = "an engine with a rather long fingerprint " * 4
    report = report_on(
        replace(run, evidence=replace(run.evidence, engine=engine)),
        clips={failed.key: Clip("image/webp", picture(), "the box slips")},
        suites=[SuiteResult("camera-5cm", 80, 100, 0.93)],
    )
    path.write_text(render(report), encoding="utf-8")
    return path


def overflow(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.slow
def test_a_browser_shows_it_offline_on_a_desk_on_a_phone_and_in_print(tmp_path: Path) -> None:
    file = write(tmp_path / "report.html")
    asked: list[str] = []
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        page = browser.new_context(offline=True).new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        for width in (1200, 390):
            page.set_viewport_size({"width": width, "height": 844})
            page.goto(file.as_uri())
            assert page.title() == "box-grasp v12 · sim gate · policyctl"
            assert overflow(page) <= 0
            first = page.locator(".verdict b").bounding_box()
            assert first is not None
            assert first["y"] < 200, "the verdict is the first thing on the page"
            headings = page.locator("h2").evaluate_all("all => all.map(each => each.id)")
            assert headings == ORDER
            assert page.locator("img").evaluate("each => each.naturalWidth") == 640
            for chart in page.locator("figure svg").all():
                box = chart.bounding_box()
                assert box is not None
                assert 200 < box["width"] <= width
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == 0
        assert page.pdf(format="A4").startswith(b"%PDF")
        browser.close()
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()] * 2
    assert complaints == []


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.slow
def test_cells_are_sorted_by_a_click(tmp_path: Path) -> None:
    file = write(tmp_path / "report.html")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        page = browser.new_page()
        page.goto(file.as_uri())
        page.locator("summary", has_text="cells played").click()
        shares = page.locator("#cells td:nth-child(2)")
        page.locator("#cells th", has_text="success").click()
        rising = [int(text.split()[0]) for text in shares.all_inner_texts()]
        assert rising == sorted(rising)
        page.locator("#cells th", has_text="success").click()
        falling = [int(text.split()[0]) for text in shares.all_inner_texts()]
        assert falling == sorted(rising, reverse=True)
        assert len(set(rising)) > 3
        browser.close()


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.slow
def test_a_table_wider_than_the_phone_says_that_it_scrolls(tmp_path: Path) -> None:
    """Words above it and a faded edge where more is hidden; at its end the edge is sharp."""
    file = write(tmp_path / "report.html")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto(file.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        wider = [each for each in page.locator(".wide").all() if each.evaluate(HIDDEN) > 1]
        assert wider, "no table of this report is wider than a phone"
        for each in wider:
            each.scroll_into_view_if_needed()
            page.wait_for_function("each => each.dataset.more === ''", arg=each.element_handle())
            assert "scroll" in each.evaluate(CUE)
            assert "linear-gradient" in each.evaluate(MASK)
            each.evaluate("each => each.scrollLeft = each.scrollWidth")
            page.wait_for_function("each => !('more' in each.dataset)", arg=each.element_handle())
            assert each.evaluate(MASK) == "none"
            assert each.evaluate(HIDDEN) > 1
        assert overflow(page) <= 0
        page.set_viewport_size({"width": 1200, "height": 844})
        page.wait_for_function("!document.querySelector('[data-wider], [data-more]')")
        browser.close()
