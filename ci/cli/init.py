"""`policyctl init`: a registry home, in a folder or where `--home` says."""

from __future__ import annotations

from pathlib import Path

import click

from ci.app import home_option, open_registry
from ci.cli.output import emit


@click.command("init")
@click.argument("directory", required=False, type=click.Path(file_okay=False, path_type=Path))
def command(directory: Path | None) -> None:
    """Make a registry home in DIRECTORY/.policyctl (by default here). Again is harmless."""
    from registry.home import FOLDER, Home

    home = home_option()
    root = home if directory is None and home is not None else (directory or Path()) / FOLDER
    made = Home(root.expanduser().absolute())
    created = not made.exists
    with open_registry(made.root, create=True):
        pass
    emit(
        {"home": str(made.root), "created": created, "next": "policyctl register DIR"},
        f"{'made' if created else 'there is already'} a registry in {made.root}",
    )
