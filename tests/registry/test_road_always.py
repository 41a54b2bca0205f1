"""What always holds of a record, whatever people, robots and the controller do."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from record import POLICY, Record

from registry.errors import (
    PolicyctlError,
)
from registry.stages import Stage
from registry.verdicts import Outcome
from registry.versions import VersionRef


class Road(RuleBasedStateMachine):
    """Whatever people, robots and the controller do, in whatever order."""

    @initialize()
    def open(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.record = Record(Path(self.folder.name), robots=5)
        self.generations: dict[str, int] = {}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.record.registry.close()
            self.folder.cleanup()

    def _any(self, data: st.DataObject) -> VersionRef:
        return data.draw(st.sampled_from([v.ref for v in self.record.registry.list_versions()]))

    def _has_versions(self) -> bool:
        return bool(self.record.registry.list_versions())

    @rule()
    def register(self) -> None:
        self.record.register()

    @precondition(_has_versions)
    @rule(data=st.data(), successes=st.sampled_from([40, 100]))
    def sim(self, data: st.DataObject, successes: int) -> None:
        self.record.sim(self._any(data), successes)

    @precondition(_has_versions)
    @rule(data=st.data(), failure=st.sampled_from([0, 0, 10]))
    def hil(self, data: st.DataObject, failure: int) -> None:
        self.record.hil(self._any(data), 20 if not failure else 2, failure)

    @rule()
    def prepare(self) -> None:
        self.record.ready()

    @precondition(_has_versions)
    @rule(data=st.data(), override=st.booleans(), queue=st.booleans())
    def promote(self, data: st.DataObject, override: bool, queue: bool) -> None:
        self._try(
            lambda: self.record.promote(
                self._any(data), override="try again" if override else None, queue=queue
            )
        )

    @rule(good=st.sampled_from([0.3, 1.0]), rounds=st.integers(1, 8))
    def run(self, good: float, rounds: int) -> None:
        rates = {v.number: good for v in self.record.registry.list_versions()}
        for _ in range(rounds):
            self.record.round(rates)
        for open_one in self.record.registry.rollouts(open_only=True):
            if open_one.rollout.open:
                self.record.observe(open_one.id)

    @rule(which=st.sampled_from(["pause", "resume", "abort", "rollback"]))
    def person(self, which: str) -> None:
        registry = self.record.registry
        self._try(
            {
                "pause": lambda: registry.pause(POLICY, "why"),
                "resume": lambda: registry.resume(POLICY),
                "abort": lambda: registry.abort(POLICY, "why"),
                "rollback": lambda: registry.rollback(POLICY, "why"),
            }[which]
        )

    def _try(self, act: Any) -> None:
        audit = self.record.registry.verify_audit().seq
        refusal = None
        try:
            act()
        except PolicyctlError as error:
            refusal = error
        if refusal is not None:
            assert refusal.exit_status in (3, 4, 5, 6)
            assert self.record.registry.verify_audit().seq == audit, "a refusal changed the record"

    @invariant()
    def a_promoted_version_has_passed_every_earlier_gate(self) -> None:
        if not hasattr(self, "record"):
            return
        for version in self.record.registry.list_versions():
            if version.stage in (Stage.CANARY, Stage.FLEET, Stage.ROLLED_BACK):
                passed = {
                    one.verdict.gate
                    for one in self.record.registry.verdicts(version.ref)
                    if one.verdict.outcome is Outcome.PASS
                }
                assert {"sim", "hil"} <= passed
                if version.stage is Stage.FLEET:
                    assert "canary" in passed

    @invariant()
    def generations_only_rise_and_one_rollout_is_open(self) -> None:
        if not hasattr(self, "record"):
            return
        for robot in self.record.registry.robots():
            assert robot.assigned_generation >= self.generations.get(robot.name, 0)
            self.generations[robot.name] = robot.assigned_generation
        rollouts = self.record.registry.rollouts()
        assert sum(one.rollout.open for one in rollouts) <= 1

    @invariant()
    def every_attempt_ran_the_version_of_its_side(self) -> None:
        if not hasattr(self, "record"):
            return
        for one in self.record.registry.rollouts():
            numbers = {"candidate": one.rollout.candidate, "baseline": one.rollout.baseline}
            for report in self.record.registry.attempts(rollout=one.id):
                assert report.version == numbers[report.side]


Road.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=20,
    suppress_health_check=list(HealthCheck),
)
TestRoad = pytest.mark.slow(Road.TestCase)
