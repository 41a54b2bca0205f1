"""What only a database server can do wrong: keys, networks, other writers, other tables."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import DBAPIError

from registry.backends import Settings, settings_of, write_settings
from registry.errors import ConfigError, Corrupt, NotAllowed, Refused, ServiceFailed, UsageError
from registry.home import Home
from registry.ledger.postgres import PostgresLedger
from registry.ledger.tables import metadata, policies, results
from registry.record import audit as log
from registry.record.actors import Actor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from databases import Postgres

pytestmark = pytest.mark.slow


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    url = postgres.fresh()
    yield url
    postgres.drop(url)


def test_the_migrations_build_exactly_the_tables_that_the_code_knows(postgres: Postgres) -> None:
    ledger = PostgresLedger(postgres.fresh("template1"))
    with ledger.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_transaction_is_on_the_servers_disk_before_it_returns(url: str) -> None:
    with PostgresLedger(url).write() as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert connection.execute(text(f"SHOW {setting}")).scalar() == "on"


def test_a_reader_sees_one_moment_and_waits_for_nobody(url: str) -> None:
    ledger = PostgresLedger(url)
    with ledger.read() as reader:
        assert reader.execute(select(results.c.key)).all() == []
        with ledger.write() as writer:
            writer.execute(insert(results).values(key="k", result={}, at=0.0))
        assert reader.execute(select(results.c.key)).all() == []
    with ledger.read() as reader:
        assert reader.execute(select(results.c.key)).scalar() == "k"
    with pytest.raises(NotAllowed), ledger.read() as reader:
        reader.execute(insert(results).values(key="x", result={}, at=0.0))


def _count(url: str, times: int) -> None:
    ledger = PostgresLedger(url)
    for _ in range(times):
        with ledger.write() as connection:
            seen = connection.execute(select(results.c.result)).scalar()
            connection.execute(update(results).values(result=seen + 1))


def test_writers_of_many_replicas_take_turns(url: str) -> None:
    ledger = PostgresLedger(url)
    with ledger.write() as connection:
        connection.execute(insert(results).values(key="n", result=0, at=0.0))
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_count, args=(url, 25)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    with ledger.read() as connection:
        assert connection.execute(select(results.c.result)).scalar() == 100


def test_replicas_may_make_the_tables_at_once(postgres: Postgres) -> None:
    url = postgres.fresh("template1")
    failed: list[BaseException] = []

    def open_it() -> None:
        try:
            PostgresLedger(url).close()
        except BaseException as error:  # noqa: BLE001 told by the assertion
            failed.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    postgres.drop(url)


HANG = """
import sys, time
from sqlalchemy import insert
from registry.ledger.postgres import PostgresLedger
from registry.ledger.tables import results
ledger = PostgresLedger(sys.argv[1])
with ledger.write() as connection:
    connection.execute(insert(results).values(key="half", result={}, at=0.0))
    print("inside", flush=True)
    time.sleep(600)
"""


def test_a_writer_killed_inside_a_transaction_leaves_no_row_and_no_lock(url: str) -> None:
    writer = subprocess.Popen([sys.executable, "-c", HANG, url], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "inside\n"
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    with PostgresLedger(url).write() as connection:
        assert connection.execute(select(results)).all() == []


@pytest.mark.parametrize(
    "statement", ["UPDATE audit SET reason = 'x'", "DELETE FROM audit", "TRUNCATE audit"]
)
def test_the_audit_cannot_be_changed_through_the_database(url: str, statement: str) -> None:
    ledger = PostgresLedger(url)
    with ledger.write() as connection:
        log.append(connection, at=1.0, actor=Actor("a"), action="x", subject="s")
    with pytest.raises(DBAPIError, match="append-only"), ledger.write() as connection:
        connection.execute(text(statement))


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE audit SET actor = 'nobody' WHERE seq = 2",
        "UPDATE audit SET at = 'infinity' WHERE seq = 2",
        "UPDATE audit SET detail = '{\"n\": 99999999999999999999}' WHERE seq = 2",
        'UPDATE audit SET detail = \'{"n": 9, "n": 1}\' WHERE seq = 2',
        "DELETE FROM audit_head",
    ],
)
def test_an_edit_by_whoever_owns_the_tables_breaks_the_chain(
    url: str, postgres: Postgres, edit: str
) -> None:
    ledger = PostgresLedger(url)
    with ledger.write() as connection:
        for n in range(3):
            log.append(
                connection, at=float(n), actor=Actor("a"), action="x", subject="s", detail={"n": n}
            )
    with ledger.read() as connection:
        assert log.check_chain(connection).seq == 3
    postgres.run(
        url,
        "ALTER TABLE audit DISABLE TRIGGER ALL",
        edit,
    )
    with pytest.raises(Corrupt, match="altered"), ledger.read() as connection:
        log.check_chain(connection)


def test_a_database_of_a_newer_program_or_of_somebody_else_is_refused(postgres: Postgres) -> None:
    newer, other = postgres.fresh(), postgres.fresh("template1")
    postgres.run(newer, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Refused, match="newer policyctl"):
        PostgresLedger(newer)
    postgres.run(other, "CREATE TABLE orders (id int)")
    with pytest.raises(Refused, match="not empty"):
        PostgresLedger(other)
    for url in (newer, other):
        postgres.drop(url)


def test_a_role_that_may_only_read_is_told_so(url: str, postgres: Postgres) -> None:
    postgres.run(
        url,
        "DROP ROLE IF EXISTS looker",
        "CREATE ROLE looker LOGIN",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO looker",
    )
    looker = PostgresLedger(url.replace("postgres@", "looker@"))
    with looker.read() as connection:
        assert connection.execute(select(results)).all() == []
    with pytest.raises(NotAllowed, match="does not let you change"), looker.write() as connection:
        connection.execute(insert(results).values(key="k", result={}, at=0.0))
    looker.close()
    postgres.run(url, "DROP OWNED BY looker", "DROP ROLE looker")


def test_a_text_that_fits_no_column_is_the_users_error(url: str) -> None:
    ledger = PostgresLedger(url)
    row = {"name": "a" * 121, "next_number": 1, "revision": 0, "created_at": 0.0}
    with pytest.raises(UsageError, match="too long"), ledger.write() as connection:
        connection.execute(insert(policies).values(row))
    ledger.close()


def test_a_server_that_is_not_there_and_a_database_that_is_not_are_told(
    postgres: Postgres, tmp_path: Path
) -> None:
    with pytest.raises(ServiceFailed, match="cannot be reached") as caught:
        PostgresLedger(f"postgresql://me@/registry?host={tmp_path}")
    assert "registry" in caught.value.evidence
    with pytest.raises(ServiceFailed, match="cannot be reached"):
        PostgresLedger(postgres.url("nowhere"))


def test_a_connection_that_was_cut_is_made_anew(url: str, postgres: Postgres) -> None:
    ledger = PostgresLedger(url)
    with ledger.write() as connection:
        connection.execute(insert(results).values(key="k", result={}, at=0.0))
    postgres.run(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    with ledger.read() as connection:
        assert connection.execute(select(results.c.key)).scalar() == "k"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://me:secret@db/registry", "password"),
        ("mysql://db/registry", "not the URL"),
        ("postgresql://db", "not the URL"),
        ("registry", "not the URL"),
    ],
)
def test_a_url_that_is_wrong_or_holds_a_password_is_refused(
    url: str, why: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        PostgresLedger(url)
    assert "secret" not in str(caught.value)
    home = Home(tmp_path)
    home.settings.write_text(f"database: {url}\n")
    with pytest.raises(ConfigError, match="database") as wrong:
        settings_of(home)
    assert "registry.yaml:1" in wrong.value.where


def test_a_home_keeps_the_place_it_has(tmp_path: Path, url: str) -> None:
    home = Home(tmp_path)
    write_settings(home, Settings(database=url))
    write_settings(home, Settings(database=url))
    assert settings_of(home).database == url
    with pytest.raises(Refused, match="another registry"):
        write_settings(home, Settings(database=url + "2"))
