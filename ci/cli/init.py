"""`policyctl init`: a registry home, in a folder or where `--home` says."""

from __future__ import annotations

from pathlib import Path

import click

from ci.app import home_option, open_registry
from ci.cli.output import emit


@click.command("init")
@click.argument("directory", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option("--database", metavar="URL", help="Keep the record in PostgreSQL instead.")
def command(directory: Path | None, database: str | None) -> None:
    """Make a registry home in DIRECTORY/.policyctl (by default here). Again is harmless."""
    from registry.backends import Settings, write_settings
    from registry.home import FOLDER, Home

    home = home_option()
    root = home if directory is None and home is not None else (directory or Path()) / FOLDER
    made = Home(root.expanduser().absolute())
    created = not made.exists
    if database is not None:
        from registry.ledger.postgres import PostgresLedger

        PostgresLedger(database).close()  # reached and migrated before anything names it
        write_settings(made, Settings(database=database))
    with open_registry(made.root, create=True):
        pass
    emit(
        {"home": str(made.root), "created": created, "next": "policyctl register DIR"},
        f"{'made' if created else 'there is already'} a registry in {made.root}",
    )
