"""`policyctl verify`: blobs re-hashed and healed, verdicts judged again, the audit recomputed."""

from __future__ import annotations

import click

from ci.app import open_registry
from ci.bytes import BytesLine, amount
from ci.cli.refs import policy_option, version_ref
from ci.output import emit, narrate
from registry.errors import Corrupt, UsageError


@click.command("verify")
@click.argument("version", required=False)
@policy_option
@click.option(
    "--all", "everything", is_flag=True, help="Every version and stored file; so without VERSION."
)
def command(version: str | None, policy: str | None, everything: bool) -> None:
    """Re-hash a version's files and recompute its verdicts; without VERSION, of every version, with
    every stored file that no version names yet.

    What is missing or damaged is healed from the mirror, where `registry.yaml` names one; else a
    damaged file is set aside, and registering the same files again heals it. Where trust is set up
    it also looks who signed, and counts canaries again from the attempts that robots signed. Stages
    and numbers have to be those of the audit, of every version.

    Exit status 9 when anything is not what was recorded.
    """
    if version is not None and everything:
        raise UsageError("a version and --all contradict each other", hint="say one of them")
    with open_registry() as registry:
        if version is not None:
            records = [registry.version(version_ref(registry, version, policy))]
        else:
            records = registry.list_versions(policy)
        refs = [record.ref for record in records]
        with BytesLine("hashed") as line:
            everything = version is None and policy is None
            health = registry.check_files(refs, line.add, everything=everything)
        problems = list(health.problems)
        for record in records:
            problems += [f"{record}: {problem}" for problem in registry.doubts(record.ref)]
        if version is not None and not health.problems:
            problems += [f"{refs[0]}: {problem}" for problem in registry.check_whole(refs[0])]
        verdicts = sum(len(registry.verdicts(ref)) for ref in refs)
        signed = sum(len(registry.statements(ref)) for ref in refs)
        events = registry.verify_audit().seq
        problems += registry.audit_doubts()
    for one in health.healed:
        narrate(f"healed {one}")
    if problems:
        raise Corrupt(
            "1 thing is not what was recorded"
            if len(problems) == 1
            else f"{len(problems)} things are not what was recorded",
            evidence="; ".join(problems),
            hint="register the same files again to repair them, or restore the home's backup",
        )
    emit(
        {
            "versions": [str(record) for record in records],
            "files": health.files,
            "blobs": health.blobs,
            "bytes": health.bytes,
            "healed": list(health.healed),
            "verdicts": verdicts,
            "statements": signed,
            "audit_events": events,
            "problems": problems,
        },
        f"{', '.join(map(str, records)) or 'nothing'}: {health.files} files match their digests "
        f"({health.blobs} blobs, {amount(health.bytes)}), "
        f"{verdicts} verdicts follow from their evidence, "
        + (f"{signed} signed statements hold, " if signed else "")
        + f"{events} audit events are unbroken",
    )
