"""`policyctl list`: versions and how far each has climbed."""

from __future__ import annotations

import click

from ci.app import open_registry
from ci.cli.output import emit
from ci.cli.refs import version_json, when


@click.command("list")
@click.option("--policy", help="Only this policy.")
def command(policy: str | None) -> None:
    """Versions and how far each has climbed."""
    from rich.table import Table

    with open_registry() as registry:
        records = registry.list_versions(policy)
        serving = {name: registry.serving(name) for name in {one.policy for one in records}}
    table = Table(box=None, pad_edge=False)
    for column in ("version", "stage", "digest", "registered", "by"):
        table.add_column(column)
    for one in records:
        runs = " (the fleet runs it)" if serving[one.policy] == one.number else ""
        made = when(one.created_at) or ""
        table.add_row(str(one), f"{one.stage}{runs}", one.digest[7:19], made, one.created_by)
    data = [{**version_json(one), "serving": serving[one.policy] == one.number} for one in records]
    emit({"versions": data}, table if records else "no versions yet; `policyctl register DIR`")
