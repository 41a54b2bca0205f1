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
from functools import partial
from pathlib import Path
from typing import Any

from registry.assignments import Assignment
from registry.attempts import AttemptReport
from registry.backends import open_blobs, open_ledger, open_mirror, settings_of
from registry.blobs.folder import FolderBlobs
from registry.blobs.tensors import Progress
from registry.bundle import Sign, write_bundle
from registry.evidence import CanaryEvidence, Evidence
from registry.gates import CanaryGate, Gate, Gates
from registry.home import Home, no_registry
from registry.ports import BlobStore, Clock, Ledger, SystemClock
from registry.record import audit
from registry.record.actors import Actor
from registry.record.approving import Approving
from registry.record.attempts import Attempts
from registry.record.audit import AuditEvent, Head
from registry.record.begun import traces
from registry.record.collection import GRACE_S, Collected, Collector
from registry.record.desk import Desk
from registry.record.episodes import Episodes
from registry.record.going_back import GoingBack
from registry.record.healing import Healer, Health
from registry.record.leases import Leases
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
from registry.record.past import fleet_at
from registry.record.promotion import Promotion
from registry.record.registration import Check, Registrar
from registry.record.robots import Robots
from registry.record.rollouts import Advanced, Rollouts
from registry.record.verdicts import Verdicts
from registry.record.versions import Versions
from registry.rollouts import TERMINAL, Abort, Event, Pause, Resume
from registry.stages import Stage
from registry.trust.authority import Trust, open_trust
from registry.trust.keyring import PublicKey
from registry.trust.opening import FOLDER, HomeApprovals
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
    def __init__(
        self,
        ledger: Ledger,
        blobs: BlobStore,
        clock: Clock,
        actor: Actor,
        cache: FolderBlobs | None = None,
        mirror: BlobStore | None = None,
        *,
        archives: bool = True,
        trust: Trust | None = None,
        approvals: HomeApprovals | None = None,
    ) -> None:
        self.actor = actor
        self.blobs = blobs
        self._ledger = ledger
        desk = Desk(ledger, blobs, clock, actor, cache, trust)
        self.trust = trust
        self._versions = Versions(desk)
        self._registrar = Registrar(desk, self._versions, archives=archives)
        self._collector = Collector(desk)
        self._healer = Healer(desk, self._versions, mirror)
        self._verdicts = Verdicts(desk, self._versions)
        self._episodes = Episodes(desk)
        self._robots = Robots(desk)
        self._attempts = Attempts(desk)
        self._rollouts = Rollouts(desk, self._versions, self._verdicts, self._robots)
        self._promotion = Promotion(desk, self._versions, self._rollouts, approvals)
        self._approving = Approving(desk, self._versions, self._rollouts, approvals)
        self._going_back = GoingBack(desk, self._versions, self._robots, self._rollouts)
        self._leases = Leases(desk)

    @staticmethod
    def open(
        home: Home, actor: Actor, *, clock: Clock | None = None, create: bool = True
    ) -> Registry:
        """The registry of a home on this machine, made if need be and `create` allows it."""
        if not home.exists and not create:
            raise no_registry(home.root)
        home.make()
        blobs = open_blobs(home)
        cache = None if isinstance(blobs, FolderBlobs) else FolderBlobs(home.cache / "blobs")
        mirror = open_mirror(home)
        clock = clock or SystemClock()
        approvals = HomeApprovals(home.root, clock)
        ledger = open_ledger(home)
        return Registry(
            ledger,
            blobs,
            clock,
            actor,
            cache,
            mirror,
            archives=settings_of(home).archives != "forbid",
            trust=open_trust(home.root / FOLDER, approvals, partial(traces, ledger)),
            approvals=approvals,
        )

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
        return self._registrar.register(
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
        self._registrar.add_provenance(ref, origin)

    def list_versions(self, policy: str | None = None) -> list[VersionRecord]:
        """All versions, of one policy if named, by policy and number."""
        return self._versions.find(Search(policy))

    def find_versions(self, search: Search, newest: int | None = None) -> list[VersionRecord]:
        """See `Versions.find`."""
        return self._versions.find(search, newest)

    def count_versions(self, search: Search) -> int:
        return self._versions.count(search)

    def version(self, ref: VersionRef) -> VersionRecord:
        return self._versions.get(ref)

    def resolve(self, ref: VersionRef) -> VersionRef:
        return self._versions.resolve(ref)

    def only_policy(self) -> str:
        """The one policy there is. Raises UsageError with the candidates, or NotFound."""
        return self._versions.only_policy()

    def knows(self, policy: str) -> bool:
        """Whether a policy has any version."""
        return self._versions.count(Search(policy)) > 0

    def manifest(self, ref: VersionRef) -> Manifest:
        return self._versions.manifest(ref)

    def provenance(self, ref: VersionRef) -> list[ProvenanceRecord]:
        return self._versions.provenance(ref)

    def tag(self, ref: VersionRef, tag: str) -> VersionRecord:
        return self._versions.tag(ref, tag)

    def untag(self, ref: VersionRef, tag: str) -> VersionRecord:
        return self._versions.untag(ref, tag)

    def tags(self, ref: VersionRef) -> list[str]:
        return self._versions.tags(ref)

    def materialize(self, ref: VersionRef, target: Path) -> Path:
        return self._versions.materialize(ref, target)

    def verify(self, ref: VersionRef) -> list[str]:
        """What is wrong with a version; an empty list when nothing is."""
        return self._verdicts.verify(ref)

    def doubts(self, ref: VersionRef) -> list[str]:
        """What is wrong with what the record says of a version; its files are not looked at."""
        return self._verdicts.doubts(ref)

    def check_files(self, refs: list[VersionRef], progress: Progress | None = None) -> Health:
        """See `Healer.check`."""
        return self._healer.check(refs, progress)

    def check_whole(self, ref: VersionRef) -> list[str]:
        return self._healer.check_whole(ref)

    def collect(
        self,
        grace_s: float = GRACE_S,
        release_after_s: float | None = None,
        *,
        dry_run: bool = False,
    ) -> Collected:
        """Removes blobs that nothing needs. See `registry.record.collection`."""
        return self._collector.collect(grace_s, release_after_s, dry_run=dry_run)

    def released_at(self, ref: VersionRef) -> float | None:
        return self._versions.released_at(ref)

    def export(
        self,
        ref: VersionRef,
        target: Path,
        sign: Sign | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Writes a version as a bundle; its bytes. See `registry.bundle`."""
        self._versions.require_files(ref)
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
        return self._verdicts.record(ref, gate, evidence, verdict, artifacts)

    def verdicts(self, ref: VersionRef) -> list[VerdictRecord]:
        return self._verdicts.of(ref)

    def statements(self, ref: VersionRef) -> list[StatementRecord]:
        """What was signed about a version; `doubts` says whether it holds."""
        return self._verdicts.statements(ref)

    def cached_result(self, key: str) -> dict[str, Any] | None:
        return self._verdicts.cached_result(key)

    def store_result(self, key: str, result: Mapping[str, Any]) -> None:
        self._verdicts.store_result(key, result)

    def episodes(self, key: str) -> dict[int, dict[str, Any]]:
        """Simulated episodes kept under a key, by number. See `Episodes`."""
        return self._episodes.of(key)

    def keep_episodes(self, key: str, rows: Mapping[int, Mapping[str, Any]]) -> None:
        self._episodes.keep(key, rows)

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
        return self._promotion.promote(
            ref, stage, gate, override, reason, queue=queue, dry_run=dry_run
        )

    def rollouts(
        self,
        policy: str | None = None,
        open_only: bool = False,
        candidate: int | None = None,
    ) -> list[RolloutRecord]:
        return self._rollouts.all(policy, open_only, candidate)

    def rollout(self, identity: str) -> RolloutRecord:
        return self._rollouts.get(identity)

    def advance(
        self, identity: str, expected_revision: int | None, event: Event, now: float | None = None
    ) -> Advanced:
        done = self._rollouts.advance(identity, expected_revision, event, now)
        if done[0].rollout.phase in TERMINAL:
            self._approving.withdraw_ended(done[0].rollout.policy)
        return done

    def pause(self, policy: str, reason: str = "") -> RolloutRecord:
        return self._rollouts.act(policy, "stop", Pause(reason), "pause")

    def resume(self, policy: str) -> RolloutRecord:
        return self._rollouts.act(policy, "resume", Resume(), "resume")

    def abort(self, policy: str, reason: str, *, now: bool = False) -> RolloutRecord:
        """`now`: running episodes of the candidate stop at once."""
        aborted = self._rollouts.act(policy, "stop", Abort(reason, now), "abort")
        self._approving.withdraw_ended(policy)
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
        target = self._going_back.rollback(policy, reason, to, now=now, dry_run=dry_run)
        if not dry_run:
            self._approving.withdraw_ended(policy)
        return target

    def serving(self, policy: str) -> int | None:
        return self._rollouts.serving(policy)

    # Trust

    @property
    def approvals(self) -> HomeApprovals:
        """This home's approvals; `on` says whether trust is set up."""
        return self._approving.home

    def published(self, path: str) -> bytes:
        """A trust file that robots may read. Raises NotFound. See `registry.trust.repository`."""
        return self._approving.home.published(path)

    def note_trust(
        self, action: str, subject: str, detail: Mapping[str, Any] | None = None
    ) -> None:
        self._approving.note(action, subject, detail)

    def approvable(self) -> dict[VersionRef, tuple[bytes, dict[str, str]]]:
        """See `Approving.approvable`."""
        return self._approving.approvable()

    def keep_trust(self) -> list[str]:
        """See `Approving.keep`; and the keyring that robots are shown is this home's."""
        waits = self._approving.keep()  # first: robots go on being told what is fresh
        self.settle_keyring()
        return waits

    def settle_keyring(self) -> bool:
        """See `registry.trust.publishing`."""
        from registry.trust.files import TrustFolder
        from registry.trust.publishing import Publishing

        return Publishing(TrustFolder(self.approvals.folder), self.approvals).settle()

    # Fleet

    def enrol_robot(
        self,
        name: str,
        robot_class: str,
        info: Mapping[str, Any] | None = None,
        key: PublicKey | None = None,
    ) -> RobotRecord:
        return self._robots.enrol(name, robot_class, info or {}, key)

    def robots(self) -> list[RobotRecord]:
        return self._robots.all()

    def assignment(self, robot: str) -> Assignment | None:
        return self._robots.assignment(robot)

    def renew_assignments(self) -> int:
        """See `Robots.renew`."""
        return self._robots.renew()

    def heartbeat(
        self, robot: str, running: int | None, generation: int, status: Mapping[str, Any]
    ) -> None:
        self._robots.heartbeat(robot, running, generation, status)

    def ingest(self, robot: str, reports: Sequence[AttemptReport]) -> int:
        return self._attempts.ingest(robot, reports)

    def attempts(
        self,
        policy: str | None = None,
        version: int | None = None,
        rollout: str | None = None,
        robot: str | None = None,
    ) -> list[AttemptReport]:
        return self._attempts.all(policy, version, rollout, robot)

    def canary_evidence(self, rollout: str) -> CanaryEvidence:
        return self._attempts.canary_evidence(rollout)

    def canary_blocks(self, rollout: str) -> list[CanaryBlock]:
        return self._attempts.canary_blocks(rollout)

    # Stations

    def acquire_lease(self, station: str, holder: str, ttl_s: float) -> Lease:
        return self._leases.acquire(station, holder, ttl_s)

    def renew_lease(self, lease: Lease, ttl_s: float) -> Lease:
        return self._leases.renew(lease, ttl_s)

    def release_lease(self, lease: Lease) -> None:
        self._leases.release(lease)

    def lease(self, station: str) -> Lease | None:
        return self._leases.current(station)

    # History

    def history(self, policy: str) -> list[AuditEvent]:
        """What was changed of a policy, oldest first."""
        with self._ledger.read() as connection:
            return list(audit.events(connection, policy))

    def audit_log(self) -> list[AuditEvent]:
        with self._ledger.read() as connection:
            return list(audit.events(connection))

    def fleet_at(self, when: float, policy: str | None = None) -> list[FleetThen]:
        """What was in the fleet at a moment of the past [s since the epoch], by policy."""
        with self._ledger.read() as connection:
            return fleet_at(connection, when, policy)

    def verify_audit(self, known: Head | None = None) -> Head:
        """Recomputes the audit's hash chain and returns its newest event. Raises Corrupt.

        With trust it is also held against the head that the keyring was begun with.
        """
        if self.trust is not None and (since := self.trust.since):
            with self._ledger.read() as connection:
                audit.check_chain(connection, Head.parse(since))
        with self._ledger.read() as connection:
            return audit.check_chain(connection, known)

    def audit_head(self) -> Head:
        """`verify_audit` on the chain alone: what a new keyring begins with."""
        with self._ledger.read() as connection:
            return audit.check_chain(connection)

    def check_audit(self) -> int:
        """How many audit events hold. Raises Corrupt."""
        return self.verify_audit().seq
