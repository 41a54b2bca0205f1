"""What the record answers with: frozen values, read from one snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from registry.evidence import Evidence, Subject, Tally
from registry.gates import Gate
from registry.rollouts import Rollout
from registry.stages import Stage
from registry.verdicts import Verdict
from registry.versions import Provenance, VersionRef


@dataclass(frozen=True)
class VersionRecord:
    """A version as it stands. `str()` is how every output names it: `box-grasp v12`."""

    policy: str
    number: int
    digest: str
    stage: Stage
    nonce: str  # drawn at registration; seeds the order of the simulation gate
    created_at: float
    created_by: str
    robot_class: str
    task: str
    held_fleet: bool = False
    serving: bool = False  # what the policy's robots run when no rollout says otherwise

    @property
    def ref(self) -> VersionRef:
        return VersionRef(self.policy, self.number)

    @property
    def subject(self) -> Subject:
        """The version as evidence names it."""
        return Subject(self.policy, self.number, self.digest)

    def __str__(self) -> str:
        return str(self.ref)


@dataclass(frozen=True)
class Search:
    """What versions must be like; what is left out does not matter."""

    policy: str | None = None
    commit: str | None = None  # a prefix of it
    digest: str | None = None  # a prefix of its hex digits, with or without `sha256:`
    tag: str | None = None
    stage: Stage | None = None


@dataclass(frozen=True)
class FleetThen:
    """What was in the fleet at one moment: `serving` and the version that each robot was told."""

    policy: str
    serving: int | None
    stages: Mapping[int, Stage]
    robots: Mapping[str, tuple[int, ...]]  # candidate first where there was one


@dataclass(frozen=True)
class Registration:
    """What `register` did: `created` is False when these bytes already had a number."""

    version: VersionRecord
    created: bool
    written: int = 0  # bytes that the store lacked


@dataclass(frozen=True)
class ProvenanceRecord:
    at: float
    actor: str
    provenance: Provenance


@dataclass(frozen=True)
class VerdictRecord:
    """A verdict with all it was computed from, so that anyone can compute it again."""

    ref: VersionRef
    gate: Gate
    evidence: Evidence
    verdict: Verdict
    artifacts: Mapping[str, str]
    at: float
    actor: str
    id: int = 0  # its row


@dataclass(frozen=True)
class StatementRecord:
    """A signed statement as the ledger holds it; whether it is believed is asked each time."""

    kind: str  # "registration" | "verdict"
    verdict: int | None  # the row of the verdict it is about
    envelope: Mapping[str, Any]
    at: float
    actor: str


@dataclass(frozen=True)
class RolloutRecord:
    """A rollout and the revision that a change of it must name."""

    rollout: Rollout
    revision: int
    opened_at: float
    updated_at: float

    @property
    def id(self) -> str:
        return self.rollout.id


@dataclass(frozen=True)
class RobotRecord:
    """A robot, what it was last told to run (`assigned*`) and what it last said (`running` …)."""

    name: str
    robot_class: str
    policy: str | None
    info: Mapping[str, Any]
    enrolled_at: float
    last_seen: float | None = None
    running: int | None = None
    generation: int = 0
    status: Mapping[str, Any] = field(default_factory=dict)
    assigned_generation: int = 0
    assigned_candidate: int | None = None
    assigned_baseline: int | None = None

    @property
    def up_to_date(self) -> bool:
        """True when the robot says that it runs under its newest assignment."""
        return self.generation >= self.assigned_generation


@dataclass(frozen=True)
class CanaryBlock:
    """One complete block, in the order in which blocks were completed."""

    segment: int
    candidates_per_block: int
    block: int
    stratum: str
    candidate: Tally
    baseline: Tally
    completed_at: float


@dataclass(frozen=True)
class Lease:
    """The right to move a station's arm until `expires_at`; a newer lease has a higher token."""

    station: str
    holder: str
    token: int
    expires_at: float
