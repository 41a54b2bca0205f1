"""`policyctl gate`: try a version. Exit status 0 passed, 3 failed, 4 inconclusive."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ci.app import open_registry
from ci.cli.finite import FiniteRange
from ci.cli.refs import policy_option, version_ref
from ci.cli.sim_options import hands_options
from ci.cli.verbs import with_home
from ci.output import emit, narrate, settings
from registry.errors import GateFailed, Inconclusive
from registry.gates import suite_of
from registry.verdicts import Outcome

if TYPE_CHECKING:
    from ci.pipeline import GateRun


class _Seconds(click.ParamType[float]):
    """60, 60s, 10m or 2h."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(value))
        if match is None or float(match[1]) == 0:
            self.fail(f"{value!r} is not a duration like 60s, 10m or 2h", param, ctx)
        return float(match[1]) * {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}[match[2]]


SECONDS = _Seconds()


@click.group("gate")
def command() -> None:
    """Try a version: in simulation, then on the lab's robot."""


@command.group("run")
def run() -> None:
    """Run one gate on a version and record its verdict."""


gates_option = click.option(
    "--gates",
    type=click.Path(exists=True, path_type=Path),
    help="gates.yaml or its folder; by default the policy's own.",
)


@run.command("sim")
@click.argument("version")
@policy_option
@gates_option
@click.option("--full", is_flag=True, help="Run every episode of the grid, decided or not.")
@click.option("--budget", type=SECONDS, help="Stop undecided after this long: 60s, 10m.")
@click.option(
    "--suite", help="Play a named suite in full instead: a report, no verdict that counts."
)
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the report there: HTML, JSON, CSV, JUnit, summary.",
)
@click.option(
    "--clips",
    type=click.IntRange(0, 20),
    default=3,
    show_default=True,
    help="Films of failures in the report, where this machine renders.",
)
@click.option("--no-record", is_flag=True, help="Only try: no verdict is recorded, no stage moves.")
@click.option("--cost-per-core-hour", "price", type=FiniteRange(), help="Show what the run cost.")
@hands_options
def sim(
    version: str,
    policy: str | None,
    gates: Path | None,
    full: bool,
    budget: float | None,
    suite: str | None,
    report: Path | None,
    clips: int,
    no_record: bool,
    price: float | None,
    executor: str,
    workers: int | None,
    address: str | None,
) -> None:
    """Try VERSION in simulation over the grid of gates.yaml."""
    from ci.cli.progress import ProgressLine
    from ci.pipeline import find_gates
    from ci.sim.contest import Hands
    from ci.sim.run import Effort, run_sim

    with open_registry() as registry:
        ref = version_ref(registry, version, policy)
        found = find_gates(str(ref.policy), gates)
        with ProgressLine(str(ref), full=full) as line:
            done = run_sim(
                registry, ref, found,
                hands=Hands(executor, workers or os.cpu_count() or 1, address),
                effort=Effort(full, budget, suite, report, clips, price, not no_record),
                progress=line,
            )  # fmt: skip
    if report:
        narrate(f"report: {report / 'report.html'}")
    finish(done)


@run.command("hil")
@click.argument("version")
@policy_option
@gates_option
@click.option(
    "--station",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The robot file of the lab's station.",
)
@click.option(
    "--prompts",
    type=click.Choice(["terminal", "scripted"]),
    default="terminal",
    show_default=True,
    help="Who answers reset prompts: a person here, or a rehearsal's script (twins only).",
)
@click.option("--repaired", help="Who repaired a broken bench, and what was done.")
def hil(
    version: str,
    policy: str | None,
    gates: Path | None,
    station: Path,
    prompts: str,
    repaired: str | None,
) -> None:
    """Try VERSION on the lab's robot; a run that was interrupted goes on."""
    from ci.pipeline import find_gates
    from ci.station import run_hil

    with open_registry() as registry:
        ref = version_ref(registry, version, policy)
        found = find_gates(str(ref.policy), gates)
        done = run_hil(
            registry, ref, found, station, prompts=prompts, say=narrate, repaired=repaired
        )
    finish(done)


@command.group("plan")
def plan() -> None:
    """What a gate would ask of a version, before it is run."""


@plan.command("sim")
@click.argument("version")
@policy_option
@gates_option
@click.option("--suite", help="Plan a named suite instead.")
def plan_sim_command(
    version: str, policy: str | None, gates: Path | None, suite: str | None
) -> None:
    """Prove that every axis is alive, and say how many episodes a verdict takes."""
    from rich.console import Group
    from rich.table import Table

    from ci.pipeline import find_gates
    from ci.sim.plan import plan_sim

    with open_registry() as registry:
        ref = version_ref(registry, version, policy)
        planned = plan_sim(registry, ref, find_gates(str(ref.policy), gates), suite=suite)
    axes = Table(box=None, pad_edge=False)
    for column in ("axis", "from", "to", "changes", "first at step"):
        axes.add_column(column)
    for axis in planned.axes:
        low = "nominal" if axis.low is None else f"{axis.low:g}"
        first = "–" if axis.first_step is None else str(axis.first_step)
        axes.add_row(axis.axis, low, f"{axis.high:g}", ", ".join(axis.changed), first)
    head = f"{planned.population} episodes in {planned.cells} cells; every axis is alive"
    soon = ", ".join(f"{n} at {rate:g}" for rate, n in planned.verdict_after)
    foot = [f"episodes to a verdict, by true mean: {soon}"]
    if planned.late:
        foot.append(f"[red]too slow, so every episode would fail:[/] {planned.late}")
    if planned.baseline:
        foot.append(f"paired with {planned.baseline} on the same scenes")
    emit(planned.to_json(), Group(head, axes, *foot))


@command.command("show")
@click.argument("policy", required=False)
@gates_option
def show(policy: str | None, gates: Path | None) -> None:
    """The gates a policy must pass, as they are read."""
    import yaml
    from rich.text import Text

    from ci.pipeline import find_gates

    if policy is None and gates is None:
        with open_registry() as registry:
            policy = registry.only_policy()
    found = find_gates(policy or "", gates)
    data = found.gates.to_json()
    lines = [f"# {found.path} ({found.gates.digest})"]
    lines.append(yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=96).rstrip())
    text = Text("\n".join(lines))
    emit({"path": str(found.path), "digest": found.gates.digest, "gates": data}, text)


def finish(done: GateRun) -> None:
    """Prints a verdict and turns it into the exit status; a suite only reports."""
    verdict = done.verdict
    colour = {"pass": "green", "fail": "red", "inconclusive": "yellow"}[str(verdict.outcome)]
    lines = [
        f"[bold]{done.version}[/] {verdict.gate}: [{colour}]{verdict.outcome}[/] — {verdict.reason}"
    ]
    if done.failure_modes:
        modes = ", ".join(f"{mode} {count}" for mode, count in done.failure_modes.items())
        lines.append(f"  failures: {modes}")
    if done.drop is not None:
        way = "lost" if done.drop >= 0 else "won"
        lines.append(f"  {abs(done.drop):.1f} points {way} against the gate itself")
    if verdict.more and verdict.outcome is Outcome.INCONCLUSIVE:
        lines.append(f"  about {verdict.more} more episodes would decide")
    if not done.recorded:
        lines.append("  nothing was recorded")
    spent = "from the record" if done.cached else f"{done.seconds:.1f} s"
    lines.append(f"  {spent}; next: {with_home(done.next_command(), settings().get('home', ''))}")
    error = None
    if verdict.outcome is not Outcome.PASS and suite_of(verdict.gate) is None:
        failed = verdict.outcome is Outcome.FAIL
        error = (GateFailed if failed else Inconclusive)(
            f"{done.version} {'failed' if failed else 'is undecided in'} {verdict.gate}",
            evidence=verdict.reason,
            hint=done.next_command(),
        )
    emit(done.to_json(), "\n".join(lines), error=error, report=done.report)
