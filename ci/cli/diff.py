"""`policyctl diff`: what changed from one version to another."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ci.app import open_registry
from ci.bytes import amount
from ci.cli.refs import plain, policy_option, version_json, version_ref
from ci.output import emit

if TYPE_CHECKING:
    from registry.difference import Amount, Difference
    from registry.service import Registry, VersionRecord

NAMED = 20


@click.command("diff")
@click.argument("first")
@click.argument("second")
@policy_option
def command(first: str, second: str, policy: str | None) -> None:
    """What changed from version FIRST to SECOND: contract, tensors, files, results."""
    from registry.difference import difference

    with open_registry() as registry:
        old = registry.version(version_ref(registry, first, policy))
        new = registry.version(version_ref(registry, second, policy))
        found = difference(registry.manifest(old.ref), registry.manifest(new.ref))
        results = _results(registry, old, new)
    tensors = found.tensors
    data = {
        "first": version_json(old),
        "second": version_json(new),
        "contract": {path: {"first": a, "second": b} for path, (a, b) in found.contract.items()},
        "files": dict(found.files),
        "tensors": {
            "same": tensors.same.to_json(),
            "changed": tensors.changed.to_json(),
            "added": tensors.added.to_json(),
            "removed": tensors.removed.to_json(),
            "names": list(tensors.names),
        },
        "about": {name: {"first": a, "second": b} for name, (a, b) in found.about.items()},
        "fetched": found.fetched.to_json(),
        "results": results,
    }
    emit(data, "\n".join(_lines(old, new, found, results)))


def _results(registry: Registry, old: VersionRecord, new: VersionRecord) -> dict[str, Any]:
    """The newest verdict of each gate on either side."""
    found: dict[str, Any] = {}
    for side, record in (("first", old), ("second", new)):
        for one in registry.verdicts(record.ref):
            said = one.verdict
            found.setdefault(said.gate, {})[side] = {
                "outcome": str(said.outcome),
                "reason": said.reason,
                "numbers": dict(said.numbers),
            }
    return found


def _lines(
    old: VersionRecord, new: VersionRecord, found: Difference, results: dict[str, Any]
) -> list[str]:
    lines = [f"[bold]{old}[/] → [bold]{new}[/]"]
    if found.nothing:
        lines.append("  the same files under the same contract")
    for name, (first, second) in found.about.items():
        lines.append(f"  {name:<11} {_value(first)} → {_value(second)}")
    for path, (first, second) in found.contract.items():
        lines.append(f"  contract    {path}: {_value(first)} → {_value(second)}")
    lines += [f"  file        {plain(path)}: {change}" for path, change in found.files.items()]
    lines += _tensor_lines(found)
    for gate, sides in results.items():
        said = " → ".join(_outcome(sides.get(side)) for side in ("first", "second"))
        lines.append(f"  {gate:<11} {said}")
    return lines


def _tensor_lines(found: Difference) -> list[str]:
    tensors = found.tensors
    if not (tensors.same.count or tensors.names):
        return []
    parts = [
        f"{one.count} {word} ({amount(one.bytes)})" for word, one in _amounts(found) if one.count
    ]
    lines = [f"  tensors     {', '.join(parts)}"]
    lines += [f"              {plain(name)}" for name in tensors.names[:NAMED]]
    if len(tensors.names) > NAMED:
        lines.append(f"              and {len(tensors.names) - NAMED} more; --output json has all")
    lines.append(
        f"  an update   fetches {amount(found.fetched.bytes)} in {found.fetched.count} pieces"
    )
    return lines


def _amounts(found: Difference) -> list[tuple[str, Amount]]:
    tensors = found.tensors
    return [
        ("changed", tensors.changed),
        ("added", tensors.added),
        ("removed", tensors.removed),
        ("the same", tensors.same),
    ]


def _value(value: Any) -> str:
    if value in (None, ""):
        return "none"
    return plain(value if isinstance(value, str) else json.dumps(value))


def _outcome(said: dict[str, Any] | None) -> str:
    return "no verdict" if said is None else f"{said['outcome']} ({plain(said['reason'])})"
