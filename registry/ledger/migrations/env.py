"""Alembic's entry: runs on the connection, and inside the transaction, that the ledger hands it."""

from alembic import context

from registry.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=False,
    render_as_batch=True,
)
context.run_migrations()
