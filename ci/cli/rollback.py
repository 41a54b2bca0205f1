"""`policyctl rollback`: every robot back to the previous version, now."""

from __future__ import annotations

import click

from ci.app import open_registry
from ci.cli.refs import confirm, dry_run_option, plain, policy_name, version_ref, yes_option
from ci.cli.stops import now_option, reason_option
from ci.output import emit
from registry.errors import UsageError


@click.command("rollback")
@click.option("--policy", help="The policy, where there are several.")
@click.option("--to", help="The version to return to; by default the newest that was good.")
@reason_option
@now_option
@dry_run_option
@yes_option
def command(
    policy: str | None, to: str | None, reason: str, now: bool, dry_run: bool, yes: bool
) -> None:
    """Return every robot of a policy to its previous version. Never gated, nothing to download."""
    with open_registry() as registry:
        name, number = policy, None
        if to is not None:
            target = version_ref(registry, to, policy)
            name, number = target.policy, target.number
            if policy is not None and name != policy:
                raise UsageError(f"{target} is not a version of {policy}", hint="name one of them")
        name = policy_name(registry, name)
        before = registry.serving(name)
        planned = registry.rollback(name, reason, number, now=now, dry_run=True)
        robots = [robot.name for robot in registry.robots() if robot.policy == name]
        if not dry_run:
            confirm(f"Return {len(robots)} robots to {planned}?", yes)
            planned = registry.rollback(name, reason, number, now=now)
    would = "would return" if dry_run else "return"
    at_once = ", running episodes stop at once" if now else ""
    emit(
        {
            "policy": name,
            "version": f"v{planned.number}",
            "ref": str(planned),
            "number": planned.number,
            "from": before,
            "robots": robots,
            "reason": reason,
            "now": now,
            "dry_run": dry_run,
            "next": "policyctl fleet list",
        },
        f"{len(robots)} robots {would} to [bold]{planned}[/]{at_once}: {plain(reason)}",
    )
