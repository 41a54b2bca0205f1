"""`policyctl show`: one version with all that is known of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ci.app import open_registry
from ci.bytes import amount
from ci.cli.refs import plain, policy_option, version_json, version_ref, when
from ci.output import emit
from registry.links import links_of

if TYPE_CHECKING:
    from registry.record.model import ProvenanceRecord
    from registry.service import Registry, RolloutRecord, VerdictRecord, VersionRecord
    from registry.versions import FileEntry, Manifest


@click.command("show")
@click.argument("version")
@policy_option
def command(version: str, policy: str | None) -> None:
    """One version: files, contract, provenance, verdicts."""
    with open_registry() as registry:
        ref = version_ref(registry, version, policy)
        record = registry.version(ref)
        manifest = registry.manifest(record.ref)
        tags = registry.tags(record.ref)
        origins = registry.provenance(ref)
        verdicts = registry.verdicts(ref)
        mine = registry.rollouts(record.policy, candidate=record.number)
        released = registry.released_at(record.ref)
        signed = _signed(registry, record)
        base = _base(registry, manifest.base)
    data = {
        **version_json(record),
        "serving": record.serving,
        "nonce": record.nonce,
        "tags": tags,
        "environment": manifest.environment,
        "base": {"digest": manifest.base, "ref": base} if manifest.base else None,
        "sandbox_only": manifest.sandbox_only,
        "bytes": manifest.size,
        "files_released_at": when(released),
        "files": [
            {
                "path": one.path,
                "sha256": one.sha256,
                "size": one.size,
                "tensors": len(one.tensors) if one.header else None,
            }
            for one in manifest.files
        ],
        "contract": dict(manifest.contract),
        "provenance": [
            {
                "at": when(one.at),
                "by": one.actor,
                **one.provenance.to_json(),
                "links": dict(links_of(one.provenance)),
            }
            for one in origins
        ],
        "statements": signed,
        "verdicts": [
            {
                "gate": one.verdict.gate,
                "outcome": str(one.verdict.outcome),
                "reason": one.verdict.reason,
                "numbers": dict(one.verdict.numbers),
                "at": when(one.at),
                "by": one.actor,
                "evidence": one.verdict.evidence,
                "artifacts": dict(one.artifacts),
            }
            for one in verdicts
        ],
        "rollouts": [
            {"rollout": one.id, "phase": str(one.rollout.phase), "reason": one.rollout.reason}
            for one in mine
        ],
    }
    lines = _lines(record, manifest, tags, origins, verdicts, mine)
    if manifest.base:
        lines.insert(2, f"  base        {base or manifest.base}")
    if manifest.sandbox_only:
        lines.insert(2, "  sandbox     it holds a program's archive: only a sandbox may run it")
    if released is not None:
        lines.insert(2, f"  files       released by the retention rule, {when(released)}")
    lines += [f"  signed      {plain(one['what'])}: {plain(one['says'])}" for one in signed]
    emit(data, "\n".join(lines))


def _signed(registry: Registry, record: VersionRecord) -> list[dict[str, str | None]]:
    """Each statement, whose key signed it and what that key may do; nothing where there is none."""
    held = registry.statements(record.ref)
    if not held:
        return []
    from registry.trust.keyring import Keyring

    keyring = registry.trust.keyring if registry.trust else Keyring()
    names = {one.id: one.verdict.gate for one in registry.verdicts(record.ref)}
    found: list[dict[str, str | None]] = []
    for one in held:
        keyids = [seal["keyid"] for seal in one.envelope["signatures"]]
        roles = [", ".join(keyring.roles_of(keyid)) or "no role now" for keyid in keyids]
        says = "; ".join(f"{k[:12]}… ({r})" for k, r in zip(keyids, roles, strict=True))
        what = "registration" if one.verdict is None else f"{names[one.verdict]} verdict"
        found.append({"what": what, "says": says, "at": when(one.at), "by": one.actor})
    return found


def _base(registry: Registry, digest: str) -> str | None:
    """The version that an adapter is applied to, as it is named here."""
    from registry.record.model import Search

    found = registry.find_versions(Search(digest=digest)) if digest else []
    return str(found[0]) if found else None


def _tensors(file: FileEntry) -> str:
    return f" in {len(file.tensors)} tensors" if file.header else ""


def _lines(
    record: VersionRecord,
    manifest: Manifest,
    tags: list[str],
    origins: list[ProvenanceRecord],
    verdicts: list[VerdictRecord],
    rollouts: list[RolloutRecord],
) -> list[str]:
    runs = ", the fleet runs it" if record.serving else ""
    lines = [
        f"[bold]{record}[/]  stage {record.stage}{runs}",
        f"  digest      {record.digest}",
        f"  for         {record.robot_class}, task {record.task}",
        f"  registered  {when(record.created_at)} by {record.created_by}",
    ]
    lines += [
        f"  file        {file.path}  {amount(file.size)}{_tensors(file)}  {file.sha256[7:19]}"
        for file in manifest.files
    ]
    if tags:
        lines.append(f"  tags        {', '.join(tags)}")
    for one in origins:
        known = [f"{k} {v}" for k, v in one.provenance.to_json().items() if v is not None]
        lines.append(f"  provenance  {plain(', '.join(known))}  ({one.actor}, {when(one.at)})")
        links = links_of(one.provenance).items()
        lines += [f"              {name} → {plain(url)}" for name, url in links]
    for verdict in verdicts:
        said = verdict.verdict
        lines.append(f"  verdict     {said.gate}: {said.outcome} — {plain(said.reason)}")
    lines += [
        f"  rollout     {one.id}: {one.rollout.phase} {plain(one.rollout.reason)}".rstrip()
        for one in rollouts
    ]
    return lines
