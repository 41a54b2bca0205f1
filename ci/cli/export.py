"""`policyctl export`: a version in one file, for a site that no network reaches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ci.app import open_registry
from ci.bytes import BytesLine, amount
from ci.cli.refs import policy_option, version_json, version_ref
from ci.output import emit
from registry.errors import PolicyctlError, UsageError

if TYPE_CHECKING:
    from registry.bundle import Sign
    from registry.service import Registry


@click.command("export")
@click.argument("version")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@policy_option
@click.option(
    "--key",
    "places",
    metavar="PLACE",
    multiple=True,
    help="Sign it with this key: file:PATH, env:NAME",
)
def command(version: str, file: Path, policy: str | None, places: tuple[str, ...]) -> None:
    """Write VERSION with all its files and its provenance to FILE.

    The same version makes the same bytes, signed by the same ed25519 keys or not. `policyctl import
    FILE` registers it elsewhere under the same digest. Where trust is set up and no --key is given,
    this machine's publisher signs it.
    """
    if not file.parent.is_dir():
        raise UsageError(f"there is no folder {file.parent}", hint="make it first")
    with open_registry() as registry:
        sign, keys = _signing(registry, places)
        record = registry.version(version_ref(registry, version, policy))
        with BytesLine("written", registry.manifest(record.ref).size) as line:
            size = registry.export(record.ref, file, sign, line.add)
    emit(
        {**version_json(record), "file": str(file), "bytes": size, "signed_by": keys},
        f"{record} is in {file} ({amount(size)})"
        + (f", signed by {', '.join(keys)}" if keys else ""),
    )


def _signing(registry: Registry, places: tuple[str, ...]) -> tuple[Sign | None, list[str]]:
    """What signs, and the names of its keys."""
    if not places and registry.trust is None:
        return None, []
    from registry.trust.bundles import signing
    from registry.trust.keys import signer

    signers = [signer(place) for place in places]
    if registry.trust is not None and not signers:
        try:
            signers = [registry.trust.signer("publisher")]
        except PolicyctlError as error:
            other = "to sign with a key of your own: --key PLACE"
            error.hint = f"{error.hint}; {other}" if error.hint else other
            raise
    return signing(signers), [one.public_key.keyid for one in signers]
