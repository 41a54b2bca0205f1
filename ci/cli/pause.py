"""`policyctl pause`: no further exposure to the candidate, until resume."""

from __future__ import annotations

import click

from ci.app import open_registry
from ci.cli.refs import policy_name
from ci.cli.stops import tell


@click.command("pause")
@click.option("--policy", help="The policy, where there are several.")
@click.option("--reason", default="", help="Why; it is kept.")
def command(policy: str | None, reason: str) -> None:
    """Expose no robot to the candidate; its counts are kept. `resume` goes on."""
    with open_registry() as registry:
        done = registry.pause(policy_name(registry, policy), reason)
    tell(done)
