"""What is asked for often gets columns, indexes and tables of its own: search, tags, the past."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _versions()
    _provenance()
    op.create_index(op.f("ix_climbs_policy_number"), "climbs", ["policy", "number"])
    op.create_table(
        "tags",
        sa.Column("policy", sa.String(length=120), nullable=False),
        sa.Column("tag", sa.String(length=80), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("actor", sa.String(length=120), nullable=False),
        sa.ForeignKeyConstraint(
            ["policy", "number"],
            ["versions.policy", "versions.number"],
            name=op.f("fk_tags_policy_number"),
        ),
        sa.PrimaryKeyConstraint("policy", "tag", name=op.f("pk_tags")),
    )
    op.create_index(op.f("ix_tags_policy_number"), "tags", ["policy", "number"])
    _serves()
    _audit_head()


def _versions() -> None:
    for name in ("robot_class", "task"):
        op.add_column(
            "versions", sa.Column(name, sa.String(length=120), nullable=False, server_default="")
        )
    versions = sa.table(
        "versions",
        *(sa.column(name) for name in ("policy", "number", "manifest", "robot_class", "task")),
    )
    connection = op.get_bind()
    for row in connection.execute(sa.select(versions)).all():
        contract = json.loads(row.manifest)["contract"]
        connection.execute(
            sa.update(versions)
            .where(versions.c.policy == row.policy, versions.c.number == row.number)
            .values(
                robot_class=str(contract.get("robot_class", "")),
                task=str(contract.get("task", "")),
            )
        )
    op.create_index(op.f("ix_versions_digest"), "versions", ["digest"])
    op.create_index(op.f("ix_versions_created_at"), "versions", ["created_at"])


def _provenance() -> None:
    op.add_column("provenance", sa.Column("commit", sa.String(length=120), nullable=True))
    provenance = sa.table(
        "provenance", sa.column("id"), sa.column("record", sa.JSON()), sa.column("commit")
    )
    connection = op.get_bind()
    for row in connection.execute(sa.select(provenance)).all():
        connection.execute(
            sa.update(provenance)
            .where(provenance.c.id == row.id)
            .values(commit=row.record.get("commit"))
        )
    op.create_index(op.f("ix_provenance_policy_number"), "provenance", ["policy", "number"])
    op.create_index(op.f("ix_provenance_commit"), "provenance", ["commit"])


def _serves() -> None:
    """Until now only the present was kept; what was confirmed or gone back to tells the past."""
    serves = op.create_table(
        "serves",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("policy", sa.String(length=120), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["policy", "number"],
            ["versions.policy", "versions.number"],
            name=op.f("fk_serves_policy_number"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_serves")),
    )
    op.create_index(op.f("ix_serves_policy_at"), "serves", ["policy", "at"])
    climbs = sa.table("climbs", *(sa.column(n) for n in ("policy", "number", "stage", "at")))
    audit = sa.table(
        "audit", sa.column("policy"), sa.column("action"), sa.column("at"),
        sa.column("detail", sa.JSON()),
    )  # fmt: skip
    connection = op.get_bind()
    past = [
        {"policy": row.policy, "number": row.number, "at": row.at}
        for row in connection.execute(sa.select(climbs).where(climbs.c.stage == "fleet"))
    ]
    past += [
        {"policy": row.policy, "number": row.detail["to"], "at": row.at}
        for row in connection.execute(sa.select(audit).where(audit.c.action == "rollback"))
    ]
    if past:
        op.bulk_insert(serves, sorted(past, key=lambda row: row["at"]))


def _audit_head() -> None:
    head = op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )
    audit = sa.table("audit", sa.column("seq"), sa.column("hash"))
    last = op.get_bind().execute(sa.select(audit).order_by(sa.desc(audit.c.seq)).limit(1)).first()
    op.bulk_insert(
        head, [{"id": 1, "seq": last.seq if last else 0, "hash": last.hash if last else "0" * 64}]
    )


def downgrade() -> None:
    raise NotImplementedError("the record only goes forward; restore a backup instead")
