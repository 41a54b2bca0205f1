"""The ledger in one SQLite file, shared by every process of a machine.

- WAL, synchronous=FULL, foreign keys on: a transaction that returned is on the disk, and a process
  killed at any instruction leaves the last whole one.
- A write begins with BEGIN IMMEDIATE, so writers take turns (for up to 30 s) and what a
  transaction has read cannot change before it commits.
- Opening brings the tables to this program's revision (`registry.ledger.schema`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from registry.errors import Corrupt, PolicyctlError, ServiceFailed
from registry.ledger.schema import bring_to_date
from registry.storage import disk_errors

BUSY_S = 30.0
_WRITE = "policyctl_write"


class SqliteLedger:
    """A Ledger (contract: `registry.ports.Ledger`) in the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._engine = create_engine(
            URL.create("sqlite", database=str(path)), connect_args={"timeout": BUSY_S}
        )
        event.listen(self._engine, "connect", _prepare)
        event.listen(self._engine, "begin", _begin)
        bring_to_date(self, str(path))

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One serialised transaction; it is rolled back when the block raises."""
        with (
            _explained(self.path),
            self._engine.connect().execution_options(**{_WRITE: True}) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with _explained(self.path), self._engine.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        self._engine.dispose()


def _prepare(connection: sqlite3.Connection, _: Any) -> None:
    """Settings of every new connection; the driver itself begins no transactions."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_S * 1000)}")
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    wants = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if wants else "BEGIN")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns what SQLite says about disk and file into our errors; bugs pass through."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        known = _explain(path, error)
        if known is None:
            raise
        raise known from error


def _explain(path: Path, error: Exception) -> PolicyctlError | None:
    cause = getattr(error, "orig", None) or error
    code = (getattr(cause, "sqlite_errorcode", 0) or 0) & 0xFF
    evidence = f"{path}: {cause}"
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return ServiceFailed(
            "the disk is full or fails: nothing was changed",
            evidence=evidence,
            hint="free space or raise the limit, then run the same command again",
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return ServiceFailed(
            f"the registry stayed locked for {BUSY_S:.0f} s: nothing was changed",
            evidence=evidence,
            hint="another process holds it; run the same command again",
        )
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return ServiceFailed(
            "the registry cannot be opened for writing",
            evidence=evidence,
            hint="check the path and its permissions with `policyctl doctor`",
        )
    damaged = code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    if damaged or "Could not decode to UTF-8" in str(cause):  # the driver's own, without a code
        return Corrupt(
            "the registry's file is damaged",
            evidence=evidence,
            hint="restore the home from its backup",
        )
    return None
