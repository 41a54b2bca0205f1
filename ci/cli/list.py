"""`policyctl list`: versions and how far each has climbed, the newest unless all are asked for."""

from __future__ import annotations

from typing import Any

import click

from ci.app import open_registry
from ci.cli.refs import version_json, when
from ci.output import emit
from registry.errors import UsageError

NEWEST = 50
STAGES = ("registered", "sim", "hil", "canary", "fleet", "rejected", "rolled_back", "retired")


@click.command("list")
@click.option("--policy", help="Only this policy.")
@click.option("--commit", help="Only versions made from a commit that begins so.")
@click.option("--digest", help="Only versions whose digest begins so.")
@click.option("--tag", help="Only versions with this tag.")
@click.option("--stage", type=click.Choice(STAGES), help="Only versions at this stage.")
@click.option(
    "--limit", type=click.IntRange(min=1), help=f"The newest so many; {NEWEST} otherwise."
)
@click.option("--all", "everything", is_flag=True, help="All of them.")
def command(limit: int | None, everything: bool, **terms: str | None) -> None:
    """Versions and how far each has climbed."""
    from registry.record.model import Search
    from registry.stages import Stage

    if limit and everything:
        raise UsageError("--limit and --all contradict each other", hint="say one of them")
    stage = terms.pop("stage")
    search = Search(**terms, stage=Stage(stage) if stage else None)
    with open_registry() as registry:
        records = registry.find_versions(search, None if everything else limit or NEWEST)
        total = len(records) if everything else registry.count_versions(search)
    data: dict[str, Any] = {
        "versions": [{**version_json(one), "serving": one.serving} for one in records],
        "total": total,
    }
    lines: list[tuple[str, ...]] = [("version", "stage", "digest", "registered", "by")]
    for one in records:
        runs = " (the fleet runs it)" if one.serving else ""
        made = when(one.created_at) or ""
        lines.append((str(one), f"{one.stage}{runs}", one.digest[7:19], made, one.created_by))
    emit(data, _text(lines, total, terms, stage))


def _text(
    lines: list[tuple[str, ...]], total: int, terms: dict[str, str | None], stage: str | None
) -> str:
    shown = len(lines) - 1
    if not shown:
        asked = stage or any(term is not None for term in terms.values())
        return "no version is like that" if asked else "no versions yet; `policyctl register DIR`"
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    text[0] = f"[bold]{text[0]}[/]"
    if total > shown:
        text.append(f"{total - shown} older ones are not shown; --all shows them")
    return "\n".join(text)
