"""Garbage: blobs that no version, verdict or result names, found in one run, removed in a later.

- A blob is *needed* while any digest in the record names it: a manifest and its pieces, artifacts
  of verdicts, kept results, whatever any other table names but those in `NAMELESS`. Of a version
  that a retention rule released, only the manifest is.
- Two phases. What is not needed is marked; what was marked `grace` ago and is still not needed is
  removed. So whoever stores first and names later has at least that long.
- Removing happens inside the ledger's write transaction, in short slices, and only while nobody
  holds a claim: nobody can name a blob between the last look and its removal. The ledger is asked
  before each removal: a session that the server has ended keeps nobody out any more.
- What a slice that failed had removed is noted all the same, and told.
- A version is released when it ended (rejected, rolled back, retired) longer ago than the rule
  says, no robot was told to run it or runs it, no rollout that is open or waits names it and no
  kept version has it as its base. It stays in the record.
"""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sqlalchemy import JSON, Connection, String, Table, delete, func, insert, select, text

from registry.blobs.caching import prune
from registry.errors import PolicyctlError, UsageError
from registry.ledger.tables import (
    assignments,
    climbs,
    heartbeats,
    marks,
    metadata,
    policies,
    releases,
    rollouts,
    versions,
)
from registry.record.assignments import newest_generations
from registry.record.claims import live_claims
from registry.record.desk import Desk
from registry.rollouts import TERMINAL
from registry.scratch import sweep
from registry.stages import Stage
from registry.versions import VersionRef

GRACE_S = 24 * 3600.0
SLICE_S = 2.0
MARKS = 500
ENDED = (Stage.REJECTED, Stage.ROLLED_BACK, Stage.RETIRED)
NAMELESS = {
    "versions", "marks", "claims", "releases", "audit", "audit_head", "attempts", "episodes",
    "heartbeats", "leases", "climbs", "serves", "tags", "policies", "robots",
    "statements", "renewals",
}  # fmt: skip
"""Tables that name no blob, or only ones that others name, too; `versions` is read by itself."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Collected:
    """What a run of gc did, or would do."""

    kept: int  # blobs that something needs
    marked: int  # blobs that nothing needs, not old enough yet
    removed: int
    freed: int  # bytes
    released: tuple[VersionRef, ...] = ()
    claims: int = 0  # registrations under way, because of which nothing was removed
    swept: int = 0  # what killed commands left, and pieces that the cache kept for nothing


class Collector:
    def __init__(self, desk: Desk, scratch: Path | None = None) -> None:
        self._desk = desk
        self._scratch = scratch  # where this machine's commands leave what they unpack and fetch

    def collect(
        self, grace_s: float = GRACE_S, release_after_s: float | None = None, *, dry_run: bool
    ) -> Collected:
        """Marks, and removes what was marked before. Raises NotAllowed or ServiceFailed."""
        self._desk.actor.require("collect")
        if grace_s < 0 or (release_after_s is not None and release_after_s < 0):
            raise UsageError("a time to wait is not negative")
        released = self._release(release_after_s, dry_run)
        stored = set(self._desk.blobs.digests())
        with self._desk.ledger.write() as connection:
            needed = needed_blobs(connection, set(released) if dry_run else set())
            due = self._mark(connection, stored - needed, grace_s, dry_run)
        garbage = len(stored - needed)
        if dry_run:
            freed = sum(self._desk.blobs.size(digest) for digest in due)
            return Collected(len(stored) - garbage, garbage - len(due), len(due), freed, released)
        removed, freed, claims = self._sweep(due)
        swept = self._desk.blobs.sweep()
        if self._desk.cache is not None:
            swept += prune(self._desk.cache, needed)
        if self._scratch is not None:
            swept += sweep(self._scratch)
        return Collected(
            len(stored) - garbage, garbage - removed, removed, freed, released, claims, swept
        )

    def _mark(
        self, connection: Connection, garbage: set[str], grace_s: float, dry_run: bool
    ) -> list[str]:
        """Marks garbage, unmarks what is none; those whose time has come."""
        now = self._desk.clock.now()
        known = {row.digest: row.at for row in connection.execute(select(marks))}
        due = sorted(digest for digest in garbage if known.get(digest, now) <= now - grace_s)
        if not dry_run:
            for group in _groups(sorted(known.keys() - garbage), MARKS):
                connection.execute(delete(marks).where(marks.c.digest.in_(group)))
            fresh = [{"digest": digest, "at": now} for digest in sorted(garbage - known.keys())]
            if fresh:
                connection.execute(insert(marks), fresh)
        return due

    def _sweep(self, due: list[str]) -> tuple[int, int, int]:
        """Blobs and bytes removed, and the claims that stopped it. Writers wait for one slice."""
        removed = freed = claims = 0
        waiting = deque(due)
        while waiting:
            gone: list[str] = []
            try:
                with self._desk.ledger.write() as connection:
                    if claims := live_claims(connection, self._desk.clock.now()):
                        break
                    needed = needed_blobs(connection)  # others may have named some since
                    began = time.monotonic()
                    while waiting and time.monotonic() - began < SLICE_S:
                        digest = waiting.popleft()
                        if digest not in needed:
                            connection.execute(text("SELECT 1"))
                            freed += self._desk.blobs.remove(digest)
                            gone.append(digest)
                    self._note(connection, gone)
            except PolicyctlError as error:
                if removed or gone:
                    raise self._cut_off(error, gone, removed + len(gone)) from error
                raise
            removed += len(gone)
        return removed, freed, claims

    def _note(self, connection: Connection, gone: list[str]) -> None:
        for group in _groups(gone, MARKS):
            connection.execute(delete(marks).where(marks.c.digest.in_(group)))
        if gone:
            self._desk.note(connection, "collect", "blobs", detail={"removed": gone})

    def _cut_off(self, error: PolicyctlError, gone: list[str], removed: int) -> PolicyctlError:
        """What ended a slice, with what was removed; its note went with its transaction."""
        told = f"{removed} blobs that nothing needed are removed"
        try:
            with self._desk.ledger.write() as connection:
                self._note(connection, gone)
        except PolicyctlError:
            told += f", the last {len(gone)} without a note in the audit"
        what = error.what.removesuffix(": nothing was changed")
        return type(error)(
            f"gc ended early: {what}", evidence=f"{told}; {error.evidence}", hint=error.hint
        )

    def _release(self, after_s: float | None, dry_run: bool) -> tuple[VersionRef, ...]:
        if after_s is None:
            return ()
        with self._desk.ledger.write() as connection:
            now = self._desk.clock.now()
            found = tuple(_releasable(connection, now - after_s))
            if not dry_run:
                for ref in found:
                    connection.execute(
                        insert(releases).values(policy=ref.policy, number=ref.number, at=now)
                    )
                    self._desk.note(
                        connection, "release", ref, policy=ref.policy, reason="retention rule"
                    )
        return found


def _groups(digests: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(digests)
    while group := list(islice(rest, size)):
        yield group


def _naming() -> list[Table]:
    """The tables in whose rows a blob may be named, but `versions`."""
    return [table for name, table in metadata.tables.items() if name not in NAMELESS]


def needed_blobs(connection: Connection, also_released: Iterable[VersionRef] = ()) -> set[str]:
    """Whatever the record names, inside a transaction."""
    released = {(row.policy, row.number) for row in connection.execute(select(releases))}
    released |= {(ref.policy, ref.number) for ref in also_released}
    needed: set[str] = set()
    columns = versions.c.policy, versions.c.number, versions.c.digest, versions.c.manifest
    for row in connection.execute(select(*columns).execution_options(yield_per=100)):
        needed.add(row.digest)
        if (row.policy, row.number) not in released:
            needed.update(_DIGEST.findall(row.manifest))
    for table in _naming():
        texts = [column for column in table.c if isinstance(column.type, JSON | String)]
        query = select(*texts).execution_options(yield_per=100)
        for values in connection.execute(query):
            needed.update(_DIGEST.findall(json.dumps(list(values))))
    return needed


def _releasable(connection: Connection, before: float) -> Iterator[VersionRef]:
    """Versions that ended before then and that nothing may run again."""
    ended = (
        select(climbs.c.policy, climbs.c.number, func.max(climbs.c.at).label("at"))
        .group_by(climbs.c.policy, climbs.c.number)
        .subquery()
    )
    query = (
        select(versions.c.policy, versions.c.number, versions.c.digest)
        .join(ended, (ended.c.policy == versions.c.policy) & (ended.c.number == versions.c.number))
        .outerjoin(
            releases,
            (releases.c.policy == versions.c.policy) & (releases.c.number == versions.c.number),
        )
        .where(
            versions.c.stage.in_([str(stage) for stage in ENDED]),
            ended.c.at <= before,
            releases.c.at.is_(None),
        )
    )
    in_use, bases = _in_use(connection), _bases(connection)
    for row in connection.execute(query).all():
        if (row.policy, row.number) not in in_use and row.digest not in bases:
            yield VersionRef(row.policy, row.number)


def _in_use(connection: Connection) -> set[tuple[str, int]]:
    """What a policy serves, what robots were last told, what they say they run, and rollouts that
    are open or wait."""
    used = {(row.name, row.serving) for row in connection.execute(select(policies))}
    last = newest_generations()
    told = select(assignments).join(
        last,
        (last.c.robot == assignments.c.robot) & (last.c.generation == assignments.c.generation),
    )
    running = {row.robot: row.running for row in connection.execute(select(heartbeats))}
    for row in connection.execute(told):
        numbers = {row.candidate, row.baseline, running.get(row.robot)}
        used |= {(row.policy, number) for number in numbers}
    ended = [str(phase) for phase in TERMINAL]
    for row in connection.execute(select(rollouts).where(rollouts.c.phase.not_in(ended))):
        used |= {(row.policy, row.candidate), (row.policy, row.baseline)}
    return {(policy, number) for policy, number in used if number is not None}


def _bases(connection: Connection) -> set[str]:
    """Digests of versions that adapters build on."""
    query = select(versions.c.manifest).where(versions.c.manifest.contains('"base":"sha256:'))
    return {json.loads(one)["base"] for one in connection.execute(query).scalars()}
