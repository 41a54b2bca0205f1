"""The ledger on real SQLite files: durable, serialised, append-only where it says so."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import IntegrityError

from registry.errors import Corrupt, Refused, ServiceFailed
from registry.ledger.sqlite import SqliteLedger
from registry.ledger.tables import audit, metadata, results
from registry.record import audit as log
from registry.record.actors import Actor


@pytest.fixture
def ledger(tmp_path: Path) -> SqliteLedger:
    return SqliteLedger(tmp_path / "registry.db")


def test_the_migrations_build_exactly_the_tables_that_the_code_knows(ledger: SqliteLedger) -> None:
    with ledger.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_commit_is_on_the_disk_before_it_returns(ledger: SqliteLedger) -> None:
    with ledger.read() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 30_000,
    }


def test_a_block_that_raises_changes_nothing(ledger: SqliteLedger) -> None:
    def half_of_it() -> None:
        with ledger.write() as connection:
            connection.execute(insert(results).values(key="k", result={}, at=0.0))
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        half_of_it()
    with ledger.read() as connection:
        assert connection.execute(select(results)).all() == []


def _count(path: Path, times: int) -> None:
    ledger = SqliteLedger(path)
    for _ in range(times):
        with ledger.write() as connection:
            seen = connection.execute(select(results.c.result)).scalar()
            connection.execute(update(results).values(result=seen + 1))


@pytest.mark.slow
def test_writers_in_many_processes_take_turns(ledger: SqliteLedger) -> None:
    with ledger.write() as connection:
        connection.execute(insert(results).values(key="n", result=0, at=0.0))
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_count, args=(ledger.path, 25)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    with ledger.read() as connection:
        assert connection.execute(select(results.c.result)).scalar() == 150


def _open(path: Path) -> None:
    SqliteLedger(path).close()


@pytest.mark.slow
def test_many_processes_may_make_the_same_ledger_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "registry.db"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_open, args=(path,)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    with SqliteLedger(path).read() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


HANG = """
import sys, time
from pathlib import Path
from sqlalchemy import insert
from registry.ledger.sqlite import SqliteLedger
from registry.ledger.tables import results
ledger = SqliteLedger(Path(sys.argv[1]))
with ledger.write() as connection:
    connection.execute(insert(results).values(key="half", result={}, at=0.0))
    print("inside", flush=True)
    time.sleep(600)
"""


def test_a_writer_killed_inside_a_transaction_leaves_the_last_whole_one(
    ledger: SqliteLedger,
) -> None:
    command = [sys.executable, "-c", HANG, str(ledger.path)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "inside\n"
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    with ledger.write() as connection:
        assert connection.execute(select(results)).all() == []


def test_the_audit_cannot_be_changed_through_the_database(ledger: SqliteLedger) -> None:
    with ledger.write() as connection:
        log.append(connection, at=1.0, actor=Actor("a"), action="x", subject="s")
    for statement in ("UPDATE audit SET reason = 'other'", "DELETE FROM audit"):
        with pytest.raises(IntegrityError, match="append-only"), ledger.write() as connection:
            connection.execute(text(statement))


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE audit SET reason = 'other' WHERE seq = 2",
        "DELETE FROM audit WHERE seq = 2",
        "UPDATE audit SET actor = 'nobody' WHERE seq = 3",
        "UPDATE audit SET reason = x'ff00' WHERE seq = 2",
        "UPDATE audit SET at = 9e999 WHERE seq = 2",
        "UPDATE audit SET detail = '{' WHERE seq = 2",
        f"UPDATE audit SET detail = '{'[' * 100_000}' WHERE seq = 2",
        "UPDATE audit SET detail = '{\"n\": 99999999999999999999}' WHERE seq = 2",
        'UPDATE audit SET detail = \'{"n": 9, "n": 1}\' WHERE seq = 2',
        "UPDATE audit SET detail = '{\"n\":1}' WHERE seq = 2",
        "DELETE FROM audit_head",
        "INSERT INTO audit_head VALUES (2, 3, 'x')",
    ],
)
def test_tampering_with_the_audit_breaks_its_chain(ledger: SqliteLedger, tampering: str) -> None:
    with ledger.write() as connection:
        for n in range(3):
            log.append(
                connection, at=float(n), actor=Actor("a"), action="x", subject="s", detail={"n": n}
            )
        assert log.check_chain(connection).seq == 3
    _behind_its_back(ledger, tampering)
    with pytest.raises(Corrupt, match="altered"), ledger.read() as connection:
        log.check_chain(connection)


def _behind_its_back(ledger: SqliteLedger, statement: str) -> None:
    raw = sqlite3.connect(ledger.path)
    raw.executescript(f"DROP TRIGGER audit_no_update; DROP TRIGGER audit_no_delete; {statement};")
    raw.close()


def test_an_audit_without_its_head_is_not_added_to(ledger: SqliteLedger) -> None:
    _behind_its_back(ledger, "DELETE FROM audit_head")
    with pytest.raises(Corrupt, match="altered"), ledger.write() as connection:
        log.append(connection, at=1.0, actor=Actor("a"), action="x", subject="s")


def test_an_event_that_cannot_be_read_is_named(ledger: SqliteLedger) -> None:
    with ledger.write() as connection:
        log.append(connection, at=1.0, actor=Actor("a"), action="x", subject="s")
    _behind_its_back(ledger, "UPDATE audit SET detail = '{'")
    with pytest.raises(Corrupt) as refused, ledger.read() as connection:
        list(log.events(connection))
    assert "the detail of event 1 " in refused.value.evidence


def test_text_that_is_none_is_damage(ledger: SqliteLedger) -> None:
    with ledger.write() as connection:
        log.append(connection, at=1.0, actor=Actor("a"), action="x", subject="s")
    _behind_its_back(ledger, "UPDATE audit SET reason = CAST(x'ff00' AS TEXT)")
    with pytest.raises(Corrupt, match="damaged"), ledger.read() as connection:
        log.check_chain(connection)


def test_a_ledger_of_a_newer_program_is_refused(ledger: SqliteLedger) -> None:
    with ledger.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    ledger.close()
    with pytest.raises(Refused, match="newer policyctl"):
        SqliteLedger(ledger.path)


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(Corrupt, match="damaged"):
        SqliteLedger(path)


FULL = """
import resource, sys
from pathlib import Path
from registry.errors import ServiceFailed
from registry.ledger.sqlite import SqliteLedger
from registry.record import audit
from registry.record.actors import Actor
ledger = SqliteLedger(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    for n in range(100):
        with ledger.write() as connection:
            audit.append(connection, at=float(n), actor=Actor("a"), action="x", subject="s",
                         reason="r" * 60_000)
        print(n + 1, flush=True)
except ServiceFailed as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_status)
"""


def test_a_full_disk_stops_the_writer_and_leaves_whole_transactions(ledger: SqliteLedger) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(ledger.path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == ServiceFailed.exit_status, done.stderr
    assert "the disk is full" in done.stderr
    written = int(done.stdout.split()[-1])
    assert written > 1
    with ledger.write() as connection:
        assert log.check_chain(connection).seq == written
        log.append(connection, at=0.0, actor=Actor("a"), action="x", subject="after")
        assert connection.execute(select(audit.c.seq)).all()[-1].seq == written + 1
