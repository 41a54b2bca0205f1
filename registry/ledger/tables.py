"""The tables of the record. `migrations/` builds them; a test holds both to the same shape.

- Rows of `versions`, `provenance`, `climbs`, `serves`, `verdicts`, `statements`, `assignments`,
  `attempts` and `audit` are only ever added; the stage of a version, a rollout and a policy's
  serving version change under a rising `revision`. Triggers refuse any change to `audit`.
- `claims` and `marks` keep gc from removing what somebody is about to need; `releases` are versions
  whose files a retention rule gave up.
- `statements` are what publishers and runners signed; `renewals` each robot's newest assignment as
  it was last signed. (Rows of `assignments` hold a signature where an older program wrote them.)
- `heartbeats`, `renewals` and `attempts` are telemetry: rows of their own, no audit. `results` and
  `episodes` are caches: their first row under a key stays, no audit.
- Times are seconds since the epoch, UTC.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


def _of_version() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["policy", "number"], ["versions.policy", "versions.number"])


policies = Table(
    "policies",
    metadata,
    Column("name", String(120), primary_key=True),
    Column("next_number", Integer, nullable=False),
    Column("serving", Integer),
    Column("revision", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("policy", String(120), ForeignKey("policies.name"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(71), nullable=False),
    Column("manifest", Text, nullable=False),
    Column("nonce", String(64), nullable=False),
    Column("stage", String(20), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("created_by", String(120), nullable=False),
    Column("robot_class", String(120), nullable=False),
    Column("task", String(120), nullable=False),
    UniqueConstraint("policy", "digest"),
    Index(None, "digest"),
    Index(None, "created_at"),
)

tags = Table(
    "tags",
    metadata,
    Column("policy", String(120), primary_key=True),
    Column("tag", String(80), primary_key=True),
    Column("number", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("actor", String(120), nullable=False),
    _of_version(),
    Index(None, "policy", "number"),
)

provenance = Table(
    "provenance",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("policy", String(120), nullable=False),
    Column("number", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("actor", String(120), nullable=False),
    Column("record", JSON, nullable=False),
    Column("commit", String(120)),
    _of_version(),
    Index(None, "policy", "number"),
    Index(None, "commit"),
)

climbs = Table(
    "climbs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("policy", String(120), nullable=False),
    Column("number", Integer, nullable=False),
    Column("stage", String(20), nullable=False),
    Column("at", Float, nullable=False),
    Column("actor", String(120), nullable=False),
    Column("reason", Text, nullable=False),
    Column("rollout", String(40)),
    _of_version(),
    Index(None, "policy", "number"),
)

serves = Table(
    "serves",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("policy", String(120), nullable=False),
    Column("number", Integer, nullable=False),
    Column("at", Float, nullable=False),
    _of_version(),
    Index(None, "policy", "at"),
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("policy", String(120), nullable=False),
    Column("number", Integer, nullable=False),
    Column("gate", String(20), nullable=False),
    Column("outcome", String(20), nullable=False),
    Column("gate_spec", JSON, nullable=False),
    Column("evidence", JSON, nullable=False),
    Column("verdict", JSON, nullable=False),
    Column("artifacts", JSON, nullable=False),
    Column("at", Float, nullable=False),
    Column("actor", String(120), nullable=False),
    _of_version(),
    Index(None, "policy", "number"),
)

statements = Table(
    "statements",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("policy", String(120), nullable=False),
    Column("number", Integer, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("verdict", Integer, ForeignKey("verdicts.id")),
    Column("digest", String(71), nullable=False),
    Column("envelope", JSON, nullable=False),
    Column("at", Float, nullable=False),
    Column("actor", String(120), nullable=False),
    _of_version(),
    UniqueConstraint("policy", "number", "digest"),
    Index(None, "verdict"),
)

results = Table(
    "results",
    metadata,
    Column("key", Text, primary_key=True),
    Column("result", JSON, nullable=False),
    Column("at", Float, nullable=False),
)

episodes = Table(
    "episodes",
    metadata,
    Column("key", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("row", JSON, nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("policy", String(120), ForeignKey("policies.name"), nullable=False),
    Column("candidate", Integer, nullable=False),
    Column("baseline", Integer),
    Column("phase", String(20), nullable=False),
    Column("is_open", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("state", JSON, nullable=False),
    Column("opened_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Index(
        "uq_rollouts_open",
        "policy",
        unique=True,
        sqlite_where=text("is_open = 1"),
        postgresql_where=text("is_open = 1"),
    ),
)

robots = Table(
    "robots",
    metadata,
    Column("name", String(120), primary_key=True),
    Column("robot_class", String(120), nullable=False),
    Column("policy", String(120)),
    Column("info", JSON, nullable=False),
    Column("enrolled_at", Float, nullable=False),
)

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("robot", String(120), ForeignKey("robots.name"), primary_key=True),
    Column("at", Float, nullable=False),
    Column("running", Integer),
    Column("generation", Integer, nullable=False),
    Column("status", JSON, nullable=False),
)

assignments = Table(
    "assignments",
    metadata,
    Column("robot", String(120), ForeignKey("robots.name"), primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("policy", String(120), ForeignKey("policies.name"), nullable=False),
    Column("rollout", String(40), ForeignKey("rollouts.id")),
    Column("candidate", Integer),
    Column("baseline", Integer),
    Column("segment", Integer, nullable=False),
    Column("ratio", String(40), nullable=False),
    Column("issued_at", Float, nullable=False),
    Column("document", JSON, nullable=False),
    Column("envelope", JSON(none_as_null=True)),
    Index(None, "policy", "generation"),
    Index(None, "rollout"),
)

renewals = Table(
    "renewals",
    metadata,
    Column("robot", String(120), ForeignKey("robots.name"), primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("document", JSON, nullable=False),
    Column("envelope", JSON, nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    Column("robot", String(120), ForeignKey("robots.name"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("policy", String(120), nullable=False),
    Column("version", Integer, nullable=False),
    Column("side", String(20), nullable=False),
    Column("rollout", String(40)),
    Column("generation", Integer, nullable=False),
    Column("segment", Integer, nullable=False),
    Column("stratum", Text, nullable=False),
    Column("index", Integer, nullable=False),
    Column("outcome", String(20), nullable=False),
    Column("received_at", Float, nullable=False),
    Column("report", JSON, nullable=False),
    Column("envelope", JSON(none_as_null=True)),
    Index(None, "policy", "version"),
    # An index is drawn once: a second attempt at the same place of a block is a re-draw.
    Index(
        "uq_attempts_draw",
        "rollout",
        "segment",
        "robot",
        "stratum",
        "index",
        unique=True,
        sqlite_where=text("side != 'only'"),
        postgresql_where=text("side != 'only'"),
    ),
)

leases = Table(
    "leases",
    metadata,
    Column("station", String(120), primary_key=True),
    Column("token", Integer, nullable=False),
    Column("holder", String(120), nullable=False),
    Column("expires_at", Float, nullable=False),
)

claims = Table(
    "claims",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("actor", String(120), nullable=False),
    Column("expires_at", Float, nullable=False),
)

marks = Table(
    "marks",
    metadata,
    Column("digest", String(71), primary_key=True),
    Column("at", Float, nullable=False),
)

releases = Table(
    "releases",
    metadata,
    Column("policy", String(120), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    _of_version(),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("actor", String(120), nullable=False),
    Column("role", String(20), nullable=False),
    Column("action", String(40), nullable=False),
    Column("policy", String(120)),
    Column("subject", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", JSON, nullable=False),
    Column("hash", String(64), nullable=False),
    Index(None, "policy"),
    # asked at each opening of a home without a trust folder; holds next to nothing
    Index(
        "ix_audit_trust_init",
        "seq",
        sqlite_where=text("action = 'trust_init'"),
        postgresql_where=text("action = 'trust_init'"),
    ),
)

audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", Integer, nullable=False),
    Column("hash", String(64), nullable=False),
)
