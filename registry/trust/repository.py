"""The repository of approved versions: TUF metadata as files in HOME/trust.

    metadata/    what robots read: N.root.json, N.targets.json, N.bin-00.json …, N.snapshot.json,
                 timestamp.json
    drafts/      new metadata of a role that still lacks signatures (`registry.trust.drafts`)
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
   one, timestamp.json last. Killed anywhere before, whoever opens it next does it again (`finish`);
   killed between the two, robots refuse what is new until then, for they know the new keys and no
   signature.
5. One process at a time changes anything (a lock on `lock`, not waited for for ever);
   readers need no lock.
Times are seconds since the epoch; a timestamp also says when it was made (`issued`).
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from securesystemslib.exceptions import UnverifiedSignatureError
from tuf.api.metadata import (
    Key,
    Metadata,
    Root,
    RootVerificationResult,
    TargetFile,
    Targets,
    VerificationResult,
)

from registry.errors import Corrupt, NotFound, PolicyctlError, ServiceFailed
from registry.ports import Clock, SystemClock
from registry.storage import disk_errors, write_whole
from registry.trust.drafts import DRAFTS, Drafts
from registry.trust.forged import require_rest
from registry.trust.online import online_signed
from registry.trust.published import (
    LIFE_S,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Meta,
    Published,
    expiry,
)
from registry.trust.signers import Signers

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
        self.published = Published(folder)
        self._clock = clock or SystemClock()
        self._drafts = Drafts(folder)

    def now(self) -> float:
        return self._clock.now()

    def expiry(self, role: str) -> datetime:
        """When what is signed now will expire."""
        return expiry(role, self.now())

    @contextmanager
    def changing(self, wait_s: float | None = None) -> Iterator[None]:
        """Keeps every other process from changing anything meanwhile.

        Raises ServiceFailed where another does so for more than `wait_s`, by default `LOCK_S`.
        """
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in ("metadata", DRAFTS, "targets"):
                (self.folder / name).mkdir(exist_ok=True)
            handle = (self.folder / "lock").open("w")
        with handle:
            self._lock(handle, LOCK_S if wait_s is None else wait_s)
            yield

    def _lock(self, handle: IO[str], wait_s: float) -> None:
        """Who holds it may wait for a key, be stopped, or hang: nobody waits for that for ever."""
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise ServiceFailed(
                        "another process has been changing approvals or keys for too long",
                        evidence=f"{self.folder / 'lock'} was held for {wait_s:g} s",
                        hint="wait for its key service, or end it (`fuser` names it); then again",
                    ) from None
                time.sleep(LOOK_S)
            else:
                return

    # -- drafts ----------------------------------------------------------------------------------

    def drafts(self) -> dict[str, Meta]:
        return self._drafts.all()

    def draft(self, role: str) -> Meta | None:
        return self._drafts.get(role)

    def put_draft(self, role: str, metadata: Meta) -> None:
        self._drafts.put(role, metadata)

    def put_drafts(self, drafts: Mapping[str, Meta]) -> None:
        """All of a step (rule 3), where nothing else waits."""
        self._drafts.put_together(drafts)

    def drop_drafts(self) -> list[str]:
        """What waited for signatures waits no longer; nothing published changes."""
        with suppress(Corrupt):  # of what is forged nothing was begun to be published
            self.publish()
        dropped = self._drafts.roles()
        self._drafts.drop_together()
        return dropped

    def drop_draft(self, role: str) -> None:
        self._drafts.drop(role)

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
        base = waiting or self.published.targets(role)
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
                if self.signers.sign(draft, key):
                    given.setdefault(role, []).append(key.keyid)
            if role in given:
                self.put_draft(role, draft)
        return given

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
        ready = self._ready()
        if ready:
            self._publish(ready)
        return list(ready)

    def finish(self) -> None:
        """Publishes what a process was killed before or while it published, before anybody reads.

        Another process is waited for only where half of it is there, and what keeps it from being
        published is raised only there: otherwise what is published holds, and is read as it is. A
        draft that cannot be read, or counted, is told of by whoever asks for it.
        """
        try:
            ready = self._ready()
        except PolicyctlError:
            return
        version = self.published.version
        half = any(version(role, 0) >= one.signed.version for role, one in ready.items())
        try:
            if ready:
                with self.changing(None if half else 0.0):
                    self.publish()
        except PolicyctlError:
            if half:
                raise

    def _ready(self) -> dict[str, Meta]:
        drafts = self.drafts()
        lacking = {one.role for one in self.missing()} if drafts else set()
        if lacking and {ROOT, TARGETS} & drafts.keys():
            return {}
        return {role: draft for role, draft in drafts.items() if role not in lacking}

    def freshen(self, now: bool = False) -> bool:
        """Signs snapshot and timestamp again where half their life is over; whether it did.

        `now`: in any case, also where the timestamp is lost. Raises Corrupt where what they would
        name is forged or was taken away: it would pass for the newest.
        """
        with self.changing():
            if not now:
                left = self.published.timestamp().signed.expires - datetime.fromtimestamp(
                    self.now(), UTC
                )
                if left > timedelta(seconds=LIFE_S[TIMESTAMP] / 2):
                    return False
            if not self.publish():
                require_rest(self.published)
                self._publish({})
            return True

    def put_file(self, name: str, content: bytes) -> None:
        """Drafts a small file (`keyring.json`) as a target of its own beside the versions."""
        info = self.keep_file(name, content)

        def edit(targets: Targets) -> None:
            targets.targets[name] = info

        self.change(TARGETS, edit)

    def keep_file(self, name: str, content: bytes) -> TargetFile:
        """The target of a small file, whose bytes are there from now on."""
        info = TargetFile.from_data(name, content, ["sha256"])
        with disk_errors(self.folder):
            write_whole(self.folder / "targets" / f"{info.hashes['sha256']}.{name}", content)
        return info

    def first(self, roles: dict[str, Meta]) -> None:
        """Publishes the first version of everything, signed already."""
        self._publish(roles)

    def _publish(self, ready: dict[str, Meta]) -> None:
        root = ready.get(ROOT) or self.published.root()
        assert isinstance(root.signed, Root)
        online = online_signed(self.published, self.signers, self._clock, root.signed, ready)
        with disk_errors(self.folder):
            for role in (role for role in ready if role != ROOT):
                self._write(f"{ready[role].signed.version}.{role}.json", ready[role])
            self._write(f"{online[SNAPSHOT].signed.version}.snapshot.json", online[SNAPSHOT])
            if ROOT in ready:
                self._write(f"{root.signed.version}.{ROOT}.json", root)
            self._write("timestamp.json", online[TIMESTAMP])
            for role in ready:
                self._drafts.drop(role)
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
            before = self.published.read(ROOT, draft.signed.version - 1)
            return draft.signed.get_root_verification_result(before.signed, payload, signatures)
        above = ROOT if role == TARGETS else TARGETS
        delegator = self.draft(above)
        if delegator is None:
            delegator = self.published.root() if above == ROOT else self.published.targets()
        assert isinstance(delegator.signed, Root | Targets)
        return delegator.signed.get_verification_result(role, payload, signatures)

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


def _keys(result: VerificationResult) -> set[str]:
    return {*result.signed, *result.unsigned}
