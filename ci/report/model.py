"""What a report says, read from the record once: plain values and finished charts.

Every figure comes from stored evidence or stored attempts, never from a program's memory, so that a
report written a year later is the same report.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version as installed
from math import exp
from typing import Any

from ci.report import charts
from harness.hil.model import State
from registry.evidence import CanaryEvidence, GridEvidence, Tally, TrialEvidence
from registry.gates import CanaryGate, GridGate
from registry.rollouts import Phase, Rollout
from registry.service import Registry, VerdictRecord, VersionRecord
from registry.statistics.canary import Block, Table, e_path

ENOUGH_REAL = 0.80
"""Below this real success rate the report says that the policy needs work, not tuning."""

STYLES = {Phase.DONE: "pass", Phase.ROLLED_BACK: "fail", Phase.ABORTED: "fail"}


@dataclass(frozen=True)
class GateView:
    name: str
    outcome: str
    reason: str
    successes: int
    episodes: int
    judge: str
    engine: str
    evidence: str
    charts: tuple[str, ...]
    failures: tuple[tuple[str, int], ...]
    agreement: str = ""
    """How often the judge said what a twin's truth says, where there is one."""


@dataclass(frozen=True)
class RolloutView:
    phase: str
    style: str
    reason: str
    candidate: Tally
    baseline: Tally
    baseline_number: int | None
    chart: str
    failures: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class VersionView:
    number: int
    stage: str
    digest: str
    provenance: tuple[str, ...]
    sim: GateView | None
    hil: GateView | None
    rollout: RolloutView | None


@dataclass(frozen=True)
class Gap:
    """How far reality is from simulation, in points of success rate."""

    number: int
    sim: str
    lab: str
    fleet: str
    points: str
    remark: str


@dataclass(frozen=True)
class RobotView:
    name: str
    running: str
    generation: int
    attempts: int
    interventions: int
    class_a: int


@dataclass(frozen=True)
class Frames:
    """What independent monitors read of the CAN traffic of all robots."""

    robots: int
    frames: int
    violations: int


@dataclass(frozen=True)
class Report:
    policy: str
    written: str
    program: str
    versions: tuple[VersionView, ...]
    gaps: tuple[Gap, ...]
    gap_chart: str
    robots: tuple[RobotView, ...]
    frames: Frames | None
    audit: tuple[Mapping[str, str], ...]
    scene: str = ""


def build(registry: Registry, policy: str, *, now: float, scene: str = "") -> Report:
    """Reads everything a report on `policy` says. `now` is seconds since the epoch."""
    records = registry.list_versions(policy)
    versions = tuple(_version(registry, record) for record in records)
    return Report(
        policy=policy,
        written=_when(now),
        program=installed("policyctl"),
        versions=versions,
        gaps=tuple(_gap(view) for view in versions),
        gap_chart=_gap_chart(versions),
        robots=_robots(registry, policy),
        frames=_frames(registry),
        audit=tuple(
            {
                "when": _when(event.at),
                "who": event.actor,
                "what": f"{event.action} {event.subject}".strip(),
                "why": event.reason,
            }
            for event in registry.history(policy)
        ),
        scene=scene,
    )


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _version(registry: Registry, record: VersionRecord) -> VersionView:
    newest: dict[str, VerdictRecord] = {}
    for verdict in registry.verdicts(record.ref):
        newest[verdict.verdict.gate] = verdict
    rollouts = [r.rollout for r in registry.rollouts(record.policy)]
    mine = [rollout for rollout in rollouts if rollout.candidate == record.number]
    return VersionView(
        number=record.number,
        stage=str(record.stage),
        digest=record.digest,
        provenance=tuple(
            _provenance(p.provenance.to_json()) for p in registry.provenance(record.ref)
        ),
        sim=_sim(registry, newest["sim"]) if "sim" in newest else None,
        hil=_hil(registry, newest["hil"]) if "hil" in newest else None,
        rollout=_rollout(registry, mine[-1]) if mine else None,
    )


def _provenance(fields: Mapping[str, Any]) -> str:
    said = [f"{name} {value}" for name, value in fields.items() if value and name != "recipe"]
    recipe = fields.get("recipe") or {}
    return " · ".join([*said, *(f"{name} {value}" for name, value in recipe.items())])


def _rows(registry: Registry, record: VerdictRecord, name: str) -> list[dict[str, str]]:
    digest = record.artifacts.get(name)
    if digest is None:
        return []
    return list(csv.DictReader(io.StringIO(registry.read_blob(digest).decode())))


def _view(
    record: VerdictRecord, counts: Tally, pictures: Sequence[str], failures: Counter[str]
) -> GateView:
    evidence = record.evidence
    return GateView(
        name=record.verdict.gate,
        outcome=str(record.verdict.outcome),
        reason=record.verdict.reason,
        successes=counts.success,
        episodes=counts.n,
        judge=evidence.judge,
        engine=evidence.engine,
        evidence=evidence.digest,
        charts=tuple(pictures),
        failures=tuple(failures.most_common()),
    )


def _sim(registry: Registry, record: VerdictRecord) -> GateView:
    evidence, gate = record.evidence, record.gate
    if not isinstance(evidence, GridEvidence) or not isinstance(gate, GridGate):
        raise TypeError("a sim verdict holds a grid and its gate")
    rows = _rows(registry, record, "episodes.csv")
    counts = Tally(evidence.successes, evidence.drawn - evidence.successes)
    failures = Counter(row["failure_mode"] for row in rows if row["outcome"] == "failure")
    return _view(record, counts, _heat_maps(gate, rows), failures)


def _heat_maps(gate: GridGate, rows: Sequence[Mapping[str, str]]) -> list[str]:
    """One map per pair of neighbouring axes, summed over the others."""
    axes = list(gate.grid)
    pairs = [(axes[0], axes[1])] if len(axes) > 1 else []
    if len(axes) > 2:
        pairs.append((axes[0], axes[2]))
    maps = []
    for down, across in pairs:
        cells: Counter[tuple[str, str, str]] = Counter(
            (row[down], row[across], row["outcome"]) for row in rows
        )
        downs = [f"{value:g}" for value in gate.grid[down]]
        acrosses = [f"{value:g}" for value in gate.grid[across]]
        tallies = [
            [
                (cells[d, a, "success"], cells[d, a, "success"] + cells[d, a, "failure"])
                for a in acrosses
            ]
            for d in downs
        ]
        maps.append(
            charts.heat_map(
                f"success by {down} and {across}",
                downs,
                acrosses,
                tallies,
                row_label=down,
                column_label=across,
            )
        )
    return maps


def _hil(registry: Registry, record: VerdictRecord) -> GateView:
    evidence = record.evidence
    if not isinstance(evidence, TrialEvidence):
        raise TypeError("a hil verdict holds trials")
    trials = _trials(registry, record)
    failures = Counter(trial["mode"] for trial in trials if trial["outcome"] == "failure")
    strip = charts.trial_strip("trials in order", [trial["outcome"] for trial in trials])
    view = _view(record, evidence.tally, [strip] if trials else [], failures)
    scored = [t for t in trials if t.get("truth") and t["outcome"] != "void"]
    if not scored:
        return view
    agreed = sum(t["truth"] == t["outcome"] for t in scored)
    return replace(view, agreement=f"{agreed} of {len(scored)}")


def _trials(registry: Registry, record: VerdictRecord) -> list[dict[str, Any]]:
    """The trials of a run as its journal recorded them, in order."""
    digest = record.artifacts.get("journal.jsonl")
    if digest is None:
        return []
    lines = [json.loads(line) for line in registry.read_blob(digest).splitlines()]
    edges = [line["data"] for line in lines if line["kind"] == "edge"]
    ended = {e["attempt"]: e["record"] for e in edges if e["state"] == State.RECORD}
    return [ended[number] for number in sorted(ended)]


def _rollout(registry: Registry, rollout: Rollout) -> RolloutView:
    evidence = registry.canary_evidence(rollout.id)
    attempts = registry.attempts(rollout=rollout.id)
    failures = Counter(
        attempt.failure_mode
        for attempt in attempts
        if attempt.outcome == "failure" and attempt.version == rollout.candidate
    )
    return RolloutView(
        phase=str(rollout.phase),
        style=STYLES.get(rollout.phase, "inconclusive"),
        reason=rollout.reason,
        candidate=evidence.candidate_total,
        baseline=evidence.baseline_total,
        baseline_number=rollout.baseline,
        chart=_path_chart(registry, rollout, evidence),
        failures=tuple(failures.most_common()),
    )


def _path_chart(registry: Registry, rollout: Rollout, evidence: CanaryEvidence) -> str:
    """The e-values of both tests over the complete blocks; none where there is no baseline."""
    gate: CanaryGate = rollout.gate
    if evidence.baseline is None:
        return ""
    blocks = [
        Block(
            block.stratum,
            Table(
                block.candidate.n, block.candidate.success,
                block.baseline.n, block.baseline.success,
            ),
        )
        for block in registry.canary_blocks(rollout.id)
    ]  # fmt: skip
    points = e_path(blocks, gate.weights, gate.margin)
    if not points:
        return ""
    return charts.evidence_path(
        f"v{rollout.candidate} against v{rollout.baseline}",
        [0, *(point.candidates for point in points)],
        [
            ("worse: roll back", [1.0, *(exp(p.log_rollback) for p in points)], 1 / gate.alpha),
            (
                f"not worse by {gate.margin:.0%}: promote",
                [1.0, *(exp(p.log_promote) for p in points)],
                1 / gate.promote_alpha,
            ),
        ],
        x_label="candidate episodes in complete blocks",
    )


def _tallies(view: VersionView) -> tuple[tuple[int, int] | None, ...]:
    """(successes, episodes) in simulation, in the lab and on the fleet."""
    gates = [(gate.successes, gate.episodes) if gate else None for gate in (view.sim, view.hil)]
    candidate = view.rollout.candidate if view.rollout else None
    return (*gates, (candidate.success, candidate.n) if candidate else None)


def _gap(view: VersionView) -> Gap:
    sim, lab, fleet = (
        tally[0] / tally[1] if tally and tally[1] else None for tally in _tallies(view)
    )
    real = fleet if fleet is not None else lab
    remark = ""
    if real is not None and real < ENOUGH_REAL:
        remark = f"below {ENOUGH_REAL:.0%} in reality: collect its failures and fine-tune on them"
    elif real is not None and sim is not None and sim - real > 0.10:
        remark = "simulation promises more than reality keeps: widen its randomization"

    def share(value: float | None) -> str:
        return "–" if value is None else f"{value:.1%}"

    points = "–" if fleet is None or sim is None else f"{100 * (fleet - sim):+.1f} points"
    return Gap(view.number, share(sim), share(lab), share(fleet), points, remark)


def _gap_chart(views: Sequence[VersionView]) -> str:
    if not any(tally for view in views for tally in _tallies(view)):
        return ""
    columns = list(zip(*(_tallies(view) for view in views), strict=True))
    return charts.grouped_shares(
        "success in simulation and in reality",
        [f"v{view.number}" for view in views],
        list(zip(("simulation grid", "lab robot", "fleet, as candidate"), columns, strict=True)),
    )


def _robots(registry: Registry, policy: str) -> tuple[RobotView, ...]:
    views = []
    for robot in registry.robots():
        attempts = registry.attempts(policy=policy, robot=robot.name)
        views.append(
            RobotView(
                name=robot.name,
                running=f"v{robot.running}" if robot.running else "nothing",
                generation=robot.generation,
                attempts=len(attempts),
                interventions=sum(
                    count
                    for attempt in attempts
                    for name, count in attempt.interventions.items()
                    if not name.startswith(
                        "shape_"
                    )  # shaping is the policy's own, not protection's
                ),
                class_a=sum(len(a.safety_events) for a in attempts),
            )
        )
    return tuple(views)


def _frames(registry: Registry) -> Frames | None:
    """Sums what the robots' monitors last reported."""
    reports = [r.status["frames"] for r in registry.robots() if r.status.get("frames")]
    if not reports:
        return None
    return Frames(
        robots=len(reports),
        frames=sum(int(report["frames"]) for report in reports),
        violations=sum(int(report["violations"]) for report in reports),
    )
