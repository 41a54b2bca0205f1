"""The outside, simulated: clock, links and robots that lie, crash and reorder.

One module serves every test that needs a fleet (`control_plane.py` is a registry in memory, for one
agent). The agents, spools, updaters, the registry and
the controller in it are the real ones; scripted are only the physics (an attempt succeeds with the
rate written in the checkpoint), time, and what goes wrong:

- `Weather` spoils one robot's link on request: down, answers lost after the request was carried
  out, reports cut short, doubled, replayed late or refused, old documents served again, bytes
  corrupted.
- `Killed` is a kill -9 at a named instant of an attempt; the robot's next agent starts on whatever
  the dead one left on disk.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from scripted_policies import (
    POLICY,
    ROBOT_CLASS,
    TASK,
    ScriptedPolicy,
    load_scripted,
    write_checkpoint,
)
from trusted import Keys

from fleet.agent.admission import Admission
from fleet.agent.choice import Work
from fleet.agent.identity import Identity
from fleet.agent.link import Link, LocalLink, OutOfContact
from fleet.agent.spool import Result, Spool
from fleet.agent.supervisor import Supervisor
from fleet.agent.updater import Ready, Updater
from fleet.controller import Controller
from registry.assignments import Assignment
from registry.attempts import AttemptReport
from registry.errors import Refused
from registry.evidence import GridEvidence, Subject, TrialEvidence
from registry.gates import CanaryGate, GridGate, TrialGate, Weights
from registry.home import Home
from registry.service import Actor, Registry
from registry.stages import Stage
from registry.statistics.grid import order_digest
from registry.verdicts import judge
from registry.versions import Provenance, VersionRef, digest_bytes


class Clock:
    """Time that passes when told to; Unix seconds and monotonic seconds alike."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def passes(self, seconds: float) -> None:
        self._now += seconds


class Killed(BaseException):
    """The agent's process ends here, without a word."""


# -- what goes wrong -------------------------------------------------------------------------------


@dataclass
class Weather:
    """What is wrong with one link now. `random` decides cuts and replays, by its seed."""

    down: bool = False
    lost_answers: bool = False
    cut_reports: bool = False
    double_reports: bool = False
    replay_old_reports: bool = False
    refuse_reports: bool = False
    serve_old_documents: bool = False
    corrupt: set[str] = field(default_factory=set)
    trust_files: dict[str, bytes] = field(default_factory=dict)  # served instead of the real ones
    random: random.Random = field(default_factory=lambda: random.Random(0))


class SpoiledLink:
    """A link through the weather."""

    def __init__(self, inner: Link, weather: Weather) -> None:
        self.inner = inner
        self.weather = weather
        self._documents: list[Assignment] = []
        self._batches: list[list[AttemptReport]] = []

    def assignment(self, robot: str) -> Assignment | None:
        self._must_be_up()
        document = self.inner.assignment(robot)
        if document is not None and document not in self._documents:
            self._documents.append(document)
        self._may_lose_the_answer()
        if self.weather.serve_old_documents and self._documents:
            return self.weather.random.choice(self._documents)
        return document

    def fetch(self, digest: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        self._must_be_up()
        for piece in self.inner.fetch(digest, start, length):
            if digest in self.weather.corrupt:
                yield bytes([piece[0] ^ 1]) + piece[1:]
            else:
                yield piece

    def published(self, path: str) -> Iterator[bytes]:
        self._must_be_up()
        if path in self.weather.trust_files:
            yield self.weather.trust_files[path]
            return
        yield from self.inner.published(path)

    def report(self, robot: str, attempts: Sequence[AttemptReport]) -> int:
        self._must_be_up()
        batch = list(attempts)
        if self.weather.refuse_reports and batch:
            raise Refused("a closed attempt differs", evidence=f"attempt {batch[0].number}")
        if self.weather.cut_reports and batch:
            batch = batch[: self.weather.random.randint(0, len(batch) - 1)]
        stored = self.inner.report(robot, batch)
        if self.weather.double_reports:
            stored = self.inner.report(robot, batch)
        if self.weather.replay_old_reports and self._batches:
            self.inner.report(robot, self.weather.random.choice(self._batches))
        if batch:
            self._batches.append(batch)
        self._may_lose_the_answer()
        return stored

    def heartbeat(
        self, robot: str, running: int | None, generation: int, status: Mapping[str, Any]
    ) -> None:
        self._must_be_up()
        self.inner.heartbeat(robot, running, generation, status)

    def _must_be_up(self) -> None:
        if self.weather.down:
            raise OutOfContact("the registry was not reached", evidence="the link is down")

    def _may_lose_the_answer(self) -> None:
        if self.weather.lost_answers:
            raise OutOfContact("the answer was lost", evidence="the link was cut")


# -- robots ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """An attempt that really moved: what the world saw, whatever was reported later."""

    number: int
    version: int
    rate: float
    outcome: str


class Robot:
    """A scripted robot: a real agent whose runtime tosses a coin instead of moving an arm.

    `kill_at` names the instant at which the next attempt's agent dies: "scene" (before the attempt
    is opened), "open" (after), "end" (moved, not yet closed). `before` is called on the way to each
    attempt, `during` in the middle of it.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        link: Link,
        clock: Clock,
        *,
        seed: int = 0,
        identity: Identity | None = None,
        **work: Any,
    ) -> None:
        self.name = name
        self.clock = clock
        self.identity = identity or Identity(folder / name)
        self.weather = Weather(random=random.Random(seed))
        self.link = SpoiledLink(link, self.weather)
        self.kill_at = ""
        self.before: Callable[[], None] | None = None
        self.during: Callable[[], None] | None = None
        self.ran: list[Ran] = []
        self._folder = folder / name
        self._work = {"poll_s": 1.0, "heartbeat_s": 0.0} | work
        self._coin = np.random.default_rng([seed, *hashlib.sha256(name.encode()).digest()])
        self.start()

    def start(self) -> None:
        """A new agent on what is on disk."""
        self.spool = Spool(self._folder / "spool.db", self.name)
        self.updater = Updater(
            self._folder / "versions",
            self.link,
            ROBOT_CLASS,
            load=load_scripted,
            admission=Admission(self._folder / "trust", self.link, self.clock),
        )
        self.supervisor = Supervisor(
            Work(robot=self.name, task=TASK, judge="coin/1", stratum=TASK, **self._work),
            self.link,
            self.spool,
            self.updater,
            self._run,
            now=self.clock.now,
            monotonic=self.clock.now,
            identity=self.identity,
        )

    def die(self) -> None:
        """What a kill leaves: the files as they are, the lock gone with the process."""
        self.spool.close_file()

    def restart(self) -> None:
        self.die()
        self.start()

    def tick(self) -> bool:
        """One round of the agent; a kill during it starts the next agent."""
        try:
            return self.supervisor.tick()
        except Killed:
            self.kill_at = ""
            self.restart()
            return True

    def _run(
        self,
        ready: Ready,
        open_attempt: Callable[[Mapping[str, Any]], None],
        should_stop: Callable[[], str | None],
    ) -> Result | None:
        policy = ready.policy
        assert isinstance(policy, ScriptedPolicy)
        self._die_if("scene")
        if self.before is not None:
            self.before()
        if should_stop():
            return None
        open_attempt({"coin": True})
        outcome = "success" if self._coin.random() < policy.rate else "failure"
        lost = self.kill_at in ("open", "end")
        number = self.spool.last_number
        self.ran.append(Ran(number, ready.version, policy.rate, "failure" if lost else outcome))
        self._die_if("open")
        self.clock.passes(1.0)
        if self.during is not None:
            self.during()
        stopped = should_stop()
        self._die_if("end")
        if stopped:
            self.ran[-1] = Ran(number, ready.version, policy.rate, "failure")
            return Result("failure", stopped, duration_s=1.0, steps=50)
        mode = "" if outcome == "success" else "miss_grasp"
        return Result(outcome, mode, duration_s=8.0, steps=400)

    def _die_if(self, instant: str) -> None:
        if self.kill_at == instant:
            raise Killed(instant)


# -- the whole fleet -------------------------------------------------------------------------------

CHEAP = CanaryGate(
    ratio=Fraction(1, 2),
    waves=(50, 100),
    wave_baseline=Fraction(1, 4),
    bake_episodes=12,
    max_candidate_episodes=200,
    weights=Weights(history=(99.0, 1.0)),
)
"""A canary gate that decides soon, as the demo's does."""


class Fleet:
    """A real registry and controller, and scripted robots that talk to it through the weather."""

    def __init__(
        self,
        folder: Path,
        robots: int = 12,
        gate: CanaryGate = CHEAP,
        seed: int = 0,
        trust: bool = False,
        **work: Any,
    ) -> None:
        self.folder = folder
        self.gate = gate
        self.clock = Clock()
        self.keys = Keys(Home(folder / "home")) if trust else None
        self.registry = Registry.open(
            Home(folder / "home"), Actor("world"), create=True, clock=self.clock
        )
        self.said: list[str] = []
        self.controller = Controller(self.registry, self.said.append)
        self.robots = {}
        for index in range(1, robots + 1):
            name = f"robot-{index:02d}"
            identity = Identity(folder / name)
            key = identity.make_key() if trust else None
            self.registry.enrol_robot(name, ROBOT_CLASS.name, {"role": "robot"}, key)
            if self.keys is not None:
                identity.believe(self.keys.keyring)
            link = LocalLink(self.registry)
            self.robots[name] = Robot(name, folder, link, self.clock, seed=seed, **work)

    def register(self, rate: float) -> VersionRef:
        """A new version that succeeds with `rate`; nothing is known of it yet."""
        count = len(self.registry.list_versions(POLICY))
        made = write_checkpoint(self.folder / f"made-{count + 1}", rate, load_s=1.0 + count)
        return self.registry.register(made, POLICY, Provenance()).version.ref

    def judge_sim(self, ref: VersionRef, rate: float = 1.0) -> None:
        judge_sim(self.registry, ref, rate)

    def judge_hil(self, ref: VersionRef, success: int = 20, failure: int = 0) -> None:
        judge_hil(self.registry, ref, success, failure)

    def release(self, rate: float) -> VersionRef:
        """A version that has passed simulation and hardware in the loop, in its canary."""
        ref = self.register(rate)
        self.judge_sim(ref)
        self.judge_hil(ref)
        self.registry.promote(ref, Stage.CANARY, self.gate)
        return ref

    def round(self) -> None:
        """Every robot one round, then the controller."""
        for robot in self.robots.values():
            robot.tick()
        self.control()
        self.clock.passes(1.0)

    def control(self) -> None:
        self.controller.reconcile(self.clock.now())

    def rounds_until(self, done: Callable[[], bool], limit: int = 200) -> int:
        """Rounds until `done`; fails when that takes more than `limit`."""
        for count in range(limit):
            if done():
                return count
            self.round()
        raise AssertionError(f"not done after {limit} rounds: {self.said[-5:]}")

    def stage(self, ref: VersionRef) -> Stage:
        return self.registry.version(ref).stage

    def running(self) -> set[int | None]:
        return {robot.running for robot in self.registry.robots()}

    def close(self) -> None:
        for robot in self.robots.values():
            robot.die()
        self.registry.close()


def judge_sim(registry: Registry, ref: VersionRef, rate: float = 1.0) -> None:
    """Simulation has drawn a whole small grid with `rate`."""
    gate = GridGate(TASK, {"friction": (0.5, 1.0)}, episodes_per_cell=50)
    nonce = registry.version(ref).nonce
    evidence = GridEvidence(
        **_about(registry, ref, gate),
        population=gate.population,
        drawn=gate.population,
        successes=round(rate * gate.population),
        nonce=nonce,
        order_digest=order_digest(nonce, gate.population),
    )
    registry.record_verdict(ref, gate, evidence, judge(gate, evidence))


def judge_hil(registry: Registry, ref: VersionRef, success: int = 20, failure: int = 0) -> None:
    """The lab's robot has tried it."""
    gate = TrialGate("hil/lift.yaml")
    evidence = TrialEvidence(**_about(registry, ref, gate), success=success, failure=failure)
    registry.record_verdict(ref, gate, evidence, judge(gate, evidence))


def _about(registry: Registry, ref: VersionRef, gate: GridGate | TrialGate) -> dict[str, Any]:
    assert ref.policy is not None
    return {
        "subject": Subject(ref.policy, ref.number, registry.version(ref).digest),
        "gate_digest": gate.digest,
        "robot_class": ROBOT_CLASS.name,
        "engine": "world",
        "judge": "coin/1",
        "attempts_digest": digest_bytes(b""),
    }
