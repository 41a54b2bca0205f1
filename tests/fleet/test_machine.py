"""What must always hold of a fleet, whatever happens in whatever order.

A state machine releases good and bad versions, promotes in and out of order, spoils links, kills
agents, lets time pass and lets people interfere, on the real registry, controller and agents.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from scripted_policies import POLICY, TASK
from world import CHEAP, Fleet

from registry.errors import PolicyctlError
from registry.interleave import side
from registry.rollouts import segment_salt
from registry.stages import Stage
from registry.verdicts import Outcome
from registry.versions import VersionRef

ROBOTS = 3
MOST_VERSIONS = 5
MEMORY = Path("/dev/shm")
"""Durability is tested elsewhere; here a disk would only be slow."""
NAMES = st.sampled_from([f"robot-{index:02d}" for index in range(1, ROBOTS + 1)])
WEATHERS = (
    "down",
    "lost_answers",
    "cut_reports",
    "double_reports",
    "replay_old_reports",
    "serve_old_documents",
)
CLIMBED = (Stage.CANARY, Stage.FLEET, Stage.ROLLED_BACK)


@contextmanager
def refusals(*statuses: int) -> Iterator[None]:
    """Saying no is an answer; that it was right to is the invariants' affair."""
    try:
        yield
    except PolicyctlError as refusal:
        if refusal.exit_status not in statuses:
            raise


class Road(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        drawn = itertools.count(1)
        self.draws = patch("secrets.token_hex", lambda size: f"{next(drawn):0{2 * size}x}")
        self.draws.start()  # the registry's nonces and salts: a failure has to come again
        self.place = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
        self.fleet = Fleet(Path(self.place.name), robots=ROBOTS, gate=CHEAP, on_rollout_only=True)
        self.told: dict[str, int] = {}
        self.heard: dict[str, int] = {}

    # Going forward

    @initialize(first=st.sampled_from([1.0, 0.9]), second=st.sampled_from([1.0, 0.3]))
    def a_fleet_at_work(self, first: float, second: float) -> None:
        """A first version on the fleet, a second in its canary."""
        served = self.fleet.release(first)
        for _ in range(60):
            if self.fleet.stage(served) is not Stage.CANARY:
                break
            self.fleet.round()
        with refusals(5):
            self.fleet.release(second)

    @rule(rate=st.sampled_from([1.0, 0.9, 0.3]), sim=st.booleans(), hil=st.booleans())
    def a_version_comes(self, rate: float, sim: bool, hil: bool) -> None:
        if len(self.fleet.registry.list_versions()) == MOST_VERSIONS:
            return
        ref = self.fleet.register(rate)
        if sim:
            self.fleet.judge_sim(ref)
        if hil:
            self.fleet.judge_hil(ref)

    @rule(number=st.integers(1, 5), queue=st.booleans())
    def someone_promotes(self, number: int, queue: bool) -> None:
        ref, gate = VersionRef(POLICY, number), self.fleet.gate
        with refusals(3, 4, 5, 6):
            self.fleet.registry.promote(ref, Stage.CANARY, gate, queue=queue)

    @rule(rounds=st.integers(1, 8))
    def the_fleet_works(self, rounds: int) -> None:
        for _ in range(rounds):
            self.fleet.round()

    @rule(robot=NAMES, rounds=st.integers(1, 5))
    def one_robot_works_ahead(self, robot: str, rounds: int) -> None:
        for _ in range(rounds):
            self.fleet.robots[robot].tick()

    # Interference

    @rule(act=st.sampled_from(["pause", "resume", "abort", "rollback", "rollback now"]))
    def someone_interferes(self, act: str) -> None:
        registry = self.fleet.registry
        acts = {
            "pause": lambda: registry.pause(POLICY),
            "resume": lambda: registry.resume(POLICY),
            "abort": lambda: registry.abort(POLICY, "a test"),
            "rollback": lambda: registry.rollback(POLICY, "a test"),
            "rollback now": lambda: registry.rollback(POLICY, "a test", now=True),
        }
        with refusals(5, 6):
            acts[act]()

    @rule(robot=NAMES, instant=st.sampled_from(["scene", "open", "end"]))
    def an_agent_will_be_killed(self, robot: str, instant: str) -> None:
        self.fleet.robots[robot].kill_at = instant

    @rule(robot=NAMES)
    def an_agent_restarts(self, robot: str) -> None:
        self.fleet.robots[robot].restart()

    @rule(robot=NAMES, bad=st.sets(st.sampled_from(WEATHERS)))
    def the_weather_changes(self, robot: str, bad: set[str]) -> None:
        for what in WEATHERS:
            setattr(self.fleet.robots[robot].weather, what, what in bad)

    @rule(hours=st.sampled_from([0.05, 2.0, 24.0 * 8]))
    def time_passes(self, hours: float) -> None:
        self.fleet.clock.passes(3600.0 * hours)
        self.fleet.control()

    # What always holds

    @invariant()
    def generations_only_rise(self) -> None:
        for name, robot in self.fleet.robots.items():
            document = self.fleet.registry.assignment(name)
            told = document.generation if document else 0
            heard = robot.supervisor.orders.generation
            assert told >= self.told.get(name, 0)
            assert told >= heard >= self.heard.get(name, 0)
            self.told[name], self.heard[name] = told, heard

    @invariant()
    def whoever_was_on_a_robot_passed_every_earlier_gate(self) -> None:
        registry = self.fleet.registry
        for version in registry.list_versions():
            if version.stage in CLIMBED or version.held_fleet:
                passed = {
                    record.verdict.gate
                    for record in registry.verdicts(version.ref)
                    if record.verdict.outcome is Outcome.PASS
                }
                needed = {"sim", "hil"} | ({"canary"} if version.held_fleet else set())
                assert needed <= passed

    def every_attempt_ran_what_its_blocks_hash_names(self) -> None:
        """Stored attempts never change, so this is asked once, at the end."""
        registry = self.fleet.registry
        for record in registry.rollouts():
            rollout, drawn = record.rollout, set()
            ratios = {
                found.index: Fraction(found.candidates_per_block, found.block)
                for found in registry.canary_evidence(rollout.id).segments
            }
            for report in registry.attempts(rollout=rollout.id):
                place = (report.robot, report.segment, report.stratum, report.index)
                assert place not in drawn, "a side was drawn twice"
                drawn.add(place)
                salt = segment_salt(rollout.salt, report.segment)
                ratio = ratios[report.segment]
                named = side(salt, report.robot, TASK, report.index, ratio)
                number = rollout.candidate if named == "candidate" else rollout.baseline
                assert (report.side, report.version) == (named, number)

    def teardown(self) -> None:
        """The weather clears: then every attempt that moved is stored once, as it really was."""
        for name, robot in self.fleet.robots.items():
            for what in WEATHERS:
                setattr(robot.weather, what, False)
            robot.kill_at = ""
            robot.restart()
            robot.tick()
            stored = self.fleet.registry.attempts(robot=name)
            seen = sorted((r.number, r.version, r.outcome) for r in stored)
            moved = [(ran.number, ran.version, ran.outcome) for ran in robot.ran]
            assert seen == moved
            assert [number for number, _, _ in seen] == list(range(1, len(seen) + 1))
        self.every_attempt_ran_what_its_blocks_hash_names()
        for record in self.fleet.registry.rollouts():
            event(f"a rollout ended {record.rollout.phase} in wave {record.rollout.wave}")
        self.fleet.close()
        self.place.cleanup()
        self.draws.stop()


Road.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow],
)
TestRoad = pytest.mark.slow(Road.TestCase)
