"""A fleet of scripted robots, a real registry and a real controller: the last part of the road."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted_policies import POLICY
from world import Fleet

from fleet.controller import Controller
from fleet.stopping import Stop
from registry.errors import Conflict, Corrupt, NotFound
from registry.evidence import CanaryEvidence
from registry.rollouts import Phase
from registry.service import Registry, RolloutRecord
from registry.stages import Stage
from registry.versions import VersionRef

pytestmark = pytest.mark.slow


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path, robots=12, on_rollout_only=True)
    yield made
    made.close()


def phase(fleet: Fleet, ref: VersionRef) -> Phase:
    found = [r.rollout for r in fleet.registry.rollouts() if r.rollout.candidate == ref.number]
    return found[-1].phase


def settle(fleet: Fleet, ref: VersionRef, end: Phase) -> int:
    return fleet.rounds_until(lambda: phase(fleet, ref) is end)


def test_the_road_of_a_fleet(fleet: Fleet) -> None:
    """First version alone, a bad one caught and rolled back, a good one promoted, then by hand."""
    good = fleet.release(1.0)
    settle(fleet, good, Phase.DONE)
    fleet.round()
    assert fleet.running() == {1}

    bad = fleet.release(0.4)
    exposed = fleet.registry.rollouts()[-1].rollout.cohort
    assert len(exposed) == 4
    settle(fleet, bad, Phase.ROLLED_BACK)
    fetched = {robot.name: robot.updater.fetches for robot in fleet.robots.values()}
    fleet.round()
    assert fleet.stage(bad) is Stage.ROLLED_BACK
    assert fleet.running() == {1}
    for robot in fleet.robots.values():
        assert robot.updater.fetches == fetched[robot.name], "going back downloads nothing"
        if robot.name not in exposed:
            assert bad.number not in {ran.version for ran in robot.ran}

    better = fleet.release(0.99)
    settle(fleet, better, Phase.DONE)
    fleet.round()
    assert fleet.stage(better) is Stage.FLEET
    assert fleet.running() == {3}

    fetched = {robot.name: robot.updater.fetches for robot in fleet.robots.values()}
    target = fleet.registry.rollback(POLICY, "a complaint from the shop floor")
    fleet.round()
    assert target.number == 1
    assert fleet.running() == {1}
    assert {robot.name: robot.updater.fetches for robot in fleet.robots.values()} == fetched


CONTROLLER = """
import os, signal, sys
from pathlib import Path
from fleet.controller import Controller
from fleet.stopping import stop_on_signals
from registry.home import Home
from registry.record.rollouts import Rollouts
from registry.service import Actor, Registry

def die():
    os.kill(os.getpid(), signal.SIGKILL)

instant, registry = sys.argv[2], Registry.open(Home(Path(sys.argv[1])), Actor("c", "controller"))
advance, obey, commands = registry.advance, Rollouts._obey, 0

def killed_around(*words):
    if instant == "before":
        die()
    advance(*words)
    die()

def killed_inside(*words):
    global commands
    commands += 1
    if commands == 3:
        die()
    obey(*words)

if instant == "inside":
    Rollouts._obey = killed_inside
elif instant != "never":
    registry.advance = killed_around
with stop_on_signals() as stop:
    print("controlling", flush=True)
    Controller(registry, lambda line: print(line, flush=True)).loop(stop, 0.05)
"""


def start_controller(fleet: Fleet, instant: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, str(fleet.folder / "home"), instant],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("instant", ["before", "inside", "after"])
def test_a_controller_killed_mid_decision_leaves_a_whole_record_for_the_next(
    tmp_path: Path, instant: str
) -> None:
    """A real process, really killed around and inside the transaction that rolls back."""
    fleet = Fleet(tmp_path, robots=4, on_rollout_only=True)
    settle(fleet, fleet.release(1.0), Phase.DONE)
    bad = fleet.release(0.1)
    for _ in range(12):
        for robot in fleet.robots.values():
            robot.tick()
    generations = {r.assigned_generation for r in fleet.registry.robots()}

    killed = start_controller(fleet, instant)
    assert killed.wait(60) == -signal.SIGKILL
    decided = instant == "after"
    assert (phase(fleet, bad) is Phase.ROLLED_BACK) == decided
    assert ({r.assigned_generation for r in fleet.registry.robots()} == generations) != decided
    assert fleet.registry.verify_audit().seq > 0

    fleet.round()  # the next controller, in this process
    fleet.round()
    assert phase(fleet, bad) is Phase.ROLLED_BACK
    assert fleet.stage(bad) is Stage.ROLLED_BACK
    assert fleet.running() == {1}
    assert {r.assigned_generation for r in fleet.registry.robots()} == {max(generations) + 1}
    fleet.close()


def test_a_controller_ends_when_told_to(fleet: Fleet) -> None:
    process = start_controller(fleet, "never")
    assert process.stdout is not None
    assert process.stdout.readline() == "controlling\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


class Stale:
    """A registry whose list of rollouts is from before another controller decided."""

    def __init__(self, registry: Registry, rollouts: list[RolloutRecord]) -> None:
        self._registry = registry
        self._rollouts = rollouts

    def rollouts(self, open_only: bool = False) -> list[RolloutRecord]:
        return self._rollouts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)


@pytest.mark.parametrize("now", [False, True])
def test_a_first_versions_running_episode_is_stopped_by_abort_now(fleet: Fleet, now: bool) -> None:
    """It has no baseline to go back to; without --now its episode finishes."""
    fleet.release(1.0)
    name = fleet.registry.rollouts()[-1].rollout.cohort[0]
    robot = fleet.robots[name]
    robot.during = lambda: fleet.registry.abort(POLICY, "it shakes", now=now)
    robot.tick()
    (attempt,) = fleet.registry.attempts(rollout=fleet.registry.rollouts()[-1].id)
    ended = ("failure", "stopped") if now else ("success", "")
    assert (attempt.outcome, attempt.failure_mode) == ended
    assert not robot.tick(), "and it stands still"


def test_two_controllers_decide_once(fleet: Fleet) -> None:
    """The second one's decision was on an older revision: Conflict, and the next round goes on."""
    settle(fleet, fleet.release(1.0), Phase.DONE)
    bad = fleet.release(0.1)
    for _ in range(12):
        for robot in fleet.robots.values():
            robot.tick()
    stale = fleet.registry.rollouts(open_only=True)
    assert fleet.controller.reconcile(fleet.clock.now()) == 1
    events = len(fleet.registry.audit_log())

    late = Controller(Stale(fleet.registry, stale), fleet.said.append)
    assert late.reconcile(fleet.clock.now()) == 0
    assert "moved on" in fleet.said[-1]
    assert len(fleet.registry.audit_log()) == events
    assert phase(fleet, bad) is Phase.ROLLED_BACK


class Damaged(Stale):
    """A registry in which one more rollout is listed, whose evidence cannot be read."""

    def __init__(self, registry: Registry, error: Exception) -> None:
        whole = registry.rollouts(open_only=True)
        damaged = replace(whole[0], rollout=replace(whole[0].rollout, id="r99", policy="other"))
        super().__init__(registry, [damaged, *whole])
        self._error = error

    def canary_evidence(self, identity: str) -> CanaryEvidence:
        if identity == "r99":
            raise self._error
        return self._registry.canary_evidence(identity)


@pytest.mark.parametrize(
    "error", [NotFound("its blob is gone"), Corrupt("damaged bytes"), KeyError("segments")]
)
def test_an_error_with_one_rollout_does_not_keep_another_from_being_rolled_back(
    fleet: Fleet, error: Exception
) -> None:
    settle(fleet, fleet.release(1.0), Phase.DONE)
    bad = fleet.release(0.1)
    for _ in range(12):
        for robot in fleet.robots.values():
            robot.tick()
    controller = Controller(Damaged(fleet.registry, error), fleet.said.append)
    fleet.said.clear()
    assert controller.reconcile(fleet.clock.now()) == 1
    assert phase(fleet, bad) is Phase.ROLLED_BACK
    told = [line for line in fleet.said if line.startswith("other v")]
    assert len(told) == 1
    assert str(error) in told[0]
    controller.reconcile(fleet.clock.now())
    assert [line for line in fleet.said if line.startswith("other v")] == told, "told once"


def test_orders_that_cannot_be_signed_keep_nothing_from_being_rolled_back(fleet: Fleet) -> None:
    class Unsigned(Stale):
        def renew_assignments(self) -> int:
            raise OSError("the key's device is gone")

    settle(fleet, fleet.release(1.0), Phase.DONE)
    bad = fleet.release(0.1)
    for _ in range(12):
        for robot in fleet.robots.values():
            robot.tick()
    unsigned = Unsigned(fleet.registry, fleet.registry.rollouts(open_only=True))
    assert Controller(unsigned, fleet.said.append).reconcile(fleet.clock.now()) == 1
    assert phase(fleet, bad) is Phase.ROLLED_BACK
    assert any("the key's device is gone" in line for line in fleet.said)


def test_the_loop_goes_on_after_a_round_that_failed(fleet: Fleet) -> None:
    """Whatever fails, a bug too: the next round comes, and it is told."""
    stop = Stop()

    class Failing(Stale):
        asked = 0

        def rollouts(self, open_only: bool = False) -> list[RolloutRecord]:
            self.asked += 1
            if self.asked == 3:
                stop.request()
                return []
            raise (Conflict("somebody else"), TypeError("a bug"))[self.asked - 1]

    failing = Failing(fleet.registry, [])
    Controller(failing, fleet.said.append).loop(stop, 0.001)
    stop.close()
    assert failing.asked == 3
    assert fleet.said[-2:] == [
        "somebody else; trying again",
        "TypeError: a bug; trying again",
    ]
