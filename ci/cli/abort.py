"""`policyctl abort`: ends a rollout without judging its candidate."""

from __future__ import annotations

import click

from ci.app import open_registry
from ci.cli.refs import policy_name
from ci.cli.stops import now_option, reason_option, tell


@click.command("abort")
@click.option("--policy", help="The policy, where there are several.")
@reason_option
@now_option
def command(policy: str | None, reason: str, now: bool) -> None:
    """End the open rollout; every robot returns to the baseline, the candidate to its stage."""
    with open_registry() as registry:
        done = registry.abort(policy_name(registry, policy), reason, now=now)
    tell(done)
