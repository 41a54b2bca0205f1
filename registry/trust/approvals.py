"""Which versions robots may run, as the record asks for it: approve once, withdraw when it ended.

`approve` returns when the version is a published target; where signatures are missing it leaves a
draft and raises Pending, and robots see nothing. Approving again is free. `withdraw` never waits:
what cannot be signed now stays as a draft, and `status` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from registry.errors import Corrupt, NotFound, Pending, Refused
from registry.trust.files import KEYRING
from registry.trust.keyring import Keyring, parse_keyring
from registry.trust.repository import (
    BIN,
    DAY,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Missing,
    Repository,
)
from registry.versions import VersionRef, digest_bytes

CUSTOM = "policyctl"
WARNING_S = 30 * DAY


def target_name(ref: VersionRef) -> str:
    return f"{ref.policy}/v{ref.number}.json"


def target_file(ref: VersionRef, manifest: bytes, gates: Mapping[str, str]) -> TargetFile:
    """The target of a version. `gates` names the digests of what its gates attested."""
    info = TargetFile.from_data(target_name(ref), manifest, ["sha256"])
    info.unrecognized_fields["custom"] = {CUSTOM: {"gates": dict(gates)}}
    return info


@dataclass(frozen=True)
class KeyState:
    keyid: str
    here: bool  # this machine can sign with it


@dataclass(frozen=True)
class RoleState:
    role: str  # root, approver or online
    threshold: int
    keys: tuple[KeyState, ...]
    expires: float


@dataclass(frozen=True)
class Status:
    """How trust stands. `nags` are the sentences that go away when it is as it should be."""

    roles: tuple[RoleState, ...]
    hardened: bool
    approved: tuple[str, ...]
    pending: tuple[Missing, ...]
    drafts: tuple[str, ...]
    nags: tuple[str, ...]


class Approvals:
    def __init__(self, repository: Repository) -> None:
        self.repository = repository

    def approve(self, ref: VersionRef, manifest: bytes, gates: Mapping[str, str]) -> None:
        """Raises Pending where signatures are missing, Refused where the name means other bytes."""
        with self.repository.changing():
            self.approve_now(ref, manifest, gates)

    def approve_now(self, ref: VersionRef, manifest: bytes, gates: Mapping[str, str]) -> None:
        """`approve` for whoever is `changing` the repository already."""
        info = target_file(ref, manifest, gates)
        self.repository.publish()  # what a killed process had begun to
        name = self.repository.bin_of(info.path)
        published = self.repository.targets(name).signed.targets.get(info.path)
        if published is not None:
            self._same(ref, published, info)
            self._keep(name, published)
            return

        def add(targets: Targets) -> None:
            if info.path in targets.targets:
                self._same(ref, targets.targets[info.path], info)
                return
            targets.targets[info.path] = info

        self.repository.change(name, add)
        self.repository.sign()
        self.repository.publish()
        if not self.is_published(ref, manifest):
            raise self._pending(ref, name)

    def check(self, ref: VersionRef, manifest: bytes) -> None:
        """What `approve` would raise, without a signature or a draft."""
        name = self.repository.bin_of(target_name(ref))
        published = self.repository.targets(name).signed.targets.get(target_name(ref))
        if published is not None:
            self._same(ref, published, target_file(ref, manifest, {}))
            return
        role = self.repository.root().signed.roles[TARGETS]
        keys = [self.repository.root().signed.keys[keyid] for keyid in role.keyids]
        have = sum(self.repository.signers.has(key) for key in keys)
        if have < role.threshold:
            raise Pending(
                f"{ref} would wait for {role.threshold - have} more signature(s)",
                evidence=f"{have} of the {len(keys)} approvers' keys are at hand, "
                f"{role.threshold} must sign",
                hint=f"promote it, then an approver runs `policyctl approve '{ref}' --key KEY`",
            )

    def is_published(self, ref: VersionRef, manifest: bytes) -> bool:
        name = self.repository.bin_of(target_name(ref))
        found = self.repository.targets(name).signed.targets.get(target_name(ref))
        return found is not None and "sha256:" + found.hashes["sha256"] == digest_bytes(manifest)

    def _keep(self, name: str, info: TargetFile) -> None:
        """Gives up a withdrawal of this target that still waits for signatures."""
        draft = self.repository.draft(name)
        if draft is None or info.path in draft.signed.targets:
            return

        def restore(targets: Targets) -> None:
            targets.targets[info.path] = info

        self.repository.change(name, restore)
        again = self.repository.draft(name)
        if again and again.signed.targets == self.repository.targets(name).signed.targets:
            self.repository.drop_draft(name)

    def sign(self, ref: VersionRef | None = None) -> list[Missing]:
        """Signs what waits (for one version: its bin) with the keys at hand; what still lacks."""
        with self.repository.changing():
            drafts = self.repository.drafts()
            if ref is not None:
                name = self.repository.bin_of(target_name(ref))
                waiting = drafts.get(name)
                if waiting is None or target_name(ref) not in waiting.signed.targets:
                    raise NotFound(
                        f"no approval of {ref} waits for a signature",
                        evidence=f"waiting: {', '.join(drafts) or 'nothing'}",
                        hint=f"ask for it: policyctl promote '{ref}' --stage canary",
                    )
            given = self.repository.sign()
            if drafts and not given and self.repository.missing():
                raise Refused(
                    "none of the keys at hand may sign what waits, or they have signed already",
                    evidence="; ".join(_lacking(self.repository.missing())),
                    hint="name a key that may: --key file:PATH",
                )
            self.repository.publish()
            return self.repository.missing()

    def place_of(self, ref: VersionRef) -> str:
        """The bin of a version."""
        return self.repository.bin_of(target_name(ref))

    def add(self, carried: Mapping[str, Metadata[Any]]) -> int:
        """Takes over the signatures of drafts that were signed elsewhere, and publishes.

        All are known here before the first signature is taken.
        """
        with self.repository.changing():
            for role, draft in carried.items():
                self.repository.require_draft(role, draft)
            taken = sum(self.repository.merge(*one) for one in carried.items())
            self.repository.publish()
            return taken

    def strangers(self, rightful: Mapping[str, TargetFile]) -> list[str]:
        """What is approved and is not what the ledger says: a thief's, or a damaged file's."""
        lines = []
        for name in self.repository.bins():
            try:
                found = self.repository.targets(name).signed.targets
            except Corrupt as forged:
                lines.append(f"forged: {name} ({forged.evidence})")
                continue
            lines += [
                f"stranger: {path} sha256:{info.hashes['sha256']}"
                for path, info in sorted(found.items())
                if path not in rightful or info.hashes != rightful[path].hashes
            ]
        return lines

    def approved(self, refs: Iterable[VersionRef]) -> list[VersionRef]:
        """Which of these are published targets."""
        bins: dict[str, Mapping[str, TargetFile]] = {}
        found = []
        for ref in refs:
            name = self.place_of(ref)
            if name not in bins:
                bins[name] = self.repository.targets(name).signed.targets
            if target_name(ref) in bins[name]:
                found.append(ref)
        return found

    def withdraw(self, refs: Iterable[VersionRef]) -> list[str]:
        """Takes published versions back; the bins whose change still waits for signatures.

        A version that is not published, but waits to be, is left alone: somebody asks for it again.
        """
        with self.repository.changing():
            return self.withdraw_now(refs)

    def withdraw_now(self, refs: Iterable[VersionRef]) -> list[str]:
        """`withdraw` for whoever is `changing` the repository already."""
        self.repository.publish()
        gone: dict[str, set[str]] = {}
        for ref in self.approved(refs):
            gone.setdefault(self.place_of(ref), set()).add(target_name(ref))
        for name, targets in gone.items():
            self._remove(name, targets)
        if gone:
            self.repository.sign()
            self.repository.publish()
        return [one.role for one in self.repository.missing() if one.role in gone]

    def _remove(self, name: str, gone: set[str]) -> None:
        def edit(targets: Targets) -> None:
            for one in gone:
                targets.targets.pop(one, None)

        self.repository.change(name, edit)

    def put_file(self, name: str, content: bytes) -> None:
        """Publishes a small file beside the versions (`keyring.json`). Raises Pending."""
        with self.repository.changing():
            self.repository.put_file(name, content)
            self.repository.sign()
            self.repository.publish()
            if lacking := self.repository.missing():
                raise Pending(
                    f"{name} waits for signatures",
                    evidence="; ".join(_lacking(lacking)),
                    hint="an approver runs `policyctl trust sign --key KEY`",
                )

    def changes(self) -> list[str]:
        """What the drafts would change, a line each: what a signature stands for."""
        lines = []
        for role, draft in self.repository.drafts().items():
            if isinstance(draft.signed, Root):
                lines += _root_changes(self.repository.root().signed, draft.signed)
                continue
            assert isinstance(draft.signed, Targets)
            before, after = self.repository.targets(role).signed.targets, draft.signed.targets
            lines += _target_changes(before, after)
            if before.get(KEYRING) != after.get(KEYRING):
                lines += _keyring_changes(self._keyring(before), self._keyring(after))
        return lines or (["new signatures, no change"] if self.repository.drafts() else [])

    def status(self) -> Status:
        repository = self.repository
        root = repository.root().signed
        bins = {name: repository.targets(name).signed for name in repository.bins()}
        targets = repository.targets().signed
        ends = min([targets.expires, *(one.expires for one in bins.values())])
        online = min(repository.timestamp().signed.expires, repository.newest_snapshot().expires)
        roles = (
            self._role(root, "root", ROOT, root.expires),
            self._role(root, "approver", TARGETS, ends),
            self._role(root, "online", TIMESTAMP, online),
        )
        missing = repository.missing()
        return Status(
            roles=roles,
            hardened=all(_strong(one) for one in roles[:2]),
            approved=tuple(sorted(path for one in bins.values() for path in one.targets)),
            pending=tuple(missing),
            drafts=tuple(repository.drafts()),
            nags=tuple(self._nags(root, roles, missing)),
        )

    # -- inside ----------------------------------------------------------------------------------

    def _keyring(self, targets: Mapping[str, TargetFile]) -> Keyring:
        """The keyring among these targets, by its digest; one that trusts nobody where none is."""
        if (info := targets.get(KEYRING)) is None:
            return Keyring()
        return parse_keyring(self.repository.file(info), KEYRING)

    def _role(self, root: Root, role: str, name: str, expires: datetime) -> RoleState:
        keys = [root.keys[keyid] for keyid in root.roles[name].keyids]
        states = tuple(KeyState(key.keyid, self.repository.signers.has(key)) for key in keys)
        return RoleState(role, root.roles[name].threshold, states, expires.timestamp())

    def _nags(self, root: Root, roles: tuple[RoleState, ...], missing: list[Missing]) -> list[str]:
        said = []
        if any(not _strong(one) for one in roles[:2]):
            said.append("one stolen key is enough to approve anything: `policyctl trust harden`")
        online = {one.keyid for one in roles[2].keys}
        for state in roles[:2]:
            here = [one.keyid for one in state.keys if one.here and one.keyid not in online]
            if _strong(state) and len(here) >= state.threshold:
                said.append(f"enough {state.role} keys for a signature lie on this machine")
        for keyid in sorted({key.keyid for state in roles for key in state.keys}):
            both = [one.role for one in roles if keyid in [key.keyid for key in one.keys]]
            if len(both) > 1 and all(_strong(one) for one in roles[:2]):
                said.append(f"{keyid[:12]}… is {' and '.join(both)}: `policyctl trust harden`")
        if {*root.roles[SNAPSHOT].keyids} != {*root.roles[TIMESTAMP].keyids}:
            said.append("snapshot and timestamp have different keys")
        now = self.repository.now()
        for state in roles:
            left = state.expires - now
            limit = WARNING_S if state.role != "online" else 0.0
            if left < limit:
                how = "expired" if left < 0 else f"expires in {left / DAY:.0f} days"
                told = datetime.fromtimestamp(state.expires, UTC).date()
                again = "freshen" if state.role == "online" else "renew"
                said.append(f"what {state.role} signed {how} ({told}): `policyctl trust {again}`")
        said += [f"{line}: `policyctl trust sign --key KEY`" for line in _lacking(missing)]
        return said

    def _same(self, ref: VersionRef, found: TargetFile, wanted: TargetFile) -> None:
        if found.hashes != wanted.hashes or found.length != wanted.length:
            raise Refused(
                f"{ref} is approved with other bytes",
                evidence=f"approved {found.hashes['sha256'][:12]}…, "
                f"this is {wanted.hashes['sha256'][:12]}…",
                hint="a version's number never changes its meaning; see `policyctl verify`",
            )

    def _pending(self, ref: VersionRef, name: str) -> Pending:
        lacking = self.repository.missing()
        own = next((one for one in lacking if one.role == name), None)
        return Pending(
            f"{ref} waits for {own.left if own else 'other'} more signature(s)",
            evidence="; ".join(_lacking(lacking)),
            hint=f"an approver runs `policyctl approve '{ref}' --key KEY`; then promote it again",
        )


def _target_changes(before: Mapping[str, TargetFile], after: Mapping[str, TargetFile]) -> list[str]:
    lines = [
        f"+ {path} sha256:{info.hashes['sha256']}"
        for path, info in sorted(after.items())
        if before.get(path) != info
    ]
    return lines + [f"- {path}" for path in sorted(before.keys() - after.keys())]


def _root_changes(before: Root, after: Root) -> list[str]:
    lines = []
    for role, name in (("root", ROOT), ("approver", TARGETS), ("online", TIMESTAMP)):
        old, new = before.roles[name], after.roles[name]
        lines += [f"+ key {keyid} as {role}" for keyid in new.keyids if keyid not in old.keyids]
        lines += [f"- key {keyid} as {role}" for keyid in old.keyids if keyid not in new.keyids]
        if old.threshold != new.threshold:
            lines.append(f"  {role} needs {new.threshold} signatures, not {old.threshold}")
    return lines


def _keyring_changes(before: Keyring, after: Keyring) -> list[str]:
    """What a signature under a keyring stands for: who may do what, and may no longer."""
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
    elif isinstance(signed, Targets):
        lines += _target_changes({}, signed.targets)
        if signed.delegations is not None and signed.delegations.succinct_roles is not None:
            role = signed.delegations.succinct_roles
            lines.append(f"approvers: {role.threshold} of {', '.join(role.keyids)}")
    return lines


def _lacking(missing: Iterable[Missing]) -> list[str]:
    """A line for each set of drafts that lack the same signatures, such as all bins."""
    alike: dict[tuple[int, int, tuple[str, ...]], list[str]] = {}
    for one in missing:
        alike.setdefault((one.have, one.need, one.unsigned), []).append(one.role)
    lines = []
    for (have, need, unsigned), roles in alike.items():
        bins = [role for role in roles if role.startswith(f"{BIN}-")]
        if len(bins) > 3:
            roles = [role for role in roles if role not in bins] + [f"{len(bins)} bins"]
        keys = ", ".join(keyid[:12] + "…" for keyid in unsigned)
        has = "has" if len(roles) == 1 and len(bins) <= 3 else "have"
        lines.append(f"{', '.join(roles)} {has} {have} of {need} signatures, not signed: {keys}")
    return lines


def _strong(state: RoleState) -> bool:
    return state.threshold >= 2 and len(state.keys) > state.threshold
