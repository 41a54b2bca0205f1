"""`policyctl import`: registers the version in a bundle that `policyctl export` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ci.app import home_option, open_registry
from ci.bytes import BytesLine, amount
from ci.cli.refs import version_json
from ci.cli.register import check_checkpoint
from ci.output import emit
from registry.errors import Refused

if TYPE_CHECKING:
    from registry.bundle import Content, Verify
    from registry.service import Registration, Registry


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--signed-by",
    "trusted",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="KEY.pub",
    multiple=True,
    help="Take it only if one of these keys has signed it; else a publisher of the keyring.",
)
def command(file: Path, trusted: tuple[Path, ...]) -> None:
    """Register the version in FILE. It keeps its digest and gets this registry's next number.

    Files that are a version here already, in the manifest's older schema or the newer, stay that
    version. Its files pass the same checks as any checkpoint's. Verdicts do not travel: this site's
    gates judge for themselves. Where trust is set up a publisher of this site, or --signed-by, must
    have signed it.
    """
    from registry.bundle import open_bundle
    from registry.home import find_home

    scratch = find_home(home_option(), must_exist=False).cache
    with (
        open_registry(create=True) as registry,
        BytesLine("read", file.stat().st_size) as line,
        open_bundle(file, scratch, _verifying(registry, trusted), line.add) as (content, folder),
    ):
        asked = bool(trusted) or registry.trust is not None
        done = _register(registry, content, folder)
    said = "is" if done.created else "is already"
    checked = "signed, by whom was not asked" if content.signed else "not signed"
    signed = "signed as asked" if asked else checked
    emit(
        {
            **version_json(done.version),
            "created": done.created,
            "signed": content.signed,
            "signature_checked": asked,
            "stored_bytes": done.written,
            "next": f"policyctl gate run sim v{done.version.number} --policy {done.version.policy}",
        },
        f"{file} ({signed}) {said} [bold]{done.version}[/], {amount(done.written)} of it new",
    )


def _verifying(registry: Registry, trusted: tuple[Path, ...]) -> Verify | None:
    if not trusted and registry.trust is None:
        return None
    from registry.trust.bundles import signed_by
    from registry.trust.keys import Key, public_key
    from registry.trust.sealing import as_key

    keys: list[Key] = [public_key(one) for one in trusted]
    if registry.trust is not None and not keys:
        keys = [as_key(one) for one in registry.trust.keyring.of_role("publisher")]
    return signed_by(keys)


def _register(registry: Registry, content: Content, folder: Path) -> Registration:
    from registry.record.model import Search

    manifest = content.manifest
    if manifest.base and not registry.find_versions(Search(digest=manifest.base)):
        raise Refused(
            "its base is not in this registry",
            evidence=f"it is an adapter of {manifest.base}",
            hint="import the base first",
        )
    first, more = content.provenance[:1], content.provenance[1:]
    done = registry.register(
        folder,
        manifest.policy,
        *first,  # recorded with the version, or neither is
        environment=manifest.environment,
        check=lambda found: check_checkpoint(found, None),
        expect=manifest,
    )
    for origin in more:
        registry.add_provenance(done.version.ref, origin)
    return done
