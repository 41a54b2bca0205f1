"""Walks the road: sets up the home, runs the steps in order, and says how it ended.

Exit status 0 means that every step up to `--until` happened as the demo expects. Ctrl-C stops the
processes and leaves the record whole; the next run goes on from there.
"""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ci.demo.commands import Commands
from ci.demo.steps import CHECKPOINTS, POLICY, ROAD, Demo
from ci.demo.view import LiveView, PlainView, Row
from registry.home import find_home
from registry.rollouts import Phase
from registry.service import Actor, Registry


def travel(
    *, home: Path, robots: int, until: str | None, train: bool, console: Console, live: bool
) -> None:
    """Runs the demo on `home` until its end or the step `until`."""
    rows = [Row(name, title) for name, title, _ in ROAD]
    rows.append(Row("report", "one page that holds the evidence"))
    view = (LiveView if live else PlainView)(rows, console)
    started = time.monotonic()
    commands = Commands(home, view.say)
    try:
        with view:
            commands.policyctl("init", str(home))
            checkpoints = _train(commands, home) if train else CHECKPOINTS
            demo = Demo(home, robots, checkpoints, commands, view)
            registry = Registry.open(find_home(home), Actor(name="demo", role="viewer"))
            try:
                for name, _, step in ROAD:
                    view.begin(name)
                    try:
                        found = step(demo, registry)
                    except BaseException as error:
                        view.end(name, "failed", str(error).splitlines()[0] if str(error) else "")
                        raise
                    view.end(name, "done", found)
                    if name == until:
                        demo.spent(time.monotonic() - started)
                        return
                view.begin("report")
                page = _report(demo)
                view.end("report", "done", str(page))
                demo.spent(time.monotonic() - started)
                summary = closing_table(demo, registry)
            finally:
                registry.close()
        console.print(summary)
    finally:
        commands.stop()


def _train(commands: Commands, home: Path) -> Path:
    """Makes the four checkpoints again, by the recipes that made the shipped ones."""
    target = home / "checkpoints"
    for recipe in sorted((Path(__file__).parent / "recipes").glob("v*.yaml")):
        if not (target / recipe.stem).exists():
            commands.policyctl("train", str(recipe), "--out", str(target / recipe.stem))
    return target


def _report(demo: Demo) -> Path:
    page = demo.home / "report.html"
    demo.commands.policyctl("report", "--policy", POLICY, "--out", str(page))
    return page


def closing_table(demo: Demo, registry: Registry) -> Table:
    """What the road cost and proved, one row per figure."""
    table = Table(title="What happened", box=None, pad_edge=False, title_justify="left")
    table.add_column("")
    table.add_column("")
    rollouts = {r.rollout.candidate: r.rollout for r in registry.rollouts(POLICY)}
    for record in registry.list_versions(POLICY):
        said = [str(record.stage)]
        if rollout := rollouts.get(record.number):
            evidence = registry.canary_evidence(rollout.id)
            total, controls = evidence.candidate_total, evidence.baseline_total
            said.append(f"{total.success} of {total.n} candidate episodes succeeded on the fleet")
            if rollout.baseline is not None:
                said.append(
                    f"{controls.success} of {controls.n} of v{rollout.baseline}'s beside it"
                )
            if rollout.phase is Phase.ROLLED_BACK:
                said.append("rolled back by the canary")
        table.add_row(str(record), "; ".join(said))
    facts = demo.facts()
    table.add_row("rollback by hand", f"{facts['rollback_seconds']:.2f} s to the last robot")
    table.add_row("CAN frames watched", f"{facts['frames']:,}, bounds never broken")
    table.add_row("the whole road", f"{facts['wall_seconds']:.0f} s")
    return table
