"""What the record keeps of simulation: verdicts against the fleet's version, suites, episodes; and
a home that the first program wrote."""

import json
import multiprocessing
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from hypothesis import given, settings
from hypothesis import strategies as st
from record import CLASS, POLICY, SIM, FakeClock, Record, write_files
from sqlalchemy import create_engine, event

from registry.errors import NotAllowed, Refused
from registry.evidence import GridEvidence, Paired, Subject
from registry.gates import GridGate, Regression
from registry.home import Home
from registry.record.actors import Actor
from registry.service import Registry
from registry.stages import Stage
from registry.verdicts import Outcome, judge
from registry.versions import Provenance, VersionRef

pytestmark = pytest.mark.slow

COMPARED = replace(SIM, regression=Regression())


@pytest.fixture
def record(tmp_path: Path, database: str | None) -> Record:
    return Record(tmp_path, robots=6, database=database)


def against(
    record: Record, ref: VersionRef, baseline: Subject | None, gate: GridGate = COMPARED
) -> GridEvidence:
    """The full run, all of it successful and identical to the baseline's."""
    found = record.evidence(ref, gate, successes=100)
    assert isinstance(found, GridEvidence)
    paired = None if baseline is None else Paired(baseline, 100, 0, 0, 100)
    return replace(found, paired=paired)


def keep(record: Record, ref: VersionRef, evidence: GridEvidence, gate: GridGate = COMPARED) -> Any:
    return record.registry.record_verdict(ref, gate, evidence, judge(gate, evidence))


def test_the_first_version_has_nothing_to_be_compared_with(record: Record) -> None:
    ref = record.register()
    assert keep(record, ref, against(record, ref, None)).stage is Stage.SIM


def test_a_sim_verdict_names_the_version_that_the_fleet_runs(record: Record) -> None:
    first, second = record.to_fleet(), record.register()
    with pytest.raises(Refused, match="not compared with box-grasp v1") as caught:
        keep(record, second, against(record, second, None))
    assert "no baseline" in caught.value.evidence
    assert "run it again" in caught.value.hint
    assert record.registry.version(second).stage is Stage.REGISTERED
    fleet = record.registry.version(first).subject
    for wrong in (replace(fleet, number=9), replace(fleet, digest="sha256:" + "0" * 64)):
        with pytest.raises(Refused, match="not compared"):
            keep(record, second, against(record, second, wrong))
    assert keep(record, second, against(record, second, fleet)).stage is Stage.SIM
    assert record.registry.verify(second) == []


def test_a_fleet_that_moves_on_between_run_and_record_is_refused_and_run_again(
    record: Record,
) -> None:
    first, late = record.to_fleet(), record.register()
    evidence = against(record, late, record.registry.version(first).subject)
    second = record.to_fleet()
    with pytest.raises(Refused, match="not compared with box-grasp v3"):
        keep(record, late, evidence)
    again = against(record, late, record.registry.version(second).subject)
    assert keep(record, late, again).stage is Stage.SIM


def test_the_fleets_own_version_needs_no_baseline(record: Record) -> None:
    first = record.to_fleet()
    assert keep(record, first, against(record, first, None)).stage is Stage.FLEET


def test_a_fleet_that_does_another_task_is_no_baseline(record: Record) -> None:
    record.to_fleet()
    folder = write_files(record.folder / "other", 50)
    (folder / "contract.json").write_text(json.dumps({"robot_class": CLASS, "task": "stacking"}))
    ref = record.registry.register(folder, POLICY, Provenance(commit="x")).version.ref
    assert keep(record, ref, against(record, ref, None)).stage is Stage.SIM


def test_a_gate_that_does_not_ask_takes_evidence_without_a_baseline(record: Record) -> None:
    record.to_fleet()
    ref = record.register()
    assert keep(record, ref, against(record, ref, None, SIM), SIM).stage is Stage.SIM


@pytest.mark.parametrize("successes", [100, 20])
def test_a_robustness_suite_never_changes_the_stage(record: Record, successes: int) -> None:
    suite = replace(SIM, name="sim:camera")
    ref = record.register()
    evidence = record.evidence(ref, suite, successes=successes)
    expected = Outcome.PASS if successes == 100 else Outcome.FAIL
    assert judge(suite, evidence).outcome is expected
    assert keep(record, ref, evidence, suite).stage is Stage.REGISTERED
    record.sim(ref)
    assert keep(record, ref, evidence, suite).stage is Stage.SIM
    assert [one.verdict.gate for one in record.registry.verdicts(ref)] == ["sim:camera", "sim"]
    assert record.registry.verify(ref) == []


# -- episodes --------------------------------------------------------------------------------------


def test_the_first_row_of_an_episode_stays(record: Record) -> None:
    registry = record.registry
    assert registry.episodes("k") == {}
    registry.keep_episodes("k", {7: {"outcome": "success", "steps": 40}, 3: {"outcome": "failure"}})
    registry.keep_episodes("k", {7: {"outcome": "failure"}, 8: {"outcome": "success"}})
    registry.keep_episodes("other", {7: {"outcome": "failure"}})
    registry.keep_episodes("k", {})
    assert list(registry.episodes("k")) == [3, 7, 8]
    assert registry.episodes("k")[7] == {"outcome": "success", "steps": 40}
    assert registry.episodes("other") == {7: {"outcome": "failure"}}


def test_a_viewer_keeps_no_episodes(record: Record) -> None:
    with pytest.raises(NotAllowed):
        record.as_role("viewer").keep_episodes("k", {1: {}})


def test_rows_that_cannot_be_kept_keep_none_of_them(record: Record) -> None:
    with pytest.raises(Exception, match="JSON"):
        record.registry.keep_episodes("k", {1: {"fine": 1}, 2: {"bad": object()}})
    assert record.registry.episodes("k") == {}


def test_thousands_of_episodes_are_kept_and_read_in_a_moment(record: Record) -> None:
    row = {"cell": 3, "outcome": "success", "steps": 214, "metrics": {"lift_m": 0.1234},
           "digest": "sha256:" + "1" * 64, "interventions": {}}  # fmt: skip
    rows = dict.fromkeys(range(5000), row)
    began = time.perf_counter()
    record.registry.keep_episodes("k", rows)
    record.registry.keep_episodes("k", rows)
    assert record.registry.episodes("k") == rows
    assert time.perf_counter() - began < 5


@given(st.lists(st.dictionaries(st.integers(0, 20), st.integers(0, 3), max_size=8), max_size=6))
@settings(max_examples=25)
def test_the_order_and_repetition_of_keeping_never_matter(
    tmp_path_factory: pytest.TempPathFactory, batches: list[dict[int, int]]
) -> None:
    """Rows follow from their number, as episodes do: any split and any retry keeps the same."""
    home = Home(tmp_path_factory.mktemp("home"))
    with Registry.open(home, Actor("tester"), clock=FakeClock()) as registry:
        for batch in batches:
            registry.keep_episodes("k", {number: {"steps": number * 2} for number in batch})
        kept = {number for batch in batches for number in batch}
        assert registry.episodes("k") == {number: {"steps": number * 2} for number in kept}


def _keep_slice(home: Path, start: int) -> None:
    with Registry.open(Home(home), Actor("worker"), clock=FakeClock()) as registry:
        for first in range(start, start + 200, 20):
            registry.keep_episodes("k", {n: {"steps": n} for n in range(first, first + 40)})


def test_workers_may_keep_the_same_episodes_at_once(record: Record) -> None:
    context = multiprocessing.get_context("spawn")
    starts = (0, 0, 100)
    workers = [
        context.Process(target=_keep_slice, args=(record.home.root, start)) for start in starts
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert record.registry.episodes("k") == {n: {"steps": n} for n in range(320)}


# -- a home of before ------------------------------------------------------------------------------


def as_v0001(newer: Path, older: Path) -> None:
    """The first program's file with the rows of a newer one that used nothing new."""
    engine = create_engine(f"sqlite:///{older}")

    @event.listens_for(engine, "connect")
    def _(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None

    config = Config()
    config.set_main_option("script_location", "registry.ledger:migrations")
    with engine.connect() as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    raw = sqlite3.connect(older)
    raw.execute("ATTACH ? AS newer", (str(newer),))
    found = raw.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall()
    names = {name for (name,) in found if name != "alembic_version"}
    assert "episodes" not in names
    for name in names:
        columns = ", ".join(
            f'"{row[1]}"' for row in raw.execute(f'PRAGMA main.table_info("{name}")')
        )
        raw.execute(f'INSERT INTO main."{name}" ({columns}) SELECT {columns} FROM newer."{name}"')
    raw.commit()
    raw.close()


def test_a_home_of_the_first_program_is_brought_forward_with_all_it_holds(tmp_path: Path) -> None:
    record = Record(tmp_path / "a", robots=4)
    old = replace(SIM, edition=1)
    ref = record.register()
    evidence = record.evidence(ref, old, successes=100)
    record.registry.record_verdict(ref, old, evidence, judge(old, evidence))
    record.hil(ref)
    record.registry.store_result("r", {"x": 1})
    before = record.registry.verdicts(ref)
    audited = record.registry.audit_log()
    record.registry.close()

    home = Home(tmp_path / "b")
    home.make()
    as_v0001(record.home.database, home.database)
    for path in record.home.blobs.rglob("*"):
        if path.is_file():
            target = home.blobs / path.relative_to(record.home.blobs)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())

    with Registry.open(home, Actor("tester"), clock=FakeClock()) as registry:
        assert registry.verdicts(ref) == before
        assert registry.verdicts(ref)[0].gate == old
        assert registry.verify(ref) == []
        assert registry.version(ref).stage is Stage.HIL
        assert registry.cached_result("r") == {"x": 1}
        assert registry.audit_log() == audited
        assert registry.verify_audit().seq == len(audited)
        registry.keep_episodes("k", {1: {"steps": 3}})
        assert registry.episodes("k") == {1: {"steps": 3}}
    with Registry.open(home, Actor("tester"), clock=FakeClock()) as registry:
        assert registry.episodes("k") == {1: {"steps": 3}}
