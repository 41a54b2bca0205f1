"""Static SVG charts of the report. Plain numbers in, one `<svg>` string out; no file, no state.

Colours are from the Okabe-Ito palette, which colour-blind readers can tell apart; every chart
can be read in print, and carries its numbers as text.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#7f7f7f"

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "policyctl",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
}


def svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def heat_map(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    tallies: Sequence[Sequence[tuple[int, int]]],
    *,
    row_label: str,
    column_label: str,
) -> str:
    """Success share per cell, with its counts; `tallies[row][column]` is (successes, episodes).

    A cell that no episode of the sequential run fell into is left white.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(0.95 * len(columns) + 1.4, 0.5 * len(rows) + 1.1))
        axes = figure.subplots()
        shares = [[(k / n if n else float("nan")) for k, n in row] for row in tallies]
        axes.imshow(shares, vmin=0.0, vmax=1.0, cmap="cividis", aspect="auto")
        for i, row in enumerate(tallies):
            for j, (k, n) in enumerate(row):
                dark = bool(n) and k / n < 0.55
                text = f"{k}/{n}" if n else "–"
                axes.text(j, i, text, ha="center", va="center", color="white" if dark else "black")
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_xlabel(column_label)
        axes.set_ylabel(row_label)
        axes.set_title(title)
        axes.spines[:].set_visible(False)
        return svg(figure)


def evidence_path(
    title: str,
    episodes: Sequence[int],
    paths: Sequence[tuple[str, Sequence[float], float]],
    *,
    x_label: str,
) -> str:
    """Logarithmic paths of e-values over the episodes that fed them.

    `paths` holds (name, e-values, the value at which the test decides) per test.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 2.6))
        axes = figure.subplots()
        for (name, values, threshold), colour in zip(paths, (RED, BLUE, GREEN), strict=False):
            axes.step(episodes, values, where="post", color=colour, label=name)
            axes.axhline(threshold, color=colour, linewidth=0.8, linestyle="--")
            axes.annotate(
                f"{threshold:g}", (1.0, threshold), xycoords=("axes fraction", "data"),
                color=colour, va="center", xytext=(3, 0), textcoords="offset points",
            )  # fmt: skip
        axes.set_yscale("log")
        axes.set_xlabel(x_label)
        axes.set_ylabel("e-value")
        axes.set_title(title)
        axes.legend(frameon=False, loc="best")
        return svg(figure)


def trial_strip(title: str, outcomes: Sequence[str]) -> str:
    """One mark per attempt in order: success, failure or void."""
    colours = {"success": GREEN, "failure": RED, "void": GREY}
    marks = {"success": "o", "failure": "X", "void": "s"}
    with rc_context(STYLE):
        figure = Figure(figsize=(max(3.2, 0.2 * len(outcomes) + 1.0), 0.9))
        axes = figure.subplots()
        for kind, colour in colours.items():
            places = [i for i, outcome in enumerate(outcomes, start=1) if outcome == kind]
            if places:
                axes.scatter(
                    places, [0] * len(places), marker=marks[kind], color=colour,
                    label=f"{kind} {len(places)}", s=36,
                )  # fmt: skip
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("trial")
        axes.set_title(title)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return svg(figure)


def grouped_shares(
    title: str,
    groups: Sequence[str],
    series: Sequence[tuple[str, Sequence[tuple[int, int] | None]]],
) -> str:
    """Success shares per group, one bar per series with its 95 % Wilson interval and counts."""
    with rc_context(STYLE):
        figure = Figure(figsize=(1.5 * len(groups) + 1.6, 2.6))
        axes = figure.subplots()
        width = 0.8 / len(series)
        for s, ((name, tallies), colour) in enumerate(
            zip(series, (BLUE, ORANGE, GREEN, GREY), strict=False)
        ):
            label: str | None = name
            for g, tally in enumerate(tallies):
                if tally is None or tally[1] == 0:
                    continue
                k, n = tally
                low, high = wilson(k, n)
                x = g + (s - (len(series) - 1) / 2) * width
                axes.bar(x, k / n, width * 0.9, color=colour, label=label)
                label = None
                spread = [[max(0.0, k / n - low)], [max(0.0, high - k / n)]]
                axes.errorbar(x, k / n, spread, color="black", lw=0.8)
                axes.text(x, 0.02, f"{k}/{n}", rotation=90, ha="center", va="bottom", color="white")
        axes.set_xticks(range(len(groups)), groups)
        axes.set_ylim(0.0, 1.05)
        axes.set_ylabel("success")
        axes.set_title(title)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return svg(figure)


def wilson(successes: int, episodes: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a binomial share."""
    z = 1.959964
    share, spread = successes / episodes, z * z / episodes
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * (share * (1 - share) / episodes + spread / (4 * episodes)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)
