"""`policyctl verify`: the files re-hashed, the verdicts judged again, the audit recomputed."""

from __future__ import annotations

import click

from ci.app import open_registry
from ci.cli.output import emit
from ci.cli.refs import policy_option, version_ref
from registry.errors import Corrupt


@click.command("verify")
@click.argument("version", required=False)
@policy_option
def command(version: str | None, policy: str | None) -> None:
    """Re-hash a version's files and recompute its verdicts; without VERSION, of every version.

    Exit status 9 when anything is not what was recorded.
    """
    problems: list[str] = []
    with open_registry() as registry:
        if version is not None:
            records = [registry.version(version_ref(registry, version, policy))]
        else:
            records = registry.list_versions(policy)
        for record in records:
            problems += [f"{record}: {problem}" for problem in registry.verify(record.ref)]
        files = sum(len(registry.manifest(record.ref).files) for record in records)
        verdicts = sum(len(registry.verdicts(record.ref)) for record in records)
        events = registry.check_audit()
    if problems:
        raise Corrupt(
            f"{len(problems)} things are not what was recorded",
            evidence="; ".join(problems),
            hint="register the same files again to repair them, or restore the home's backup",
        )
    emit(
        {
            "versions": [str(record) for record in records],
            "files": files,
            "verdicts": verdicts,
            "audit_events": events,
            "problems": problems,
        },
        f"{', '.join(map(str, records)) or 'nothing'}: {files} files match their digests, "
        f"{verdicts} verdicts follow from their evidence, {events} audit events are unbroken",
    )
