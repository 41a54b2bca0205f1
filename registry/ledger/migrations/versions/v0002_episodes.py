"""Simulated episodes, kept by what made them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "episodes",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("row", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("key", "number", name=op.f("pk_episodes")),
    )


def downgrade() -> None:
    raise NotImplementedError("the record only goes forward; restore a backup instead")
