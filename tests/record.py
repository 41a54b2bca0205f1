"""A registry on real files for tests: checkpoints, gates that decide soon, robots that draw lots.

Everything is the real record; only attempts are drawn (an attempt of version n succeeds with
`rates[n]`), and time passes when told to.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from trusted import Keys

from registry.assignments import Assignment
from registry.attempts import AttemptReport
from registry.backends import Settings, write_settings
from registry.evidence import GridEvidence, Subject, TrialEvidence
from registry.gates import CanaryGate, Gates, GridGate, TrialGate
from registry.home import Home
from registry.interleave import side
from registry.record.actors import Actor
from registry.rollouts import Observed, step
from registry.service import Registry, RolloutRecord
from registry.stages import Stage
from registry.statistics.grid import order_digest
from registry.trust.documents import seal_attempt
from registry.verdicts import judge
from registry.versions import Provenance, VersionRef, digest_bytes

POLICY = "box-grasp"
CLASS = "openarm-v2-right"
SIM = GridGate("box-grasp", {"friction": (0.5, 1.0)}, episodes_per_cell=50)
SUITE = "suite: lift\n"
HIL = TrialGate("hil/lift.yaml", suite_digest=digest_bytes(SUITE.encode()))
CANARY = CanaryGate(
    ratio=Fraction(1, 2), waves=(50, 100), wave_baseline=Fraction(1, 4), bake_episodes=12
)
GATES = Gates(SIM, HIL, CANARY)


class FakeClock:
    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self.time = start

    def now(self) -> float:
        return self.time


def write_safetensors(path: Path, seed: int) -> None:
    """A file of two numbers whose header accounts for every byte."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<2f", seed, 0.5))


def write_files(folder: Path, seed: int) -> Path:
    """The smallest checkpoint that the record takes; no policy loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "policy.safetensors", seed)
    (folder / "contract.json").write_text(json.dumps({"robot_class": CLASS, "task": "box-grasp"}))
    return folder


class Record:
    """A registry under `folder`, with robots and versions on request."""

    def __init__(
        self,
        folder: Path,
        robots: int = 0,
        role: str = "admin",
        seed: int = 0,
        database: str | None = None,
        trust: bool = False,
    ) -> None:
        self.folder = folder
        self.home = Home(folder / "home")
        write_settings(self.home, Settings(database=database))
        self.clock = FakeClock()
        self.keys = Keys(self.home) if trust else None
        self.registry = Registry.open(self.home, Actor("tester", role), clock=self.clock)
        self.random = random.Random(seed)
        self._numbers: dict[str, int] = {}
        self._indices: dict[tuple[str, str], int] = {}
        for index in range(1, robots + 1):
            self.enrol(f"robot-{index:02d}")

    def enrol(self, name: str) -> None:
        key = self.keys.of_robot(name) if self.keys else None
        self.registry.enrol_robot(name, CLASS, {"role": "robot"}, key)

    def as_role(self, role: str) -> Registry:
        return Registry.open(self.home, Actor(f"a {role}", role), clock=self.clock)

    def register(self, seed: int | None = None, policy: str = POLICY) -> VersionRef:
        seed = len(self.registry.list_versions()) + 1 if seed is None else seed
        folder = write_files(self.folder / f"checkpoint-{seed}", seed)
        return self.registry.register(folder, policy, Provenance(commit=f"c{seed}")).version.ref

    def evidence(self, ref: VersionRef, gate: GridGate | TrialGate, **counts: Any) -> Any:
        version = self.registry.version(ref)
        about: dict[str, Any] = {
            "subject": Subject(version.policy, version.number, version.digest),
            "gate_digest": gate.digest,
            "robot_class": CLASS,
            "engine": "drawn",
            "judge": "lot/1",
            "attempts_digest": digest_bytes(b""),
        }
        if isinstance(gate, TrialGate):
            return TrialEvidence(**about, **counts)
        total = gate.population
        return GridEvidence(
            **about, **counts, population=total, drawn=total,
            nonce=version.nonce, order_digest=order_digest(version.nonce, total),
        )  # fmt: skip

    def sim(self, ref: VersionRef, successes: int = 100) -> None:
        found = self.evidence(ref, SIM, successes=successes)
        self.registry.record_verdict(ref, SIM, found, judge(SIM, found))

    def hil(self, ref: VersionRef, success: int = 20, failure: int = 0) -> None:
        found = self.evidence(ref, HIL, success=success, failure=failure)
        self.registry.record_verdict(ref, HIL, found, judge(HIL, found))

    def ready(self) -> VersionRef:
        """A new version that has passed simulation and hardware in the loop."""
        ref = self.register()
        self.sim(ref)
        self.hil(ref)
        return ref

    def promote(self, ref: VersionRef, **options: Any) -> RolloutRecord:
        done = self.registry.promote(ref, Stage.CANARY, GATES, **options)
        assert done is not None
        return done

    def next_report(self, robot: str, outcome: str, **changes: Any) -> AttemptReport | None:
        """The attempt that `robot` runs next under its assignment; None where it runs none."""
        told = self.registry.assignment(robot)
        return None if told is None else self._next(told, outcome, changes)

    def _next(
        self, told: Assignment, outcome: str, changes: Mapping[str, Any]
    ) -> AttemptReport | None:
        if told.candidate is None:
            return None
        index = self._indices.get((told.robot, told.salt), 0)
        drawn = side(told.salt, told.robot, "lift", index, told.fraction)
        version = told.candidate if drawn == "candidate" else told.baseline
        fields: dict[str, Any] = {
            "robot": told.robot,
            "number": self._numbers.get(told.robot, 0) + 1,
            "policy": told.policy,
            "version": version,
            "side": drawn,
            "generation": told.generation,
            "segment": told.segment,
            "stratum": "lift",
            "index": index,
            "task": "box-grasp",
            "outcome": outcome,
            "judge": "lot/1",
            "terms": told.terms,
        }
        return self.sealed(AttemptReport(**fields | changes))

    def sealed(self, report: AttemptReport) -> AttemptReport:
        """The report as its robot hands it over."""
        if self.keys is None:
            return report
        return seal_attempt(report, self.keys.robot(report.robot))

    def ask(self, robot: str, challenge: object) -> None:
        """A heartbeat that wants its order signed once more."""
        self.registry.heartbeat(robot, None, 0, {"challenge": challenge})

    def attempt(self, robot: str, outcome: str, **changes: Any) -> AttemptReport | None:
        """Runs and reports the next attempt."""
        told = self.registry.assignment(robot)
        report = None if told is None else self._next(told, outcome, changes)
        if told is not None and report is not None:
            self._report(told, report)
        return report

    def _report(self, told: Assignment, report: AttemptReport) -> None:
        assert self.registry.ingest(told.robot, [report]) == report.number
        self._numbers[told.robot] = report.number
        self._indices[told.robot, told.salt] = report.index + 1

    def round(self, rates: Mapping[int, float]) -> None:
        """Every robot that takes part runs one attempt."""
        for robot in self.registry.robots():
            told = self.registry.assignment(robot.name)
            seen = None if told is None else self._next(told, "success", {})
            if told is not None and seen is not None:
                good = self.random.random() < rates[seen.version]
                done = seen if good else self._next(told, "failure", {})
                assert done is not None
                self._report(told, done)

    def observe(self, identity: str) -> RolloutRecord:
        """What the controller does: snapshot, verdict, and a step where that leads to one."""
        record = self.registry.rollout(identity)
        evidence = self.registry.canary_evidence(identity)
        event = Observed(evidence, judge(record.rollout.gate, evidence))
        if step(record.rollout, event, self.clock.now()) == (record.rollout, ()):
            return record
        return self.registry.advance(identity, record.revision, event)[0]

    def play(self, identity: str, rates: Mapping[int, float], rounds: int = 400) -> RolloutRecord:
        """Rounds until the rollout ends or asks a person."""
        record = self.registry.rollout(identity)
        for _ in range(rounds):
            if str(record.rollout.phase) in ("done", "rolled_back", "aborted", "holding"):
                return record
            self.round(rates)
            record = self.observe(identity)
        raise AssertionError(f"no end after {rounds} rounds: {record.rollout.phase}")

    def to_fleet(self, rate: float = 1.0) -> VersionRef:
        """A version that has travelled the whole road."""
        ref = self.ready()
        serving = self.registry.serving(POLICY)
        rates = {ref.number: rate} | ({serving: rate} if serving else {})
        assert str(self.play(self.promote(ref).id, rates).rollout.phase) == "done"
        return ref

    def told(self) -> set[tuple[int | None, int | None]]:
        """What robots are told to run: pairs of candidate and baseline."""
        return {(r.assigned_candidate, r.assigned_baseline) for r in self.registry.robots()}


def keys_of(record: Record) -> Keys:
    """The keys of a record with trust."""
    assert record.keys is not None
    return record.keys
