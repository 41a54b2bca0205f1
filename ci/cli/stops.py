"""What the stops share: a person's word on the open rollout of a policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ci.cli.refs import plain
from ci.output import emit

if TYPE_CHECKING:
    from registry.service import RolloutRecord

reason_option = click.option("--reason", required=True, help="Why; it is kept.")
now_option = click.option("--now", is_flag=True, help="Stop running episodes at once.")


def tell(done: RolloutRecord) -> None:
    """Prints what the rollout has become."""
    rollout = done.rollout
    ref = f"{rollout.policy} v{rollout.candidate}"
    emit(
        {
            "policy": rollout.policy,
            "version": f"v{rollout.candidate}",
            "ref": ref,
            "rollout": done.id,
            "phase": str(rollout.phase),
            "reason": rollout.reason,
            "generation": rollout.generation,
            "baseline": rollout.baseline,
        },
        f"[bold]{ref}[/] is {rollout.phase} ({done.id}): {plain(rollout.reason)}",
    )
