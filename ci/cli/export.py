"""`policyctl export`: a version in one file, for a site that no network reaches."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ci.app import open_registry
from ci.cli.bytes import BytesLine, amount
from ci.cli.output import emit
from ci.cli.refs import policy_option, version_json, version_ref
from registry.errors import UsageError

if TYPE_CHECKING:
    from registry.bundle import Sign
    from registry.service import Registry


@click.command("export")
@click.argument("version")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@policy_option
def command(version: str, file: Path, policy: str | None) -> None:
    """Write VERSION with all its files and its provenance to FILE.

    The same version makes the same bytes. `policyctl import FILE` registers it elsewhere under the
    same digest. Where trust is set up a publisher's key signs it.
    """
    if not file.parent.is_dir():
        raise UsageError(f"there is no folder {file.parent}", hint="make it first")
    with open_registry() as registry:
        record = registry.version(version_ref(registry, version, policy))
        with BytesLine("written", registry.manifest(record.ref).size) as line:
            size = registry.export(record.ref, file, _signing(registry), line.add)
    emit(
        {**version_json(record), "file": str(file), "bytes": size},
        f"{record} is in {file} ({amount(size)})",
    )


def _signing(registry: Registry) -> Sign | None:
    if registry.trust is None:
        return None
    from registry.trust.bundles import sign_bundle

    return partial(sign_bundle, registry.trust)
