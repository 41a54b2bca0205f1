"""The revision of the tables, and how a database is brought to it.

Opening a ledger migrates it forward, in one transaction that excludes every other writer: a program
killed in the middle leaves the old tables whole. A database of a newer program is refused, and so
is one whose tables nobody of ours made.
"""

from __future__ import annotations

from sqlalchemy import Connection, inspect, text

from registry.errors import Refused
from registry.ports import Ledger

REVISION = "0006"
_STAMP = "alembic_version"


def bring_to_date(ledger: Ledger, place: str) -> None:
    """Migrates if need be; `place` names the database to people. Raises Refused."""
    with ledger.read() as connection:
        if revision(connection) == REVISION:
            return
    with ledger.write() as connection:
        found = revision(connection)
        if found == REVISION:
            return
        if found is not None and found > REVISION:
            raise Refused(
                "this registry was written by a newer policyctl",
                evidence=f"{place} has revision {found}, this program knows {REVISION}",
                hint="upgrade policyctl on this machine",
            )
        if found is None and (strange := inspect(connection).get_table_names()):
            raise Refused(
                "this database is not empty and holds no registry",
                evidence=f"{place} has the tables {', '.join(sorted(strange)[:5])}",
                hint="name an empty database",
            )
        upgrade(connection)


def upgrade(connection: Connection) -> None:
    """Brings the tables to this program's revision, inside the connection's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "registry.ledger:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(_STAMP):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {_STAMP}")).scalar()
    return None if found is None else str(found)
