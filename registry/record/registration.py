"""How a checkpoint becomes a version.

- A number is given once, to one digest, for ever; numbers of a policy have no gaps, because number
  and row are written in one serialised transaction. The same bytes again are the same version, also
  where a registry of whole files (manifest schema 1) gave it its number.
- Blobs are stored before the row that names them: a full disk or a kill leaves at most blobs that
  nothing names, which are harmless and are found again by the next registration.
- Whoever registers holds a claim: gc removes nothing meanwhile, and a claim that ran out makes the
  registration a Conflict, so that no version ever lacks a blob that gc took for garbage.
- What is recorded is what was stored, not what was checked: a file that changes in between makes a
  Conflict.
- Where trust is set up a publisher's key signs the registration, before it is recorded.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, insert, select, update

from registry.blobs.tensors import Progress, store_file
from registry.checkpoint import CONTRACT, MAX_TEXT, Found, open_regular, read_json, scan
from registry.errors import Conflict, Corrupt, Refused, UsageError
from registry.ledger.tables import policies, provenance, versions
from registry.record.claims import Claim
from registry.record.desk import Desk
from registry.record.model import Registration
from registry.record.statements import (
    REGISTRATION,
    check_registration_envelope,
    keep,
    seal_registration,
)
from registry.record.versions import (
    Versions,
    add_climb,
    manifest_of,
    number_of,
    take_back,
    version_record,
    version_row,
)
from registry.stages import Stage
from registry.storage import disk_errors
from registry.versions import (
    FileEntry,
    Manifest,
    Provenance,
    VersionRef,
    digest_bytes,
    is_policy_name,
)

if TYPE_CHECKING:
    from registry.trust.sealing import Envelope

LOOKED_AT = 10
Check = Callable[[Path], None]


class _AlreadyThere(Exception):  # noqa: N818
    """Ends a batch of pieces whose files a version of schema 1 has: nothing of it is kept."""

    def __init__(self, version: Manifest) -> None:
        self.version = version


@dataclass(frozen=True)
class _Source:
    """What is registered, and what is said of it."""

    folder: Path
    policy: str
    environment: str
    base: str
    expect: Manifest | None
    progress: Progress

    def manifest(self, entries: list[FileEntry], sandbox_only: bool) -> Manifest:
        contract = _contract(self.folder, entries)
        return Manifest(
            self.policy, tuple(entries), contract, self.environment, self.base, sandbox_only
        )


class Registrar:
    def __init__(self, desk: Desk, versions: Versions, *, archives: bool = True) -> None:
        self._desk = desk
        self._versions = versions
        self._archives = archives

    def register(
        self,
        folder: Path,
        policy: str,
        origin: Provenance,
        environment: str = "",
        *,
        check: Check | None = None,
        base: VersionRef | None = None,
        expect: Manifest | None = None,
        progress: Progress | None = None,
    ) -> Registration:
        """Gives the checkpoint in `folder` its version of `policy`.

        `check` is the caller's own look at the folder (that the contract fits its robot class, that
        the policy loads), run before anything is stored. `base` is the version that an adapter is
        applied to; `expect` the manifest that the files must make (of an imported bundle). Raises
        Refused, ConfigError, NotFound, Corrupt or ServiceFailed; then no version was made.
        """
        self._desk.actor.require("register")
        if not is_policy_name(policy):
            raise UsageError(
                f"{policy!r} is not a policy's name",
                evidence="lower-case words joined by hyphens, like box-grasp",
                hint="name it with --policy",
            )
        expect = self._as_it_is_here(expect)
        based_on = expect.base if expect else ""
        if base is not None:
            based_on = self._versions.get(base).digest
        if self._desk.trust is not None:
            self._desk.trust.signer("publisher")  # before gigabytes are read, not after
        self._refuse_forbidden(scan(folder))
        if check is not None:
            check(folder)
        with Claim(self._desk) as claim:
            source = _Source(
                folder, policy, environment, based_on, expect, claim.renewed_by_progress(progress)
            )
            manifest, written = self._store(source, claim)
            return self._record(claim, manifest, origin, written)

    def _refuse_forbidden(self, files: tuple[Found, ...]) -> None:
        archives = [found.name for found in files if found.is_archive]
        if archives and not self._archives:
            raise Refused(
                "this site takes no TorchScript or .pt2 archives",
                evidence=", ".join(archives),
                hint="keep weights as safetensors; registry.yaml says `archives: forbid`",
            )

    def _record(
        self, claim: Claim, manifest: Manifest, origin: Provenance, written: int
    ) -> Registration:
        policy = manifest.policy
        statement = self._signed(policy, manifest.digest, origin)
        with self._desk.ledger.write() as connection:
            claim.settle(connection)
            number = number_of(connection, policy, manifest.digest)
            created = number is None
            if number is None:
                number = self._insert(connection, manifest)
            else:
                take_back(connection, VersionRef(policy, number))
            added = self._add_provenance(connection, policy, number, origin)
            if statement is not None:
                keep(self._desk, connection, VersionRef(policy, number), REGISTRATION, statement)
            if created or added:
                self._desk.note(
                    connection,
                    "register" if created else "provenance",
                    VersionRef(policy, number),
                    policy=policy,
                    detail={"digest": manifest.digest, "provenance": origin.to_json()},
                )
            record = version_record(version_row(connection, VersionRef(policy, number)))
        return Registration(record, created, written)

    def add_provenance(self, ref: VersionRef, origin: Provenance) -> None:
        """Appends where a version came from, unless that is known."""
        self._desk.actor.require("register")
        found = self._versions.get(ref)
        statement = self._signed(found.policy, found.digest, origin)
        with self._desk.ledger.write() as connection:
            record = version_record(version_row(connection, found.ref))
            if statement is not None:
                keep(self._desk, connection, record.ref, REGISTRATION, statement)
            if self._add_provenance(connection, record.policy, record.number, origin):
                self._desk.note(
                    connection,
                    "provenance",
                    record,
                    policy=record.policy,
                    detail={"digest": record.digest, "provenance": origin.to_json()},
                )

    def _signed(self, policy: str, digest: str, origin: Provenance) -> Envelope | None:
        """The publisher's statement, looked at as a promotion will. Raises NotAllowed, Refused."""
        statement = seal_registration(self._desk.trust, policy, digest, origin)
        if statement is not None and self._desk.trust is not None:
            what = f"the registration of {policy} {digest[:19]}…"
            check_registration_envelope(self._desk.trust, statement, policy, digest, what)
        return statement

    def _store(self, source: _Source, claim: Claim) -> tuple[Manifest, int]:
        """The manifest of what was stored, and how many bytes the store lacked of it."""
        in_pieces = source.expect is None or source.expect.schema > 1
        try:
            return self._store_batch(source, claim, in_pieces=in_pieces)
        except _AlreadyThere as there:
            if self._is_held(there.version):
                return there.version, 0
        return self._store_batch(source, claim, in_pieces=False)

    def _store_batch(
        self, source: _Source, claim: Claim, *, in_pieces: bool
    ) -> tuple[Manifest, int]:
        blobs, expect, files = self._desk.blobs, source.expect, scan(source.folder)
        with blobs.batch() as batch:
            kept, known = claim.renewed_by_batch(batch), self._known_files(source.policy)
            entries = [
                store_file(kept, one, in_pieces=in_pieces, known=known, progress=source.progress)
                for one in files
            ]
            manifest = source.manifest(entries, any(one.is_archive for one in files))
            if expect is not None and manifest not in (expect, expect.in_files()):
                raise _not_expected(manifest, expect)
            first = manifest.in_files()
            if in_pieces and first.schema == 1 and self._known(first):
                raise _AlreadyThere(first)
        blobs.put(manifest.canonical())  # robots fetch it by its digest, the version's own
        return manifest, batch.written

    def _is_held(self, manifest: Manifest) -> bool:
        """Whether the store has what a version needs, by name and size."""
        blobs = self._desk.blobs
        return all(
            blobs.has(piece.sha256) and blobs.size(piece.sha256) == piece.size
            for piece in manifest.pieces
        )

    def _as_it_is_here(self, expect: Manifest | None) -> Manifest | None:
        """What a bundle of whole files says, in pieces where a version here has the files so: they
        are that version."""
        if expect is None or expect.schema > 1 or not expect.files or self._known(expect):
            return expect
        query = select(versions.c.manifest).where(
            versions.c.policy == expect.policy,
            versions.c.manifest.contains(expect.files[0].sha256),
        )
        with self._desk.ledger.read() as connection:
            found = [manifest_of(text) for text in connection.execute(query).scalars()]
        return next((one for one in found if one.in_files() == expect), expect)

    def _known_files(self, policy: str) -> list[FileEntry]:
        """Files in pieces of the policy's newest versions, one of which may be registered again."""
        query = (
            select(versions.c.manifest)
            .where(versions.c.policy == policy)
            .order_by(versions.c.number.desc())
            .limit(LOOKED_AT)
        )
        with self._desk.ledger.read() as connection:
            texts = list(connection.execute(query).scalars())
        manifests = [manifest_of(text) for text in texts]
        return [entry for one in manifests for entry in one.files if entry.header is not None]

    def _known(self, manifest: Manifest) -> bool:
        with self._desk.ledger.read() as connection:
            return number_of(connection, manifest.policy, manifest.digest) is not None

    def _insert(self, connection: Connection, manifest: Manifest) -> int:
        now, policy = self._desk.clock.now(), manifest.policy
        number = connection.execute(
            select(policies.c.next_number).where(policies.c.name == policy)
        ).scalar()
        if number is None:
            number = 1
            connection.execute(
                insert(policies).values(name=policy, next_number=2, revision=1, created_at=now)
            )
        else:
            connection.execute(
                update(policies).where(policies.c.name == policy).values(next_number=number + 1)
            )
        connection.execute(
            insert(versions).values(
                policy=policy,
                number=number,
                digest=manifest.digest,
                manifest=manifest.canonical().decode(),
                nonce=secrets.token_hex(16),
                stage=str(Stage.REGISTERED),
                revision=1,
                created_at=now,
                created_by=self._desk.actor.name,
                robot_class=str(manifest.contract.get("robot_class", "")),
                task=str(manifest.contract.get("task", "")),
            )
        )
        add_climb(self._desk, connection, VersionRef(policy, number), Stage.REGISTERED)
        return int(number)

    def _add_provenance(
        self, connection: Connection, policy: str, number: int, origin: Provenance
    ) -> bool:
        """Appends a record unless nothing is known or the very same is there already."""
        record = origin.to_json()
        known = connection.execute(
            select(provenance.c.record).where(
                provenance.c.policy == policy, provenance.c.number == number
            )
        ).scalars()
        if all(value is None for value in record.values()) or record in list(known):
            return False
        connection.execute(
            insert(provenance).values(
                policy=policy,
                number=number,
                at=self._desk.clock.now(),
                actor=self._desk.actor.name,
                record=record,
                commit=origin.commit,
            )
        )
        return True


def _not_expected(found: Manifest, expect: Manifest) -> Corrupt:
    return Corrupt(
        "the files are not those of the manifest that came with them",
        evidence=f"they make {found.digest}, it is {expect.digest}",
        hint="export the version again",
    )


def _contract(folder: Path, entries: list[FileEntry]) -> dict[str, object]:
    """The contract whose bytes were stored."""
    path = folder / CONTRACT
    with disk_errors(path), open_regular(path) as stream:
        content = stream.read(MAX_TEXT)
    stored = next(entry for entry in entries if entry.path == CONTRACT)
    if digest_bytes(content) != stored.sha256:
        raise Conflict(
            "the checkpoint changed while it was registered",
            evidence=str(path),
            hint="register it when whatever writes it has ended",
        )
    return read_json(content, str(path))
