"""Which versions robots may run, as the record asks for it: approve once, withdraw when it ended.

`approve` returns when the version is a published target; where signatures are missing it leaves a
draft and raises Pending, and robots see nothing. Approving again is free. `withdraw` never waits:
what cannot be signed now stays as a draft, and `status` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from registry.errors import Corrupt, NotFound, Pending, Refused
from registry.trust.changes import keyring_changes, root_changes, target_changes
from registry.trust.forged import what_is_forged
from registry.trust.keyring import Keyring, parse_keyring
from registry.trust.published import TARGETS
from registry.trust.remains import KEYRING
from registry.trust.repository import Missing, Repository
from registry.trust.root_roles import named_keyring
from registry.trust.standing import (
    Status,
    everything_approved,
    is_hardened,
    lacking_lines,
    standing,
)
from registry.versions import VersionRef, digest_bytes

CUSTOM = "policyctl"


def target_name(ref: VersionRef) -> str:
    return f"{ref.policy}/v{ref.number}.json"


def target_file(ref: VersionRef, manifest: bytes, gates: Mapping[str, str]) -> TargetFile:
    """The target of a version. `gates` names the digests of what its gates attested."""
    info = TargetFile.from_data(target_name(ref), manifest, ["sha256"])
    info.unrecognized_fields["custom"] = {CUSTOM: {"gates": dict(gates)}}
    return info


def target_files(
    approvable: Mapping[VersionRef, tuple[bytes, Mapping[str, str]]],
) -> dict[str, TargetFile]:
    """The targets of these versions, by name."""
    return {target_name(ref): target_file(ref, *signed) for ref, signed in approvable.items()}


class Approvals:
    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self._published = repository.published

    def approve(self, ref: VersionRef, manifest: bytes, gates: Mapping[str, str]) -> None:
        """Raises Pending where signatures are missing, Refused where the name means other bytes."""
        with self.repository.changing():
            self.approve_now(ref, manifest, gates)

    def approve_now(self, ref: VersionRef, manifest: bytes, gates: Mapping[str, str]) -> None:
        """`approve` for whoever is `changing` the repository already."""
        info = target_file(ref, manifest, gates)
        self.repository.publish()  # what a killed process had begun to
        name = self._published.bin_of(info.path)
        published = self._published.targets(name).signed.targets.get(info.path)
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
        name = self.bin_of(ref)
        published = self._published.targets(name).signed.targets.get(target_name(ref))
        if published is not None:
            self._same(ref, published, target_file(ref, manifest, {}))
            return
        role = self._published.root().signed.roles[TARGETS]
        keys = [self._published.root().signed.keys[keyid] for keyid in role.keyids]
        have = sum(self.repository.signers.has(key) for key in keys)
        if have < role.threshold:
            raise Pending(
                f"{ref} would wait for {role.threshold - have} more signature(s)",
                evidence=f"{have} of the {len(keys)} approvers' keys are at hand, "
                f"{role.threshold} must sign",
                hint=f"promote it, then an approver runs `policyctl approve '{ref}' --key KEY`",
            )

    def is_published(self, ref: VersionRef, manifest: bytes) -> bool:
        name = self.bin_of(ref)
        found = self._published.targets(name).signed.targets.get(target_name(ref))
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
        if again and again.signed.targets == self._published.targets(name).signed.targets:
            self.repository.drop_draft(name)

    def sign(self, ref: VersionRef | None = None) -> list[Missing]:
        """Signs what waits (for one version: its bin) with the keys at hand; what still lacks."""
        with self.repository.changing():
            drafts = self.repository.drafts()
            if ref is not None:
                name = self.bin_of(ref)
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
                    evidence="; ".join(lacking_lines(self.repository.missing())),
                    hint="name a key that may: --key file:PATH",
                )
            self.repository.publish()
            return self.repository.missing()

    def bin_of(self, ref: VersionRef) -> str:
        """The bin of a version."""
        return self._published.bin_of(target_name(ref))

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
        forged = what_is_forged(self._published)
        lines = [f"forged: {role} ({why})" for role, why in forged.items()]
        return lines + [
            f"stranger: {path} sha256:{info.hashes['sha256']}"
            for path, info in sorted(everything_approved(self._published).items())
            if path not in rightful or info.hashes != rightful[path].hashes
        ]

    def approved(self, refs: Iterable[VersionRef]) -> list[VersionRef]:
        """Which of these are published targets."""
        bins: dict[str, Mapping[str, TargetFile]] = {}
        found = []
        for ref in refs:
            name = self.bin_of(ref)
            if name not in bins:
                bins[name] = self._published.targets(name).signed.targets
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
            gone.setdefault(self.bin_of(ref), set()).add(target_name(ref))
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
                    evidence="; ".join(lacking_lines(lacking)),
                    hint="an approver runs `policyctl trust sign --key KEY`",
                )

    def changes(self) -> list[str]:
        """What the drafts would change, a line each: what a signature stands for."""
        lines = []
        for role, draft in self.repository.drafts().items():
            if isinstance(draft.signed, Root):
                lines += self._root_changes(self._published.root().signed, draft.signed)
                continue
            assert isinstance(draft.signed, Targets)
            before, after = self._before(role), draft.signed.targets
            lines += target_changes(before, after)
            if before.get(KEYRING) != after.get(KEYRING):
                lines += keyring_changes(self._keyring_before(before), self._keyring(after))
        lines = list(dict.fromkeys(lines))  # root and targets both name a keyring
        return lines or (["new signatures, no change"] if self.repository.drafts() else [])

    @property
    def hardened(self) -> bool:
        """See `registry.trust.standing.is_hardened`."""
        return is_hardened(self._published.root().signed)

    def status(self) -> Status:
        """See `registry.trust.standing`."""
        return standing(self.repository)

    # -- inside ----------------------------------------------------------------------------------

    def _before(self, role: str) -> Mapping[str, TargetFile]:
        """What is approved by this role; nothing where that is forged: then all of it is new."""
        try:
            return self._published.targets(role).signed.targets
        except (Corrupt, NotFound):
            return {}

    def _root_changes(self, before: Root, after: Root) -> list[str]:
        """Also what has changed of the keyring since root named one."""
        lines = root_changes(before, after)
        now = named_keyring(self._published, after)
        try:
            old = named_keyring(self._published, before) or Keyring()
        except Corrupt:
            old = Keyring()
        return lines + (keyring_changes(old, now) if now is not None else [])

    def _keyring_before(self, targets: Mapping[str, TargetFile]) -> Keyring:
        try:
            return self._keyring(targets)
        except Corrupt:
            return Keyring()

    def _keyring(self, targets: Mapping[str, TargetFile]) -> Keyring:
        """The keyring among these targets, by its digest; one that trusts nobody where none is."""
        if (info := targets.get(KEYRING)) is None:
            return Keyring()
        return parse_keyring(self._published.file(info), KEYRING)

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
            evidence="; ".join(lacking_lines(lacking)),
            hint=f"an approver runs `policyctl approve '{ref}' --key KEY`; then promote it again",
        )
