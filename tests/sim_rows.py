"""Rows of the simulation gate as a seeded generator makes them: no physics, known success rates.

Success falls with mass and delay and rises with friction; friction's effect is the largest. The
random axis `gravity` moves success a little. A baseline, where asked for, differs by a share of
flips.
"""

from __future__ import annotations

import html
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from ci.report.sim.build import build
from ci.report.sim.model import Lineage, SimReport
from harness.sim.gate import SimResult
from harness.sim.grid import Grid
from harness.sim.results import Row, digest_rows, tally_cells
from registry.evidence import GridEvidence, Paired, Subject
from registry.gates import GridGate, Regression, Term
from registry.grid_verdict import undecided
from registry.statistics.grid import order, order_digest
from registry.verdicts import Verdict, judge

NONCE = "00" * 16
SUBJECT = Subject("box-grasp", 12, "sha256:" + "1" * 64)
BASELINE = Subject("box-grasp", 11, "sha256:" + "2" * 64)
FULL_AXES: Mapping[str, tuple[float, ...]] = {
    "friction": (0.3, 0.5, 0.8, 1.0, 1.5),
    "mass": (0.5, 0.75, 1.0, 1.5, 2.0),
    "delay": (0, 1, 2, 3),
}
SMALL: Mapping[str, tuple[float, ...]] = {"friction": (0.3, 0.8, 1.5), "mass": (0.5, 1.0)}


@dataclass(frozen=True)
class Run:
    """One synthetic run of a gate, as its report takes it."""

    gate: GridGate
    rows: tuple[Row, ...]
    baseline: Mapping[str, Row]
    evidence: GridEvidence
    verdict: Verdict


def play(
    *,
    rate: float = 0.9,
    seed: int = 1,
    full: bool = True,
    stop_after: int | None = None,
    axes: Mapping[str, tuple[float, ...]] = FULL_AXES,
    episodes_per_cell: int = 50,
    flips: float | None = None,
    floor: float | None = None,
    drawn_axis: bool = True,
    detail: str = "",
) -> Run:
    """Rows in the drawn order; without `full` up to the verdict.

    `flips` is the share of scenes that the baseline ends otherwise; there is no baseline without.
    """
    terms = {name: Term(values) for name, values in axes.items()}
    if drawn_axis:
        terms["gravity"] = Term((), (0.95, 1.05))
    regression = None if flips is None else Regression()
    gate = GridGate(
        "box-grasp",
        terms,
        episodes_per_cell=episodes_per_cell,
        regression=regression,
        floor=floor,
    )
    grid = Grid.of("box-grasp", gate.axes, episodes_per_cell)
    dice = random.Random(seed)
    shares = ((i + 0.5) / episodes_per_cell for i in range(episodes_per_cell))
    ease = [NormalDist(0, 1.2).inv_cdf(share) for share in shares]
    dice.shuffle(ease)
    rows: list[Row] = []
    baseline: dict[str, Row] = {}
    wins = 0
    for number in map(int, order(NONCE, gate.population)):
        row = _row(grid, number, rate, dice, ease, detail)
        rows.append(row)
        flip = dice.random()
        if flips is not None:
            baseline[row.key] = _other(row, dice) if flip < flips else row
        wins += row.success
        if len(rows) == stop_after:
            break
        if not full:
            cells = [(t.success, t.failure) for _, t in tally_cells(grid, rows)] if floor else []
            if not undecided(gate, len(rows), wins, cells, compare(rows, baseline)):
                break
    evidence = GridEvidence(
        subject=SUBJECT,
        gate_digest=gate.digest,
        robot_class="openarm-v2",
        engine="mujoco 4.0.0 · numpy 2.4.6 · x86_64",
        judge="sim/2",
        attempts_digest=digest_rows(rows),
        population=gate.population,
        drawn=len(rows),
        successes=wins,
        nonce=NONCE,
        order_digest=order_digest(NONCE, gate.population),
        cells=tally_cells(grid, rows),
        paired=compare(rows, baseline),
    )
    return Run(gate, tuple(rows), baseline, evidence, judge(gate, evidence))


def compare(rows: Sequence[Row], baseline: Mapping[str, Row]) -> Paired | None:
    """The counts of the comparison, as the gate takes them."""
    if not baseline:
        return None
    pairs = [(row, baseline[row.key]) for row in rows]
    return Paired(
        BASELINE,
        len(pairs),
        sum(old.success and not row.success for row, old in pairs),
        sum(row.success and not old.success for row, old in pairs),
        sum(row.digest == old.digest for row, old in pairs),
    )


def report_on(
    run: Run, *, seconds: float = 20.0, played: int | None = None, **given: object
) -> SimReport:
    """The report on a run that played all of its rows itself, where nothing else is said."""
    result = SimResult(
        evidence=run.evidence,
        verdict=run.verdict,
        rows=run.rows,
        seconds=seconds,
        engine=run.evidence.engine,
        digest=run.evidence.attempts_digest,
        baseline_rows=run.baseline,
        played=len(run.rows) if played is None else played,
    )
    told: dict[str, Any] = {
        "version": SUBJECT,
        "gate": run.gate,
        "result": result,
        "executor": "in-process",
        "lineage": Lineage(3, "box-grasp v9", ("v10", "v11", "v12")),
        "clips": {},
        **given,
    }
    return build(**told)


def plain(page: str) -> str:
    """A page's text: no tags, one blank between words."""
    body = page[page.index("</style>") : page.index("<script>")]
    return " ".join(html.unescape(re.sub(r"<svg.*?</svg>|<[^>]+>", " ", body, flags=re.S)).split())


def _row(
    grid: Grid,
    number: int,
    rate: float,
    dice: random.Random,
    ease: list[float],
    detail: str,
) -> Row:
    cell, episode = grid.place(number)
    values = grid.values(number)
    odds = np.log(rate / (1 - rate)) + 1.0 + ease[episode] - 8 * (values.get("gravity", 1.0) - 1)
    odds += 2.2 * np.log(values.get("friction", 0.8) / 0.8)
    odds -= 0.8 * np.log(values.get("mass", 1.0)) + 0.3 * values.get("delay", 1)
    success = dice.random() < 1 / (1 + np.exp(-odds))
    modes = ("miss_grasp", "dropped", "timeout", "collision", "policy_fault")
    mode = "" if success else dice.choices(modes, (5, 4, 2, 1, 0.3))[0]
    interventions = {"velocity": 3, "shape_delta": 9} if dice.random() < 0.2 else {"torque": 1}
    return Row(
        key=grid.key(number),
        cell=cell.name,
        values=values,
        episode=episode,
        outcome="success" if success else "failure",
        failure_mode=mode,
        steps=dice.randint(60, 100) if success else dice.randint(100, 400),
        metrics={"lift_m": round(dice.uniform(0.1, 0.2) if success else dice.uniform(0, 0.1), 4)},
        interventions=interventions,
        digest=f"{dice.getrandbits(256):064x}",
        detail="" if success else detail,
    )


def _other(row: Row, dice: random.Random) -> Row:
    """The baseline's episode where it ended otherwise."""
    if row.success:
        mode = "timeout"
        return replace(row, outcome="failure", failure_mode=mode, digest=f"{dice.random()}")
    return replace(row, outcome="success", failure_mode="", digest=f"{dice.random()}")
