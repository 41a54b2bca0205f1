"""`policyctl trust roles`, `grant` and `revoke`: which keys may publish, judge and direct."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ci.app import open_registry
from ci.cli.output import emit
from ci.cli.refs import confirm, yes_option
from registry.errors import NotFound, Pending, Refused
from registry.trust.roles import WORKING

if TYPE_CHECKING:
    from registry.service import Registry
    from registry.trust.authority import Trust
    from registry.trust.keyring import Keyring

ROLES = click.Choice(WORKING)


@click.command("roles")
def roles() -> None:
    """Which keys may publish, judge, direct and approve, and each robot's own."""
    with open_registry() as registry:
        trust = _trust(registry)
        keyring, waits = trust.keyring, trust.proposed()
        here = {role for role in WORKING if trust.has_signer(role)}
    lines = [
        f"{role:<10}{', '.join(f'{keyid[:12]}…' for keyid in ids) or 'nobody'}"
        f"{'  (a key is here)' if role in here else ''}"
        for role, ids in keyring.roles.items()
    ]
    lines += [
        f"retired   {keyid[:12]}… {role}" for role, ids in keyring.retired.items() for keyid in ids
    ]
    lines.append(f"robots    {len(keyring.robots)} with a key of their own")
    lines += [f"[yellow]![/] {one}" for one in keyring.warnings]
    if waits is not None:
        lines.append(f"waits     keyring {waits.number} for the approvers' signatures")
    emit(
        {
            "keyring": keyring.to_json(),
            "digest": keyring.digest,
            "warnings": list(keyring.warnings),
            "waits": waits.to_json() if waits else None,
        },
        "\n".join(lines),
    )


@click.command("grant")
@click.argument("role", type=ROLES)
@click.argument("public", metavar="KEY.pub", type=click.Path(exists=True, path_type=Path))
@click.option("--place", metavar="PLACE", help="Where its private key is, if it is used here.")
@yes_option
def grant(role: str, public: Path, place: str | None, yes: bool) -> None:
    """Let the key in KEY.pub act in ROLE. Exit status 8 until approvers have signed that."""
    from registry.trust.keys import public_key
    from registry.trust.sealing import public_of

    key = public_of(public_key(public))
    with open_registry() as registry:
        registry.actor.require("trust")
        trust = _trust(registry)
        confirm(f"Let {key.keyid[:12]}… act as {role}?", yes)
        changed = trust.newest.with_key(role, key)
        if changed.hardened and registry.approvals.on:
            _require_online(registry, key.keyid)
        if place is not None:
            trust.use(role, place, key.keyid)
        _change(registry, trust, changed, f"trust_grant {role}", key.keyid)


def _require_online(registry: Registry, keyid: str) -> None:
    """Who says whose the keys are, or approves, does nothing else, and stays offline."""
    for role in sorted(_in_root(registry, keyid) & {"root", "approver"}):
        raise Refused(
            f"a key of {role} has no other role",
            evidence=f"{keyid[:12]}… is {role}'s",
            hint="grant it to another key: policyctl trust key FILE makes one",
        )


def _in_root(registry: Registry, keyid: str) -> set[str]:
    """What a key is by the root that holds, and by one that waits: that may hold any moment."""
    from registry.trust.ceremony import roles_in
    from registry.trust.repository import ROOT

    repository = registry.approvals.open().repository
    roots = (repository.root(), repository.draft(ROOT))
    return {role for one in roots if one is not None for role in roles_in(one.signed, keyid)}


@click.command("revoke")
@click.argument("keyid", metavar="KEY")
@click.option("--stolen", is_flag=True, help="What it signed counts no more, either.")
@yes_option
def revoke(keyid: str, stolen: bool, yes: bool) -> None:
    """KEY (the beginning of its name is enough) acts no more; what it signed stands, unless stolen.

    Exit status 8 until approvers have signed that. Approvers change with `trust rotate`.
    """
    with open_registry() as registry:
        registry.actor.require("trust")
        trust = _trust(registry)
        keyring = trust.newest
        found = [one.keyid for one in keyring.keys if keyid and one.keyid.startswith(keyid)]
        if len(found) != 1:
            raise NotFound(
                f"{'more than one' if found else 'no'} key is called {keyid!r}",
                hint="`policyctl trust roles` lists the keys",
            )
        acts = ", ".join(keyring.roles_of(found[0]))
        approves = found[0] in keyring.roles["approver"] and keyring.hardened
        if approves and not (registry.approvals.on and not _in_root(registry, found[0])):
            raise Refused(
                "approvers are not revoked here: root says who they are",
                evidence=f"{found[0][:12]}… acts as {acts}",
                hint="policyctl trust rotate KEY --new KEY.pub; a stolen one: trust recover KEY",
            )
        if not stolen and any(found[0] in ids for ids in keyring.robots.values()):
            raise Refused(
                "a robot's key is not retired: without it the robot cannot report",
                evidence=f"{found[0][:12]}… acts as {acts}",
                hint="where it was stolen: --stolen; then enrol the robot with another key",
            )
        confirm(f"End {found[0][:12]}… as {acts}{', and what it signed' if stolen else ''}?", yes)
        changed = keyring.without(found[0]) if stolen else _retired(keyring, found[0])
        _change(registry, trust, changed, "trust_revoke", found[0])


def _retired(keyring: Keyring, keyid: str) -> Keyring:
    for role in keyring.roles:
        if keyid in keyring.roles[role]:
            keyring = keyring.retire(role, keyid)
    return keyring


def _trust(registry: Registry) -> Trust:
    if registry.trust is None:
        raise NotFound("this home has no trust set up", hint="run `policyctl trust init`")
    return registry.trust


def _change(registry: Registry, trust: Trust, keyring: Keyring, action: str, keyid: str) -> None:
    changed = keyring != trust.newest
    if changed:
        taken = trust.propose(keyring)
        registry.note_trust(action.split()[0], keyid, {"act": action, "keyring": keyring.digest})
    else:
        taken = keyring == trust.keyring
    data: dict[str, Any] = {"changed": changed, "number": keyring.number, "published": taken}
    if taken:
        emit(data, f"keyring {keyring.number} holds now" if changed else "nothing to change")
        return
    waits = Pending(
        "the changed keyring waits for signatures",
        evidence=f"keyring {keyring.number}",
        hint="an approver runs `policyctl trust sign --key KEY`",
    )
    emit(data, f"keyring {keyring.number} waits for the approvers", error=waits)
