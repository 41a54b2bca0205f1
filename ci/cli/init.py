"""`policyctl init`: a registry home, in a folder or where `--home` says."""

from __future__ import annotations

from pathlib import Path

import click

from ci.app import home_option, open_registry
from ci.output import emit
from registry.errors import UsageError


@click.command("init")
@click.argument("directory", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option("--database", metavar="URL", help="Keep the record in PostgreSQL instead.")
@click.option("--store", metavar="URL", help="Keep the files in a bucket: s3://BUCKET/PREFIX.")
@click.option("--mirror", metavar="URL", help="A second store, from which `verify --all` heals.")
def command(
    directory: Path | None, database: str | None, store: str | None, mirror: str | None
) -> None:
    """Make a registry home in DIRECTORY/.policyctl (by default here). Again is harmless."""
    from registry.backends import Settings, write_settings
    from registry.home import FOLDER, Home

    home = home_option()
    root = home if directory is None and home is not None else (directory or Path()) / FOLDER
    made = Home(root.expanduser().absolute())
    created = not made.exists
    for url in (store, mirror):
        if url is not None:
            _reach(url)
    if database is not None:
        from registry.ledger.postgres import PostgresLedger

        PostgresLedger(database).close()  # reached and migrated before anything names it
    write_settings(made, Settings(database, store, mirror))
    with open_registry(made.root, create=True):
        pass
    emit(
        {"home": str(made.root), "created": created, "next": "policyctl register DIR"},
        f"{'made' if created else 'there is already'} a registry in {made.root}",
    )


def _reach(url: str) -> None:
    """A bucket is reached before anything names it."""
    if not url.startswith("s3://"):
        if "://" in url or not Path(url).expanduser().is_absolute():
            raise UsageError(
                f"not a store: {url!r}",
                hint="s3://BUCKET/PREFIX, or for a mirror the absolute path of a folder",
            )
        return
    from registry.blobs.s3 import S3Blobs

    S3Blobs(url).reach()
