"""`policyctl arm run VERSION`: one attempt by hand, with a live table of the joints.

Without a station file a twin of the version's robot class is built. Exit status 0 where the task
was done, 3 where the attempt failed, 9 where the robot did not get to try (void), 130 where ctrl-C
stopped it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import click

from ci.app import home_option, open_registry
from ci.cli.refs import confirm, policy_option, version_ref, yes_option
from ci.output import console, emit, narrate
from registry.errors import GateFailed, Interrupted, PolicyctlError, ServiceFailed, UsageError
from registry.home import find_home

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from ci.rig import Rig
    from ci.solo import SoloRun

REDRAW_S = 0.1


@click.command("run")
@click.argument("version")
@policy_option
@click.option("--task", help="The task to try; by default the one the version was made for.")
@click.option(
    "--station",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Robot file of a station or a twin; by default a twin is built.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Of the twin that is built.",
)
@click.option(
    "--log",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A new MCAP file: every servo cycle.",
)
@yes_option
def command(
    version: str,
    policy: str | None,
    task: str | None,
    station: Path | None,
    seed: int,
    log: Path | None,
    yes: bool,
) -> None:
    """Try VERSION once on an arm and watch. No gate counts it."""
    from ci.solo import run_solo, twin_of
    from fleet.robot import load_robot

    with open_registry() as registry:
        record = registry.version(version_ref(registry, version, policy))
        wanted = (task or record.task).replace("_", "-")
        config = load_robot(station) if station else twin_of(record.robot_class, seed)
        if station is None:
            narrate("no --station: a twin is built for this attempt")
        if not config.is_twin and not yes and not sys.stdin.isatty():
            raise UsageError(
                f"{config.robot} is a real arm, and nobody is here to say that it may move",
                hint="run it in a terminal beside the arm, or say --yes",
            )

        def ready() -> bool:
            confirm(f"{config.robot} moves now: is the scene ready, and nobody within reach?", yes)
            return True

        with Table(f"{record} at {wanted} on {config.robot}") as table:
            done = run_solo(
                registry, record, wanted, config, find_home(home_option()).root / "runs",
                ready=ready, say=narrate, watch=table, cycle_log=log,
            )  # fmt: skip
    emit(done.to_json(), _words(done), error=_error(done))


class Table:
    """The joints while they move, redrawn on stderr where that is a terminal.

    A twin in this process is faster than time; where somebody watches, it is slowed down to it.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._live: Live | None = None
        self._drawn = 0.0
        self._began: float | None = None

    def __enter__(self) -> Table:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, rig: Rig, seconds: float) -> None:
        if not sys.stderr.isatty():
            return
        now = time.monotonic()
        if self._began is None:
            self._began = now - seconds
        if rig.world is not None:
            time.sleep(max(0.0, self._began + seconds - now))
            now = time.monotonic()
        if now - self._drawn < REDRAW_S:
            return
        self._drawn = now
        if self._live is None:
            from rich.live import Live

            self._live = Live(
                console=console(sys.stderr), auto_refresh=False, redirect_stdout=False
            )
            self._live.start()
        self._live.update(joints(rig, self._title, seconds), refresh=True)


def joints(rig: Rig, title: str, seconds: float) -> RenderableType:
    """Every joint with what it was told and what it measures, in degrees, Nm and °C."""
    import numpy as np
    from rich.console import Group
    from rich.table import Table as Grid
    from rich.text import Text

    servo = rig.servo
    grid = Grid(box=None, pad_edge=False)
    grid.add_column("joint")
    for name in ("told °", "is °", "°/s", "Nm", "rotor °C", "driver °C"):
        grid.add_column(name, justify="right", min_width=8)
    names = rig.config.class_.joints
    rotor = np.concatenate([arm.state.temp_rotor for arm in rig.arms])
    driver = np.concatenate([arm.state.temp_mos for arm in rig.arms])
    told, q, dq = np.degrees(servo.command), np.degrees(servo.q[0]), np.degrees(servo.dq[0])
    for i, name in enumerate(names):
        grid.add_row(
            name, f"{told[i]:.1f}", f"{q[i]:.1f}", f"{dq[i]:.1f}", f"{servo.tau[0, i]:.2f}",
            f"{rotor[i]:.0f}", f"{driver[i]:.0f}",
        )  # fmt: skip
    found = ", ".join(f"{name} {count}" for name, count in servo.interventions().items() if count)
    state = f"stopped: {servo.stop_reason}" if servo.stopped else "running"
    head = Text(f"{title}   {seconds:5.1f} s   {state}", "bold red" if servo.stopped else "bold")
    foot = Text(
        f"interventions: {found or 'none'}   late ticks: {servo.overruns} of {servo.ticks}"
        "   ctrl-C stops the arm",
        "dim",
    )
    return Group(head, grid, foot)


def _words(done: SoloRun) -> str:
    episode = done.episode
    colour = {"success": "green", "failure": "red", "void": "yellow"}[episode.outcome]
    why = ": ".join(part for part in (episode.failure_mode, episode.detail) if part)
    lines = [
        f"[bold]{done.version}[/] {done.task} on {done.robot}: [{colour}]{episode.outcome}[/]"
        + (f" — {why}" if why else "")
    ]
    if episode.opened:
        found = ", ".join(f"{name} {n}" for name, n in episode.interventions.items() if n)
        lines.append(
            f"  {episode.duration_s:.1f} s, {episode.steps} policy steps, "
            f"{episode.overruns} late ticks; interventions: {found or 'none'}"
        )
        lines.append(f"  run {done.number} in {done.log}; no gate counts it")
    if done.frames["frames"]:
        lines.append(
            f"  {done.frames['violations']} of {done.frames['frames']} frames out of bounds"
        )
    return "\n".join(lines)


def _error(done: SoloRun) -> PolicyctlError | None:
    episode = done.episode
    evidence = f"{episode.failure_mode}: {episode.detail}".rstrip(": ")
    if episode.outcome == "success":
        return None
    if episode.failure_mode == "operator_stop":
        where = str(done.log) if episode.opened else "no attempt was opened"
        return Interrupted("stopped by you; the arm holds", evidence=where)
    if episode.outcome == "void":
        return ServiceFailed(
            f"{done.robot} did not get to try",
            evidence=evidence,
            hint="policyctl station check STATION.yaml",
        )
    return GateFailed(
        f"{done.version} failed at {done.task}",
        evidence=evidence,
        hint="one attempt proves little: `policyctl gate run sim` and `gate run hil` judge",
    )
