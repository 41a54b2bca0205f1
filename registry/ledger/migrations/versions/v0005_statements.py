"""What is signed: statements beside versions, envelopes beside assignments and attempts."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "statements",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("policy", sa.String(length=120), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("verdict", sa.Integer(), nullable=True),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("envelope", sa.JSON(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("actor", sa.String(length=120), nullable=False),
        sa.ForeignKeyConstraint(
            ["policy", "number"],
            ["versions.policy", "versions.number"],
            name=op.f("fk_statements_policy_number"),
        ),
        sa.ForeignKeyConstraint(["verdict"], ["verdicts.id"], name=op.f("fk_statements_verdict")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_statements")),
        sa.UniqueConstraint(
            "policy", "number", "digest", name=op.f("uq_statements_policy_number_digest")
        ),
    )
    op.create_index(op.f("ix_statements_verdict"), "statements", ["verdict"])
    op.create_table(
        "renewals",
        sa.Column("robot", sa.String(length=120), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("envelope", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["robot"], ["robots.name"], name=op.f("fk_renewals_robot")),
        sa.PrimaryKeyConstraint("robot", name=op.f("pk_renewals")),
    )
    for table in ("assignments", "attempts"):
        op.add_column(table, sa.Column("envelope", sa.JSON(), nullable=True))


def downgrade() -> None:
    raise NotImplementedError("the record only goes forward; restore a backup instead")
