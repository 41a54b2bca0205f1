"""Versions, where they came from and how far they have climbed.

- How one is made is `registry.record.registration`.
- A stage changes with its reason, its place in history and the audit, or not at all.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    delete,
    exists,
    func,
    insert,
    select,
    tuple_,
    update,
)

from registry.blobs.caching import write_cached
from registry.blobs.tensors import write_file
from registry.blobs.transfer import Coming, transfer
from registry.errors import Conflict, Corrupt, NotFound, Refused, UsageError
from registry.ledger.tables import climbs, policies, provenance, releases, tags, versions
from registry.record.desk import Desk
from registry.record.model import ProvenanceRecord, Search, VersionRecord
from registry.stages import Stage
from registry.versions import Manifest, Provenance, VersionRef

_TAG = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
_NUMBER = re.compile(r"v[0-9]+")


class Versions:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    # Reading

    def find(self, search: Search, newest: int | None = None) -> list[VersionRecord]:
        """The versions that fit, by policy and number; of them the last registered, if asked."""
        query = _query().where(*_terms(search))
        if newest is not None:
            recent = (versions.c.created_at.desc(), versions.c.policy, versions.c.number.desc())
            query = query.order_by(*recent).limit(newest)
        with self._desk.ledger.read() as connection:
            found = [version_record(row) for row in connection.execute(query)]
        return sorted(found, key=lambda one: (one.policy, one.number))

    def count(self, search: Search) -> int:
        query = select(func.count()).select_from(versions).where(*_terms(search))
        with self._desk.ledger.read() as connection:
            return int(connection.execute(query).scalar_one())

    def get(self, ref: VersionRef) -> VersionRecord:
        ref = self.resolve(ref)
        with self._desk.ledger.read() as connection:
            return version_record(version_row(connection, ref))

    def manifest(self, ref: VersionRef) -> Manifest:
        ref = self.resolve(ref)
        with self._desk.ledger.read() as connection:
            return read_manifest(connection, ref)

    def resolve(self, ref: VersionRef) -> VersionRef:
        """The reference with its policy: a bare number means the only policy there is.

        Raises UsageError with the candidates where there are several, NotFound where none is.
        """
        if ref.policy is not None:
            return ref
        return VersionRef(self.only_policy(str(ref)), ref.number)

    def require_policy(self, policy: str) -> None:
        with self._desk.ledger.read() as connection:
            require_policy(connection, policy)

    def only_policy(self, wanted: str = "that") -> str:
        with self._desk.ledger.read() as connection:
            names = list(connection.execute(select(policies.c.name).order_by(policies.c.name)))
            if len(names) == 1:
                return str(names[0].name)
            if not names:
                raise NotFound(
                    "no policy is registered",
                    evidence="the registry is empty",
                    hint="policyctl register DIR --policy NAME",
                )
        raise UsageError(
            f"{wanted} of which policy?",
            evidence=f"candidates: {', '.join(row.name for row in names)}",
            hint=f"say --policy {names[0].name}",
        )

    def provenance(self, ref: VersionRef) -> list[ProvenanceRecord]:
        record = self.get(ref)
        query = (
            select(provenance)
            .where(provenance.c.policy == record.policy, provenance.c.number == record.number)
            .order_by(provenance.c.id)
        )
        with self._desk.ledger.read() as connection:
            return [
                ProvenanceRecord(row.at, row.actor, Provenance(**row.record))
                for row in connection.execute(query)
            ]

    def materialize(self, ref: VersionRef, target: Path, progress: Coming | None = None) -> Path:
        """Writes the version's files, each checked, into the folder `target`.

        From a store elsewhere only the pieces come that were not fetched before; `progress` is told
        how many.
        """
        manifest, blobs, cache = self.manifest(ref), self._desk.blobs, self._desk.cache
        self.require_files(ref)
        if cache is not None:
            transfer(blobs, cache, manifest.pieces, progress)
        for entry in manifest.files:
            if cache is None:
                write_file(blobs, entry, target / entry.path)
            else:
                write_cached(blobs, cache, entry, target / entry.path)
        return target

    def released_at(self, ref: VersionRef) -> float | None:
        """When a retention rule gave up the version's files; None while they are kept."""
        ref = self.resolve(ref)
        with self._desk.ledger.read() as connection:
            return _released_at(connection, ref)

    def require_files(self, ref: VersionRef) -> None:
        """See the function of that name, in a transaction of its own."""
        ref = self.resolve(ref)
        with self._desk.ledger.read() as connection:
            require_files(connection, ref)

    # Tags

    def tag(self, ref: VersionRef, tag: str) -> VersionRecord:
        """Gives a version a name of people's own. One that another version has is not taken away.

        Raises UsageError (not a tag) or Conflict (it is another version's).
        """
        self._desk.actor.require("register")
        if not _TAG.fullmatch(tag):
            raise UsageError(
                f"{tag!r} is not a tag",
                evidence="up to 80 lower-case letters, digits, dots, hyphens and underscores",
                hint="such as demo-day or 2026.3",
            )
        if _NUMBER.fullmatch(tag):
            raise UsageError(
                f"the tag {tag} would be taken for a version",
                evidence="v and digits are a version's number",
                hint="such as demo-day or 2026.3",
            )
        ref = self.resolve(ref)
        with self._desk.ledger.write() as connection:
            record = version_record(version_row(connection, ref))
            mine = (tags.c.policy == record.policy) & (tags.c.tag == tag)
            holder = connection.execute(select(tags.c.number).where(mine)).scalar()
            if holder is not None and holder != record.number:
                raise Conflict(
                    f"{record.policy} v{holder} has the tag {tag}",
                    hint=f"policyctl tag '{record.policy} v{holder}' {tag} --remove",
                )
            if holder is None:
                connection.execute(
                    insert(tags).values(
                        policy=record.policy,
                        tag=tag,
                        number=record.number,
                        at=self._desk.clock.now(),
                        actor=self._desk.actor.name,
                    )
                )
                self._desk.note(
                    connection, "tag", record, policy=record.policy, detail={"tag": tag}
                )
        return record

    def untag(self, ref: VersionRef, tag: str) -> VersionRecord:
        """Raises NotFound where the version has no such tag."""
        self._desk.actor.require("register")
        ref = self.resolve(ref)
        with self._desk.ledger.write() as connection:
            record = version_record(version_row(connection, ref))
            gone = connection.execute(
                delete(tags).where(
                    tags.c.policy == record.policy,
                    tags.c.number == record.number,
                    tags.c.tag == tag,
                )
            ).rowcount
            if not gone:
                raise NotFound(
                    f"{record} has no tag {tag}", hint=f"`policyctl show '{record}'` shows its tags"
                )
            self._desk.note(connection, "untag", record, policy=record.policy, detail={"tag": tag})
        return record

    def tags(self, ref: VersionRef) -> list[str]:
        ref = self.resolve(ref)
        with self._desk.ledger.read() as connection:
            version_row(connection, ref)
            query = (
                select(tags.c.tag)
                .where(tags.c.policy == ref.policy, tags.c.number == ref.number)
                .order_by(tags.c.tag)
            )
            return list(connection.execute(query).scalars())

    # Stages

    def set_stage(
        self,
        connection: Connection,
        ref: VersionRef,
        stage: Stage,
        *,
        reason: str = "",
        rollout: str | None = None,
    ) -> None:
        """Moves a version to a stage, with its place in history and the audit, if it moves."""
        row = version_row(connection, ref)
        if row.stage == str(stage):
            return
        changed = connection.execute(
            update(versions)
            .where(
                versions.c.policy == ref.policy,
                versions.c.number == ref.number,
                versions.c.revision == row.revision,
            )
            .values(stage=str(stage), revision=row.revision + 1)
        ).rowcount
        if changed != 1:
            raise Conflict(f"{ref} was changed by somebody else", hint="run the command again")
        add_climb(self._desk, connection, ref, stage, reason, rollout)
        self._desk.note(
            connection,
            "stage",
            ref,
            policy=ref.policy,
            reason=reason,
            detail={"from": row.stage, "to": str(stage), "rollout": rollout},
        )


def add_climb(
    desk: Desk,
    connection: Connection,
    ref: VersionRef,
    stage: Stage,
    reason: str = "",
    rollout: str | None = None,
) -> None:
    """A version's place in history, beside the change of its stage."""
    connection.execute(
        insert(climbs).values(
            policy=ref.policy,
            number=ref.number,
            stage=str(stage),
            at=desk.clock.now(),
            actor=desk.actor.name,
            reason=reason,
            rollout=rollout,
        )
    )


def read_version(connection: Connection, ref: VersionRef) -> VersionRecord:
    """Inside a transaction. Raises NotFound."""
    return version_record(version_row(connection, ref))


def read_manifest(connection: Connection, ref: VersionRef) -> Manifest:
    """Inside a transaction. Raises NotFound, Corrupt."""
    version_row(connection, ref)
    text = connection.execute(
        select(versions.c.manifest).where(
            versions.c.policy == ref.policy, versions.c.number == ref.number
        )
    ).scalar_one()
    return manifest_of(text)


def manifest_of(text: str) -> Manifest:
    """Raises Corrupt for what no registration wrote."""
    try:
        return Manifest.from_json(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise _edited(f"manifest {text[:80]!r}: {error}") from error


def stage_of(word: str) -> Stage:
    """Raises Corrupt for what is none."""
    try:
        return Stage(word)
    except ValueError as error:
        raise _edited(str(error)) from error


def _edited(evidence: str) -> Corrupt:
    return Corrupt(
        "the record was edited",
        evidence=evidence,
        hint="restore the home's backup; `policyctl audit verify` says what else was edited",
    )


def read_versions(connection: Connection, policy: str) -> list[VersionRecord]:
    query = _query().where(versions.c.policy == policy).order_by(versions.c.number)
    return [version_record(row) for row in connection.execute(query)]


def _query() -> Any:
    held = exists().where(
        climbs.c.policy == versions.c.policy,
        climbs.c.number == versions.c.number,
        climbs.c.stage == str(Stage.FLEET),
    )
    columns = [column for column in versions.c if column.name != "manifest"]
    serving = policies.c.serving == versions.c.number
    return select(*columns, held.label("held_fleet"), serving.label("is_serving")).join(
        policies, policies.c.name == versions.c.policy
    )


def _terms(search: Search) -> list[ColumnElement[bool]]:
    terms: list[ColumnElement[bool]] = []
    name = tuple_(versions.c.policy, versions.c.number)  # found first, not asked of every version
    if search.policy is not None:
        terms.append(versions.c.policy == search.policy)
    if search.stage is not None:
        terms.append(versions.c.stage == str(search.stage))
    if search.digest is not None:
        prefix = search.digest.removeprefix("sha256:").lower()
        if not prefix or prefix.strip("0123456789abcdef"):
            raise UsageError(
                f"{search.digest!r} is not the beginning of a digest",
                hint="digests are hexadecimal: `policyctl list` shows them",
            )
        terms.append(versions.c.digest.startswith(f"sha256:{prefix}"))
    if search.tag is not None:
        tagged = select(tags.c.policy, tags.c.number).where(tags.c.tag == search.tag)
        terms.append(name.in_(tagged))
    if search.commit is not None:
        made_of = select(provenance.c.policy, provenance.c.number).where(
            provenance.c.commit.startswith(search.commit, autoescape=True)
        )
        terms.append(name.in_(made_of))
    return terms


def version_row(connection: Connection, ref: VersionRef) -> Row[Any]:
    row = connection.execute(
        _query().where(versions.c.policy == ref.policy, versions.c.number == ref.number)
    ).first()
    if row is not None:
        found: Row[Any] = row
        return found
    known = connection.execute(
        select(versions.c.number)
        .where(versions.c.policy == ref.policy)
        .order_by(versions.c.number.desc())
        .limit(1)
    ).scalar()
    raise NotFound(
        f"there is no {ref}",
        evidence=f"the newest is {ref.policy} v{known}" if known else "no such policy",
        hint="`policyctl list` shows the versions of every policy",
    )


def require_policy(connection: Connection, policy: str) -> None:
    """Raises NotFound with those that there are."""
    if connection.execute(select(policies.c.name).where(policies.c.name == policy)).first():
        return
    known = list(connection.execute(select(policies.c.name).order_by(policies.c.name)).scalars())
    raise NotFound(
        f"there is no policy {policy}",
        evidence=f"known: {', '.join(known)}" if known else "the registry is empty",
        hint="`policyctl list` shows the versions of every policy",
    )


def require_files(connection: Connection, ref: VersionRef) -> None:
    """Inside a transaction. Raises Refused for a version whose files were given up."""
    if _released_at(connection, ref) is not None:
        raise Refused(
            f"the files of {ref} were released by the retention rule",
            evidence="its record stays: manifest, verdicts, history",
            hint="register the same files again, and they are its files again",
        )


def _released_at(connection: Connection, ref: VersionRef) -> float | None:
    return connection.execute(
        select(releases.c.at).where(
            releases.c.policy == ref.policy, releases.c.number == ref.number
        )
    ).scalar()


def take_back(connection: Connection, ref: VersionRef) -> None:
    """A version whose files were given up has them again."""
    connection.execute(
        delete(releases).where(releases.c.policy == ref.policy, releases.c.number == ref.number)
    )


def number_of(connection: Connection, policy: str, digest: str) -> int | None:
    return connection.execute(
        select(versions.c.number).where(versions.c.policy == policy, versions.c.digest == digest)
    ).scalar()


def version_record(row: Row[Any]) -> VersionRecord:
    return VersionRecord(
        policy=row.policy,
        number=row.number,
        digest=row.digest,
        stage=stage_of(row.stage),
        nonce=row.nonce,
        created_at=row.created_at,
        created_by=row.created_by,
        robot_class=row.robot_class,
        task=row.task,
        held_fleet=bool(row.held_fleet),
        serving=bool(row.is_serving),
    )
