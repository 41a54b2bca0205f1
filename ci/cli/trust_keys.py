"""`policyctl trust rotate` and `recover`: a key gives way to another, in order or after a theft."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ci.app import open_registry
from ci.cli.output import narrate
from ci.cli.refs import confirm, yes_option
from ci.cli.waiting import file_type, key_option, open_approvals, told
from registry.errors import UsageError

if TYPE_CHECKING:
    from registry.service import Registry
    from registry.trust.approvals import Approvals
    from registry.trust.ceremony import Replacement
    from registry.trust.keys import Key

new_option = click.option(
    "--new",
    type=file_type,
    metavar="KEY.pub",
    help="The new key; one kept in the home is made.",
)
place_option = click.option(
    "--place", metavar="PLACE", help="Where the new online key is kept, if not in the home."
)


@click.command("rotate")
@click.argument("keyid", metavar="KEY")
@new_option
@place_option
@key_option
@yes_option
def rotate(
    keyid: str, new: Path | None, place: str | None, places: tuple[str, ...], yes: bool
) -> None:
    """Replace KEY (the beginning of its name is enough) in every role that it has.

    For a key that nobody stole: its owner leaves, or it is old. Exit status 8 as for `harden`.
    """
    from registry.trust import ceremony

    with open_registry() as registry:
        registry.actor.require("trust")
        approvals = open_approvals(registry, places)
        roles = ceremony.holds(approvals.repository, keyid)
        confirm(f"Replace {roles[0][1][:12]}… as {', '.join(role for role, _ in roles)}?", yes)
        changed = _replacements(approvals, roles, new, place)
        _require_fitting(registry, changed, stolen=None)
        done = ceremony.rotate(approvals.repository, changed)
        _end_of_keys(registry, approvals, "trust_rotate", changed, done, "replaced")


@click.command("recover")
@click.argument("keyid", metavar="KEY")
@new_option
@place_option
@key_option
@yes_option
def recover(
    keyid: str, new: Path | None, place: str | None, places: tuple[str, ...], yes: bool
) -> None:
    """KEY was stolen: replace it in every role, and the online key with it.

    What waits for signatures is dropped. Where the key approved, the approvals are made again from
    the ledger: versions at canary or fleet, and no other. Exit status 8 as for `harden`.
    """
    from registry.trust import ceremony
    from registry.trust.approvals import target_file, target_name

    with open_registry() as registry:
        registry.actor.require("trust")
        approvals = open_approvals(registry, places)
        roles = ceremony.holds(approvals.repository, keyid)
        confirm(f"{roles[0][1][:12]}… was {', '.join(r for r, _ in roles)}: replace it?", yes)
        rightful = {
            target_name(ref): target_file(ref, *signed)
            for ref, signed in registry.approvable().items()
        }
        for line in approvals.strangers(rightful):
            narrate(line)
        changed = _replacements(approvals, roles, new, place)
        if not any(one.role == "online" for one in changed):
            online = approvals.repository.root().signed.roles["timestamp"].keyids[0]
            changed += _replacements(approvals, [("online", online)], None, place)
        _require_fitting(registry, changed, stolen=changed[0].old)
        done = ceremony.recover(approvals.repository, changed, rightful)
        _end_of_keys(registry, approvals, "trust_recover", changed, done, "recovered")


def _replacements(
    approvals: Approvals, roles: list[tuple[str, str]], new: Path | None, place: str | None
) -> list[Replacement]:
    from registry.trust.ceremony import Replacement
    from registry.trust.keys import public_key, signer

    signers = approvals.repository.signers
    fresh: Key | None = None
    if new is not None:
        fresh = public_key(new)
        if place is not None:
            signers.remember(fresh, place)
    elif place is not None:
        fresh = signer(place).public_key
        signers.remember(fresh, place)
    elif [role for role, _ in roles] == ["online"] or not approvals.status().hardened:
        fresh = signers.make_next()
    if fresh is None:
        raise UsageError(
            "an offline key is replaced by one that its owner made",
            hint="they make it (`policyctl trust key FILE`); name its public file with --new",
        )
    return [Replacement(role, old, fresh) for role, old in roles]


def _require_fitting(registry: Registry, changed: list[Replacement], *, stolen: str | None) -> None:
    """What the keyring would not have is refused before any draft."""
    from registry.trust.ceremony import keyring_after
    from registry.trust.roles import require_no_role

    if registry.trust is None:
        return
    keyring = keyring_after(registry.trust.newest, changed, stolen)
    if keyring.hardened:
        require_no_role(keyring, [one.new.keyid for one in changed if one.role == "root"])


def _end_of_keys(
    registry: Registry,
    approvals: Approvals,
    action: str,
    changed: list[Replacement],
    done: list[str],
    word: str,
) -> None:
    detail = {one.role: {"old": one.old, "new": one.new.keyid} for one in changed}
    registry.note_trust(action, changed[0].old, {"keys": detail, "published": done})
    stolen = changed[0].old if action == "trust_recover" else None
    _replace_in_keyring(registry, approvals, changed, stolen=stolen)
    told(approvals, {"keys": detail, "published": done}, f"{word}: {', '.join(detail)}")


def _replace_in_keyring(
    registry: Registry, approvals: Approvals, changed: list[Replacement], *, stolen: str | None
) -> None:
    """The keyring follows, and this machine signs with the new key in the roles it takes over."""
    from registry.trust import ceremony
    from registry.trust.publishing import Publishing
    from registry.trust.roles import WORKING

    trust = registry.trust
    if trust is None:
        return
    before, places = trust.newest, approvals.repository.signers.places()
    keyring = ceremony.keyring_after(before, changed, stolen)
    for one in changed:
        named = ceremony.given_up(before, one, stolen)
        acts = [role for role in WORKING if one.old in before.roles[role]]
        if one.role == "online" and acts and not named and stolen in (None, one.old):
            narrate(
                f"{one.old[:12]}… still acts as {', '.join(acts)}; to end that: "
                "policyctl trust grant ROLE KEY.pub, then policyctl trust revoke KEY"
            )
        for role in set(named) & set(acts):
            if one.new.keyid in places:
                trust.use(role, places[one.new.keyid], one.new.keyid)
    if keyring != before:
        Publishing(registry.trust_folder, registry.approvals).propose(keyring, approvals)
