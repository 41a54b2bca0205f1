"""`policyctl history`: who changed what, when and why; with --at what was in the fleet then."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from ci.app import open_registry
from ci.cli.refs import plain, when
from ci.output import emit
from registry.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from registry.record.model import FleetThen
    from registry.service import AuditEvent


@click.command("history")
@click.option("--policy", help="Only this policy.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the newest so many.")
@click.option("--at", metavar="DATE", help="What was in the fleet then: 2026-11-26 or with a time.")
def command(policy: str | None, limit: int | None, at: str | None) -> None:
    """Who changed what, when and why; oldest first."""
    if at is not None and limit:
        raise UsageError("--at is about one moment", hint="leave --limit out")
    moment = None if at is None else moment_of(at)
    with open_registry() as registry:
        if policy is not None:
            registry.require_policy(policy)
        if moment is not None:
            found = registry.fleet_at(moment, policy)
            data = {"at": when(moment), "policies": [_then_json(one) for one in found]}
            emit(data, _then_text(found, when(moment) or ""))
            return
        events = registry.audit_log() if policy is None else registry.history(policy)
    events = events[-limit:] if limit else events
    emit({"events": [_json(event) for event in events]}, _table(events))


def moment_of(text: str) -> float:
    """A date is the end of that day; a time without a zone is UTC. Raises UsageError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{text!r} is not a date", hint="write 2026-11-26 or 2026-11-26T14:30+01:00"
        ) from None
    if len(text) <= len("2026-11-26"):
        moment += timedelta(days=1, microseconds=-1)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _then_json(one: FleetThen) -> dict[str, Any]:
    return {
        "policy": one.policy,
        "serving": None if one.serving is None else f"v{one.serving}",
        "stages": {f"v{number}": str(stage) for number, stage in sorted(one.stages.items())},
        "robots": {
            name: [f"v{number}" for number in numbers] for name, numbers in one.robots.items()
        },
    }


def _then_text(found: list[FleetThen], moment: str) -> str:
    if not found:
        return f"nothing was registered by {moment}"
    lines = [f"at {moment}"]
    for one in found:
        served = "no version" if one.serving is None else f"v{one.serving}"
        lines.append(f"[bold]{one.policy}[/]: the fleet ran {served}")
        told: dict[tuple[int, ...], list[str]] = {}
        for robot, numbers in one.robots.items():
            told.setdefault(numbers, []).append(robot)
        for numbers, robots in sorted(told.items()):
            what = " and ".join(f"v{number}" for number in numbers) or "nothing"
            lines.append(f"  {len(robots)} told to run {what}: {', '.join(robots)}")
        stages = ", ".join(f"v{number} {stage}" for number, stage in sorted(one.stages.items()))
        lines.append(f"  stages: {stages}")
    return "\n".join(lines)


def _table(events: list[AuditEvent]) -> RenderableType:
    from rich.table import Table

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
    return table if events else "nothing was changed"


def _json(event: AuditEvent) -> dict[str, Any]:
    return {
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
