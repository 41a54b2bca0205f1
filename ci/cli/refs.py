"""Which version and which policy a command line means, and how outputs name them.

A bare `v12` is of the policy of `--policy`, else of the policy folder one stands in, else of the
only policy there is; otherwise the command ends with exit status 2 and the candidates. Output
always says `box-grasp v12`.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.errors import Interrupted, NotFound
from registry.versions import VersionRef, parse_ref

if TYPE_CHECKING:
    from registry.service import Registry, VersionRecord

policy_option = click.option("--policy", help="The policy, where the version does not name it.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def version_ref(registry: Registry, text: str, policy: str | None) -> VersionRef:
    """The version that `text` names. Raises UsageError with the candidates."""
    ref = parse_ref(text)
    if ref.policy is not None:
        return ref
    return registry.resolve(VersionRef(policy or enclosing(registry), ref.number))


def policy_name(registry: Registry, policy: str | None) -> str:
    """The policy that a command without a version is about."""
    return policy or enclosing(registry) or registry.only_policy()


def enclosing(registry: Registry) -> str | None:
    """The registered policy in whose folder the command was given."""
    from registry.config import find_policy

    try:
        name = find_policy(Path.cwd()).name
    except NotFound:
        return None
    return name if registry.knows(name) else None


def version_json(record: VersionRecord) -> dict[str, Any]:
    """A version as every command's JSON names it."""
    return {
        "policy": record.policy,
        "version": f"v{record.number}",
        "ref": str(record),
        "number": record.number,
        "digest": record.digest,
        "stage": str(record.stage),
        "robot_class": record.robot_class,
        "task": record.task,
        "created_at": when(record.created_at),
        "created_by": record.created_by,
    }


def plain(text: object) -> str:
    """Words of a person or a file, so that rich prints their brackets as they are."""
    from rich.markup import escape

    return escape(str(text))


def when(seconds: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def ago(seconds: float | None, now: float) -> str:
    """How long ago, for people."""
    if seconds is None:
        return "never"
    spent = max(0.0, now - seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if spent >= 2 * length:
            return f"{spent / length:.0f} {unit} ago"
    return f"{spent:.0f} s ago"


def confirm(question: str, yes: bool) -> None:
    """Asks a person on a terminal; a program, or --yes, is not asked. No is Interrupted."""
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    if not click.confirm(question, err=True):
        raise Interrupted("not confirmed: nothing was changed")
