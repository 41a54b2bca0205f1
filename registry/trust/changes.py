"""What a signature stands for, in lines that a person reads before signing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from registry.trust.keyring import Keyring
from registry.trust.published import ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from registry.trust.remains import KEYRING
from registry.trust.root_roles import NAMED


def target_changes(before: Mapping[str, TargetFile], after: Mapping[str, TargetFile]) -> list[str]:
    """What is approved now, with its digest, and what no longer."""
    lines = [
        f"+ {path} sha256:{info.hashes['sha256']}"
        for path, info in sorted(after.items())
        if before.get(path) != info
    ]
    return lines + [f"- {path}" for path in sorted(before.keys() - after.keys())]


def root_changes(before: Root, after: Root) -> list[str]:
    """Whose the keys are now, and whose no longer."""
    lines = []
    names = {ROOT: "root", TARGETS: "approver", SNAPSHOT: "online", TIMESTAMP: "online"}
    for name, role in names.items():
        old, new = before.roles[name], after.roles[name]
        lines += [f"+ key {keyid} as {role}" for keyid in new.keyids if keyid not in old.keyids]
        lines += [f"- key {keyid} as {role}" for keyid in old.keyids if keyid not in new.keyids]
        if old.threshold != new.threshold:
            lines.append(f"  {role} needs {new.threshold} signatures, not {old.threshold}")
    return list(dict.fromkeys(lines))  # of snapshot and timestamp, which one key signs, once


def keyring_changes(before: Keyring, after: Keyring) -> list[str]:
    """Who may do what now, and who no longer."""
    old, new = before.acts(), after.acts()
    lines = [f"+ key {keyid} as {act}" for keyid, act in sorted(new - old)]
    lines += [f"- key {keyid} as {act}" for keyid, act in sorted(old - new)]
    if before.hardened != after.hardened:
        lines.append(f"  keyring hardened: {'yes' if after.hardened else 'NO'}")
    if before.since != after.since:
        lines.append(f"  unsigned up to audit {after.since or '0'}, not {before.since or '0'}")
    return lines


def contents(metadata: Metadata[Any]) -> list[str]:
    """All that a draft says, for a person who signs it where the repository is not."""
    signed = metadata.signed
    lines = [f"{signed.type} version {signed.version}, expires {signed.expires.date()}"]
    if isinstance(signed, Root):
        for name, role in sorted(signed.roles.items()):
            lines.append(f"{name}: {role.threshold} of {', '.join(role.keyids)}")
        if (named := signed.unrecognized_fields.get(NAMED)) is not None:
            lines.append(f"+ {KEYRING} sha256:{named['hashes']['sha256']}")
    elif isinstance(signed, Targets):
        lines += target_changes({}, signed.targets)
        if signed.delegations is not None and signed.delegations.succinct_roles is not None:
            role = signed.delegations.succinct_roles
            lines.append(f"approvers: {role.threshold} of {', '.join(role.keyids)}")
    return lines
