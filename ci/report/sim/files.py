"""The report as files for programs: JSON, CSV, JUnit XML and GitHub's step summary.

- JSON is the model itself, `"schema": "policyctl/1"`, without pictures.
- CSV has one line an episode, in the order in which they were drawn.
- JUnit has a suite of one test case per cell of the grid, and one with the verdict. A cell fails
  where the verdict says so, never because it looks low; cells not drawn are skipped. An undecided
  verdict is an error, not a failure. A cell's time is its share of the run's, by policy steps.
- The summary is markdown below GitHub's limit of 1 MiB, whatever the grid.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from itertools import product

from ci.github import markdown_table, plain
from ci.report.sim import words
from ci.report.sim.model import Cell, Share, SimReport
from harness.sim.results import to_csv
from registry.verdicts import Outcome

SHOWN = 10
"""Rows of each table in the summary."""
MARKS = {Outcome.PASS: "✅", Outcome.FAIL: "❌", Outcome.INCONCLUSIVE: "❔"}
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_json(report: SimReport) -> str:
    return json.dumps(report.to_json(), allow_nan=False)


def as_csv(report: SimReport) -> str:
    """The very bytes that are kept with the verdict as `episodes.csv`."""
    return to_csv(report.rows)


def as_junit(report: SimReport) -> str:
    """JUnit XML as GitHub's, GitLab's and Jenkins' readers take it."""
    cells, verdict = _cells_suite(report), _verdict_suite(report)
    root = ET.Element("testsuites", {"name": f"policyctl {report.verdict.gate} {report.name}"})
    for count in ("tests", "failures", "errors", "skipped"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in (verdict, cells))))
    root.set("time", f"{report.cost.seconds:.3f}")
    root.extend((verdict, cells))
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def as_summary(report: SimReport) -> str:
    """Markdown for GITHUB_STEP_SUMMARY."""
    return "\n\n".join(part for part in _summary_parts(report) if part) + "\n"


def _verdict_suite(report: SimReport) -> ET.Element:
    suite = ET.Element("testsuite", {"name": f"{report.verdict.gate} gate"})
    properties = ET.SubElement(suite, "properties")
    for name, value in report.digests:
        ET.SubElement(properties, "property", {"name": name, "value": _xml(value)})
    case = _case(suite, report, "verdict", 0.0)
    said = "\n".join((report.verdict.reason, *report.claims, words.exit_meaning(report.verdict)))
    if report.verdict.outcome is Outcome.PASS:
        ET.SubElement(case, "system-out").text = _xml(said)
    else:
        failed = report.verdict.outcome is Outcome.FAIL
        kind = "failure" if failed else "error"
        told = {"message": _xml(report.verdict.reason), "type": str(report.verdict.outcome)}
        ET.SubElement(case, kind, told).text = _xml(said)
    return _counted(suite, 0.0)


def _cells_suite(report: SimReport) -> ET.Element:
    suite = ET.Element("testsuite", {"name": f"{report.rules.task} cells"})
    steps = max(1, sum(cell.steps for cell in report.cells))
    drawn = {cell.coordinates: cell for cell in report.cells}
    axes = sorted((axis.name, axis.values) for axis in report.axes if axis.values)
    for point in product(*(range(len(values)) for _, values in axes)):
        named = zip(axes, point, strict=True)
        name = " ".join(f"{axis}={values[i]:g}" for (axis, values), i in named) or "nominal"
        cell = drawn.get(point)
        case = _case(suite, report, name, report.cost.seconds * cell.steps / steps if cell else 0.0)
        if cell is None:
            ET.SubElement(case, "skipped", {"message": "no episode was drawn before the verdict"})
        elif cell.bad:
            told = {"message": f"{_seen(cell)}: {cell.bad}", "type": "cell"}
            ET.SubElement(case, "failure", told).text = _xml(_replays(report, cell))
        else:
            ET.SubElement(case, "system-out").text = _seen(cell)
    return _counted(suite, report.cost.seconds)


def _case(suite: ET.Element, report: SimReport, name: str, seconds: float) -> ET.Element:
    where = f"policyctl.{report.verdict.gate}.{report.policy}"
    told = {"classname": where, "name": _xml(name), "time": f"{seconds:.3f}"}
    return ET.SubElement(suite, "testcase", told)


def _counted(suite: ET.Element, seconds: float) -> ET.Element:
    counts = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    suite.set("tests", str(len(suite.findall("testcase"))))
    for name, tag in counts.items():
        suite.set(name, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("time", f"{seconds:.3f}")
    return suite


def _seen(cell: Cell) -> str:
    share = cell.share
    modes = "".join(f", {mode} {count}" for mode, count in cell.modes)
    seen = f"{share.successes} of {share.episodes} succeeded"
    return f"{seen} (95 % {words.interval(share)}){modes}"


def _replays(report: SimReport, cell: Cell) -> str:
    failed = [row for row in report.rows if row.cell == cell.name and not row.success]
    who = (report.policy, report.number, report.rules.gate)
    lines = [f"{row.failure_mode}: {words.replay(row.key, *who)}" for row in failed[:SHOWN]]
    return "\n".join(lines)


def _xml(text: str) -> str:
    """Text without the characters that XML 1.0 cannot carry."""
    return _NO_XML.sub("\ufffd", text)


def _summary_parts(report: SimReport) -> list[str]:
    n, verdict = report.numbers, report.verdict
    title = f"{MARKS[verdict.outcome]} {report.name} · {verdict.gate} · {verdict.outcome}"
    facts = [
        ("mean success", _share(n.mean)),
        ("full run's mean, 95 %", words.full_run(n.full_low, n.full_high)),
        ("worst cell", f"{n.worst.name}: {_share(n.worst.share)}"),
        ("best cell", f"{n.best.name}: {_share(n.best.share)}"),
        ("std over cells", f"{100 * n.spread:.1f} points, {100 * n.chance:.1f} by chance alone"),
    ]
    low = sorted(report.cells, key=lambda cell: (cell.share.high, cell.share.low))
    worst = [(cell.name, _share(cell.share), _modes(cell)) for cell in low[:SHOWN]]
    moves = [
        (each.axis, f"{each.points:.1f} points", each.worst, each.best, words.p_value(each.p))
        for each in report.sensitivity[:SHOWN]
    ]
    return [
        f"### {plain(title)}",
        f"**{plain(verdict.reason)}** ({plain(words.exit_meaning(verdict))})",
        "\n".join(f"- {plain(claim)}" for claim in report.claims),
        markdown_table(("", ""), facts),
        _baseline(report),
        "#### What moves success most\n\n"
        + markdown_table(("axis", "by", "worst at", "best at", "p"), moves),
        "#### Weakest cells\n\n" + markdown_table(("cell", "success", "failures"), worst),
        _failures(report),
        plain(words.of_cost(report)),
        plain(words.of_lineage(report.lineage, report.rules.alpha, report.lineage_error)),
        f"Recompute: `policyctl verify '{report.name}'`",
    ]


def _failures(report: SimReport) -> str:
    if not report.modes:
        return ""
    rows = [
        (mode.name, mode.count, words.percent(mode.of_failures), mode.names.manipulation or "–")
        for mode in report.modes[:SHOWN]
    ]
    table = markdown_table(("mode", "episodes", "of failures", "known as"), rows)
    return f"#### How it fails\n\n{table}"


def _baseline(report: SimReport) -> str:
    if report.paired is None:
        return ""
    c = report.paired.counts
    head = (
        f"#### Against {plain(c.baseline)}\n\n"
        f"{c.pairs} same scenes: **{c.regressions} regressions**, "
        f"{c.fixes} fixes, {c.identical} identical; McNemar p {words.p_value(report.paired.p)}"
    )
    lost = [flip for flip in report.paired.flips if flip.kind == "regression"][:SHOWN]
    if not lost:
        return head
    rows = [(flip.cell, flip.mode, f"`{flip.command}`") for flip in lost]
    return f"{head}\n\n{markdown_table(('cell', 'fails by', 'play it again'), rows)}"


def _share(share: Share) -> str:
    seen = f"{words.percent(share.rate)} ({share.successes}/{share.episodes}"
    return f"{seen}, {words.interval(share)})"


def _modes(cell: Cell) -> str:
    return ", ".join(f"{mode} {count}" for mode, count in cell.modes)
