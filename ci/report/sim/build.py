"""From what a run of the simulation gate recorded to what its report says. Values in, values out.

Counts are taken from the rows and must be those of the evidence: a report on rows that are not the
evidence's is refused, so that what it shows is what the verdict was computed from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from math import log, sqrt

import numpy as np
from scipy.stats import binomtest

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
from harness.sim.results import Row, failure_modes
from registry.evidence import GridEvidence
from registry.gates import GridGate
from registry.statistics import grid
from registry.statistics.cells import below
from registry.verdicts import Outcome, Verdict

POINTS = 200
"""Looks at which an e-value's path is drawn."""

LogE = Callable[[int, int, int], float]
"""ln of the regression e-value from (pairs, regressions, fixes)."""


def build(
    *,
    version: VersionLike,
    gate: GridGate,
    evidence: GridEvidence,
    verdict: Verdict,
    rows: Sequence[Row],
    baseline_rows: Mapping[str, Row],
    seconds: float,
    engine: str,
    executor: str,
    lineage: Lineage,
    clips: Mapping[str, Clip],
    suites: Sequence[SuiteResult] = (),
    paired: PairedCounts | None = None,
    log_regression: LogE | None = None,
    floor: float | None = None,
    floor_alpha: float = 0.05,
    played: int | None = None,
    cores: int = 1,
    price: float | None = None,
    written: str = "",
) -> SimReport:
    """The report. ValueError where the rows are not those that `evidence` counts.

    `seconds` and `played` (all drawn, if None) are wall time and episodes of the run itself on
    `cores`; `price` is that of a core-hour. `floor` is the gate's for each cell, all together at
    `floor_alpha`. `written` is the time to print, already in words.
    """
    wins = sum(row.success for row in rows)
    if (len(rows), wins) != (evidence.drawn, evidence.successes):
        raise ValueError(
            f"{wins} of {len(rows)} rows succeeded, "
            f"the evidence counts {evidence.successes} of {evidence.drawn}"
        )
    if not rows:
        raise ValueError("a report needs at least one episode")
    axes = tuple(
        Axis(name, term.values, *(term.range or (0.0, 0.0))) for name, term in gate.axes.items()
    )
    rules = Rules(
        gate=gate.name,
        task=gate.task,
        threshold=gate.threshold,
        alpha=gate.alpha,
        population=gate.population,
        cells=gate.cells,
        episodes_per_cell=gate.episodes_per_cell,
        floor=floor,
        floor_alpha=floor_alpha,
        edition=gate.edition,
    )
    episodes = effects.Episodes.of(rows, axes)
    by_axis, by_bin = effects.marginals(episodes), effects.curves(episodes)
    cells = _cells(rows, rules, verdict, weak_cells(evidence, rules))
    modes = _modes(rows)
    pairs = _paired(rows, baseline_rows, paired, rules, version.number)
    return SimReport(
        policy=version.policy,
        number=version.number,
        digest=version.digest,
        written=written,
        verdict=verdict,
        claims=claims(rules, verdict, len(rows), wins, pairs, cells),
        rules=rules,
        axes=axes,
        numbers=_numbers(rows, rules, cells),
        cells=cells,
        maps=effects.heat_maps(episodes),
        marginals=by_axis,
        curves=by_bin,
        sensitivity=effects.sensitivity(episodes, by_axis, by_bin),
        modes=modes,
        modes_by_axis=effects.modes_by_axis(rows, axes, [mode.name for mode in modes]),
        paired=pairs,
        paths=_paths(rows, gate, baseline_rows, pairs, log_regression),
        cost=_cost(
            len(rows), rules, seconds, len(rows) if played is None else played, cores, price
        ),
        lineage=lineage,
        lineage_error=1 - (1 - gate.alpha) ** max(1, lineage.attempts),
        interventions=_interventions(rows),
        suites=tuple(suites),
        digests=(
            ("version", version.digest),
            ("gate", gate.digest),
            ("evidence", evidence.digest),
            ("order of the episodes", evidence.order_digest),
            ("all episodes", evidence.attempts_digest),
            ("engine", engine),
            ("judge", evidence.judge),
            ("executor", executor),
            ("robot class", evidence.robot_class),
        ),
        rows=tuple(replace(row, actions="") for row in rows),
        clips=tuple(clips.items()),
    )


def weak_cells(evidence: GridEvidence, rules: Rules) -> frozenset[str]:
    """The cells that are proven below the floor, as the verdict counts them."""
    if rules.floor is None:
        return frozenset()
    tallies = [(tally.success, tally.failure) for _, tally in evidence.cells]
    found = below(tallies, rules.floor, rules.floor_alpha, rules.cells)
    return frozenset(evidence.cells[i][0] for i in found)


def _cells(
    rows: Sequence[Row],
    rules: Rules,
    verdict: Verdict,
    weak: Collection[str],
) -> tuple[Cell, ...]:
    """Every cell that was drawn from, in the grid's order."""
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
        elif verdict.outcome is Outcome.FAIL:
            joint = 1 - 2 * rules.floor_alpha / rules.cells
            _, high = clopper_pearson(share.successes, share.episodes, joint)
            if high < rules.threshold:
                bad = f"below the mean required, {rules.threshold:g}, beyond chance"
        steps = sum(row.steps for row in mine)
        modes = tuple(failure_modes(mine).items())
        found.append(Cell(name, coordinates, share, modes, steps, bad))
    return tuple(sorted(found, key=lambda cell: cell.coordinates))


def _numbers(rows: Sequence[Row], rules: Rules, cells: Sequence[Cell]) -> Numbers:
    mean = effects.share(sum(row.success for row in rows), len(rows))
    low, high = full_run(rules.population, mean.episodes, mean.successes, edition=rules.edition)
    rates = [cell.share.successes / cell.share.episodes for cell in cells]
    overall = mean.successes / mean.episodes
    worst = min(zip(rates, cells, strict=True), key=lambda pair: (pair[0], pair[1].share.high))[1]
    best = max(zip(rates, cells, strict=True), key=lambda pair: (pair[0], pair[1].share.low))[1]
    joint = 1 - 2 * rules.floor_alpha / rules.cells
    counts = [cell.share.episodes for cell in cells]
    chance = sqrt(float(np.mean([overall * (1 - overall) / n for n in counts])))
    return Numbers(
        mean=mean,
        full_low=low,
        full_high=high,
        worst=worst,
        best=best,
        spread=float(np.std(rates)),
        chance=chance,
        cells=len(cells),
        fewest=min(counts),
        most=max(counts),
        worst_bound=clopper_pearson(worst.share.successes, worst.share.episodes, joint)[1],
    )


def _modes(rows: Sequence[Row]) -> tuple[Mode, ...]:
    counted = failure_modes(rows)
    failures = sum(counted.values())
    return tuple(
        Mode(mode, count, count / failures, count / len(rows), names(mode))
        for mode, count in counted.items()
    )


def _paired(
    rows: Sequence[Row],
    baseline: Mapping[str, Row],
    recorded: PairedCounts | None,
    rules: Rules,
    number: int,
) -> Paired | None:
    """The comparison: flips from the rows, counts as recorded where they were."""
    known = [(row, baseline[row.key]) for row in rows if row.key in baseline]
    if recorded is None and not known:
        return None
    flips = tuple(
        Flip(
            kind="fix" if row.success else "regression",
            key=row.key,
            cell=row.cell,
            mode=old.failure_mode if row.success else row.failure_mode,
            command=replay(row.key, number, rules.gate),
        )
        for row, old in known
        if row.success != old.success
    )
    lost = sum(flip.kind == "regression" for flip in flips)
    counts = recorded or PairedCounts(
        baseline="the baseline",
        pairs=len(known),
        regressions=lost,
        fixes=len(flips) - lost,
        identical=sum(bool(row.digest) and row.digest == old.digest for row, old in known),
    )
    discordant = counts.regressions + counts.fixes
    p = float(binomtest(counts.regressions, discordant).pvalue) if discordant else 1.0
    return Paired(counts, p, tuple(sorted(flips, key=lambda flip: flip.kind != "regression")))


def _paths(
    rows: Sequence[Row],
    gate: GridGate,
    baseline: Mapping[str, Row],
    paired: Paired | None,
    log_regression: LogE | None,
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
    if log_regression is not None and paired is not None and baseline:
        paths.append(_regression_path(rows, drawn, baseline, paired.counts, log_regression))
    return tuple(paths)


def _regression_path(
    rows: Sequence[Row],
    drawn: tuple[int, ...],
    baseline: Mapping[str, Row],
    counts: PairedCounts,
    log_regression: LogE,
) -> Path:
    old = [baseline.get(row.key) for row in rows]
    both = list(zip(rows, old, strict=True))
    known = np.cumsum([0, *(was is not None for was in old)])
    lost = np.cumsum([0, *(bool(was and was.success and not row.success) for row, was in both)])
    fixed = np.cumsum([0, *(bool(was and row.success and not was.success) for row, was in both)])
    worse = (log_regression(int(known[n]), int(lost[n]), int(fixed[n])) for n in drawn)
    decides = -log(counts.alpha) / log(10)
    return Path(f"worse than {counts.baseline}", drawn, tuple(map(_log10, worse)), decides)


def _log10(natural: float) -> float:
    """A natural logarithm to base 10, cut to what can be drawn and written as JSON."""
    return max(-CUT, min(CUT, natural / log(10)))


def _cost(
    drawn: int, rules: Rules, seconds: float, played: int, cores: int, price: float | None
) -> Cost:
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
