"""Every released schema, with data in it, becomes today's: nothing is lost, and it works on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from alembic.config import Config
from record import POLICY, Record
from sqlalchemy import Connection, Engine, MetaData, create_engine, insert, select

from registry.backends import Settings, write_settings
from registry.home import Home
from registry.ledger.schema import REVISION, revision
from registry.ledger.tables import metadata
from registry.service import Actor, Registry
from registry.versions import VersionRef

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from databases import Postgres

SERIAL, NUMBERED = {"provenance", "climbs", "serves", "verdicts"}, {"id"}
RELEASED = ("0001", "0002", "0003", "0004", "0005")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Home, Engine]]:
    """A home whose database has no table yet, and a way into that past policyctl."""
    home = Home(tmp_path / "old").make()
    if request.param == "sqlite":
        engine = create_engine(f"sqlite:///{home.database}")
        yield home, engine
        engine.dispose()
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.fresh("template1")
    write_settings(home, Settings(database=url))
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    yield home, engine
    engine.dispose()
    server.drop(url)


def build(connection: Connection, target: str) -> None:
    """The tables of a released program."""
    config = Config()
    config.set_main_option("script_location", "registry.ledger:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def rows_of(record: Record) -> dict[str, list[dict[str, Any]]]:
    with record.registry._ledger.read() as connection:
        return {
            table.name: [dict(row._mapping) for row in connection.execute(select(table))]
            for table in metadata.sorted_tables
        }


def fill(connection: Connection, rows: dict[str, list[dict[str, Any]]]) -> set[str]:
    """The rows as that program would have written them; the tables that it had."""
    old = MetaData()
    old.reflect(connection)
    for table in metadata.sorted_tables:
        mine = old.tables.get(table.name)
        if mine is None or table.name == "audit_head" or not rows[table.name]:
            continue
        given = set(mine.c.keys()) - (NUMBERED if table.name in SERIAL else set())
        known = [{k: v for k, v in row.items() if k in given} for row in rows[table.name]]
        connection.execute(insert(mine), known)
    if (head := old.tables.get("audit_head")) is not None:
        last = rows["audit_head"][0]
        connection.execute(head.update().values(seq=last["seq"], hash=last["hash"]))
    return set(old.tables)


@pytest.mark.parametrize("released", RELEASED)
def test_a_released_schema_with_data_becomes_todays(
    tmp_path: Path, empty: tuple[Home, Engine], released: str
) -> None:
    home, engine = empty
    new = Record(tmp_path / "new", robots=6)
    new.to_fleet()
    opened = new.promote(new.ready())
    for _ in range(4):
        new.round({1: 1.0, 2: 1.0})
    rows = rows_of(new)
    with engine.begin() as connection:
        build(connection, released)
        had = fill(connection, rows)
    assert released >= "0004" or not had >= {"claims", "marks"}
    for blob in new.home.blobs.rglob("*"):
        if blob.is_file():
            place = home.blobs / blob.relative_to(new.home.blobs)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(blob.read_bytes())
    with Registry.open(home, Actor("tester"), clock=new.clock) as registry:
        with registry._ledger.read() as connection:
            assert revision(connection) == REVISION
        assert registry.list_versions() == new.registry.list_versions()
        assert registry.robots() == new.registry.robots()
        assert registry.attempts() == new.registry.attempts()
        assert registry.rollout(opened.id) == new.registry.rollout(opened.id)
        assert registry.canary_evidence(opened.id) == new.registry.canary_evidence(opened.id)
        assert registry.audit_log() == new.registry.audit_log()
        for number in (1, 2):
            ref = VersionRef(POLICY, number)
            assert registry.verdicts(ref) == new.registry.verdicts(ref)
            assert registry.statements(ref) == []
            assert registry.verify(ref) == []
        told = registry.assignment("robot-01")
        assert told == new.registry.assignment("robot-01")
        assert told is not None
        assert told.envelope is None
        registry.verify_audit()
        registry.abort(POLICY, "after the upgrade")  # and it works on
        back = registry.assignment("robot-01")
        assert back is not None
        assert back.generation > told.generation
