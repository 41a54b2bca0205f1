"""Charts of the simulation report: values of the model in, one `<svg>` string out.

Sizes are chosen so that the text is still read when a phone shrinks the chart to its width.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ci.report.charts import BLUE, GREEN, GREY, RED, STYLE, svg
from ci.report.sim.model import Curve, Path, Share

_STYLE = {**STYLE, "font.size": 10, "axes.titlesize": 11}
_BELOW, _MIDDLE, _ABOVE = (213, 94, 0), (247, 247, 245), (0, 114, 178)


def e_paths(paths: Sequence[Path]) -> str:
    """log10 e-values over the episodes; dashed where a test decides."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(5.0, 2.8))
        axes = figure.subplots()
        top = max(path.decides for path in paths)
        for path, colour, mark in zip(paths, (BLUE, RED, GREEN), ("-", "-", "-."), strict=False):
            axes.plot(path.drawn, path.log10_e, mark, color=colour, label=path.name, linewidth=1.6)
        for level, colour in {path.decides: GREY for path in paths}.items():
            axes.axhline(level, color=colour, linewidth=0.9, linestyle="--")
            axes.annotate(
                f"{10**level:.0f}", (1.0, level), xycoords=("axes fraction", "data"),
                xytext=(4, 0), textcoords="offset points", va="center", color=colour, fontsize=9,
            )  # fmt: skip
        axes.set_ylim(-top - 1.0, top + 1.0)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(_power))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("episodes")
        axes.set_ylabel("e-value")
        axes.legend(
            frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=1, borderaxespad=0.2
        )
        return svg(figure)


def curve(data: Curve) -> str:
    """Success over the bins of a random axis, each with its interval and count."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(3.0, 2.1))
        axes = figure.subplots()
        middles = [(low + high) / 2 for low, high, _ in data.bins]
        rates = [s.successes / s.episodes for _, _, s in data.bins]
        below = [max(0.0, r - s.low) for r, (_, _, s) in zip(rates, data.bins, strict=True)]
        above = [max(0.0, s.high - r) for r, (_, _, s) in zip(rates, data.bins, strict=True)]
        axes.errorbar(middles, rates, (below, above), color=BLUE, fmt="o-", lw=1.2, ms=4, capsize=2)
        axes.set_ylim(-0.02, 1.05)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(data.axis)
        axes.set_title(f"success by {data.axis}")
        return svg(figure)


def whisker(share: Share, threshold: float, start: float = 0.0) -> str:
    """A rate, its interval and the threshold on a line from `start` to 1, of any width."""
    if not share.episodes:
        return ""
    rate = share.successes / share.episodes
    low, high, rate, mark = (
        100 * max(0.0, x - start) / (1 - start) for x in (share.low, share.high, rate, threshold)
    )
    at = _mark(mark, GREY, 0.4)
    return (
        '<svg class="whisker" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect x="0" y="4.6" width="100" height=".8" fill="#e4e8ec"/>{at}'
        f'<rect x="{low:.2f}" y="3.6" width="{max(0.2, high - low):.2f}" height="2.8" '
        f'fill="{BLUE}" opacity=".45"/>{_mark(rate, BLUE, 1.2)}</svg>'
    )


def shade(share: Share, threshold: float) -> str:
    """CSS colours of a heat map's field: orange below the threshold, blue above, pale at it."""
    if not share.episodes:
        return ""
    rate = share.successes / share.episodes
    if rate < threshold:
        end, weight = _BELOW, (threshold - rate) / threshold
    else:
        end, weight = _ABOVE, (rate - threshold) / (1 - threshold)
    mixed = [round(m + (e - m) * weight) for m, e in zip(_MIDDLE, end, strict=True)]
    bright = 0.299 * mixed[0] + 0.587 * mixed[1] + 0.114 * mixed[2]
    ink = "#fff" if bright < 125 else "#1b1f24"
    return f"background:rgb({mixed[0]},{mixed[1]},{mixed[2]});color:{ink}"


def _mark(at: float, colour: str, width: float) -> str:
    return f'<rect x="{at - width / 2:.2f}" y="1" width="{width}" height="8" fill="{colour}"/>'


def _power(value: float, _: int) -> str:
    return f"{10**value:g}" if -4 <= value <= 4 else f"1e{value:.0f}"
