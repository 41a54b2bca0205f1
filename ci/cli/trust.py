"""`policyctl trust`: whose signatures robots believe. What each act means: docs/trust.md."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ci.app import open_registry
from ci.cli.refs import confirm, when, yes_option
from ci.cli.trust_keys import recover, rotate
from ci.cli.trust_roles import grant, revoke, roles
from ci.cli.waiting import file_type, key_option, open_approvals, require_trust, told
from ci.output import emit, narrate
from registry.errors import Corrupt, Refused, UsageError

if TYPE_CHECKING:
    from registry.service import Registry
    from registry.trust.approvals import Approvals
    from registry.trust.keys import Key


@click.group("trust")
def command() -> None:
    """Whose signatures robots believe."""


for one in (rotate, recover, roles, grant, revoke):
    command.add_command(one)


@command.command("init")
@click.option("--key", "place", metavar="PLACE", help="One key for everything; else one is made.")
@click.option("--public", type=file_type, help="Its public key, where the place does not tell it.")
@click.option("--anew", is_flag=True, help="Give up the trust that this home had and has lost.")
@yes_option
def init(place: str | None, public: Path | None, anew: bool, yes: bool) -> None:
    """Set trust up with one key. From then on robots install only what was approved.

    Versions that robots run already are approved with it. `trust harden` takes the next step.
    A home that lost its trust and has no backup begins --anew: each robot is then given the new
    root by hand, and what the lost keys signed is signed again before it climbs.
    """
    from registry.trust import ceremony
    from registry.trust.approvals import target_files
    from registry.trust.keys import public_key, signer

    with open_registry() as registry:
        registry.actor.require("trust")
        if anew:
            confirm("Give up the trust that this home had?", yes)
        running = registry.approvable()
        approvals = open_approvals(registry, () if place is None else (place,), new=True)
        key = None
        if place is not None:
            key = public_key(public) if public else signer(place).public_key
        begun = ceremony.cut_off_init(registry.trust_folder, approvals.repository, anew=anew)
        if begun is not None:
            place = _place_of(approvals, begun, key, place)
        made = begun or ceremony.init(approvals.repository, key, target_files(running).values())
        if place is not None:
            approvals.repository.signers.remember(made, place)
        about = {"approved": list(map(str, running))} | ({"anew": True} if anew else {})
        registry.note_trust("trust_init", made.keyid, about)
        waiting = _begin_keyring(registry, made, place)
        anchor = approvals.repository.published.anchor
    emit(
        {
            "key": made.keyid,
            "approved": [str(ref) for ref in running],
            "anchor": str(anchor),
            "robots_without_key": waiting,
            "next": "policyctl trust harden --help",
        },
        f"trust is set up with one key ({made.keyid[:12]}…), {len(running)} running versions are "
        f"approved\n  robots are given  {anchor}\n"
        "  next              policyctl trust harden --help",
    )


def _place_of(approvals: Approvals, begun: Key, given: Key | None, place: str | None) -> str:
    """Where the key of a set-up is that was cut off. Refused where that is not the one `given`."""
    known = approvals.repository.signers.places().get(begun.keyid)
    found = known if given is None else place if given.keyid == begun.keyid else None
    if found is None:
        raise Refused(
            "a set-up with another key was cut off here",
            evidence=f"it began with {begun.keyid[:12]}…",
            hint="run it again as it was typed then" + ("" if known is None else ", without --key"),
        )
    return found


def _begin_keyring(registry: Registry, key: Key, place: str | None) -> list[str]:
    """One key may publish, judge, direct and approve; robots whose agents live here get keys of
    their own. Answers the others: each is enrolled again with a key that is made on it."""
    from fleet.agent.identity import Identity
    from registry.trust.keyring import first_keyring
    from registry.trust.places import HOME, SignerEntry
    from registry.trust.role_signers import RoleSigners
    from registry.trust.roles import WORKING
    from registry.trust.sealing import public_of
    from registry.trust.signers import FIRST

    agents = registry.approvals.folder.parent / "agents"
    keyring, waiting = first_keyring(public_of(key), str(registry.audit_head())), []
    for robot in registry.robots():
        if (agents / robot.name).is_dir():
            keyring = keyring.with_robot(robot.name, Identity(agents / robot.name).make_key())
        else:
            waiting.append(robot.name)
    entry = SignerEntry(place or HOME + FIRST, key.keyid)
    folder = registry.trust_folder
    RoleSigners(folder).write(dict.fromkeys(WORKING, entry))
    folder.write_keyring(keyring)  # last: with it trust has begun, and `init` is done
    registry.settle_keyring()
    for name in waiting:
        narrate(f"{name} needs a key of its own: policyctl robot enrol ROBOT.yaml")
    return waiting


@command.command("key")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def key(file: Path) -> None:
    """Make a key: FILE for you alone, FILE.pub for `harden` and `rotate`. Needs no registry.

    A FILE that is there is never overwritten; where its FILE.pub is lost that is written again.
    """
    from registry.storage import disk_errors, write_whole
    from registry.trust.keys import is_key, new_key, public_key, public_pem

    public = file.with_name(file.name + ".pub")
    made = public_key(file) if is_key(file) and not public.exists() else new_key(file)
    with disk_errors(public):
        write_whole(public, public_pem(made))
    emit(
        {"key": made.keyid, "private": str(file), "public": str(public)},
        f"{made.keyid}\n  yours alone  {file}\n  give away    {public}",
    )


@command.command("status")
def status() -> None:
    """Who signs what, until when, what waits for signatures, and what should be better.

    Exit status 9 where robots refuse what is published, with the command that puts it right.
    """
    from rich.markup import escape

    with open_registry() as registry:
        approvals = open_approvals(registry, mending=True)
        state = approvals.status()
        changes = approvals.changes()
        anchor = approvals.repository.published.anchor
    roles = [
        {
            "role": one.role,
            "threshold": one.threshold,
            "keys": [{"key": key.keyid, "here": key.here} for key in one.keys],
            "expires": when(one.expires),
        }
        for one in state.roles
    ]
    pending = [
        {"role": one.role, "have": one.have, "need": one.need, "unsigned": list(one.unsigned)}
        for one in state.pending
    ]
    text = [
        f"{one.role:<9} {one.threshold} of {len(one.keys)}, "
        f"{f'until {when(one.expires)}' if one.expires else '[red]FORGED[/]'}: "
        + ", ".join(k.keyid[:12] + ("… (here)" if k.here else "…") for k in one.keys)
        for one in state.roles
    ]
    text.append(f"approved  {len(state.approved)} versions; robots are given {anchor}")
    text += [f"waits     {line}" for line in changes]
    text += [f"[yellow]![/] {nag}" for nag in state.nags]
    text += [f"[red]forged[/]    {role}: {escape(why)}" for role, why in state.forged.items()]
    refused = None
    if state.forged:
        refused = Corrupt(
            f"robots refuse what is published here: {', '.join(state.forged)}",
            evidence="; ".join(f"{role}: {why}" for role, why in state.forged.items()),
            hint=state.remedy,
        )
    emit(
        {
            "hardened": state.hardened,
            "roles": roles,
            "approved": list(state.approved),
            "pending": pending,
            "changes": changes,
            "nags": list(state.nags),
            "forged": dict(state.forged),
            "anchor": str(anchor),
        },
        "\n".join(text),
        error=refused,
    )


@command.command("harden")
@click.option("--root", "roots", type=file_type, multiple=True, required=True, metavar="KEY.pub")
@click.option("--root-threshold", type=int, default=2, show_default=True)
@click.option("--approver", "approvers", type=file_type, multiple=True, required=True)
@click.option("--threshold", type=int, default=2, show_default=True)
@yes_option
def harden(
    roots: tuple[Path, ...],
    root_threshold: int,
    approvers: tuple[Path, ...],
    threshold: int,
    yes: bool,
) -> None:
    """Let several people's offline keys decide: a threshold for root, one for approvals.

    The key in the home stays online only. Exit status 8 until enough of them have signed.
    """
    from registry.trust import ceremony
    from registry.trust.keys import public_key
    from registry.trust.roles import hardened, require_no_role
    from registry.trust.sealing import public_of

    with open_registry() as registry:
        registry.actor.require("trust")
        confirm("Give root and approvals to these keys?", yes)
        approvals = open_approvals(registry)
        rooting = [public_key(file) for file in roots]
        approving = [public_key(file) for file in approvers]
        trust = require_trust(registry)
        # what the keyring refuses is refused before any draft
        keyring = hardened(trust.newest, [public_of(key) for key in approving])
        require_no_role(keyring, [key.keyid for key in rooting])
        done = ceremony.harden(
            approvals.repository, rooting, root_threshold, approving, threshold, keyring
        )
        registry.note_trust("trust_harden", "trust", {"published": done})
        trust.propose(keyring)
        told(approvals, {"published": done}, "the new keys decide")


@command.command("sign")
@click.argument("files", metavar="[FILE…]", nargs=-1, type=file_type)
@key_option
@yes_option
def sign(files: tuple[Path, ...], places: tuple[str, ...], yes: bool) -> None:
    """Sign what waits for signatures; with FILEs drafts that were carried here from a home.

    What is signed is shown first. Carried drafts go back with `policyctl trust add FILE…`.
    """
    if files:
        _sign_carried(files, places, yes)
        return
    with open_registry() as registry:
        registry.actor.require("trust")
        approvals = open_approvals(registry, places, mending=True)
        changes = approvals.changes()
        if not changes:
            registry.settle_keyring()  # what was published by a command that was killed then
            emit({"missing": {}}, "nothing waits for a signature")
            return
        for line in changes:
            narrate(line)
        confirm("Sign this?", yes)
        if not approvals.sign():
            registry.settle_keyring()
        registry.note_trust("trust_sign", "trust")
        told(approvals, {}, "signed and published")


def _sign_carried(files: tuple[Path, ...], places: tuple[str, ...], yes: bool) -> None:
    from registry.trust.carried import read_draft, sign_draft
    from registry.trust.changes import contents
    from registry.trust.keys import signer

    if not places:
        raise UsageError("whose signature?", hint="name your key: --key file:PATH")
    drafts = {file: read_draft(file) for file in files}
    for file, draft in drafts.items():
        narrate(f"{file}:")
        for line in contents(draft):
            narrate(f"  {line}")
    confirm("Sign this?", yes)
    signers = [signer(place) for place in places]
    for file, draft in drafts.items():
        sign_draft(file, draft, signers)
    keys = [one.public_key.keyid for one in signers]
    back = f"policyctl trust add {' '.join(map(str, files))}"
    emit(
        {"files": [str(file) for file in files], "signed_by": keys, "next": back},
        f"{len(files)} drafts are signed by {', '.join(one[:12] + '…' for one in keys)}; "
        f"at the home: {back}",
    )


@command.command("add")
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=file_type)
def add(files: tuple[Path, ...]) -> None:
    """Take over the signatures of carried drafts; publishes when they are enough."""
    from registry.trust.carried import read_draft

    drafts = {file.stem: read_draft(file) for file in files}
    with open_registry() as registry:
        registry.actor.require("trust")
        approvals = open_approvals(registry, mending=True)
        taken = approvals.add(drafts)
        if not approvals.repository.missing():
            registry.settle_keyring()
        registry.note_trust("trust_sign", "trust", {"drafts": list(drafts), "taken": taken})
        told(approvals, {"taken": taken}, f"{taken} signatures taken over")


@command.command("drop")
@yes_option
def drop(yes: bool) -> None:
    """Drop whatever waits for signatures. What is published stays as it is."""
    with open_registry() as registry:
        registry.actor.require("trust")
        approvals = open_approvals(registry, mending=True)
        try:
            for line in approvals.changes():
                narrate(line)
        except Corrupt as unread:
            narrate(f"{unread.what}: {unread.evidence}")
        confirm("Drop this?", yes)
        with approvals.repository.changing():
            dropped = approvals.repository.drop_drafts()
        registry.trust_folder.drop_proposed()
        registry.note_trust("trust_drop", "trust", {"dropped": dropped})
    emit({"dropped": dropped}, f"dropped: {', '.join(dropped) or 'nothing waited'}")


@command.command("freshen")
@key_option
def freshen(places: tuple[str, ...]) -> None:
    """Sign snapshot and timestamp again, for another day. `policyctl server` does it by itself.

    A timestamp that was lost is made anew with it.
    """
    with open_registry() as registry:
        approvals = open_approvals(registry, places, mending=True)
        approvals.repository.freshen(now=True)
        ends = approvals.repository.published.timestamp().signed.expires
    emit({"expires": ends.isoformat()}, f"fresh until {ends.isoformat()}")


@command.command("renew")
@key_option
def renew(places: tuple[str, ...]) -> None:
    """Sign root and all approvals again, for another year. Exit status 8 as for `harden`."""
    from registry.trust import ceremony

    with open_registry() as registry:
        registry.actor.require("trust")
        approvals = open_approvals(registry, places)
        done = ceremony.renew(approvals.repository)
        registry.note_trust("trust_renew", "trust", {"published": done})
        told(approvals, {"published": done}, "renewed")
