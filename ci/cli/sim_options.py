"""Options of every command that plays simulated episodes: who plays them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from harness.sim.executors import EXECUTORS


def hands_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--executor, --workers and --address."""
    options = (
        click.option(
            "--executor",
            type=click.Choice(sorted(EXECUTORS)),
            default="threads",
            show_default=True,
            help="Where episodes are played; ray needs the extra of that name.",
        ),
        click.option("--workers", type=click.IntRange(min=1), help="By default all cores."),
        click.option("--address", help="Address of a running Ray cluster."),
    )
    for option in reversed(options):
        command = option(command)
    return command
