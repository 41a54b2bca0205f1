"""The record's one writer: whoever changes anything does it here, with the reason why.

`Registry` is a facade over the parts in `registry.record`; a remote client offers the same methods.
Rules:
1. A change is one serialised transaction: all of it is on the disk when the call returns, or none.
2. Every change is in the audit (who, when, why) except telemetry: heartbeats and attempts.
3. The actor's role is asked first: NotAllowed before anything is read.
4. Reads see one consistent snapshot and change nothing.
Times are seconds since the epoch by the registry's clock; `now` arguments are for tests and replay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from registry.assignments import Assignment
from registry.attempts import AttemptReport
from registry.blobs.tensors import Progress
from registry.blobs.transfer import Coming
from registry.bundle import Sign, write_bundle
from registry.evidence import CanaryEvidence, Evidence
from registry.gates import CanaryGate, Gate, Gates
from registry.home import Home
from registry.opening import open_parts
from registry.ports import Clock
from registry.record.actors import Actor
from registry.record.audit import AuditEvent, Head
from registry.record.collection import GRACE_S, Collected
from registry.record.healing import Health
from registry.record.model import (
    CanaryBlock,
    FleetThen,
    Lease,
    ProvenanceRecord,
    Registration,
    RobotRecord,
    RolloutRecord,
    Search,
    StatementRecord,
    VerdictRecord,
    VersionRecord,
)
from registry.record.parts import Parts
from registry.record.promotion import Approvable
from registry.record.registration import Check
from registry.record.rollouts import Advanced
from registry.rollouts import TERMINAL, Abort, Event, Pause, Resume
from registry.stages import Stage
from registry.trust.files import TrustFolder
from registry.trust.home_approvals import HomeApprovals
from registry.trust.keyring import PublicKey
from registry.verdicts import Verdict
from registry.versions import Manifest, Provenance, VersionRef

__all__ = [
    "Actor",
    "AuditEvent",
    "CanaryBlock",
    "Lease",
    "Registration",
    "Registry",
    "RobotRecord",
    "RolloutRecord",
    "VerdictRecord",
    "VersionRecord",
]


class Registry:
    def __init__(self, parts: Parts) -> None:
        self.actor = parts.desk.actor
        self.blobs = parts.desk.blobs
        self.trust = parts.desk.trust
        self._ledger = parts.desk.ledger
        self._parts = parts

    @staticmethod
    def open(
        home: Home, actor: Actor, *, clock: Clock | None = None, create: bool = True
    ) -> Registry:
        """The registry of a home on this machine, made if need be and `create` allows it."""
        return Registry(open_parts(home, actor, clock, create=create))

    def close(self) -> None:
        self._ledger.close()

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Versions

    def register(
        self,
        folder: Path,
        policy: str,
        provenance: Provenance | None = None,
        *,
        environment: str = "",
        check: Check | None = None,
        base: VersionRef | None = None,
        expect: Manifest | None = None,
        progress: Progress | None = None,
    ) -> Registration:
        """See `Registrar.register`."""
        return self._parts.registrar.register(
            folder,
            policy,
            provenance or Provenance(),
            environment,
            check=check,
            base=base,
            expect=expect,
            progress=progress,
        )

    def add_provenance(self, ref: VersionRef, origin: Provenance) -> None:
        """See `Registrar.add_provenance`."""
        self._parts.registrar.add_provenance(ref, origin)

    def list_versions(self, policy: str | None = None) -> list[VersionRecord]:
        """All versions, of one policy if named, by policy and number."""
        return self._parts.versions.find(Search(policy))

    def find_versions(self, search: Search, newest: int | None = None) -> list[VersionRecord]:
        """See `Versions.find`."""
        return self._parts.versions.find(search, newest)

    def count_versions(self, search: Search) -> int:
        return self._parts.versions.count(search)

    def version(self, ref: VersionRef) -> VersionRecord:
        return self._parts.versions.get(ref)

    def resolve(self, ref: VersionRef) -> VersionRef:
        return self._parts.versions.resolve(ref)

    def only_policy(self) -> str:
        """The one policy there is. Raises UsageError with the candidates, or NotFound."""
        return self._parts.versions.only_policy()

    def knows(self, policy: str) -> bool:
        """Whether a policy has any version."""
        return self._parts.versions.count(Search(policy)) > 0

    def require_policy(self, policy: str) -> None:
        """Raises NotFound, with the policies that there are."""
        self._parts.versions.require_policy(policy)

    def manifest(self, ref: VersionRef) -> Manifest:
        return self._parts.versions.manifest(ref)

    def provenance(self, ref: VersionRef) -> list[ProvenanceRecord]:
        return self._parts.versions.provenance(ref)

    def tag(self, ref: VersionRef, tag: str) -> VersionRecord:
        return self._parts.versions.tag(ref, tag)

    def untag(self, ref: VersionRef, tag: str) -> VersionRecord:
        return self._parts.versions.untag(ref, tag)

    def tags(self, ref: VersionRef) -> list[str]:
        return self._parts.versions.tags(ref)

    def materialize(self, ref: VersionRef, target: Path, progress: Coming | None = None) -> Path:
        return self._parts.versions.materialize(ref, target, progress)

    def verify(self, ref: VersionRef) -> list[str]:
        """What is wrong with a version; an empty list when nothing is."""
        return self._parts.verdicts.verify(ref)

    def doubts(self, ref: VersionRef) -> list[str]:
        """What is wrong with what the record says of a version; its files are not looked at."""
        return self._parts.verdicts.doubts(ref)

    def check_files(
        self,
        refs: list[VersionRef],
        progress: Progress | None = None,
        *,
        everything: bool = False,
    ) -> Health:
        """See `Healer.check`."""
        return self._parts.healer.check(refs, progress, everything=everything)

    def check_whole(self, ref: VersionRef) -> list[str]:
        return self._parts.healer.check_whole(ref)

    def collect(
        self,
        grace_s: float = GRACE_S,
        release_after_s: float | None = None,
        *,
        dry_run: bool = False,
    ) -> Collected:
        """Removes blobs that nothing needs. See `registry.record.collection`."""
        return self._parts.collector.collect(grace_s, release_after_s, dry_run=dry_run)

    def released_at(self, ref: VersionRef) -> float | None:
        return self._parts.versions.released_at(ref)

    def export(
        self,
        ref: VersionRef,
        target: Path,
        sign: Sign | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Writes a version as a bundle; its bytes. See `registry.bundle`."""
        self._parts.versions.require_files(ref)
        provenance = [one.provenance for one in self.provenance(ref)]
        return write_bundle(target, self.blobs, self.manifest(ref), provenance, sign, progress)

    def read_blob(self, digest: str) -> bytes:
        return self.blobs.read(digest)

    # Verdicts and results

    def record_verdict(
        self,
        ref: VersionRef,
        gate: Gate,
        evidence: Evidence,
        verdict: Verdict,
        artifacts: Mapping[str, str] | None = None,
    ) -> VersionRecord:
        return self._parts.verdicts.record(ref, gate, evidence, verdict, artifacts)

    def verdicts(self, ref: VersionRef) -> list[VerdictRecord]:
        return self._parts.verdicts.of(ref)

    def statements(self, ref: VersionRef) -> list[StatementRecord]:
        """What was signed about a version; `doubts` says whether it holds."""
        return self._parts.verdicts.statements(ref)

    def cached_result(self, key: str) -> dict[str, Any] | None:
        return self._parts.verdicts.cached_result(key)

    def store_result(self, key: str, result: Mapping[str, Any]) -> None:
        self._parts.verdicts.store_result(key, result)

    def episodes(self, key: str) -> dict[int, dict[str, Any]]:
        """Simulated episodes kept under a key, by number. See `Episodes`."""
        return self._parts.episodes.of(key)

    def keep_episodes(self, key: str, rows: Mapping[int, Mapping[str, Any]]) -> None:
        self._parts.episodes.keep(key, rows)

    # Rollouts

    def promote(
        self,
        ref: VersionRef,
        stage: Stage,
        gate: CanaryGate | Gates | None = None,
        override: str | None = None,
        reason: str | None = None,
        *,
        queue: bool = False,
        dry_run: bool = False,
    ) -> RolloutRecord | None:
        return self._parts.promotion.promote(
            ref, stage, gate, override, reason, queue=queue, dry_run=dry_run
        )

    def rollouts(
        self,
        policy: str | None = None,
        open_only: bool = False,
        candidate: int | None = None,
    ) -> list[RolloutRecord]:
        return self._parts.rollouts.all(policy, open_only, candidate)

    def rollout(self, identity: str) -> RolloutRecord:
        return self._parts.rollouts.get(identity)

    def advance(
        self, identity: str, expected_revision: int | None, event: Event, now: float | None = None
    ) -> Advanced:
        done = self._parts.advancing.advance(identity, expected_revision, event, now)
        if done[0].rollout.phase in TERMINAL:
            self._parts.approving.withdraw_ended(done[0].rollout.policy)
        return done

    def pause(self, policy: str, reason: str = "") -> RolloutRecord:
        return self._parts.rollouts.act(policy, "stop", Pause(reason), "pause")

    def resume(self, policy: str) -> RolloutRecord:
        return self._parts.rollouts.act(policy, "resume", Resume(), "resume")

    def abort(self, policy: str, reason: str, *, now: bool = False) -> RolloutRecord:
        """`now`: running episodes of the candidate stop at once."""
        aborted = self._parts.rollouts.act(policy, "stop", Abort(reason, now), "abort")
        self._parts.approving.withdraw_ended(policy)
        return aborted

    def rollback(
        self,
        policy: str,
        reason: str,
        to: int | None = None,
        *,
        now: bool = False,
        dry_run: bool = False,
    ) -> VersionRecord:
        target = self._parts.going_back.rollback(policy, reason, to, now=now, dry_run=dry_run)
        if not dry_run:
            self._parts.approving.withdraw_ended(policy)
        return target

    def serving(self, policy: str) -> int | None:
        return self._parts.rollouts.serving(policy)

    # Trust

    @property
    def approvals(self) -> HomeApprovals:
        """This home's approvals; `on` says whether trust is set up."""
        return self._parts.approving.home

    @property
    def trust_folder(self) -> TrustFolder:
        """The files of this home's trust, also before any are there."""
        return self._parts.approving.folder

    def published(self, path: str) -> bytes:
        """A trust file that robots may read. Raises NotFound. See `registry.trust.repository`."""
        return self._parts.approving.home.published(path)

    def note_trust(
        self, action: str, subject: str, detail: Mapping[str, Any] | None = None
    ) -> None:
        self._parts.approving.note(action, subject, detail)

    def approvable(self) -> dict[VersionRef, Approvable]:
        """See `Approving.approvable`."""
        return self._parts.approving.approvable()

    def keep_trust(self) -> list[str]:
        """See `Approving.keep`; and the keyring that robots are shown is this home's."""
        waits = self._parts.approving.keep()  # first: robots go on being told what is fresh
        self.settle_keyring()
        return waits

    def settle_keyring(self) -> bool:
        """See `registry.trust.publishing`."""
        return self._parts.approving.settle_keyring()

    # Fleet

    def enrol_robot(
        self,
        name: str,
        robot_class: str,
        info: Mapping[str, Any] | None = None,
        key: PublicKey | None = None,
    ) -> RobotRecord:
        return self._parts.robots.enrol(name, robot_class, info or {}, key)

    def robots(self) -> list[RobotRecord]:
        return self._parts.robots.all()

    def assignment(self, robot: str) -> Assignment | None:
        return self._parts.robots.assignment(robot)

    def renew_assignments(self) -> int:
        """See `Robots.renew`."""
        return self._parts.robots.renew()

    def heartbeat(
        self, robot: str, running: int | None, generation: int, status: Mapping[str, Any]
    ) -> None:
        self._parts.robots.heartbeat(robot, running, generation, status)

    def ingest(self, robot: str, reports: Sequence[AttemptReport]) -> int:
        return self._parts.attempts.ingest(robot, reports)

    def attempts(
        self,
        policy: str | None = None,
        rollout: str | None = None,
        robot: str | None = None,
    ) -> list[AttemptReport]:
        return self._parts.attempts.all(policy, rollout, robot)

    def canary_evidence(self, rollout: str) -> CanaryEvidence:
        return self._parts.attempts.canary_evidence(rollout)

    def canary_blocks(self, rollout: str) -> list[CanaryBlock]:
        return self._parts.attempts.canary_blocks(rollout)

    # Stations

    def acquire_lease(self, station: str, holder: str, ttl_s: float) -> Lease:
        return self._parts.leases.acquire(station, holder, ttl_s)

    def renew_lease(self, lease: Lease, ttl_s: float) -> Lease:
        return self._parts.leases.renew(lease, ttl_s)

    def release_lease(self, lease: Lease) -> None:
        self._parts.leases.release(lease)

    def lease(self, station: str) -> Lease | None:
        return self._parts.leases.current(station)

    # History

    def history(self, policy: str) -> list[AuditEvent]:
        """What was changed of a policy, oldest first."""
        return self._parts.history.events(policy)

    def audit_log(self) -> list[AuditEvent]:
        return self._parts.history.events()

    def fleet_at(self, when: float, policy: str | None = None) -> list[FleetThen]:
        return self._parts.history.fleet_at(when, policy)

    def verify_audit(self, known: Head | None = None) -> Head:
        """See `History.verify`."""
        return self._parts.history.verify(known)

    def audit_doubts(self) -> list[str]:
        """See `History.doubts`."""
        return self._parts.history.doubts()

    def audit_head(self) -> Head:
        """See `History.check_chain`."""
        return self._parts.history.check_chain()
