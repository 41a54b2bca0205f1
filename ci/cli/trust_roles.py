"""`policyctl trust roles`, `grant` and `revoke`: which keys may publish, judge and direct."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ci.app import open_registry
from ci.cli.refs import confirm, yes_option
from ci.cli.waiting import require_trust
from ci.output import emit
from registry.errors import Pending, Refused
from registry.trust.keyring import the_key
from registry.trust.roles import WORKING, revoked

if TYPE_CHECKING:
    from registry.service import Registry
    from registry.trust.authority import Trust
    from registry.trust.keyring import Keyring

ROLES = click.Choice(WORKING)


@click.command("roles")
def roles() -> None:
    """Which keys may publish, judge, direct and approve, and each robot's own."""
    with open_registry() as registry:
        trust = require_trust(registry)
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
    from registry.trust.root_roles import require_online
    from registry.trust.sealing import public_of

    key = public_of(public_key(public))
    with open_registry() as registry:
        registry.actor.require("trust")
        trust = require_trust(registry)
        confirm(f"Let {key.keyid[:12]}… act as {role}?", yes)
        changed = trust.newest.with_key(role, key)
        if changed.hardened and registry.approvals.on:
            require_online(registry.approvals.open().repository, key.keyid)
        if place is not None:
            trust.use(role, place, key.keyid)
        _change(registry, trust, changed, f"trust_grant {role}", key.keyid)


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
        trust = require_trust(registry)
        keyring = trust.newest
        listed = [one.keyid for one in keyring.keys]
        key = the_key(keyid, listed, "`policyctl trust roles` lists the keys")
        acts = ", ".join(keyring.roles_of(key))
        approves = key in keyring.roles["approver"] and keyring.hardened
        if approves and not _left_root(registry, key):
            raise Refused(
                "approvers are not revoked here: root says who they are",
                evidence=f"{key[:12]}… acts as {acts}",
                hint="policyctl trust rotate KEY --new KEY.pub; a stolen one: trust recover KEY",
            )
        changed = revoked(keyring, key, stolen=stolen)
        confirm(f"End {key[:12]}… as {acts}{', and what it signed' if stolen else ''}?", yes)
        _change(registry, trust, changed, "trust_revoke", key)


def _left_root(registry: Registry, keyid: str) -> bool:
    """Whether there is a root, and neither it nor one that waits lists the key."""
    from registry.trust.root_roles import roles_soon

    home = registry.approvals
    return home.on and not roles_soon(home.open().repository, keyid)


def _change(registry: Registry, trust: Trust, keyring: Keyring, action: str, keyid: str) -> None:
    changed = keyring != trust.newest
    if changed:
        taken = trust.propose(keyring)
        registry.note_trust(action.split()[0], keyid, {"act": action, "keyring": keyring.digest})
    else:
        registry.settle_keyring()
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
