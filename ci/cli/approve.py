"""`policyctl approve`: an approver's signature under a version that waits for its canary."""

from __future__ import annotations

import click

from ci.app import open_registry
from ci.cli.refs import confirm, policy_option, version_json, version_ref, yes_option
from ci.cli.waiting import open_approvals
from ci.output import emit, narrate
from registry.errors import Pending


@click.command("approve")
@click.argument("version")
@policy_option
@click.option(
    "--key", "places", metavar="PLACE", multiple=True, help="Your key: file:PATH, env:NAME, …"
)
@yes_option
def command(version: str, policy: str | None, places: tuple[str, ...], yes: bool) -> None:
    """Sign that robots may run VERSION, which `promote --stage canary` asked for.

    What is signed is shown first. Exit status 8 while signatures of others are missing; when the
    last one is there, promote it again.
    """
    from ci.pipeline import gates_option

    with open_registry() as registry:
        registry.actor.require("trust")
        record = registry.version(version_ref(registry, version, policy))
        approvals = open_approvals(registry, places)
        for line in approvals.changes():
            narrate(line)
        confirm("Sign this?", yes)
        missing = approvals.sign(record.ref)
        own = [one for one in missing if one.role == approvals.bin_of(record.ref)]
        registry.settle_keyring()  # a robot's key that waited beside it is the home's now
        registry.note_trust("approve", str(record), {"left": sum(o.left for o in own)})
        option = gates_option(registry, record)
    promote = f"policyctl promote '{record}' --stage canary{option}"
    data = {**version_json(record), "approved": not own, "missing": sum(o.left for o in own)}
    if own:
        waits = Pending(
            f"{record} waits for {own[0].left} more signature(s)",
            evidence=f"{own[0].have} of {own[0].need} are there",
            hint=f"another approver runs `policyctl approve '{record}' --key KEY`",
        )
        emit(data, f"{record}: signed", error=waits)
        return
    emit(data | {"next": promote}, f"[bold]{record}[/] is approved; go on: {promote}")
