"""The first shape of the record."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

IMMUTABLE = ("audit",)


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("actor", sa.String(length=120), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("action", sa.String(length=40), nullable=False),
        sa.Column("policy", sa.String(length=120), nullable=True),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_policy"), "audit", ["policy"], unique=False)
    op.create_table(
        "leases",
        sa.Column("station", sa.String(length=120), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("holder", sa.String(length=120), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("station", name=op.f("pk_leases")),
    )
    op.create_table(
        "policies",
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("next_number", sa.Integer(), nullable=False),
        sa.Column("serving", sa.Integer(), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_policies")),
    )
    op.create_table(
        "results",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_results")),
    )
    op.create_table(
        "robots",
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("robot_class", sa.String(length=120), nullable=False),
        sa.Column("policy", sa.String(length=120), nullable=True),
        sa.Column("info", sa.JSON(), nullable=False),
        sa.Column("enrolled_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_robots")),
    )
    op.create_table(
        "attempts",
        sa.Column("robot", sa.String(length=120), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("policy", sa.String(length=120), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("side", sa.String(length=20), nullable=False),
        sa.Column("rollout", sa.String(length=40), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("segment", sa.Integer(), nullable=False),
        sa.Column("stratum", sa.Text(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(length=20), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["robot"], ["robots.name"], name=op.f("fk_attempts_robot")),
        sa.PrimaryKeyConstraint("robot", "number", name=op.f("pk_attempts")),
    )
    op.create_index(
        op.f("ix_attempts_policy_version"), "attempts", ["policy", "version"], unique=False
    )
    op.create_index(
        "uq_attempts_draw",
        "attempts",
        ["rollout", "segment", "robot", "stratum", "index"],
        unique=True,
        sqlite_where=sa.text("side != 'only'"),
        postgresql_where=sa.text("side != 'only'"),
    )
    op.create_table(
        "heartbeats",
        sa.Column("robot", sa.String(length=120), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("running", sa.Integer(), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("status", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["robot"], ["robots.name"], name=op.f("fk_heartbeats_robot")),
        sa.PrimaryKeyConstraint("robot", name=op.f("pk_heartbeats")),
    )
    op.create_table(
        "rollouts",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("policy", sa.String(length=120), nullable=False),
        sa.Column("candidate", sa.Integer(), nullable=False),
        sa.Column("baseline", sa.Integer(), nullable=True),
        sa.Column("phase", sa.String(length=20), nullable=False),
        sa.Column("is_open", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.Column("opened_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["policy"], ["policies.name"], name=op.f("fk_rollouts_policy")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollouts")),
    )
    op.create_index(
        "uq_rollouts_open",
        "rollouts",
        ["policy"],
        unique=True,
        sqlite_where=sa.text("is_open = 1"),
        postgresql_where=sa.text("is_open = 1"),
    )
    op.create_table(
        "versions",
        sa.Column("policy", sa.String(length=120), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("nonce", sa.String(length=64), nullable=False),
        sa.Column("stage", sa.String(length=20), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(length=120), nullable=False),
        sa.ForeignKeyConstraint(["policy"], ["policies.name"], name=op.f("fk_versions_policy")),
        sa.PrimaryKeyConstraint("policy", "number", name=op.f("pk_versions")),
        sa.UniqueConstraint("policy", "digest", name=op.f("uq_versions_policy_digest")),
    )
    op.create_table(
        "assignments",
        sa.Column("robot", sa.String(length=120), nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("policy", sa.String(length=120), nullable=False),
        sa.Column("rollout", sa.String(length=40), nullable=True),
        sa.Column("candidate", sa.Integer(), nullable=True),
        sa.Column("baseline", sa.Integer(), nullable=True),
        sa.Column("segment", sa.Integer(), nullable=False),
        sa.Column("ratio", sa.String(length=40), nullable=False),
        sa.Column("issued_at", sa.Float(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["policy"], ["policies.name"], name=op.f("fk_assignments_policy")),
        sa.ForeignKeyConstraint(["robot"], ["robots.name"], name=op.f("fk_assignments_robot")),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name=op.f("fk_assignments_rollout")),
        sa.PrimaryKeyConstraint("robot", "generation", name=op.f("pk_assignments")),
    )
    op.create_index(
        op.f("ix_assignments_policy_generation"),
        "assignments",
        ["policy", "generation"],
        unique=False,
    )
    op.create_index(op.f("ix_assignments_rollout"), "assignments", ["rollout"], unique=False)
    op.create_table(
        "climbs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("policy", sa.String(length=120), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(length=20), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("actor", sa.String(length=120), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("rollout", sa.String(length=40), nullable=True),
        sa.ForeignKeyConstraint(
            ["policy", "number"],
            ["versions.policy", "versions.number"],
            name=op.f("fk_climbs_policy_number"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_climbs")),
    )
    op.create_table(
        "provenance",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("policy", sa.String(length=120), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("actor", sa.String(length=120), nullable=False),
        sa.Column("record", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["policy", "number"],
            ["versions.policy", "versions.number"],
            name=op.f("fk_provenance_policy_number"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_provenance")),
    )
    op.create_table(
        "verdicts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("policy", sa.String(length=120), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("gate", sa.String(length=20), nullable=False),
        sa.Column("outcome", sa.String(length=20), nullable=False),
        sa.Column("gate_spec", sa.JSON(), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("verdict", sa.JSON(), nullable=False),
        sa.Column("artifacts", sa.JSON(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("actor", sa.String(length=120), nullable=False),
        sa.ForeignKeyConstraint(
            ["policy", "number"],
            ["versions.policy", "versions.number"],
            name=op.f("fk_verdicts_policy_number"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_verdicts")),
    )
    op.create_index(
        op.f("ix_verdicts_policy_number"), "verdicts", ["policy", "number"], unique=False
    )
    for table in IMMUTABLE:
        append_only(table)


def append_only(table: str) -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{table} is append-only' "
            "USING ERRCODE = 'integrity_constraint_violation'; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()"
        )
        return
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )


def downgrade() -> None:
    raise NotImplementedError("the record only goes forward; restore a backup instead")
