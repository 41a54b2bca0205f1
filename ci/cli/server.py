"""`policyctl server`: the controller of a home's rollouts, until it is told to stop."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

import click

from ci.app import home_option
from ci.cli.finite import FiniteRange
from ci.output import emit, narrate

if TYPE_CHECKING:
    from registry.home import Home


@click.command("server")
@click.option(
    "--poll",
    default=1.0,
    show_default=True,
    type=FiniteRange(min=0.05),
    help="Seconds between two looks at the open rollouts.",
)
def command(poll: float) -> None:
    """Run the controller of this home's rollouts: judge, promote through waves, roll back.

    Agents on this machine talk to the home's files directly; an HTTP API for robots elsewhere is
    not part of this version. SIGTERM or ctrl-C ends it with exit status 0, also before it began;
    killed at any moment, the next one goes on.
    """
    from registry.home import find_home

    home = find_home(home_option())
    with contextlib.suppress(KeyboardInterrupt):  # told to end before it began
        _control(home, poll)
    emit({"home": str(home.root), "stopped": True}, "stopped")


def _control(home: Home, poll: float) -> None:
    from fleet.controller import Controller
    from fleet.stopping import stop_on_signals
    from registry.service import Actor, Registry

    actor = Actor(f"controller@{socket.gethostname()}:{os.getpid()}", "controller")
    with Registry.open(home, actor) as registry, stop_on_signals() as stop:
        narrate(f"controlling the rollouts of {home.root}; ctrl-C ends it")
        Controller(registry, narrate).loop(stop, poll)
