"""`policyctl history`: who changed what, when and why."""

from __future__ import annotations

import click

from ci.app import open_registry
from ci.cli.output import emit
from ci.cli.refs import plain, when


@click.command("history")
@click.option("--policy", help="Only this policy.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the newest so many.")
def command(policy: str | None, limit: int | None) -> None:
    """Who changed what, when and why; oldest first."""
    from rich.table import Table

    with open_registry() as registry:
        events = registry.history(policy) if policy else registry.audit_log()
    events = events[-limit:] if limit else events
    table = Table(box=None, pad_edge=False)
    for column in ("when", "who", "what", "of", "why"):
        table.add_column(column)
    for event in events:
        moved = event.detail
        what = event.action
        if event.action == "stage":
            what = f"stage {moved['from']} → {moved['to']}"
        elif event.action == "verdict":
            what = f"{moved['gate']} {moved['outcome']}"
        table.add_row(when(event.at), event.actor, what, event.subject, plain(event.reason))
    data = [
        {
            "seq": event.seq,
            "at": when(event.at),
            "actor": event.actor,
            "role": event.role,
            "action": event.action,
            "policy": event.policy,
            "subject": event.subject,
            "reason": event.reason,
            "detail": dict(event.detail),
            "hash": event.hash,
        }
        for event in events
    ]
    emit({"events": data}, table if events else "nothing has been changed yet")
