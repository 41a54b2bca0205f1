"""The report as one HTML page that needs no network: style, charts and pictures are inside."""

from __future__ import annotations

from math import floor
from typing import Any

from markupsafe import Markup

from ci.report.sim import charts, words
from ci.report.sim.model import Share, SimReport
from ci.report.template import environment

FLIPS_OPEN, FLIPS_SHOWN = 12, 100
"""Regressions, and fixes, that the page shows at once, and on a click; JSON has all."""


def render(report: SimReport) -> str:
    """The page. Everything is escaped but the charts, which we drew ourselves."""
    templates = environment("ci.report.sim")
    templates.filters.update(
        percent=words.percent, interval=words.interval, p=words.p_value, duration=words.duration
    )
    threshold = report.rules.threshold

    lows = [share.low for each in report.marginals for _, share in each.levels if share.episodes]
    start = floor(10 * min([*lows, threshold])) / 10

    def bold(share: Share) -> bool:
        return share.low > threshold or share.high < threshold

    context: dict[str, Any] = {
        "report": report,
        "words": words,
        "few": FLIPS_OPEN,
        "limit": FLIPS_SHOWN,
        "shade": lambda share: Markup(charts.shade(share, threshold)),
        "start": start,
        "whisker": lambda share: Markup(charts.whisker(share, threshold, start)),
        "sure": bold,
        "e_paths": Markup(charts.e_paths(report.paths)),
        "curves": [Markup(charts.curve(each)) for each in report.curves],
    }
    return templates.get_template("page.html.j2").render(context)
