"""The ledger in one SQLite file, shared by every process of a machine.

- WAL, synchronous=FULL, foreign keys on: a transaction that returned is on the disk, and a process
  killed at any instruction leaves the last whole one.
- A write begins with BEGIN IMMEDIATE, so writers take turns (for up to 30 s) and what a
  transaction has read cannot change before it commits.
- A full disk can be read: where it has no room for the index of the WAL that processes share, a
  reading transaction holds the file alone and keeps that index to itself.
- Opening brings the tables to this program's revision (`registry.ledger.schema`).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from registry.errors import Corrupt, PolicyctlError, ServiceFailed
from registry.ledger.schema import bring_to_date
from registry.storage import disk_errors

BUSY_S = 30.0
TURN_S = 0.02
_WRITE = "policyctl_write"
_NO_INDEX = {
    sqlite3.SQLITE_IOERR_SHMMAP,
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_SHMSIZE,
}


class SqliteLedger:
    """A Ledger (contract: `registry.ports.Ledger`) in the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        url, waits = URL.create("sqlite", database=str(path)), {"timeout": BUSY_S}
        self._engine = create_engine(url, connect_args=waits)
        event.listen(self._engine, "connect", _prepare)
        # Kept by no pool: whoever holds the file alone lets go of it with the transaction.
        self._alone = create_engine(url, connect_args=waits, poolclass=NullPool)
        event.listen(self._alone, "connect", _prepare_alone)
        for engine in (self._engine, self._alone):
            event.listen(engine, "begin", _begin)
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
        with _explained(self.path), self._reading() as connection, connection.begin():
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with ExitStack() as stack:
            try:
                connection = self._engine.connect()
            except (DBAPIError, sqlite3.Error) as error:
                if _code(error) not in _NO_INDEX:
                    raise
                stack.enter_context(_turn(self.path))
                connection = self._alone.connect()
            yield stack.enter_context(connection)

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


def _prepare_alone(connection: sqlite3.Connection, _: Any) -> None:
    """The file is this connection's alone from its first reading on. It changes no table; as it
    closes SQLite may bring what a killed writer left in the WAL into the file."""
    connection.isolation_level = None
    for setting in (f"busy_timeout = {int(BUSY_S * 1000)}", "locking_mode = EXCLUSIVE"):
        connection.execute(f"PRAGMA {setting}").close()
    connection.execute("PRAGMA query_only = ON").close()


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Readers that want the file alone take turns: SQLite has two of them wait for each other."""
    until = time.monotonic() + BUSY_S
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as held:
                if time.monotonic() > until:
                    raise _locked(f"{path}: {held}") from None
                time.sleep(TURN_S)
        yield
    finally:
        os.close(handle)


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


def _locked(evidence: str) -> ServiceFailed:
    return ServiceFailed(
        f"the registry stayed locked for {BUSY_S:.0f} s: nothing was changed",
        evidence=evidence,
        hint="another process holds it; run the same command again",
    )


def _code(error: Exception) -> int:
    """SQLite's extended result code; 0 where there is none."""
    cause = getattr(error, "orig", None) or error
    return int(getattr(cause, "sqlite_errorcode", 0) or 0)


def _explain(path: Path, error: Exception) -> PolicyctlError | None:
    cause = getattr(error, "orig", None) or error
    code = _code(error) & 0xFF
    evidence = f"{path}: {cause}"
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return ServiceFailed(
            "the disk is full or fails: nothing was changed",
            evidence=evidence,
            hint="free space or raise the limit, then run the same command again",
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return _locked(evidence)
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
