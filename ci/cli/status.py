"""`policyctl status`: what runs where, what is under way, and what waits for a person."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from ci.app import open_registry
from ci.cli.refs import plain
from ci.output import console, emit, wants_json

if TYPE_CHECKING:
    from registry.service import Registry, RolloutRecord

WATCH_S = 1.0


@click.command("status")
@click.option("--policy", help="Only this policy.")
@click.option("--watch", is_flag=True, help="Go on until no rollout is open, or ctrl-C.")
def command(policy: str | None, watch: bool) -> None:
    """What runs where, what is under way, and what waits for you."""
    with open_registry() as registry:
        if policy is not None:
            registry.require_policy(policy)
        data = snapshot(registry, policy)
        if watch and not wants_json():
            _watch(registry, policy, data)
            return
        while watch and data["open"]:
            time.sleep(WATCH_S)
            data = snapshot(registry, policy)
    emit(data, text(data))


def snapshot(registry: Registry, policy: str | None) -> dict[str, Any]:
    """The state of one policy, or of all."""
    versions = registry.list_versions(policy)
    robots = registry.robots()
    open_rollouts = registry.rollouts(policy, open_only=True)
    policies = []
    for name in sorted({one.policy for one in versions}):
        mine = [robot for robot in robots if robot.policy == name]
        runs = Counter(robot.running for robot in mine)
        serving = registry.serving(name)
        policies.append(
            {
                "policy": name,
                "serving": serving,
                "newest": max(one.number for one in versions if one.policy == name),
                "robots": len(mine),
                "running": {
                    "nothing" if number is None else f"v{number}": count
                    for number, count in sorted(runs.items(), key=lambda item: item[0] or 0)
                },
                "behind": [robot.name for robot in mine if not robot.up_to_date],
                "rollouts": [
                    _rollout(registry, one) for one in open_rollouts if one.rollout.policy == name
                ],
            }
        )
    data: dict[str, Any] = {"policies": policies, "open": bool(open_rollouts)}
    data["owed"] = [owed for one in policies for owed in _owed(one)]
    if policy is not None and policies:
        data |= _of_one(policies[0])
    return data


def _rollout(registry: Registry, record: RolloutRecord) -> dict[str, Any]:
    rollout, evidence = record.rollout, registry.canary_evidence(record.id)
    candidate, baseline = evidence.candidate_total, evidence.baseline_total
    return {
        "rollout": record.id,
        "phase": str(rollout.phase),
        "candidate": rollout.candidate,
        "baseline": rollout.baseline,
        "cohort": list(rollout.cohort),
        "robots": len(rollout.robots),
        "exposed": len(rollout.exposed),
        "wave": rollout.gate.waves[rollout.wave] if rollout.wave >= 0 else None,
        "generation": rollout.generation,
        "reason": rollout.reason,
        "counts": {"candidate": candidate.to_json(), "baseline": baseline.to_json()},
        "outstanding": evidence.outstanding,
    }


def _owed(policy: dict[str, Any]) -> list[str]:
    """What waits for a person, each with the commands that answer it."""
    name = policy["policy"]
    return [
        f"{name} v{one['candidate']} is {one['phase']}: {one['reason']} "
        f"(policyctl resume | abort | rollback --policy {name})"
        for one in policy["rollouts"]
        if one["phase"] in ("holding", "paused")
    ]


def _of_one(policy: dict[str, Any]) -> dict[str, Any]:
    """What a command about one policy is asked for at the top of its answer."""
    found: dict[str, Any] = {"policy": policy["policy"]}
    if policy["rollouts"]:
        one = policy["rollouts"][0]
        found |= {key: one[key] for key in ("rollout", "phase", "cohort", "reason")}
        number = one["candidate"]
    else:
        number = policy["serving"]
    if number is not None:
        found |= {"version": f"v{number}", "ref": f"{policy['policy']} v{number}"}
    return found


def text(data: dict[str, Any]) -> str:
    """The same for people."""
    lines = []
    for one in data["policies"]:
        name = one["policy"]
        serves = f"{name} v{one['serving']}" if one["serving"] else "nothing yet"
        lines.append(
            f"[bold]{name}[/]  the fleet's version: {serves}; newest {name} v{one['newest']}"
        )
        runs = ", ".join(f"{count} × {number}" for number, count in one["running"].items())
        lines.append(f"  {one['robots']} robots: {runs or 'none'}")
        if one["behind"]:
            lines.append(f"  not yet at their newest assignment: {', '.join(one['behind'])}")
        for rollout in one["rollouts"]:
            lines += _rollout_lines(name, rollout)
    if not lines:
        lines = ["nothing is registered yet; `policyctl register DIR`"]
    lines += [f"[yellow]waits for you:[/] {plain(owed)}" for owed in data["owed"]]
    return "\n".join(lines)


def _rollout_lines(name: str, one: dict[str, Any]) -> list[str]:
    wave = f" {one['wave']} %" if one["wave"] is not None else ""
    against = "alone" if one["baseline"] is None else f"against v{one['baseline']}"
    lines = [
        f"  {name} v{one['candidate']} {one['phase']}{wave} {against}: "
        f"{one['exposed']} of {one['robots']} robots exposed ({one['rollout']})"
    ]
    for side, (success, failure, void) in one["counts"].items():
        if success + failure + void:
            lines.append(f"    {side}: {success} of {success + failure} succeeded, {void} void")
    if one["reason"]:
        lines.append(f"    {plain(one['reason'])}")
    return lines


def _watch(registry: Registry, policy: str | None, data: dict[str, Any]) -> None:
    """Redraws on a terminal; elsewhere prints what has changed."""
    from rich.live import Live
    from rich.text import Text

    screen = console()
    if not screen.is_terminal:
        said = ""
        while True:
            if text(data) != said:
                said = text(data)
                screen.print(said)
            if not data["open"]:
                return
            time.sleep(WATCH_S)
            data = snapshot(registry, policy)
    with Live(Text.from_markup(text(data)), console=screen, auto_refresh=False) as live:
        while data["open"]:
            time.sleep(WATCH_S)
            data = snapshot(registry, policy)
            live.update(Text.from_markup(text(data)), refresh=True)
