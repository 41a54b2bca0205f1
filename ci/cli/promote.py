"""`policyctl promote`: one rung up, if the version has earned it."""

from __future__ import annotations

from pathlib import Path

import click

from ci.app import open_registry
from ci.cli.refs import confirm, dry_run_option, policy_option, version_ref, yes_option
from ci.output import emit
from registry.errors import UsageError


@click.command("promote")
@click.argument("version")
@policy_option
@click.option(
    "--stage",
    required=True,
    type=click.Choice(["sim", "hil", "canary", "fleet"]),
    help="canary opens the rollout, which fills the fleet by itself once its canary has passed.",
)
@click.option("--gates", type=click.Path(exists=True, path_type=Path), help="gates.yaml.")
@click.option(
    "--override",
    is_flag=True,
    help="Let a version try again whose rollout was rolled back or aborted; recorded.",
)
@click.option("--reason", help="Why; required with --override.")
@click.option("--queue", is_flag=True, help="Wait in line while another rollout is open.")
@dry_run_option
@yes_option
def command(
    version: str,
    policy: str | None,
    stage: str,
    gates: Path | None,
    override: bool,
    reason: str | None,
    queue: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Take VERSION one rung up: `promote v12 --stage canary`."""
    from ci.pipeline import find_gates
    from registry.stages import Stage

    if override and not (reason and reason.strip()):
        raise UsageError("an override needs its reason", hint="say it with --reason '…'")
    with open_registry() as registry:
        ref = version_ref(registry, version, policy)
        found = find_gates(str(ref.policy), gates).gates
        if not dry_run:
            confirm(f"Promote {ref} to {stage}?", yes)
        done = registry.promote(
            ref,
            Stage(stage),
            found,
            reason if override else None,
            reason,
            queue=queue,
            dry_run=dry_run,
        )
        record = registry.version(ref)
    data = {
        "policy": record.policy,
        "version": f"v{record.number}",
        "ref": str(record),
        "number": record.number,
        "stage": str(record.stage),
        "dry_run": dry_run,
        "next": f"policyctl status --policy {record.policy}",
    }
    would = "would be" if dry_run else "is"
    if done is None:
        emit(data, f"[bold]{record}[/] {would} at {stage}")
        return
    rollout = done.rollout
    against = "alone" if rollout.baseline is None else f"against v{rollout.baseline}"
    data |= {
        "rollout": done.id,
        "phase": str(rollout.phase),
        "cohort": list(rollout.cohort),
        "robots": list(rollout.robots),
        "baseline": rollout.baseline,
        "ratio": str(rollout.ratio),
        "generation": rollout.generation,
    }
    share = "all" if rollout.ratio == 1 else rollout.ratio
    lines = [
        f"[bold]{record}[/] {would} in {rollout.phase} {against} ({done.id}): "
        f"{len(rollout.cohort)} of {len(rollout.robots)} robots, {share} of their attempts",
        f"  cohort  {', '.join(rollout.cohort)}",
        f"  then    waves of {', '.join(map(str, rollout.gate.waves))} %, "
        f"each baked over {rollout.gate.bake_episodes} episodes",
    ]
    emit(data, "\n".join(lines))
