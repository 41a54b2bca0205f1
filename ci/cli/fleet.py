"""`policyctl fleet`: the robots and what each runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click

from ci.app import open_registry
from ci.cli.refs import ago, plain, when
from ci.output import emit


@click.group("fleet")
def command() -> None:
    """The robots and what each runs."""


@command.command("list")
@click.option("--policy", help="Only the robots of this policy.")
def list_robots(policy: str | None) -> None:
    """Every robot: what it was told to run, what it runs, when it was last heard of."""
    from rich.table import Table

    with open_registry() as registry:
        if policy is not None:
            registry.require_policy(policy)
        robots = [one for one in registry.robots() if policy in (None, one.policy)]
    now = time.time()
    table = Table(box=None, pad_edge=False)
    for column in ("robot", "class", "runs", "told", "generation", "heard", "state"):
        table.add_column(column)
    for one in robots:
        runs = f"{one.policy} v{one.running}" if one.running is not None else "nothing"
        told = [
            f"v{number}" for number in (one.assigned_candidate, one.assigned_baseline) if number
        ]
        generation = f"{one.generation} of {one.assigned_generation}"
        table.add_row(
            one.name,
            one.robot_class,
            runs,
            " | ".join(told) or "nothing",
            generation,
            ago(one.last_seen, now),
            f"{one.status.get('state', '')}{_trouble(one.status)}",
        )
    data = [
        {
            "robot": one.name,
            "robot_class": one.robot_class,
            "policy": one.policy,
            "running": one.running,
            "generation": one.generation,
            "assigned_generation": one.assigned_generation,
            "candidate": one.assigned_candidate,
            "baseline": one.assigned_baseline,
            "up_to_date": one.up_to_date,
            "last_seen": when(one.last_seen),
            "status": dict(one.status),
        }
        for one in robots
    ]
    emit({"robots": data}, table if robots else "no robots; `policyctl robot enrol ROBOT.yaml`")


def _trouble(status: Mapping[str, Any]) -> str:
    """What a robot refuses: orders that nobody may give, or to go on without its reports."""
    refused = status.get("refused") or ()
    return f", refused: {plain(refused[-1])}" if refused else ""
