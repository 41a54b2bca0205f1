"""`policyctl gate`: try a version. Exit status 0 passed, 3 failed, 4 inconclusive."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ci.app import open_registry
from ci.cli.output import emit, narrate, settings, with_home
from ci.cli.refs import policy_option, version_ref
from registry.errors import GateFailed, Inconclusive
from registry.verdicts import Outcome

if TYPE_CHECKING:
    from ci.pipeline import GateRun
    from harness.sim.gate import Progress


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
@click.option("--threads", default=os.cpu_count() or 1, show_default="all cores", help="Threads.")
def sim(version: str, policy: str | None, gates: Path | None, full: bool, threads: int) -> None:
    """Try VERSION in simulation over the grid of gates.yaml."""
    from ci.pipeline import find_gates, run_sim

    with open_registry() as registry:
        ref = version_ref(registry, version, policy)
        found = find_gates(str(ref.policy), gates)
        done = run_sim(registry, ref, found, threads=threads, full=full, progress=_Shower(str(ref)))
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
    lines = [f"{found.path} ({found.gates.digest})"]
    lines.append(yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=96).rstrip())
    text = Text("\n".join(lines))
    emit({"path": str(found.path), "digest": found.gates.digest, "gates": data}, text)


def finish(done: GateRun) -> None:
    """Prints a verdict and turns it into the exit status."""
    verdict = done.verdict
    colour = {"pass": "green", "fail": "red", "inconclusive": "yellow"}[str(verdict.outcome)]
    lines = [
        f"[bold]{done.version}[/] {verdict.gate}: [{colour}]{verdict.outcome}[/] — {verdict.reason}"
    ]
    if done.failure_modes:
        modes = ", ".join(f"{mode} {count}" for mode, count in done.failure_modes.items())
        lines.append(f"  failures: {modes}")
    spent = "from the record" if done.cached else f"{done.seconds:.1f} s"
    lines.append(f"  {spent}; next: {with_home(done.next_command(), settings().get('home', ''))}")
    error = None
    if verdict.outcome is not Outcome.PASS:
        failed = verdict.outcome is Outcome.FAIL
        error = (GateFailed if failed else Inconclusive)(
            f"{done.version} {'failed' if failed else 'is undecided in'} {verdict.gate}",
            evidence=verdict.reason,
            hint=done.next_command(),
        )
    emit(done.to_json(), "\n".join(lines), error=error)


class _Shower:
    """Progress on stderr: one line that changes on a terminal, else a line now and then."""

    EVERY = 500

    def __init__(self, ref: str) -> None:
        self.ref = ref
        self.live = sys.stderr.isatty()
        self.told = 0

    def __call__(self, progress: Progress) -> None:
        line = (
            f"{self.ref}: {progress.successes}/{progress.drawn} of {progress.population} episodes, "
            f"{progress.verdict.outcome}"
        )
        if self.live:
            click.echo(f"\r{line}   ", nl=False, err=True)
        elif progress.drawn >= self.told + self.EVERY:
            self.told = progress.drawn
            narrate(line)
