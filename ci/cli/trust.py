"""`policyctl trust`: whose signatures robots believe. What each act means: docs/trust.md."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ci.app import open_registry
from ci.cli.output import emit, narrate
from ci.cli.refs import confirm, when, yes_option
from ci.cli.trust_roles import grant, revoke, roles
from registry.errors import Pending, UsageError

if TYPE_CHECKING:
    from registry.service import Registry
    from registry.trust.approvals import Approvals
    from registry.trust.keys import Key

key_option = click.option(
    "--key",
    "places",
    metavar="PLACE",
    multiple=True,
    help="A key to sign with: file:PATH, env:NAME…",
)
file_type = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group("trust")
def command() -> None:
    """Whose signatures robots believe."""


for one in (roles, grant, revoke):
    command.add_command(one)


def _open(registry: Registry, places: tuple[str, ...] = (), *, new: bool = False) -> Approvals:
    """The home's approvals with these keys at hand. Raises NotFound where trust is not set up."""
    from registry.trust.opening import HomeApprovals

    home = registry.approvals
    if not new:
        home.require()
    return HomeApprovals(home.folder.parent, home.clock, places).open()


@command.command("init")
@click.option("--key", "place", metavar="PLACE", help="One key for everything; else one is made.")
@click.option("--public", type=file_type, help="Its public key, where the place does not tell it.")
def init(place: str | None, public: Path | None) -> None:
    """Set trust up with one key. From then on robots install only what was approved.

    Versions that robots run already are approved with it. `trust harden` takes the next step.
    """
    from registry.trust import ceremony
    from registry.trust.approvals import target_file
    from registry.trust.keys import public_key, signer

    with open_registry() as registry:
        registry.actor.require("trust")
        running = registry.approvable()
        approvals = _open(registry, () if place is None else (place,), new=True)
        key = None
        if place is not None:
            key = public_key(public) if public else signer(place).public_key
        infos = [target_file(ref, *signed) for ref, signed in running.items()]
        made = ceremony.init(approvals.repository, key, infos)
        if place is not None:
            approvals.repository.signers.remember(made, place)
        registry.note_trust("trust_init", made.keyid, {"approved": list(map(str, running))})
        waiting = _begin_keyring(registry, made, place)
        anchor = approvals.repository.folder / "metadata" / "1.root.json"
    emit(
        {
            "key": made.keyid,
            "approved": [str(ref) for ref in running],
            "anchor": str(anchor),
            "robots_without_key": waiting,
            "next": "policyctl trust harden",
        },
        f"trust is set up with one key ({made.keyid[:12]}…), {len(running)} running versions are "
        f"approved\n  robots are given  {anchor}\n  next              policyctl trust harden",
    )


def _begin_keyring(registry: Registry, key: Key, place: str | None) -> list[str]:
    """One key may publish, judge, direct and approve; robots whose agents live here get keys of
    their own. Answers the others: each is enrolled again with a key that is made on it."""
    from fleet.agent.identity import Identity
    from registry.trust.files import SignerEntry, TrustFolder
    from registry.trust.keyring import first_keyring
    from registry.trust.roles import WORKING
    from registry.trust.sealing import public_of

    folder = TrustFolder(registry.approvals.folder)
    agents = registry.approvals.folder.parent / "agents"
    keyring, waiting = first_keyring(public_of(key), str(registry.verify_audit())), []
    for robot in registry.robots():
        if (agents / robot.name).is_dir():
            keyring = keyring.with_robot(robot.name, Identity(agents / robot.name).make_key())
        else:
            waiting.append(robot.name)
    entry = SignerEntry(place or "home:home.pem", key.keyid)
    folder.write_signers(dict.fromkeys(WORKING, entry))
    folder.write_keyring(keyring)
    registry.settle_keyring()
    for name in waiting:
        narrate(f"{name} needs a key of its own: policyctl robot enrol ROBOT.yaml")
    return waiting


@command.command("key")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def key(file: Path) -> None:
    """Make a key: FILE for you alone, FILE.pub for `harden` and `rotate`. Needs no registry."""
    from registry.storage import disk_errors
    from registry.trust.keys import new_key, public_pem

    made = new_key(file)
    public = file.with_name(file.name + ".pub")
    with disk_errors(public):
        public.write_bytes(public_pem(made))
    emit(
        {"key": made.keyid, "private": str(file), "public": str(public)},
        f"{made.keyid}\n  yours alone  {file}\n  give away    {public}",
    )


@command.command("status")
def status() -> None:
    """Who signs what, until when, what waits for signatures, and what should be better."""
    with open_registry() as registry:
        approvals = _open(registry)
        state = approvals.status()
        changes = approvals.changes()
        anchor = approvals.repository.folder / "metadata" / "1.root.json"
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
        f"{one.role:<9} {one.threshold} of {len(one.keys)}, until {when(one.expires)}: "
        + ", ".join(k.keyid[:12] + ("… (here)" if k.here else "…") for k in one.keys)
        for one in state.roles
    ]
    text.append(f"approved  {len(state.approved)} versions; robots are given {anchor}")
    text += [f"waits     {line}" for line in changes]
    text += [f"[yellow]![/] {nag}" for nag in state.nags]
    emit(
        {
            "hardened": state.hardened,
            "roles": roles,
            "approved": list(state.approved),
            "pending": pending,
            "changes": changes,
            "nags": list(state.nags),
            "anchor": str(anchor),
        },
        "\n".join(text),
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
    from registry.trust.roles import hardened
    from registry.trust.sealing import public_of

    with open_registry() as registry:
        registry.actor.require("trust")
        confirm("Give root and approvals to these keys?", yes)
        approvals = _open(registry)
        approving = [public_key(file) for file in approvers]
        keyring = None
        if registry.trust is not None:  # what it refuses is refused before any draft
            keyring = hardened(registry.trust.newest, [public_of(key) for key in approving])
        done = ceremony.harden(
            approvals.repository,
            [public_key(file) for file in roots],
            root_threshold,
            approving,
            threshold,
        )
        registry.note_trust("trust_harden", "trust", {"published": done})
        if registry.trust is not None and keyring is not None:
            registry.trust.propose(keyring)
        _told(approvals, {"published": done}, "the new keys decide")


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
        approvals = _open(registry, places)
        changes = approvals.changes()
        if not changes:
            emit({"missing": {}}, "nothing waits for a signature")
            return
        for line in changes:
            narrate(line)
        confirm("Sign this?", yes)
        approvals.sign()
        registry.settle_keyring()
        registry.note_trust("trust_sign", "trust")
        _told(approvals, {}, "signed and published")


def _sign_carried(files: tuple[Path, ...], places: tuple[str, ...], yes: bool) -> None:
    from registry.trust.approvals import contents
    from registry.trust.carried import read_draft, sign_draft
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
        approvals = _open(registry)
        taken = approvals.add(drafts)
        registry.settle_keyring()
        registry.note_trust("trust_sign", "trust", {"drafts": list(drafts), "taken": taken})
        _told(approvals, {"taken": taken}, f"{taken} signatures taken over")


@command.command("drop")
@yes_option
def drop(yes: bool) -> None:
    """Drop whatever waits for signatures. What is published stays as it is."""
    from registry.trust.files import TrustFolder

    with open_registry() as registry:
        registry.actor.require("trust")
        approvals = _open(registry)
        for line in approvals.changes():
            narrate(line)
        confirm("Drop this?", yes)
        with approvals.repository.changing():
            dropped = approvals.repository.drop_drafts()
        TrustFolder(registry.approvals.folder).drop_proposed()
        registry.note_trust("trust_drop", "trust", {"dropped": dropped})
    emit({"dropped": dropped}, f"dropped: {', '.join(dropped) or 'nothing waited'}")


@command.command("freshen")
@key_option
def freshen(places: tuple[str, ...]) -> None:
    """Sign snapshot and timestamp again, for another day. `policyctl server` does it by itself."""
    with open_registry() as registry:
        approvals = _open(registry, places)
        approvals.repository.freshen(now=True)
        ends = approvals.repository.timestamp().signed.expires
    emit({"expires": ends.isoformat()}, f"fresh until {ends.isoformat()}")


@command.command("renew")
@key_option
def renew(places: tuple[str, ...]) -> None:
    """Sign root and all approvals again, for another year. Exit status 8 as for `harden`."""
    from registry.trust import ceremony

    with open_registry() as registry:
        registry.actor.require("trust")
        approvals = _open(registry, places)
        done = ceremony.renew(approvals.repository)
        registry.note_trust("trust_renew", "trust", {"published": done})
        _told(approvals, {"published": done}, "renewed")


new_option = click.option(
    "--new",
    type=file_type,
    metavar="KEY.pub",
    help="The new key; one kept in the home is made.",
)
place_option = click.option(
    "--place", metavar="PLACE", help="Where the new online key is kept, if not in the home."
)


@command.command("rotate")
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
        approvals = _open(registry, places)
        roles = ceremony.holds(approvals.repository, keyid)
        confirm(f"Replace {roles[0][1][:12]}… as {', '.join(role for role, _ in roles)}?", yes)
        changed = _replacements(approvals, roles, new, place)
        done = ceremony.rotate(approvals.repository, changed)
        _end_of_keys(registry, approvals, "trust_rotate", changed, done, "replaced")


@command.command("recover")
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
        approvals = _open(registry, places)
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
        done = ceremony.recover(approvals.repository, changed, rightful)
        _end_of_keys(registry, approvals, "trust_recover", changed, done, "recovered")


def _replacements(
    approvals: Approvals, roles: list[tuple[str, str]], new: Path | None, place: str | None
) -> list[Any]:
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


def _end_of_keys(
    registry: Registry,
    approvals: Approvals,
    action: str,
    changed: list[Any],
    done: list[str],
    word: str,
) -> None:
    detail = {one.role: {"old": one.old, "new": one.new.keyid} for one in changed}
    registry.note_trust(action, changed[0].old, {"keys": detail, "published": done})
    stolen = changed[0].old if action == "trust_recover" else None
    _replace_in_keyring(registry, approvals, changed, stolen=stolen)
    _told(approvals, {"keys": detail, "published": done}, f"{word}: {', '.join(detail)}")


def _replace_in_keyring(
    registry: Registry, approvals: Approvals, changed: list[Any], *, stolen: str | None
) -> None:
    """An approver's key also approves keyrings; the home's may publish, judge and direct, too.

    A stolen key (its whole name) is taken out of the keyring at once. One that is only replaced
    goes on in its other roles where approvers would have to sign that: nobody stole it.
    """
    from registry.trust.publishing import Publishing
    from registry.trust.roles import WORKING, replaced
    from registry.trust.sealing import public_of

    trust = registry.trust
    if trust is None:
        return
    keyring = before = trust.newest
    places = approvals.repository.signers.places()
    for one in changed:
        mine = stolen is None or one.old == stolen
        named = ["approver"] if one.role == "approver" else []
        if one.role == "online" and mine and (stolen or not keyring.hardened):
            named = list(WORKING)
        acts = [role for role in WORKING if one.old in keyring.roles[role]]
        if one.role == "online" and acts and not named and mine:
            narrate(
                f"{one.old[:12]}… still acts as {', '.join(acts)}; to end that: "
                "policyctl trust grant ROLE KEY.pub, then policyctl trust revoke KEY"
            )
        for role in set(named) & set(acts):
            if one.new.keyid in places:
                trust.use(role, places[one.new.keyid], one.new.keyid)
        keyring = replaced(keyring, one.old, public_of(one.new), named, stolen=False)
    if stolen is not None and keyring.roles_of(stolen):
        keyring = keyring.without(stolen)
    if keyring != before:
        from registry.trust.files import TrustFolder

        folder = TrustFolder(registry.approvals.folder)
        Publishing(folder, registry.approvals).propose(keyring, approvals)


def _told(approvals: Approvals, data: dict[str, Any], text: str) -> None:
    """The end of an act that may wait for signatures: exit status 8 where it does."""
    missing = approvals.repository.missing()
    folder = approvals.repository.folder / "drafts"
    data |= {"missing": {one.role: one.left for one in missing}}
    if not missing:
        emit(data, text)
        return
    left = max(one.left for one in missing)
    waits = Pending(
        f"{len(missing)} parts wait for signatures, up to {left} more each",
        evidence=f"drafts in {folder}; robots see nothing of it until then",
        hint="each signer runs `policyctl trust sign --key KEY`",
    )
    emit(data, f"{text} as far as it goes", error=waits)
