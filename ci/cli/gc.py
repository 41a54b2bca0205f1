"""`policyctl gc`: removes blobs that nothing needs, in two runs with a day between them."""

from __future__ import annotations

import click

from ci.app import open_registry
from ci.bytes import amount
from ci.cli.finite import FiniteRange
from ci.cli.refs import confirm, dry_run_option, yes_option
from ci.output import emit


@click.command("gc")
@click.option(
    "--grace",
    type=FiniteRange(min=0),
    default=24.0,
    show_default=True,
    metavar="HOURS",
    help="Remove what an earlier run marked at least so long ago.",
)
@click.option(
    "--release",
    type=FiniteRange(min=0),
    metavar="DAYS",
    help="Give up the files of versions that were rejected, rolled back or retired before then.",
)
@dry_run_option
@yes_option
def command(grace: float, release: float | None, dry_run: bool, yes: bool) -> None:
    """Remove blobs that no version, verdict or result names.

    A first run marks them, a run after the grace time removes those that still nothing names. It
    is safe beside a registration: while one is under way nothing is removed. A version whose files
    are given up by --release stays in the record; what a robot runs or may run is never given up.
    """
    with open_registry() as registry:
        if not dry_run:
            confirm("remove what nothing needs?", yes)
        after_s = None if release is None else release * 86400
        done = registry.collect(grace * 3600, after_s, dry_run=dry_run)
    would = "would be " if dry_run else ""
    text = [
        f"{done.removed} blobs {would}removed ({amount(done.freed)}), {done.marked} marked, "
        f"{done.kept} needed"
    ]
    if done.released:
        names = ", ".join(map(str, done.released))
        text.append(f"files {would}given up: {names}")
    if done.claims:
        text.append(f"{done.claims} registrations are under way: run it again when they have ended")
    emit(
        {
            "dry_run": dry_run,
            "removed": done.removed,
            "freed_bytes": done.freed,
            "marked": done.marked,
            "needed": done.kept,
            "released": [str(ref) for ref in done.released],
            "claims": done.claims,
            "swept": done.swept,
        },
        "\n".join(text),
    )
