"""Finding versions, tags, and what was in the fleet at a moment that is over."""

from dataclasses import replace
from pathlib import Path

import pytest
from record import GATES, Record
from sqlalchemy import text

from registry.errors import Conflict, Corrupt, NotAllowed, NotFound, UsageError
from registry.ledger.tables import tags
from registry.record.audit import Head
from registry.record.model import Search
from registry.stages import Stage
from registry.versions import Provenance, VersionRef


@pytest.fixture
def record(tmp_path: Path, database: str | None) -> Record:
    return Record(tmp_path, robots=4, database=database)


def numbers(record: Record, search: Search, newest: int | None = None) -> list[tuple[str, int]]:
    return [(one.policy, one.number) for one in record.registry.find_versions(search, newest)]


def test_versions_are_found_by_policy_commit_digest_stage_and_all_at_once(record: Record) -> None:
    first, second = record.register(), record.register()
    other = record.register(policy="pick-place")
    record.sim(second)
    digest = record.registry.version(second).digest
    assert numbers(record, Search(policy="pick-place")) == [("pick-place", other.number)]
    assert numbers(record, Search(commit="c2")) == [("box-grasp", 2)]
    assert numbers(record, Search(commit="c")) == [
        ("box-grasp", 1),
        ("box-grasp", 2),
        ("pick-place", 1),
    ]
    assert numbers(record, Search(digest=digest[7:15])) == [("box-grasp", 2)]
    assert numbers(record, Search(digest=digest)) == [("box-grasp", 2)]
    assert numbers(record, Search(stage=Stage.SIM)) == [("box-grasp", 2)]
    assert numbers(record, Search(stage=Stage.SIM, commit="c1")) == []
    assert record.registry.count_versions(Search(policy="box-grasp")) == 2
    assert first.number == 1


def test_what_looks_like_a_pattern_is_only_letters(record: Record) -> None:
    ref = record.register()
    folder = record.folder / "checkpoint-1"
    record.registry.register(folder, "box-grasp", Provenance(commit="50%_done"))
    assert numbers(record, Search(commit="50%_")) == [("box-grasp", ref.number)]
    assert numbers(record, Search(commit="%")) == []
    assert numbers(record, Search(commit="c_")) == []
    with pytest.raises(UsageError, match="not the beginning of a digest"):
        record.registry.find_versions(Search(digest="%"))


def test_the_newest_are_those_registered_last_told_in_order(record: Record) -> None:
    for _ in range(5):
        record.register()
        record.clock.time += 1
    assert numbers(record, Search(), newest=2) == [("box-grasp", 4), ("box-grasp", 5)]


def test_a_tag_is_of_one_version_until_it_is_removed(record: Record) -> None:
    first, second = record.register(), record.register()
    registry = record.registry
    registry.tag(first, "demo-day")
    registry.tag(first, "demo-day")
    registry.tag(first, "2026.3")
    assert registry.tags(first) == ["2026.3", "demo-day"]
    assert numbers(record, Search(tag="demo-day")) == [("box-grasp", 1)]
    with pytest.raises(Conflict, match="v1 has the tag"):
        registry.tag(second, "demo-day")
    registry.untag(first, "demo-day")
    with pytest.raises(NotFound, match="no tag"):
        registry.untag(first, "demo-day")
    registry.tag(second, "demo-day")
    said = [(e.action, e.subject) for e in registry.history("box-grasp") if "tag" in e.action]
    assert said == [
        ("tag", "box-grasp v1"), ("tag", "box-grasp v1"), ("untag", "box-grasp v1"),
        ("tag", "box-grasp v2"),
    ]  # fmt: skip
    for wrong in ("", "Two Words", "-x", "x" * 81):
        with pytest.raises(UsageError, match="not a tag"):
            registry.tag(first, wrong)
    for number in ("v2", "v02"):
        with pytest.raises(UsageError, match="taken for a version"):
            registry.tag(first, number)
    registry.tag(first, "v2.1")
    with pytest.raises(NotAllowed):
        record.as_role("viewer").tag(first, "x")


def test_a_tag_of_an_older_home_that_reads_as_a_version_can_be_removed(record: Record) -> None:
    first = record.register()
    row = {"policy": first.policy, "tag": "v2", "number": 1, "at": 0.0, "actor": "me"}
    with record.registry._ledger.write() as connection:
        connection.execute(tags.insert().values(**row))
    record.registry.untag(first, "v2")
    assert record.registry.tags(first) == []


@pytest.mark.slow
def test_the_fleet_of_a_past_moment_is_what_it_was_then(record: Record) -> None:
    registry, clock = record.registry, record.clock
    start = clock.time
    first = record.register()
    record.sim(first)
    record.hil(first)
    clock.time = start + 100
    registry.promote(first, Stage.CANARY, GATES)
    clock.time = start + 200
    registry.abort("box-grasp", "wrong gripper")
    assert registry.fleet_at(start - 1) == []
    then = registry.fleet_at(start + 50)[0]
    assert (then.serving, then.stages, then.robots) == (None, {1: Stage.HIL}, {})
    during = registry.fleet_at(start + 150)[0]
    assert during.stages == {1: Stage.CANARY}
    assert (1,) in during.robots.values()
    after = registry.fleet_at(start + 250)[0]
    assert (1,) not in after.robots.values()
    clock.time = start + 10_000
    assert registry.fleet_at(start + 150)[0] == during
    assert registry.fleet_at(start + 150, "pick-place") == []


def test_what_the_fleet_served_is_remembered_through_rollbacks(tmp_path: Path) -> None:
    record = Record(tmp_path, robots=4)
    start = record.clock.time
    for seed, until in ((1, 100), (2, 200)):
        ref = record.register(seed)
        with record.registry._ledger.write() as connection:
            record.registry._parts.versions.set_stage(connection, ref, Stage.FLEET)
            record.registry._parts.rollouts.serve(connection, "box-grasp", ref.number)
        record.clock.time = start + until
    record.registry.rollback("box-grasp", "drops boxes")
    record.clock.time += 100
    found = [record.registry.fleet_at(start + at)[0].serving for at in (50, 150, 250)]
    assert found == [1, 2, 1]


def test_a_head_that_was_written_down_finds_what_the_chain_alone_cannot(record: Record) -> None:
    for _ in range(3):
        record.register()
    registry = record.registry
    head = registry.verify_audit()
    assert Head.parse(str(head)) == head
    record.register()
    assert registry.verify_audit(head).seq > head.seq
    with pytest.raises(Corrupt, match="altered"):
        registry.verify_audit(replace(head, hash="0" * 64))
    with pytest.raises(Corrupt, match="altered"):
        registry.verify_audit(replace(head, seq=99))
    for wrong in ("", "3", "3:abc", "x:" + "0" * 64):
        with pytest.raises(UsageError):
            Head.parse(wrong)


def test_events_cut_off_at_the_end_are_missed(record: Record) -> None:
    for _ in range(3):
        record.register()
    with record.registry._ledger.write() as connection:
        if connection.dialect.name == "sqlite":
            connection.execute(text("DROP TRIGGER audit_no_delete"))
        else:
            connection.execute(text("ALTER TABLE audit DISABLE TRIGGER ALL"))
        connection.execute(text("DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)"))
    with pytest.raises(Corrupt, match="altered") as caught:
        record.registry.verify_audit()
    assert "the last one written was" in caught.value.evidence


def test_a_version_that_is_not_there_has_no_tags(record: Record) -> None:
    with pytest.raises(NotFound):
        record.registry.tags(VersionRef("box-grasp", 7))
