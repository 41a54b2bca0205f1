"""The repository of approved versions: TUF metadata as files in HOME/trust.

    metadata/    what robots read: N.root.json, N.targets.json, N.bin-00.json …, N.snapshot.json,
                 timestamp.json
    drafts/      new metadata of a role that still lacks signatures
    targets/     small files robots read besides versions, by their sha256
    keys/, places.json   see `registry.trust.places`

A version is the target `POLICY/vN.json`, whose bytes are its manifest, so that its sha256 is the
version's digest. Targets lie in 32 hash bins (TAP 15): a robot reads the one that it needs.

Rules:
1. A role's new version appears only when a threshold of the keys that its delegator names signed
   it, a root also by a threshold of the root before it. Until then it is a draft, unseen by robots.
2. A draft is never built on metadata whose signatures do not hold: Corrupt.
3. A change of root or of who approves is one step: all its drafts appear together or none.
4. Snapshot and timestamp follow in the same call, by the online key. A new root is written last but
   one, timestamp.json last. Killed anywhere before, the next call does it again; killed between
   the two, robots refuse what is new until then, for they know the new keys and no signature.
5. One process at a time changes anything (a lock on `lock`, not waited for for ever);
   readers need no lock.
Times are seconds since the epoch; a timestamp also says when it was made (`issued`).
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, TypeAlias

from securesystemslib.exceptions import UnverifiedSignatureError
from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import (
    Key,
    Metadata,
    Root,
    RootVerificationResult,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
    VerificationResult,
)
from tuf.api.serialization import DeserializationError

from registry.errors import Corrupt, NotFound, ServiceFailed
from registry.ports import Clock, SystemClock
from registry.storage import disk_errors, write_whole
from registry.trust.files import is_published
from registry.trust.online import online_signed
from registry.trust.signers import Signers, add_signature

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = Root.type, Targets.type, Snapshot.type, Timestamp.type
BIN = "bin"
BIN_BITS = 5
DAY = 86_400.0
LIFE_S = {ROOT: 365 * DAY, TARGETS: 365 * DAY, SNAPSHOT: 7 * DAY, TIMESTAMP: DAY}
Meta: TypeAlias = Metadata[Any]
LOCK_S, LOOK_S = 60.0, 0.05  # waiting for another process that changes something
KEPT = 3  # versions of each role that a robot in the middle of a refresh may still ask for


@dataclass(frozen=True)
class Missing:
    """A draft that waits: so many signatures of so many, and whose would count."""

    role: str
    have: int
    need: int
    unsigned: tuple[str, ...]  # names of keys

    @property
    def left(self) -> int:
        return self.need - self.have


class Repository:
    """One home's repository. `folder` is HOME/trust; `signers` the keys at hand."""

    def __init__(
        self, folder: Path, signers: Signers | None = None, clock: Clock | None = None
    ) -> None:
        self.folder = folder
        self.signers = signers or Signers(folder)
        self._clock = clock or SystemClock()

    @property
    def exists(self) -> bool:
        return is_published(self.folder)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keeps every other process from changing anything meanwhile.

        Raises ServiceFailed where another does so for more than `LOCK_S`.
        """
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in ("metadata", "drafts", "targets"):
                (self.folder / name).mkdir(exist_ok=True)
            handle = (self.folder / "lock").open("w")
        with handle:
            self._lock(handle)
            yield

    def _lock(self, handle: IO[str]) -> None:
        """Who holds it may wait for a key, be stopped, or hang: nobody waits for that for ever."""
        until = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise ServiceFailed(
                        "another process has been changing approvals or keys for too long",
                        evidence=f"{self.folder / 'lock'} was held for {LOCK_S:g} s",
                        hint="wait for its key service, or end it (`fuser` names it); then again",
                    ) from None
                time.sleep(LOOK_S)
            else:
                return

    # -- reading ---------------------------------------------------------------------------------

    def root(self) -> Metadata[Root]:
        return self._read(ROOT, self.version(ROOT))

    def targets(self, role: str = TARGETS) -> Metadata[Targets]:
        """The newest published metadata of targets or of a bin. Raises Corrupt (rule 2)."""
        found = self._read(role, self.version(role))
        delegator = self.root().signed if role == TARGETS else self.targets().signed
        try:
            delegator.verify_delegate(role, found.signed_bytes, found.signatures)
        except RepositoryError as forged:
            raise Corrupt(
                f"the published {role} is not signed as it should be",
                evidence=str(forged),
                hint="see docs/trust.md, `policyctl trust recover`",
            ) from forged
        return found

    def version(self, role: str, none: int | None = None) -> int:
        """The highest version that was ever published of a role; `none`, if given, before that."""
        suffix = f".{role}.json"
        found = [
            int(path.name.removesuffix(suffix))
            for path in (self.folder / "metadata").glob(f"*{suffix}")
            if path.name.removesuffix(suffix).isdigit()
        ]
        if not found and none is None:
            raise NotFound(
                "this home has no trust set up",
                evidence=f"no {role} in {self.folder / 'metadata'}",
                hint="run `policyctl trust init`",
            )
        return max(found, default=none or 0)

    def data(self, role: str) -> bytes:
        """The newest published bytes of a role, as they are."""
        return (self.folder / "metadata" / f"{self.version(role)}.{role}.json").read_bytes()

    def timestamp(self) -> Metadata[Timestamp]:
        return self._parse(self.folder / "metadata" / "timestamp.json")

    def newest_snapshot(self) -> Snapshot:
        snapshot = self._read(SNAPSHOT, self.version(SNAPSHOT)).signed
        assert isinstance(snapshot, Snapshot)
        return snapshot

    def now(self) -> float:
        return self._clock.now()

    def bins(self) -> list[str]:
        succinct = self.succinct(self.targets().signed)
        return list(succinct.get_roles())

    def bin_of(self, target: str) -> str:
        return self.succinct(self.targets().signed).get_role_for_target(target)

    @staticmethod
    def succinct(targets: Targets) -> SuccinctRoles:
        """How the bins are delegated."""
        assert targets.delegations is not None
        assert targets.delegations.succinct_roles is not None
        return targets.delegations.succinct_roles

    # -- drafts ----------------------------------------------------------------------------------

    def drafts(self) -> dict[str, Meta]:
        found = sorted((self.folder / "drafts").glob("*.json"))
        return {path.stem: self._parse(path) for path in found}

    def draft(self, role: str) -> Meta | None:
        path = self._draft_path(role)
        return self._parse(path) if path.is_file() else None

    def put_draft(self, role: str, metadata: Meta) -> None:
        with disk_errors(self.folder):
            write_whole(self._draft_path(role), metadata.to_bytes())

    def drop_drafts(self) -> list[str]:
        """What waited for signatures waits no longer; nothing published changes."""
        self.publish()
        dropped = sorted(self.drafts())
        for role in dropped:
            self.drop_draft(role)
        return dropped

    def drop_draft(self, role: str) -> None:
        self._draft_path(role).unlink(missing_ok=True)

    def successor(self, metadata: Meta, role: str) -> Meta:
        """The same content as the next version, unsigned, with its whole life before it."""
        fresh = Metadata(deepcopy(metadata.signed))
        fresh.signed.version += 1
        fresh.signed.expires = self.expiry(role)
        return fresh

    def change(self, role: str, edit: Callable[[Targets], None]) -> None:
        """Edits targets or a bin as a draft. Nothing happens where `edit` changes nothing.

        A draft that others have signed already loses their signatures when it changes.
        """
        self.publish()  # what a killed process had begun to
        waiting = self.draft(role)
        base = waiting or self.targets(role)
        after = deepcopy(base.signed)
        assert isinstance(after, Targets)
        edit(after)
        if after == base.signed:
            return
        if waiting is None:
            draft = self.successor(Metadata(after), role)
        else:
            draft = Metadata(after)
        self.put_draft(role, draft)

    def sign(self) -> dict[str, list[str]]:
        """Every signature that the keys at hand can give to the drafts; keys by role."""
        given: dict[str, list[str]] = {}
        for role, draft in self.drafts().items():
            for key in self._unsigned(role, draft):
                if self.sign_with(draft, key):
                    given.setdefault(role, []).append(key.keyid)
            if role in given:
                self.put_draft(role, draft)
        return given

    def sign_with(self, draft: Meta, key: Key) -> bool:
        """Adds a key's signature if the key is at hand. Raises ServiceFailed."""
        signer = self.signers.of(key)
        if signer is None:
            return False
        add_signature(draft, signer)
        return True

    def require_draft(self, role: str, signed_elsewhere: Meta) -> Meta:
        """The draft that this is a copy of. Raises NotFound."""
        draft = self.draft(role)
        if draft is None or draft.signed_bytes != signed_elsewhere.signed_bytes:
            raise NotFound(
                f"no draft of {role} like that waits here",
                evidence="it was published, dropped or changed since the copy was made",
                hint="copy the draft again: `policyctl trust status` says what waits",
            )
        return draft

    def merge(self, role: str, signed_elsewhere: Meta) -> int:
        """Takes over the good signatures of a copy of a draft; how many. Raises NotFound."""
        draft = self.require_draft(role, signed_elsewhere)
        taken = 0
        for key in self._unsigned(role, draft):
            signature = signed_elsewhere.signatures.get(key.keyid)
            try:
                if signature is not None:
                    key.verify_signature(signature, draft.signed_bytes)
                    draft.signatures[key.keyid] = signature
                    taken += 1
            except UnverifiedSignatureError:
                continue  # whoever made it, it is not that key's
        self.put_draft(role, draft)
        return taken

    def missing(self) -> list[Missing]:
        """The drafts that still lack signatures."""
        lacking = []
        for role, draft in self.drafts().items():
            have, need, unsigned = self._count(role, draft)
            if have < need:
                lacking.append(Missing(role, have, need, tuple(unsigned)))
        return lacking

    # -- publishing ------------------------------------------------------------------------------

    def publish(self) -> list[str]:
        """Publishes every draft that has its signatures (rules 1, 3, 4); the roles' names."""
        drafts = self.drafts()
        lacking = {one.role for one in self.missing()}
        if lacking and {ROOT, TARGETS} & drafts.keys():
            return []
        ready = {role: draft for role, draft in drafts.items() if role not in lacking}
        if ready:
            self._publish(ready)
        return list(ready)

    def freshen(self, now: bool = False) -> bool:
        """Signs snapshot and timestamp again where half their life is over; whether it did.

        `now`: in any case, also where the timestamp is lost.
        """
        with self.changing():
            if not now:
                left = self.timestamp().signed.expires - self._now()
                if left > timedelta(seconds=LIFE_S[TIMESTAMP] / 2):
                    return False
            if not self.publish():
                self._publish({})
            return True

    def put_file(self, name: str, content: bytes) -> None:
        """Drafts a small file (`keyring.json`) as a target of its own beside the versions."""
        info = TargetFile.from_data(name, content, ["sha256"])
        with disk_errors(self.folder):
            write_whole(self.folder / "targets" / f"{info.hashes['sha256']}.{name}", content)

        def edit(targets: Targets) -> None:
            targets.targets[name] = info

        self.change(TARGETS, edit)

    def file(self, info: TargetFile) -> bytes:
        """The bytes of a small file as a target names them. Raises Corrupt for others."""
        path = self.folder / "targets" / f"{info.hashes['sha256']}.{info.path}"
        try:
            content = path.read_bytes()
            info.verify_length_and_hashes(content)
        except (OSError, LengthOrHashMismatchError) as wrong:
            raise Corrupt(f"{info.path} is not what was signed", evidence=str(wrong)) from wrong
        return content

    def first(self, roles: dict[str, Meta]) -> None:
        """Publishes the first version of everything, signed already."""
        self._publish(roles)

    def _publish(self, ready: dict[str, Meta]) -> None:
        root = ready.get(ROOT) or self.root()
        assert isinstance(root.signed, Root)
        online = online_signed(self, root.signed, ready)
        with disk_errors(self.folder):
            for role in (role for role in ready if role != ROOT):
                self._write(f"{ready[role].signed.version}.{role}.json", ready[role])
            self._write(f"{online[SNAPSHOT].signed.version}.snapshot.json", online[SNAPSHOT])
            if ROOT in ready:
                self._write(f"{root.signed.version}.{ROOT}.json", root)
            self._write("timestamp.json", online[TIMESTAMP])
            for role in ready:
                self._draft_path(role).unlink(missing_ok=True)
            self._prune()

    # -- inside ----------------------------------------------------------------------------------

    def _unsigned(self, role: str, draft: Meta) -> list[Key]:
        result = self._result(role, draft)
        return list(result.unsigned.values())

    def _count(self, role: str, draft: Meta) -> tuple[int, int, list[str]]:
        """Signatures that count, how many are needed, and the keys that have not signed."""
        result = self._result(role, draft)
        if isinstance(result, VerificationResult):
            parts = [result]
        else:
            old, new = result.first, result.second
            same = old.threshold == new.threshold and _keys(old) == _keys(new)
            parts = [old] if same else [old, new]
        need = sum(one.threshold for one in parts)
        return need - sum(one.missing for one in parts), need, list(result.unsigned)

    def _result(self, role: str, draft: Meta) -> VerificationResult | RootVerificationResult:
        payload, signatures = draft.signed_bytes, draft.signatures
        if role == ROOT:
            assert isinstance(draft.signed, Root)
            before = self._read(ROOT, draft.signed.version - 1)
            return draft.signed.get_root_verification_result(before.signed, payload, signatures)
        above = ROOT if role == TARGETS else TARGETS
        delegator = self.draft(above)
        if delegator is None:
            delegator = self.root() if above == ROOT else self.targets()
        assert isinstance(delegator.signed, Root | Targets)
        return delegator.signed.get_verification_result(role, payload, signatures)

    def _draft_path(self, role: str) -> Path:
        return self.folder / "drafts" / f"{role}.json"

    def _read(self, role: str, version: int) -> Meta:
        return self._parse(self.folder / "metadata" / f"{version}.{role}.json")

    def _parse(self, path: Path) -> Meta:
        try:
            return Metadata.from_bytes(path.read_bytes())
        except FileNotFoundError:
            raise NotFound("there is no such metadata", evidence=str(path)) from None
        except (DeserializationError, OSError) as wrong:
            raise Corrupt("metadata cannot be read", evidence=f"{path}: {wrong}") from wrong

    def _write(self, name: str, metadata: Meta) -> None:
        write_whole(self.folder / "metadata" / name, metadata.to_bytes())

    def _prune(self) -> None:
        """Old versions that no robot is in the middle of reading; roots stay for ever."""
        kept: dict[str, list[int]] = {}
        for path in (self.folder / "metadata").glob("*.*.json"):
            number, _, role = path.name.removesuffix(".json").partition(".")
            if role != ROOT and number.isdigit():
                kept.setdefault(role, []).append(int(number))
        for role, numbers in kept.items():
            for old in sorted(numbers)[:-KEPT]:
                (self.folder / "metadata" / f"{old}.{role}.json").unlink(missing_ok=True)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)

    def expiry(self, role: str) -> datetime:
        """When what is signed now will expire."""
        life = LIFE_S.get(role, LIFE_S[TARGETS])
        return (self._now() + timedelta(seconds=life)).replace(microsecond=0)


def _keys(result: VerificationResult) -> set[str]:
    return {*result.signed, *result.unsigned}
