"""`policyctl audit`: whether the record of who changed what is whole."""

from __future__ import annotations

import click

from ci.app import open_registry
from ci.output import emit


@click.group("audit")
def command() -> None:
    """Whether the record of who changed what is whole."""


@command.command("verify")
@click.option(
    "--expect",
    metavar="NUMBER:HASH",
    help="A head that you wrote down: the audit must still hold that event, unchanged.",
)
def verify(expect: str | None) -> None:
    """Recompute the audit's hash chain: an edited, removed or moved event ends it with status 9.

    What it prints is the newest event's number and hash. Kept elsewhere and given to --expect, it
    proves that nothing before it was rewritten, not even by whoever owns the database.
    """
    from registry.record.audit import Head

    known = Head.parse(expect) if expect is not None else None
    with open_registry() as registry:
        head = registry.verify_audit(known)
    since = f", event {known.seq} is the one you know" if known else ""
    emit(
        {"events": head.seq, "head": str(head), "expected": expect},
        f"{head.seq} audit events are unbroken{since}\nhead {head}",
    )
