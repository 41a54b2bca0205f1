"""A home that has trust and has lost its keyring writes nothing unsigned; stopping goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from record import HIL, POLICY, Record, write_files
from sqlalchemy import select

from registry.attempts import AttemptReport
from registry.errors import Corrupt
from registry.ledger.tables import assignments, claims
from registry.record import trust_traces
from registry.rollouts import Joined, Repair, Tick
from registry.service import Actor, Registry
from registry.stages import Stage
from registry.trust import ceremony
from registry.trust.home_approvals import FOLDER
from registry.trust.keys import new_key
from registry.verdicts import judge

pytestmark = pytest.mark.slow


def _gone(path: Path) -> None:
    path.unlink()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "elsewhere")


def _damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _no_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.write_text("a file")


LOSSES = [_gone, _folder, _dangling, _damaged, _no_folder]
Loss = Callable[[Path], None]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path, robots=4, trust=True)


def lose(record: Record, loss: Loss = _gone) -> Registry:
    """The registry as the next process opens it."""
    loss(record.home.root / FOLDER / "keyring.json")
    record.registry.close()
    record.registry = Registry.open(record.home, Actor("tester"), clock=record.clock)
    return record.registry


def report_of(record: Record) -> AttemptReport:
    """An attempt that `robot-01` tells of by itself."""
    said = AttemptReport(
        robot="robot-01", number=1, policy=POLICY, version=1, side="only", generation=1, segment=-1,
        stratum="lift", index=0, task="box-grasp", outcome="success", judge="lot/1",
    )  # fmt: skip
    return record.sealed(said)


def refused(act: Callable[[], object]) -> None:
    with pytest.raises(Corrupt) as caught:
        act()
    assert caught.value.exit_status == 9
    assert caught.value.evidence
    assert caught.value.hint


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_is_registered(record: Record, loss: Loss) -> None:
    registry = lose(record, loss)
    blobs = sorted(registry.blobs.digests())
    refused(lambda: registry.register(write_files(record.folder / "new", 9), POLICY))
    assert registry.list_versions() == []
    assert sorted(registry.blobs.digests()) == blobs
    with registry._ledger.read() as connection:
        assert connection.execute(select(claims)).all() == []


@pytest.mark.parametrize("loss", LOSSES)
def test_no_verdict_is_kept_and_none_is_called_proven(record: Record, loss: Loss) -> None:
    ref = record.register()
    found = record.evidence(ref, HIL, success=20, failure=0)
    registry = lose(record, loss)
    refused(lambda: registry.record_verdict(ref, HIL, found, judge(HIL, found)))
    assert registry.verdicts(ref) == []
    assert registry.version(ref).stage is Stage.REGISTERED
    refused(lambda: registry.doubts(ref))


@pytest.mark.parametrize("loss", LOSSES)
def test_no_attempt_is_taken(record: Record, loss: Loss) -> None:
    robot = record.promote(record.ready()).rollout.cohort[0]
    report = record.next_report(robot, "success")
    assert report is not None
    registry = lose(record, loss)
    refused(lambda: registry.ingest(robot, [report]))
    assert registry.attempts() == []


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_is_promoted_and_nobody_enrolled(record: Record, loss: Loss) -> None:
    ref = record.ready()
    registry = lose(record, loss)
    refused(lambda: record.promote(ref))
    assert registry.rollouts() == []
    before = [one.name for one in registry.robots()]
    refused(lambda: registry.enrol_robot("robot-09", "openarm-v2-right"))
    assert [one.name for one in registry.robots()] == before


def test_a_running_registry_notices_it(record: Record) -> None:
    _gone(record.home.root / FOLDER / "keyring.json")
    refused(record.register)
    assert record.registry.list_versions() == []


def test_a_candidate_is_stopped_all_the_same_and_not_sent_out_again(record: Record) -> None:
    record.promote(record.ready())
    registry = lose(record)
    registry.pause(POLICY)
    with registry._ledger.read() as connection:
        told = connection.execute(select(assignments)).all()
    refused(lambda: registry.resume(POLICY))
    with registry._ledger.read() as connection:
        assert connection.execute(select(assignments)).all() == told
    registry.abort(POLICY, "enough")
    assert str(registry.rollouts()[0].rollout.phase) == "aborted"
    assert all(candidate is None for candidate, _ in record.told())


def test_nothing_that_goes_forward_is_repaired_joined_or_ticked_without_the_keyring(
    record: Record,
) -> None:
    opened = record.promote(record.ready())
    registry = lose(record)
    with registry._ledger.read() as connection:
        told = connection.execute(select(assignments)).all()
    for event in (Repair(), Joined("robot-09")):
        refused(lambda event=event: registry.advance(opened.id, None, event))
    with registry._ledger.read() as connection:
        assert connection.execute(select(assignments)).all() == told
    assert registry.rollout(opened.id) == opened


def test_a_deadline_and_the_repair_of_a_stop_go_on_without_the_keyring(record: Record) -> None:
    opened = record.promote(record.ready())
    registry = lose(record)
    record.clock.time += opened.rollout.gate.deadline_s + 1.0
    held, _ = registry.advance(opened.id, None, Tick())
    assert str(held.rollout.phase) == "holding"
    assert registry.advance(opened.id, None, Repair())[1]
    assert all(candidate is None for candidate, _ in record.told())


# The whole folder: only the record still knows.


def _begun_by_command(record: Record) -> None:
    record.registry.note_trust("trust_init", "a key")


def _signed_something(record: Record) -> None:
    record.register(seed=1)


@pytest.fixture(params=[_begun_by_command, _signed_something])
def bereft(request: pytest.FixtureRequest, record: Record) -> Record:
    """A home whose trust folder is gone, as the next process opens it."""
    request.param(record)
    shutil.rmtree(record.home.root / FOLDER)
    record.registry.close()
    record.registry = Registry.open(record.home, Actor("tester"), clock=record.clock)
    return record


def test_a_home_without_its_trust_folder_is_no_home_without_trust(bereft: Record) -> None:
    registry, before = bereft.registry, bereft.registry.list_versions()
    new = write_files(bereft.folder / "new", 9)
    with pytest.raises(Corrupt, match="folder is gone") as caught:
        registry.register(new, POLICY)
    assert str(bereft.home.root / FOLDER) in caught.value.evidence
    assert "restore the folder from a backup" in caught.value.hint
    assert "trust init --anew" in caught.value.hint
    refused(lambda: registry.enrol_robot("robot-09", "openarm-v2-right"))
    refused(lambda: registry.ingest("robot-01", [report_of(bereft)]))
    assert registry.list_versions() == before
    assert not (bereft.home.root / FOLDER).exists()


def test_a_candidate_is_stopped_without_the_trust_folder(record: Record) -> None:
    record.promote(record.ready())
    shutil.rmtree(record.home.root / FOLDER)
    record.registry.close()
    record.registry = Registry.open(record.home, Actor("tester"), clock=record.clock)
    record.registry.pause(POLICY)
    refused(lambda: record.registry.resume(POLICY))
    record.registry.abort(POLICY, "enough")
    assert all(candidate is None for candidate, _ in record.told())


def test_the_look_at_the_record_is_an_indexed_one(tmp_path: Path) -> None:
    record = Record(tmp_path)
    with record.registry._ledger.read() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {trust_traces._TRACES}").all()
    assert "SCAN audit USING INDEX ix_audit_trust_init" in str(plan)


# What `trust init` finishes, and what it must not begin anew.


def test_a_keyring_made_by_hand_that_was_lost_is_no_unfinished_set_up(record: Record) -> None:
    assert lose(record).trust is not None
    assert record.registry.trust is not None
    assert not record.registry.trust.unfinished


def test_what_was_signed_is_not_unfinished(record: Record) -> None:
    record.register()
    registry = lose(record)
    (record.home.root / FOLDER / "places.json").unlink()
    assert registry.trust is not None
    assert not registry.trust.unfinished


def test_a_key_alone_is_an_unfinished_set_up(tmp_path: Path) -> None:
    record = Record(tmp_path)
    new_key(record.home.root / FOLDER / "keys" / "home.pem")
    record.registry = Registry.open(record.home, Actor("tester"), clock=record.clock)
    assert record.registry.trust is not None
    assert record.registry.trust.unfinished
    refused(record.register)


def test_a_folder_without_a_file_is_no_trust(tmp_path: Path) -> None:
    record = Record(tmp_path)
    (record.home.root / FOLDER / "keys").mkdir(parents=True)
    (record.home.root / FOLDER / "lock").touch()
    record.registry = Registry.open(record.home, Actor("tester"), clock=record.clock)
    record.register()


# The metadata that robots read first.


@pytest.fixture
def stale(record: Record) -> Record:
    """A home with a canary under way whose `timestamp.json` alone is gone."""
    ceremony.init(record.registry.approvals.open().repository)
    record.promote(record.ready())
    (record.home.root / FOLDER / "metadata" / "timestamp.json").unlink()
    return record


def test_no_canary_opens_without_approval_where_the_timestamp_is_lost(stale: Record) -> None:
    stale.registry.abort(POLICY, "another")
    ref = stale.ready()
    refused(lambda: stale.promote(ref))
    refused(lambda: stale.promote(ref, dry_run=True))
    assert stale.registry.version(ref).stage is Stage.HIL
    assert len(stale.registry.rollouts()) == 1
    refused(stale.registry.keep_trust)


def test_going_back_goes_on_without_the_timestamp_and_says_what_waits(stale: Record) -> None:
    ref = stale.registry.list_versions()[0].ref
    stale.registry.abort(POLICY, "enough")
    assert all(candidate is None for candidate, _ in stale.told())
    (waits,) = [one for one in stale.registry.audit_log() if one.action == "withdrawal_waits"]
    assert "timestamp.json" in waits.reason
    stale.registry.approvals.open().repository.freshen(now=True)
    assert stale.registry.keep_trust() == []
    assert stale.registry.approvals.approved([ref]) == []


def test_no_robot_is_enrolled_in_a_keyring_that_cannot_be_published(stale: Record) -> None:
    assert stale.registry.trust is not None
    before = stale.registry.trust.keyring
    refused(lambda: stale.enrol("robot-09"))
    assert stale.registry.trust.keyring == before
