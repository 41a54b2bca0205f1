"""`policyctl resume`: a paused or held rollout goes on."""

from __future__ import annotations

import click

from ci.app import open_registry
from ci.cli.refs import policy_name
from ci.cli.stops import tell


@click.command("resume")
@click.option("--policy", help="The policy, where there are several.")
def command(policy: str | None) -> None:
    """Go on with a paused rollout, or grant an undecided one its time and episodes again."""
    with open_registry() as registry:
        done = registry.resume(policy_name(registry, policy))
    tell(done)
