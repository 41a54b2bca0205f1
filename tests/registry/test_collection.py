"""gc removes what nothing needs, never what somebody needs or is about to, whatever runs beside."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from checkpoints import noise, write_checkpoint
from record import HIL, POLICY, SIM, Record
from sqlalchemy import Connection, delete, insert, select

from registry.errors import Conflict, NotAllowed, Refused, ServiceFailed
from registry.ledger.tables import claims, marks, releases, results
from registry.ports import Source
from registry.record import collection
from registry.record.claims import LASTS_S, Claim
from registry.record.collection import Collected
from registry.record.desk import Desk
from registry.record.model import RolloutRecord
from registry.record.promotion import Promotion
from registry.stages import Stage
from registry.verdicts import judge
from registry.versions import Provenance, VersionRef, digest_bytes

if TYPE_CHECKING:
    from databases import Postgres

pytestmark = pytest.mark.slow

DAY = 86400.0


@pytest.fixture
def record(tmp_path: Path, database: str | None) -> Record:
    return Record(tmp_path, robots=4, database=database)


def gc(record: Record, **options: float | bool | None) -> Collected:
    return record.registry.collect(**options)  # type: ignore[arg-type]


def desk_of(record: Record) -> Desk:
    return record.registry._parts.registrar._desk


def checkpoint(record: Record, seed: int, **more: bytes) -> Path:
    shared = {"shared": noise(5000, 0)}
    return write_checkpoint(record.folder / f"c{seed}", shared | {"own": noise(3000, seed)} | more)


def test_what_a_version_needs_is_kept_and_garbage_goes_after_a_day(record: Record) -> None:
    ref = record.registry.register(checkpoint(record, 1), POLICY).version.ref
    artifact = record.registry.blobs.put(b"a report")
    found = record.evidence(ref, SIM, successes=100)
    record.registry.record_verdict(ref, SIM, found, judge(SIM, found), {"report.html": artifact})
    garbage = record.registry.blobs.put(b"nobody's")
    first = gc(record)
    assert (first.marked, first.removed) == (1, 0)
    record.clock.time += DAY / 2
    assert gc(record).removed == 0
    record.clock.time += DAY / 2
    last = gc(record)
    assert (last.removed, last.freed, last.marked) == (1, len(b"nobody's"), 0)
    assert not record.registry.blobs.has(garbage)
    assert record.registry.blobs.has(artifact)
    assert record.registry.verify(ref) == []
    assert record.registry.check_files([ref]).problems == ()


def test_whatever_the_record_names_is_kept(record: Record) -> None:
    blobs = record.registry.blobs
    result, origin = blobs.put(b"a kept result"), blobs.put(b"a recipe")
    record.registry.store_result("key", {"film": {"digest": result}})
    ref = record.registry.register(checkpoint(record, 1), POLICY).version.ref
    record.registry.add_provenance(ref, Provenance(recipe={"file": origin}))
    gc(record)
    record.clock.time += 2 * DAY
    assert gc(record).removed == 0
    assert blobs.has(result)
    assert blobs.has(origin)


def test_a_dry_run_says_what_would_go_and_changes_nothing(record: Record) -> None:
    record.registry.register(checkpoint(record, 1), POLICY)
    garbage = record.registry.blobs.put(b"nobody's")
    assert gc(record, grace_s=0, dry_run=True).removed == 1
    assert record.registry.blobs.has(garbage)
    with record.registry._ledger.read() as connection:
        assert connection.execute(select(marks)).all() == []


def test_what_is_needed_again_is_no_longer_marked(record: Record) -> None:
    folder = checkpoint(record, 1)
    blobs = record.registry.blobs
    blobs.put(noise(3000, 1))
    gc(record)
    record.registry.register(folder, POLICY)
    gc(record)
    record.clock.time += 2 * DAY
    assert gc(record).removed == 0
    assert blobs.has(digest_bytes(noise(3000, 1)))


def test_nothing_is_removed_while_somebody_registers(record: Record) -> None:
    garbage = record.registry.blobs.put(b"nobody's, so far")
    with Claim(desk_of(record)) as claim:
        done = gc(record, grace_s=0)
        assert (done.removed, done.claims) == (0, 1)
        assert record.registry.blobs.has(garbage)
        with record.registry._ledger.write() as connection:
            claim.settle(connection)
    assert gc(record, grace_s=0).removed == 1


def test_a_claim_of_the_dead_runs_out_and_one_who_slept_must_begin_again(record: Record) -> None:
    record.registry.blobs.put(b"nobody's")

    def slept() -> None:
        with Claim(desk_of(record)) as claim:
            record.clock.time += LASTS_S + 1
            assert gc(record, grace_s=0).removed == 1
            with record.registry._ledger.write() as connection:
                claim.settle(connection)

    with pytest.raises(Conflict, match="ran out"):
        slept()
    with record.registry._ledger.read() as connection:
        assert connection.execute(select(claims)).all() == []


def test_a_claim_lives_as_long_as_bytes_go_by(record: Record) -> None:
    with Claim(desk_of(record)) as claim:
        tell = claim.renewed_by_progress(None)
        for _ in range(5):
            record.clock.time += LASTS_S / 2
            tell(1)
        record.registry.blobs.put(b"nobody's")
        assert gc(record, grace_s=0).claims == 1
        with record.registry._ledger.write() as connection:
            claim.settle(connection)


class Unhurried:
    """A Source that takes a third of a claim's life to read once."""

    size, fixed = 3, False

    def __init__(self, record: Record) -> None:
        self._record = record

    def read_at(self, start: int, length: int) -> bytes:
        self._record.clock.time += LASTS_S / 3
        return b"abc"[start : start + length]

    def close(self) -> None:
        pass


def test_a_claim_lives_as_long_as_an_upload_reads(record: Record) -> None:
    """Hashing ended long ago; what the store's threads read keeps the claim."""
    digest, read = digest_bytes(b"abc"), []

    class Slow:
        written = 0

        def add(self, digest: str, source: Source) -> None:
            read.extend(source.read_at(0, 3) for _ in range(9))
            self.written = source.size

    with Claim(desk_of(record)) as claim:
        batch = claim.renewed_by_batch(Slow())
        batch.add(digest, Unhurried(record))
        assert (batch.written, read) == (3, [b"abc"] * 9)
        record.registry.blobs.put(b"nobody's")
        assert gc(record, grace_s=0).claims == 1
        with record.registry._ledger.write() as connection:
            claim.settle(connection)


def test_what_is_named_between_two_slices_is_kept(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where as many rows went as came."""
    blobs, desk = record.registry.blobs, desk_of(record)
    garbage = sorted(blobs.put(text) for text in (b"one", b"two", b"three"))
    record.registry.store_result("old", {"of": "no blob"})
    monkeypatch.setattr(collection, "SLICE_S", 0.2)
    remove = type(blobs).remove

    def slowly(self: object, digest: str) -> int:
        time.sleep(0.25)  # one blob a slice
        return remove(blobs, digest)

    monkeypatch.setattr(type(blobs), "remove", slowly)
    write, slices = desk.ledger.write, []

    @contextlib.contextmanager
    def naming() -> Iterator[Connection]:
        slices.append(1)
        if len(slices) == 4:  # the marks, the first slice, the second one; now the third
            with write() as connection:
                connection.execute(delete(results))
            record.registry.store_result("new", {"film": garbage[2]})
        with write() as connection:
            yield connection

    monkeypatch.setattr(desk.ledger, "write", naming)
    done = gc(record, grace_s=0)
    assert done.removed == 2
    assert [blobs.has(digest) for digest in garbage] == [False, False, True]


def test_a_lost_session_of_the_database_ends_the_removing(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may name blobs from then on; what was removed before is told, and in the audit."""
    url = postgres.fresh()
    record = Record(tmp_path, database=url)
    folder, blobs = checkpoint(record, 1), record.registry.blobs
    first = min(blobs.put(noise(5000, 0)), blobs.put(noise(3000, 1)))
    made: list[VersionRef] = []
    remove = type(blobs).remove

    def remove_and_lose_the_session(self: object, digest: str) -> int:
        freed = remove(blobs, digest)
        if not made:
            other = record.as_role("admin")
            postgres.run(
                url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE state = 'idle in transaction' AND datname = current_database()",
            )
            made.append(other.register(folder, POLICY).version.ref)
            other.close()
        return freed

    monkeypatch.setattr(type(blobs), "remove", remove_and_lose_the_session)
    with pytest.raises(ServiceFailed, match="gc ended early") as raised:
        gc(record, grace_s=0)
    assert raised.value.evidence.startswith("1 blobs that nothing needed are removed; ")
    assert record.registry.check_files(made).problems == ()
    (event,) = [one for one in record.registry.audit_log() if one.action == "collect"]
    assert event.detail == {"removed": [first]}
    record.registry.close()
    postgres.drop(url)


def test_registering_and_collecting_at_once_loses_nothing(record: Record) -> None:
    """Checkpoints whose tensors are garbage a moment before: the worst for whoever collects."""
    chance = random.Random(5)
    folders = [checkpoint(record, seed) for seed in range(6)]
    ended = threading.Event()
    errors: list[BaseException] = []

    def collect() -> None:
        try:
            while not ended.is_set():
                gc(record, grace_s=0)
        except BaseException as error:  # noqa: BLE001 - asserted on below
            errors.append(error)

    def litter() -> None:
        try:
            while not ended.is_set():
                record.registry.blobs.put(noise(3000, chance.randrange(6)))
        except BaseException as error:  # noqa: BLE001 - asserted on below
            errors.append(error)

    threads = [threading.Thread(target=work) for work in (collect, collect, litter)]
    for thread in threads:
        thread.start()
    made = [record.registry.register(folder, POLICY).version.ref for folder in folders * 3]
    ended.set()
    for thread in threads:
        thread.join()
    assert not errors
    for ref in set(made):
        assert record.registry.verify(ref) == []


def test_a_verdict_whose_artifact_went_is_a_conflict(record: Record) -> None:
    ref = record.register()
    found = record.evidence(ref, SIM, successes=100)
    gone = digest_bytes(b"collected meanwhile")
    with pytest.raises(Conflict, match="artifact"):
        record.registry.record_verdict(ref, SIM, found, judge(SIM, found), {"report.html": gone})
    assert record.registry.verdicts(ref) == []


# -- retention -------------------------------------------------------------------------------------


def reject(record: Record, seed: int) -> VersionRef:
    ref = record.registry.register(checkpoint(record, seed), POLICY).version.ref
    found = record.evidence(ref, SIM, successes=0)
    record.registry.record_verdict(ref, SIM, found, judge(SIM, found))
    assert record.registry.version(ref).stage is Stage.REJECTED
    return ref


def test_the_files_of_a_rejected_version_are_given_up_and_its_record_stays(
    record: Record, tmp_path: Path
) -> None:
    kept = record.registry.register(checkpoint(record, 1), POLICY).version.ref
    ref = reject(record, 2)
    assert gc(record, release_after_s=30 * DAY).released == ()
    record.clock.time += 31 * DAY
    assert gc(record, release_after_s=30 * DAY).released == (ref,)
    assert gc(record, release_after_s=30 * DAY).released == ()
    record.clock.time += 2 * DAY
    assert gc(record).removed > 0
    assert not record.registry.blobs.has(digest_bytes(noise(3000, 2)))
    assert record.registry.verify(kept) == [], "a shared tensor stays"
    assert record.registry.manifest(ref).digest == record.registry.version(ref).digest
    assert record.registry.verify(ref) == []
    assert record.registry.check_files([ref, kept]).problems == ()
    assert len(record.registry.verdicts(ref)) == 1
    assert record.registry.blobs.has(record.registry.version(ref).digest)
    for use in (
        lambda: record.registry.materialize(ref, tmp_path / "out"),
        lambda: record.registry.export(ref, tmp_path / "bundle"),
        lambda: record.promote(ref),
    ):
        with pytest.raises(Refused, match="released by the retention rule"):
            use()
    again = record.registry.register(checkpoint(record, 2), POLICY)
    assert (again.created, again.version.ref) == (False, ref)
    out = record.registry.materialize(ref, tmp_path / "out")
    assert (out / "policy.safetensors").is_file()


def test_what_runs_or_may_run_is_never_given_up(record: Record) -> None:
    first = record.to_fleet()
    second = record.to_fleet()
    bad = record.ready()
    rollout = record.promote(bad)
    record.play(rollout.id, {second.number: 1.0, bad.number: 0.0})
    assert record.registry.version(bad).stage is Stage.ROLLED_BACK
    robot = record.registry.robots()[0].name
    record.registry.heartbeat(robot, bad.number, 1, {})  # it has not heard of it yet
    record.clock.time += 400 * DAY
    assert gc(record, release_after_s=DAY).released == ()
    record.registry.heartbeat(robot, second.number, 2, {})
    assert gc(record, release_after_s=DAY).released == (bad,)
    for ref in (first, second):
        assert record.registry.released_at(ref) is None


def queued(record: Record) -> VersionRef:
    """A version that was rolled back and waits behind an open rollout to be tried again."""
    record.to_fleet()
    again = record.ready()
    record.promote(again)
    record.registry.rollback(POLICY, "it shook")
    record.promote(record.ready())
    record.promote(again, override="it was the rig", queue=True)
    return again


def give_up(record: Record, ref: VersionRef) -> None:
    with record.registry._ledger.write() as connection:
        connection.execute(insert(releases).values(policy=ref.policy, number=ref.number, at=0.0))


def test_what_waits_for_its_rollout_is_never_given_up(record: Record) -> None:
    again = queued(record)
    record.clock.time += 400 * DAY
    assert gc(record, release_after_s=DAY).released == ()
    record.registry.abort(POLICY, "no more of the other one")
    assert record.registry.version(again).stage is Stage.CANARY


def test_a_rollout_that_waited_opens_no_version_without_its_files(record: Record) -> None:
    again = queued(record)
    give_up(record, again)
    record.registry.abort(POLICY, "no more of the other one")
    assert record.registry.rollouts(POLICY, open_only=True) == []
    assert record.told() == {(None, 1)}


def test_files_given_up_while_a_promotion_begins_end_it(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, to_canary = record.ready(), Promotion._to_canary

    def late(self: Promotion, *asked: Any) -> RolloutRecord:
        give_up(record, ref)
        return to_canary(self, *asked)

    monkeypatch.setattr(Promotion, "_to_canary", late)
    with pytest.raises(Refused, match="released by the retention rule"):
        record.promote(ref)
    assert record.registry.rollouts(POLICY) == []


def test_the_base_of_an_adapter_is_never_given_up(record: Record) -> None:
    base = reject(record, 1)
    record.registry.register(checkpoint(record, 2), POLICY, base=base)
    record.clock.time += 400 * DAY
    assert gc(record, release_after_s=DAY).released == ()


def grown_old(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (1e9, 1e9))


def test_what_killed_commands_left_in_the_cache_goes_after_a_day(record: Record) -> None:
    cache = record.home.cache
    names = ("sources/fetched", "import-killed", "blobs/sha256")
    for name in names:
        (cache / name / "files").mkdir(parents=True)
        (cache / name / "files" / "policy.safetensors").write_bytes(b"half")
    assert gc(record).swept == 0
    grown_old(cache)
    os.utime(cache / "import-killed" / "files" / "policy.safetensors")  # it is still written
    assert gc(record).swept == 1
    grown_old(cache)
    assert gc(record).swept == 1
    assert [(cache / name).exists() for name in names] == [False, False, True]


def test_only_an_admin_collects(record: Record) -> None:
    with pytest.raises(NotAllowed):
        record.as_role("operator").collect()


def test_gates_that_were_judged_keep_their_artifacts_under_any_rule(record: Record) -> None:
    ref = reject(record, 3)
    artifact = record.registry.blobs.put(b"journal")
    with record.registry._ledger.write() as connection:
        connection.execute(
            insert(claims).values(id="old", actor="dead", expires_at=record.clock.time - 1)
        )
    found = record.evidence(ref, HIL, success=20, failure=0)
    record.registry.record_verdict(ref, HIL, found, judge(HIL, found), {"journal": artifact})
    record.clock.time += 400 * DAY
    gc(record, release_after_s=DAY)
    record.clock.time += 2 * DAY
    gc(record)
    assert record.registry.blobs.has(artifact)
