"""`gate run sim`: try a version, judge it, record what was seen, write its report."""

from __future__ import annotations

import base64
import io
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from ci.pipeline import GateRun, PolicyGates
from ci.report.sim.build import build
from ci.report.sim.files import as_csv, as_json, as_junit, as_summary
from ci.report.sim.html import render
from ci.report.sim.model import Clip, Lineage, SimReport, SuiteResult
from ci.sim.contest import Bench, Hands, baseline_of, bench, located, sim_gate
from harness.sim import gl
from harness.sim.gate import Progress, SimResult, SimRun, run_sim_gate
from harness.sim.results import Row, to_csv, unpack
from harness.simulations import simulation_of
from policies.loading import load_policy
from registry.evidence import GridEvidence
from registry.gates import GridGate, suite_of
from registry.service import Registry, VersionRecord
from registry.storage import disk_errors
from registry.versions import VersionRef

LOGS = 500
"""Most action logs kept with one verdict."""
CLIPS = 3
"""Failures that a report shows as film, where the machine can render."""


@dataclass(frozen=True)
class Effort:
    """How far to go, and what to leave behind. `price` is that of a core-hour."""

    full: bool = False
    budget_s: float | None = None
    suite: str | None = None
    report: Path | None = None
    clips: int = CLIPS
    price: float | None = None
    record: bool = True
    """Whether the verdict counts: what is only tried leaves its episodes and nothing else."""


def run_sim(
    registry: Registry,
    ref: VersionRef,
    gates: PolicyGates,
    *,
    hands: Hands | None = None,
    effort: Effort | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> GateRun:
    """Runs the simulation gate, or a suite, on a version and records its verdict."""
    hands, effort = hands or Hands(workers=os.cpu_count() or 1), effort or Effort()
    version = registry.version(ref)
    gate = sim_gate(registry, gates, version, effort.suite)
    baseline = baseline_of(registry, version, gate)
    with located(gates, effort.suite), bench(registry) as table:
        run = SimRun(
            candidate=table.contestant(version),
            gate=gate,
            nonce=version.nonce,
            baseline=table.contestant(baseline) if baseline else None,
            full=effort.full or effort.suite is not None,
            budget_s=effort.budget_s,
            where=str(gates.path),
        )
        simulation = simulation_of(gate, run.where, run.folders)
        result = run_sim_gate(
            run, simulation, executor=hands.of, progress=progress, keeper=registry
        )
        describe_it = partial(describe, registry, version, gate, result, hands=hands, effort=effort)
        artifacts, said = _kept(registry, version, result), ""
        if artifacts is None and effort.record:
            report = describe_it(clips={})
            artifacts, said = _keep(registry, report, result), as_summary(report)
        after = version
        if effort.record:
            verdict = result.verdict
            after = registry.record_verdict(ref, gate, result.evidence, verdict, artifacts)
        if effort.report:  # what comes now may fail without losing the verdict
            report = describe_it(clips=_clips(table, version, gate, result, effort.clips))
            write(report, effort.report)
            said = as_summary(report)
    return GateRun(
        after, gate, result.evidence, result.verdict, result.seconds,
        result.failure_modes, artifacts or {}, result.cached, said, result.played,
        nominal_rate(registry, version, gates) if effort.suite else None,
        recorded=effort.record, hil=gates.gates.hil is not None, option=gates.option,
    )  # fmt: skip


def describe(
    registry: Registry,
    version: VersionRecord,
    gate: GridGate,
    result: SimResult,
    *,
    hands: Hands,
    effort: Effort,
    clips: Mapping[str, Clip],
) -> SimReport:
    """The report on a result, with what the record knows beside it."""
    seen = result.evidence
    return build(
        version=version,
        gate=gate,
        result=result,
        executor=hands.executor,
        lineage=lineage(registry, version, gate.name),
        clips=clips,
        suites=_suites(registry, version, gate, seen.successes / seen.drawn),
        cores=hands.workers,
        price=effort.price,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def lineage(registry: Registry, version: VersionRecord, gate: str) -> Lineage:
    """How often something like this was tried since the fleet got what it runs now."""
    serving = registry.serving(version.policy)
    tried = [
        each
        for each in registry.list_versions(version.policy)
        if each.number > (serving or 0)
        and (
            each.number == version.number
            or any(v.verdict.gate == gate for v in registry.verdicts(each.ref))
        )
    ]
    of = f"{version.policy} v{serving}" if serving else ""
    return Lineage(len(tried), of, tuple(f"v{each.number}" for each in tried))


def write(report: SimReport, folder: Path) -> dict[str, Path]:
    """The report's files in a folder, by what they are."""
    contents = {
        "report.html": render(report),
        "report.json": as_json(report),
        "episodes.csv": as_csv(report),
        "junit.xml": as_junit(report),
        "summary.md": as_summary(report),
    }
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            (folder / name).write_text(text, encoding="utf-8")
    return {name: folder / name for name in contents}


def _kept(registry: Registry, version: VersionRecord, result: SimResult) -> dict[str, str] | None:
    """The artifacts of the very verdict, where it was recorded before."""
    for each in registry.verdicts(version.ref):
        if each.evidence == result.evidence:
            return dict(each.artifacts)
    return None


def _keep(registry: Registry, report: SimReport, result: SimResult) -> dict[str, str]:
    """Artifacts of the verdict: the report, every episode, and the logs of failures and flips."""
    texts = {"episodes.csv": to_csv(result.rows), "report.html": render(report)}
    if result.baseline_rows:
        texts["baseline.csv"] = to_csv(tuple(result.baseline_rows.values()))
    found = {name: registry.blobs.put(text.encode()) for name, text in texts.items()}
    logs = action_logs(result.rows)
    if logs:
        found["actions.npz"] = registry.blobs.put(logs)
    return found


def action_logs(rows: Sequence[Row]) -> bytes:
    """The policy's outputs in failures and flips, float32 by key; b"" where there are none."""
    kept = {row.key: unpack(row.actions) for row in rows if row.actions}
    if not kept:
        return b""
    out = io.BytesIO()
    arrays = {key: np.frombuffer(data, dtype=np.float32) for key, data in list(kept.items())[:LOGS]}
    np.savez_compressed(out, allow_pickle=False, **arrays)
    return out.getvalue()


def nominal_rate(registry: Registry, version: VersionRecord, gates: PolicyGates) -> float | None:
    """Success in the gate itself, where a version was judged by just these gates."""
    gate = sim_gate(registry, gates, version)
    for each in reversed(registry.verdicts(version.ref)):
        if each.gate == gate and isinstance(each.evidence, GridEvidence):
            return each.evidence.successes / each.evidence.drawn if each.evidence.drawn else None
    return None


def _rates(registry: Registry, version: VersionRecord) -> dict[str, tuple[int, int]]:
    """(successes, episodes) of the last run of each gate and suite in simulation."""
    return {
        each.verdict.gate: (each.evidence.successes, each.evidence.drawn)
        for each in registry.verdicts(version.ref)
        if isinstance(each.evidence, GridEvidence) and each.evidence.drawn
    }


def _suites(
    registry: Registry, version: VersionRecord, gate: GridGate, nominal: float
) -> list[SuiteResult]:
    """Suites of this version that were run, against its success in the gate itself."""
    if suite_of(gate.name) is not None:
        return []
    return [
        SuiteResult(suite, successes, drawn, nominal)
        for name, (successes, drawn) in _rates(registry, version).items()
        if (suite := suite_of(name)) is not None
    ]


def _clips(
    table: Bench, version: VersionRecord, gate: GridGate, result: SimResult, most: int
) -> dict[str, Clip]:
    """Films of failures, one a cell, the cells that fail most first; none where nothing renders."""
    failed = Counter(row.cell for row in result.rows if not row.success)
    chosen = {row.cell: row for row in reversed(result.rows) if not row.success}
    worst = [chosen[cell] for cell, _ in failed.most_common(most)]
    if not worst or gate.gymnasium is not None or gl.working() is None:
        return {}
    from harness.sim.film import film, webp

    simulation = simulation_of(gate)
    policy = load_policy(table.contestant(version).folder)
    clips = {}
    for row in worst:
        spec = simulation.grid.spec(simulation.grid.number(row.key))
        data = base64.b64encode(webp(film(policy, spec))).decode()
        clips[row.key] = Clip("image/webp", data, f"{row.cell}: {row.failure_mode}")
    return clips
