"""What gc needs to be safe: who is storing blobs, what was marked, what was released."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "claims",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("actor", sa.String(length=120), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_claims")),
    )
    op.create_table(
        "marks",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_marks")),
    )
    op.create_table(
        "releases",
        sa.Column("policy", sa.String(length=120), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["policy", "number"],
            ["versions.policy", "versions.number"],
            name=op.f("fk_releases_policy_number"),
        ),
        sa.PrimaryKeyConstraint("policy", "number", name=op.f("pk_releases")),
    )


def downgrade() -> None:
    raise NotImplementedError("the record only goes forward; restore a backup instead")
