"""From what a run of the simulation gate recorded to what its report says. Values in, values out.

Counts are taken from the rows and must be those of the evidence: a report on rows that are not the
evidence's is refused, so that what it shows is what the verdict was computed from. What the verdict
says in numbers (the worst cell, the e-values) is read from it and not computed again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import log, sqrt

import numpy as np

from ci.report.sim import effects
from ci.report.sim.intervals import clopper_pearson, full_run
from ci.report.sim.model import (
    CUT,
    Axis,
    Cell,
    Clip,
    Cost,
    Flip,
    Intervention,
    Lineage,
    Mode,
    Numbers,
    Paired,
    PairedCounts,
    Path,
    Rules,
    SimReport,
    SuiteResult,
    VersionLike,
)
from ci.report.sim.words import claims, replay
from harness.failures import names
from harness.sim.gate import SimResult
from harness.sim.results import Row, failure_modes
from registry.evidence import GridEvidence
from registry.gates import GridGate
from registry.grid_verdict import weak_cells
from registry.statistics import grid
from registry.statistics.compare import mcnemar
from registry.statistics.paired import log_regression
from registry.verdicts import Verdict

POINTS = 200
"""Looks at which an e-value's path is drawn."""


def build(
    *,
    version: VersionLike,
    gate: GridGate,
    result: SimResult,
    executor: str,
    lineage: Lineage,
    clips: Mapping[str, Clip],
    suites: Sequence[SuiteResult] = (),
    cores: int = 1,
    price: float | None = None,
    written: str = "",
) -> SimReport:
    """The report. ValueError where the rows are not those that the evidence counts.

    The run played on `cores`, a core-hour at `price`. `written` is the time, already in words.
    """
    evidence, verdict, rows = result.evidence, result.verdict, result.rows
    _check(rows, evidence)
    axes, rules = _axes(gate), _rules(gate)
    episodes = effects.Episodes.of(rows, axes)
    by_axis, by_bin = effects.marginals(episodes), effects.curves(episodes)
    weak = {evidence.cells[i][0] for i in weak_cells(gate, evidence)}
    cells = _cells(rows, rules, evidence, weak)
    modes, pairs = _modes(rows), _paired(gate, result, version.number)
    return SimReport(
        policy=version.policy,
        number=version.number,
        digest=version.digest,
        written=written,
        verdict=verdict,
        claims=claims(rules, verdict, evidence.drawn, evidence.successes, pairs, cells),
        rules=rules,
        axes=axes,
        numbers=_numbers(rules, evidence, verdict, cells),
        cells=cells,
        maps=effects.heat_maps(episodes),
        marginals=by_axis,
        curves=by_bin,
        sensitivity=effects.sensitivity(episodes, by_axis, by_bin),
        modes=modes,
        modes_by_axis=effects.modes_by_axis(rows, axes, [mode.name for mode in modes]),
        paired=pairs,
        paths=_paths(rows, gate, result.baseline_rows, pairs),
        cost=_cost(result, rules, cores, price),
        lineage=lineage,
        lineage_error=1 - (1 - gate.alpha) ** max(1, lineage.attempts),
        interventions=_interventions(rows),
        suites=tuple(suites),
        digests=_digests(version, gate, evidence, executor),
        rows=tuple(replace(row, actions="") for row in rows),
        clips=tuple(clips.items()),
    )


def _check(rows: Sequence[Row], evidence: GridEvidence) -> None:
    wins = sum(row.success for row in rows)
    if (len(rows), wins) != (evidence.drawn, evidence.successes):
        raise ValueError(
            f"{wins} of {len(rows)} rows succeeded, "
            f"the evidence counts {evidence.successes} of {evidence.drawn}"
        )
    if not rows:
        raise ValueError("a report needs at least one episode")


def _axes(gate: GridGate) -> tuple[Axis, ...]:
    return tuple(
        Axis(name, term.values, *(term.range or (0.0, 0.0))) for name, term in gate.axes.items()
    )


def _rules(gate: GridGate) -> Rules:
    return Rules(
        gate=gate.name,
        task=gate.task,
        threshold=gate.threshold,
        alpha=gate.alpha,
        population=gate.population,
        cells=gate.cells,
        episodes_per_cell=gate.episodes_per_cell,
        floor=gate.floor,
        floor_alpha=gate.floor_alpha,
        edition=gate.edition,
    )


def _digests(
    version: VersionLike, gate: GridGate, evidence: GridEvidence, executor: str
) -> tuple[tuple[str, str], ...]:
    return (
        ("version", version.digest),
        ("gate", gate.digest),
        ("evidence", evidence.digest),
        ("order of the episodes", evidence.order_digest),
        ("all episodes", evidence.attempts_digest),
        ("engine", evidence.engine),
        ("judge", evidence.judge),
        ("executor", executor),
        ("robot class", evidence.robot_class),
    )


def _figure(verdict: Verdict, name: str) -> float:
    """A number of the verdict. ValueError where it has none, as under edition 1 of the rules."""
    value = verdict.numbers.get(name)
    if value is None:
        raise ValueError(f"the verdict has no {name}")
    return value


def _cells(
    rows: Sequence[Row],
    rules: Rules,
    evidence: GridEvidence,
    weak: Collection[str],
) -> tuple[Cell, ...]:
    """Every cell that was drawn from, in the grid's order.

    Where the mean failed, the cells that are below it beyond chance are bad too.
    """
    mean = rules.population, rules.threshold, rules.alpha, evidence.drawn, evidence.successes
    low_mean = grid.decide(*mean, rules.edition) is False
    of_cell: dict[str, list[Row]] = {}
    for row in rows:
        of_cell.setdefault(row.cell, []).append(row)
    found = []
    for name, mine in of_cell.items():
        coordinates = tuple(int(i) for i in mine[0].key.split(":")[-2].split(".") if i != "-")
        share = effects.share(sum(row.success for row in mine), len(mine))
        bad = ""
        if name in weak:
            bad = f"proven below the floor {rules.floor:g}"
        elif low_mean:
            joint = 1 - 2 * rules.floor_alpha / rules.cells
            _, high = clopper_pearson(share.successes, share.episodes, joint)
            if high < rules.threshold:
                bad = f"below the mean required, {rules.threshold:g}, beyond chance"
        steps = sum(row.steps for row in mine)
        modes = tuple(failure_modes(mine).items())
        found.append(Cell(name, coordinates, share, modes, steps, bad))
    return tuple(sorted(found, key=lambda cell: cell.coordinates))


def _numbers(
    rules: Rules, evidence: GridEvidence, verdict: Verdict, cells: Sequence[Cell]
) -> Numbers:
    mean = effects.share(evidence.successes, evidence.drawn)
    low, high = full_run(rules.population, mean.episodes, mean.successes, edition=rules.edition)
    by_name = {cell.name: cell for cell in cells}
    worst, best = (
        by_name[evidence.cells[int(_figure(verdict, which))][0]]
        for which in ("worst_cell", "best_cell")
    )
    counts = [cell.share.episodes for cell in cells]
    overall = mean.successes / mean.episodes
    chance = sqrt(float(np.mean([overall * (1 - overall) / n for n in counts])))
    return Numbers(
        mean=mean,
        full_low=low,
        full_high=high,
        worst=worst,
        best=best,
        spread=_figure(verdict, "cell_std"),
        chance=chance,
        cells=len(cells),
        fewest=min(counts),
        most=max(counts),
        worst_bound=_figure(verdict, "worst_high"),
    )


def _modes(rows: Sequence[Row]) -> tuple[Mode, ...]:
    counted = failure_modes(rows)
    failures = sum(counted.values())
    return tuple(
        Mode(mode, count, count / failures, count / len(rows), names(mode))
        for mode, count in counted.items()
    )


def _paired(gate: GridGate, result: SimResult, number: int) -> Paired | None:
    """The comparison, and each scene that ended otherwise. ValueError where those are not the
    evidence's."""
    paired, regression, verdict = result.evidence.paired, gate.regression, result.verdict
    if paired is None or regression is None:
        return None
    known = [
        (row, result.baseline_rows[row.key])
        for row in result.rows
        if row.key in result.baseline_rows
    ]
    flips = tuple(
        Flip(
            kind="fix" if row.success else "regression",
            key=row.key,
            cell=row.cell,
            mode=old.failure_mode if row.success else row.failure_mode,
            command=replay(row.key, result.evidence.subject.policy, number, gate.name),
        )
        for row, old in known
        if row.success != old.success
    )
    lost = sum(flip.kind == "regression" for flip in flips)
    if (len(known), lost, len(flips) - lost) != (paired.pairs, paired.regressions, paired.fixes):
        raise ValueError("the baseline's rows are not those that the evidence compares with")
    counts = PairedCounts(
        baseline=f"{paired.baseline.policy} v{paired.baseline.number}",
        pairs=paired.pairs,
        regressions=paired.regressions,
        fixes=paired.fixes,
        identical=paired.identical,
        alpha=regression.alpha,
        margin=regression.margin,
        regression_e=_figure(verdict, "regression_e"),
        sound_e=_figure(verdict, "sound_e"),
    )
    p = mcnemar(paired.regressions, paired.fixes)
    return Paired(counts, p, tuple(sorted(flips, key=lambda flip: flip.kind != "regression")))


def _paths(
    rows: Sequence[Row],
    gate: GridGate,
    baseline: Mapping[str, Row],
    paired: Paired | None,
) -> tuple[Path, ...]:
    """E-values over the episodes; they depend on the counts alone, so ~200 looks are enough."""
    looks = np.unique(np.linspace(0, len(rows), POINTS).round().astype(int))
    drawn = tuple(int(n) for n in looks)
    wins = np.concatenate(([0], np.cumsum([row.success for row in rows])))
    total, s0 = gate.population, grid.limit(gate.threshold, gate.population)
    passing, failing = [], []
    for n in drawn:
        k = int(wins[n])
        passing.append(CUT if k > s0 else _log10(grid.log_pass(total, s0, n, k, gate.edition)))
        lost = n - k >= total - s0
        failing.append(CUT if lost else _log10(grid.log_fail(total, s0, n, k, gate.edition)))
    decides = -log(gate.alpha) / log(10)
    paths = [
        Path(f"mean above {gate.threshold:g}", drawn, tuple(passing), decides),
        Path(f"mean not above {gate.threshold:g}", drawn, tuple(failing), decides),
    ]
    if paired is not None:
        paths.append(_regression_path(rows, drawn, baseline, paired.counts))
    return tuple(paths)


def _regression_path(
    rows: Sequence[Row],
    drawn: tuple[int, ...],
    baseline: Mapping[str, Row],
    counts: PairedCounts,
) -> Path:
    old = [baseline.get(row.key) for row in rows]
    both = list(zip(rows, old, strict=True))
    lost = np.cumsum([0, *(bool(was and was.success and not row.success) for row, was in both)])
    fixed = np.cumsum([0, *(bool(was and row.success and not was.success) for row, was in both)])
    worse = (log_regression(int(lost[n]), int(fixed[n])) for n in drawn)
    decides = -log(counts.alpha) / log(10)
    return Path(f"worse than {counts.baseline}", drawn, tuple(map(_log10, worse)), decides)


def _log10(natural: float) -> float:
    """A natural logarithm to base 10, cut to what can be drawn and written as JSON."""
    return max(-CUT, min(CUT, natural / log(10)))


def _cost(result: SimResult, rules: Rules, cores: int, price: float | None) -> Cost:
    seconds, played, drawn = result.seconds, result.played, len(result.rows)
    saved = rules.population - drawn
    rate = played / seconds if seconds > 0 and played else 0.0
    return Cost(seconds, played, drawn, saved, rate, saved / rate if rate else 0.0, cores, price)


def _interventions(rows: Sequence[Row]) -> tuple[Intervention, ...]:
    """Protection's first, most frequent first."""
    total: Counter[str] = Counter()
    touched: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for row in rows:
        for name, count in row.interventions.items():
            total[name] += count
            touched[name] += count > 0
            failed[name] += 0 if row.success else count
    losses = sum(not row.success for row in rows)
    found = [
        Intervention(
            name=name.removeprefix("shape_"),
            layer="shaping" if name.startswith("shape_") else "protection",
            total=count,
            episodes=touched[name],
            per_episode=count / len(rows),
            per_failure=failed[name] / losses if losses else 0.0,
            per_success=(count - failed[name]) / (len(rows) - losses)
            if len(rows) > losses
            else 0.0,
        )
        for name, count in total.items()
    ]
    return tuple(sorted(found, key=lambda each: (each.layer, -each.total, each.name)))
