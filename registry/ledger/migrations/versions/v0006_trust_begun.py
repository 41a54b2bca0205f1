"""An index that says at once whether trust was ever begun here."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_audit_trust_init",
        "audit",
        ["seq"],
        sqlite_where=sa.text("action = 'trust_init'"),
        postgresql_where=sa.text("action = 'trust_init'"),
    )


def downgrade() -> None:
    raise NotImplementedError("the record only goes forward; restore a backup instead")
