"""`policyctl demo`: four policies travel the whole road on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ci.output import console, settings
from registry.errors import UsageError

STEPS = (
    "home", "v1-register", "v1-sim", "v1-hil", "v1-fleet", "v2-register", "v2-sim", "v2-refused",
    "v3-register", "v3-sim", "v3-hil", "v3-canary", "v4-register", "v4-sim", "v4-hil", "v4-fleet",
    "rollback", "frames", "report",
)  # fmt: skip


@click.command(name="demo")
@click.option(
    "--robots", default=12, show_default=True, help="Robots of the fleet, a process each."
)
@click.option("--until", type=click.Choice(STEPS), help="Stop cleanly after this step.")
@click.option(
    "--train", is_flag=True, help="Train the four policies here instead of the shipped ones."
)
@click.option("--plain", is_flag=True, help="Plain lines even on a terminal.")
def command(robots: int, until: str | None, train: bool, plain: bool) -> None:
    """Watch four policies travel the whole road: sim, hil, canary, fleet, rollback.

    Uses the home of --home, by default ./demo-home; run again, it goes on where it stopped.
    """
    from ci.demo.road import travel

    if robots < 4:
        raise UsageError("the demo needs at least 4 robots", evidence=f"--robots {robots}")
    stream = sys.stderr if settings().get("output") == "json" else sys.stdout
    travel(
        home=Path(settings().get("home") or "demo-home").absolute(),
        robots=robots,
        until=until,
        train=train,
        console=console(stream),
        live=stream.isatty() and not plain,
    )
