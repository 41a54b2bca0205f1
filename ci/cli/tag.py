"""`policyctl tag`: a name of your own for a version."""

from __future__ import annotations

import click

from ci.app import open_registry
from ci.cli.refs import policy_option, version_json, version_ref
from ci.output import emit


@click.command("tag")
@click.argument("version")
@click.argument("tag")
@policy_option
@click.option("--remove", is_flag=True, help="Take the tag away.")
def command(version: str, tag: str, policy: str | None, remove: bool) -> None:
    """Give VERSION the name TAG, to find it by `list --tag`. A tag is of one version per policy."""
    with open_registry() as registry:
        ref = version_ref(registry, version, policy)
        record = registry.untag(ref, tag) if remove else registry.tag(ref, tag)
        tags = registry.tags(record.ref)
    said = f"no longer has the tag {tag}" if remove else f"has the tag {tag}"
    emit({**version_json(record), "tags": tags}, f"{record} {said}")
