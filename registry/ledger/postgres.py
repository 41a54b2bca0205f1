"""The ledger in a PostgreSQL database, shared by every replica of a server.

- A write first takes one advisory lock of the transaction: writers of all replicas take turns, as
  on SQLite, and what a transaction has read cannot change before it commits. Nobody waits longer
  than 30 s for it.
- `synchronous_commit` stays on: a transaction that returned is on the server's disk.
- A read is one read-only snapshot (REPEATABLE READ) that waits for nobody.
- The password comes from `PGPASSWORD`, `~/.pgpass` or a service file, never from the URL.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from registry.errors import NotAllowed, PolicyctlError, ServiceFailed, UsageError
from registry.ledger.schema import bring_to_date

BUSY_S = 30
WRITERS = 0x706F6C6963796374
"""The advisory lock of every writer, one per database."""


class PostgresLedger:
    """A Ledger (contract: `registry.ports.Ledger`) in the database that `url` names."""

    def __init__(self, url: str) -> None:
        self.url = parse_url(url)
        self._engine = create_engine(
            self.url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            connect_args={"connect_timeout": 10, "application_name": "policyctl"},
        )
        self._place = self.url.render_as_string(hide_password=True)
        bring_to_date(self, self._place)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One serialised transaction; it is rolled back when the block raises."""
        with self._explained(), self._engine.connect() as connection, connection.begin():
            connection.execute(text(f"SET LOCAL lock_timeout = '{BUSY_S}s'"))
            connection.execute(text("SET LOCAL synchronous_commit = on"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITERS})
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with (
            self._explained(),
            self._engine.connect().execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            ) as connection,
            connection.begin(),
        ):
            yield connection

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what the server says about itself into our errors; bugs pass through."""
        try:
            yield
        except DBAPIError as error:
            known = _explain(self._place, error)
            if known is None:
                raise
            raise known from error


def parse_url(url: str) -> URL:
    """A database URL without a password. Raises UsageError."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() != "postgresql" or not parsed.database:
        raise UsageError(
            "not the URL of a PostgreSQL database",
            evidence=repr(url),
            hint="it reads postgresql://USER@HOST:5432/DATABASE",
        )
    if parsed.password:
        raise UsageError(
            "a password does not belong in a database URL",
            evidence=parsed.render_as_string(hide_password=True),
            hint="set PGPASSWORD, or write it into ~/.pgpass",
        )
    return parsed


def _explain(place: str, error: DBAPIError) -> PolicyctlError | None:
    state = getattr(error.orig, "sqlstate", None) or ""
    said = " ".join(str(error.orig).split())
    evidence = f"{place}: {said}"
    if state in ("53100", "58030"):
        return ServiceFailed(
            "the database server's disk is full or fails: nothing was changed",
            evidence=evidence,
            hint="free space there, then run the same command again",
        )
    if state == "55P03":
        return ServiceFailed(
            f"the registry stayed locked for {BUSY_S} s: nothing was changed",
            evidence=evidence,
            hint="another process holds it; run the same command again",
        )
    if state.startswith("28") or "password" in said or "authentication" in said:
        return NotAllowed(
            "the database server does not let you in",
            evidence=evidence,
            hint="set PGUSER and PGPASSWORD, or write them into ~/.pgpass",
        )
    if state == "22001":
        return UsageError(
            "a text is too long for the record: nothing was changed",
            evidence=evidence,
            hint="names and commits have at most 120 characters",
        )
    if state in ("42501", "25006"):
        return NotAllowed(
            "the database does not let you change the registry",
            evidence=evidence,
            hint="ask for a role that may write its tables",
        )
    unreachable = state[:2] in ("08", "57", "3D", "53") or error.connection_invalidated or not state
    if unreachable:
        return ServiceFailed(
            "the registry's database cannot be reached: nothing was changed",
            evidence=evidence,
            hint="check the server and the URL in registry.yaml, then run the command again",
        )
    return None
