"""A fleet of scripted robots, a real registry and a real controller: the last part of the road."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from world import POLICY, Fleet

from registry.rollouts import Phase
from registry.stages import Stage
from registry.versions import VersionRef


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
