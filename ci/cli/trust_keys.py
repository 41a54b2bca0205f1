"""`policyctl trust rotate` and `recover`: a key gives way to another, in order or after a theft."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ci.app import open_registry
from ci.cli.refs import confirm, yes_option
from ci.cli.waiting import file_type, key_option, open_approvals, require_trust, told
from ci.output import narrate
from registry.errors import NotFound, Refused, UsageError

if TYPE_CHECKING:
    from registry.service import Registry
    from registry.trust.approvals import Approvals
    from registry.trust.ceremony import Replacement
    from registry.trust.keys import Key
    from registry.trust.replacing import Replacing

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
    _replace(keyid, new, place, places, yes, theft=False)


@click.command("recover")
@click.argument("keyid", metavar="KEY")
@new_option
@place_option
@click.option(
    "--keep",
    metavar="KEY",
    multiple=True,
    help="A key that may go on though only approvers signed that it may.",
)
@key_option
@yes_option
def recover(
    keyid: str,
    new: Path | None,
    place: str | None,
    keep: tuple[str, ...],
    places: tuple[str, ...],
    yes: bool,
) -> None:
    """KEY was stolen: replace it in every role, and the online key with it.

    What waits for signatures is dropped. Where the key approved, or what approvers signed is
    forged, the approvals are made again from the ledger: versions at canary or fleet, and no other.
    Who was given a role, or a robot a key, by approvers alone since they last changed is named and
    dropped, unless you --keep it. Exit status 8 as for `harden`.
    """
    _replace(keyid, new, place, places, yes, theft=True, keep=keep)


def _replace(
    keyid: str,
    new: Path | None,
    place: str | None,
    places: tuple[str, ...],
    yes: bool,
    *,
    theft: bool,
    keep: tuple[str, ...] = (),
) -> None:
    """Root, then the keyring; only the latter where such a command was killed after its root."""
    from registry.trust import ceremony
    from registry.trust.approvals import target_files
    from registry.trust.forged import require_root
    from registry.trust.replacing import Replacing
    from registry.trust.root_roles import holds, is_named

    with open_registry() as registry:
        registry.actor.require("trust")
        approvals = open_approvals(registry, places, mending=theft)
        require_root(approvals.repository.published)
        if not theft:
            registry.settle_keyring()
        replacing = Replacing(require_trust(registry), approvals, theft=theft)
        try:
            roles = holds(approvals.repository, keyid)
        except NotFound:
            if not (changed := replacing.cut_off(keyid)):
                raise
            _require_same(changed[0], new, place)
            confirm(f"{changed[0].old[:12]}… was replaced in root: go on?", yes)
            _end(registry, approvals, replacing, changed, [])
            return
        rightful = target_files(registry.approvable()) if theft else {}
        for line in approvals.strangers(rightful) if theft else []:
            narrate(line)
        if theft:
            for line in replacing.confine(roles[0][1], [role for role, _ in roles], keep):
                narrate(line)
        old, acts = f"{roles[0][1][:12]}…", ", ".join(role for role, _ in roles)
        confirm(f"{old} was {acts}: replace it?" if theft else f"Replace {old} as {acts}?", yes)
        with approvals.repository.signers.tentative(partial(is_named, approvals.repository)):
            changed = _replacements(approvals, roles, new, place)
            if theft and not any(one.role == "online" for one in changed):
                online = approvals.repository.published.root().signed.roles["timestamp"].keyids[0]
                changed += _replacements(approvals, [("online", online)], None, place)
            keyring = replacing.next_keyring(changed)  # what that refuses is refused before drafts
            for line in replacing.hand_over(changed):
                narrate(line)
            if theft:
                done = ceremony.recover(approvals.repository, changed, rightful, keyring)
            else:
                done = ceremony.rotate(approvals.repository, changed, keyring)
        _end(registry, approvals, replacing, changed, done)


def _require_same(done: Replacement, new: Path | None, place: str | None) -> None:
    """Refused where a key was replaced already, and by another one than is named now."""
    from registry.trust.keys import public_key, signer

    if new is None and place is None:
        return
    named = public_key(new) if new is not None else signer(place or "").public_key
    if named.keyid != done.new.keyid:
        raise Refused(
            f"{done.old[:12]}… was replaced already, by another key",
            evidence=f"{done.new.keyid[:12]}… took its place as {done.role}, "
            f"not {named.keyid[:12]}…",
            hint=f"replace that one: policyctl trust rotate {done.new.keyid[:12]}",
        )


def _replacements(
    approvals: Approvals, roles: list[tuple[str, str]], new: Path | None, place: str | None
) -> list[Replacement]:
    from registry.trust.ceremony import Replacement
    from registry.trust.keys import public_key, signer

    signers = approvals.repository.signers
    fresh: Key
    if new is not None:
        fresh = public_key(new)
    elif place is not None:
        fresh = signer(place).public_key
    elif [role for role, _ in roles] == ["online"] or not approvals.hardened:
        fresh = signers.make_next()
    else:
        raise UsageError(
            "an offline key is replaced by one that its owner made",
            hint="they make it (`policyctl trust key FILE`); name its public file with --new",
        )
    if place is not None:
        signers.remember(fresh, place)
    return [Replacement(role, old, fresh) for role, old in roles]


def _end(
    registry: Registry,
    approvals: Approvals,
    replacing: Replacing,
    changed: list[Replacement],
    done: list[str],
) -> None:
    """After root: the record of it, and the keyring that follows."""
    keyring = replacing.next_keyring(changed)  # not the one before: a recovery drops what waited
    keys = {one.role: {"old": one.old, "new": one.new.keyid} for one in changed}
    told_of = {"keys": keys, "published": done, "dropped": replacing.dropped}
    action, word = (
        ("trust_recover", "recovered") if replacing.theft else ("trust_rotate", "replaced")
    )
    registry.note_trust(action, changed[0].old, told_of)
    for line in replacing.follow(changed, keyring):
        narrate(line)
    told(approvals, told_of, f"{word}: {', '.join(keys)}")
