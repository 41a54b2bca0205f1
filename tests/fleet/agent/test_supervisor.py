"""The agent's loop on a spoiled link: which version runs, when, and what is said about it."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane
from scripted_policies import TASK, write_checkpoint
from world import Clock, Fleet, Robot

import fleet.agent.updater as updater_module
from fleet.stopping import Stop
from registry.interleave import side

NAME = "robot-01"
HALF = {"ratio": "1/2", "salt": "pepper", "segment": 0}


class Scene:
    """One robot, one control plane, versions 1 (good) and 2 (hopeless)."""

    def __init__(self, folder: Path, **work: Any) -> None:
        self.clock = Clock()
        self.plane = ControlPlane()
        self.digests = {
            number: self.plane.publish(write_checkpoint(folder / f"v{number}", rate))
            for number, rate in {1: 1.0, 2: 0.0}.items()
        }
        self.robot = Robot(NAME, folder, self.plane, self.clock, **work)

    def assign(self, candidate: int | None, baseline: int | None, **more: Any) -> None:
        self.plane.assign(
            NAME, candidate=candidate, baseline=baseline, digests=self.digests, **more
        )

    def rounds(self, count: int) -> list[bool]:
        return [self.robot.tick() for _ in range(count)]

    @property
    def versions(self) -> list[int]:
        return [ran.version for ran in self.robot.ran]

    @property
    def status(self) -> Any:
        return self.plane.last_status(NAME)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_without_an_assignment_the_robot_stands_still(scene: Scene) -> None:
    assert scene.rounds(3) == [False] * 3
    assert scene.status["state"] == "idle"


def test_it_runs_what_it_is_assigned_and_reports_every_attempt(scene: Scene) -> None:
    scene.assign(None, 1)
    assert all(scene.rounds(3))
    reports = list(scene.plane.attempts[NAME].values())
    assert [(r.number, r.version, r.side, r.outcome) for r in reports] == [
        (number, 1, "only", "success") for number in (1, 2, 3)
    ]
    assert scene.status["unreported"] == 0


def test_every_attempt_runs_the_version_that_its_blocks_hash_names(scene: Scene) -> None:
    scene.assign(2, 1, **HALF)
    scene.rounds(12)
    reports = list(scene.plane.attempts[NAME].values())
    assert [report.index for report in reports] == list(range(12))
    for report in reports:
        named = side("pepper", NAME, TASK, report.index, Fraction("1/2"))
        assert (report.side, report.version) == (named, 2 if named == "candidate" else 1)
    assert scene.versions.count(2) == 6


def test_a_first_version_runs_alone(scene: Scene) -> None:
    scene.assign(1, None, ratio="1", salt="s")
    scene.rounds(2)
    assert {report.side for report in scene.plane.attempts[NAME].values()} == {"candidate"}


def test_nothing_assigned_of_a_policy_stops_the_robot(scene: Scene) -> None:
    scene.assign(1, None, ratio="1", salt="s")
    scene.rounds(1)
    scene.assign(None, None)
    assert scene.rounds(2) == [False, False]


def test_generations_only_rise(scene: Scene) -> None:
    scene.assign(None, 2)
    old = scene.plane.documents[NAME]
    scene.assign(None, 1)
    scene.rounds(1)
    scene.plane.documents[NAME] = old
    scene.rounds(1)
    assert scene.versions == [1, 1]
    assert scene.status["refused"] == ["generation 1 is older than 2"]
    scene.robot.restart()
    scene.rounds(1)
    assert scene.versions[-1] == 1


def test_a_document_for_another_robot_is_refused(scene: Scene) -> None:
    document = scene.plane.assign("robot-02", baseline=1, digests=scene.digests)
    scene.plane.documents[NAME] = document
    assert scene.rounds(1) == [False]
    assert scene.status["refused"] == ["generation 1 is for robot-02"]


def test_one_generation_with_two_contents_is_refused(scene: Scene) -> None:
    scene.assign(None, 1)
    scene.rounds(1)
    scene.assign(None, 2, generation=1)
    scene.rounds(1)
    assert scene.versions == [1, 1]
    assert "different content" in scene.status["refused"][0]


def test_a_corrupt_candidate_is_refused_and_the_baseline_stays(scene: Scene) -> None:
    scene.assign(None, 1)
    scene.rounds(1)
    scene.robot.weather.corrupt = {scene.digests[2]}
    scene.assign(2, 1, **HALF)
    scene.rounds(6)
    assert set(scene.versions) == {1}
    assert "not what its digest says" in scene.status["problem"]
    assert {report.side for report in scene.plane.attempts[NAME].values()} == {"only"}
    scene.robot.weather.corrupt = set()
    scene.clock.passes(120.0)
    scene.rounds(2)
    assert 2 in scene.versions
    assert scene.status["problem"] == ""


def test_a_failed_fetch_is_not_repeated_every_round(scene: Scene) -> None:
    scene.robot.weather.corrupt = {scene.digests[2]}
    scene.assign(None, 2)
    scene.rounds(10)
    assert scene.plane.fetched == [scene.digests[2]]


def test_a_full_disk_is_told_and_tried_again_while_the_baseline_runs(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version still fits; nothing does after it."""
    write = updater_module.write_whole

    def full(path: Path, content: bytes) -> None:
        if path.name == "baselines.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, content)

    scene.assign(None, 1)
    with monkeypatch.context() as patch:
        patch.setattr(updater_module, "write_whole", full)
        scene.rounds(1)
        scene.robot.restart()
        assert all(scene.rounds(2))
        assert "No space left" in scene.status["problem"]
    scene.clock.passes(120.0)
    assert all(scene.rounds(1))
    assert scene.status["problem"] == ""
    assert scene.robot.updater._baselines() == [scene.digests[1]]


def test_a_version_stopped_at_once_does_not_begin_again_while_its_successor_is_fetched(
    scene: Scene,
) -> None:
    scene.assign(None, 2)
    scene.rounds(1)
    scene.robot.weather.corrupt = {scene.digests[1]}
    scene.assign(None, 1, stop="now")
    assert scene.rounds(3) == [False] * 3
    assert scene.versions == [2]
    scene.robot.weather.corrupt = set()
    scene.clock.passes(120.0)
    scene.rounds(1)
    assert scene.versions == [2, 1]


def test_a_withdrawn_candidate_never_runs_again_whatever_else_fails(scene: Scene) -> None:
    scene.assign(2, 1, **HALF)
    scene.rounds(2)
    scene.plane.assign(NAME, baseline=3, digests={3: "sha256:" + "0" * 64})
    before = len(scene.versions)
    scene.rounds(6)
    assert set(scene.versions[before:]) == {1}


def test_rollback_is_without_download(scene: Scene) -> None:
    scene.assign(None, 1)
    scene.rounds(1)
    scene.assign(None, 2)
    scene.rounds(1)
    fetched = scene.robot.updater.fetches
    scene.assign(None, 1)
    scene.rounds(1)
    assert scene.versions == [1, 2, 1]
    assert scene.robot.updater.fetches == fetched
    assert scene.plane.heartbeats[-1][1:3] == (1, 3)


@pytest.mark.parametrize(("stop", "modes"), [("now", "stopped"), ("", "")])
def test_only_stop_now_ends_a_running_attempt(scene: Scene, stop: str, modes: str) -> None:
    scene.assign(1, None, ratio="1", salt="s")
    scene.robot.during = lambda: scene.assign(None, 2, stop=stop)
    scene.rounds(1)
    assert [r.failure_mode for r in scene.plane.attempts[NAME].values()] == [modes]


def test_stop_now_lets_a_version_run_on_that_is_still_named(scene: Scene) -> None:
    scene.assign(None, 1)
    scene.robot.during = lambda: scene.assign(None, 1, stop="now")
    scene.rounds(1)
    assert [r.outcome for r in scene.plane.attempts[NAME].values()] == ["success"]


def test_a_candidate_out_of_contact_ends_by_attempts(scene: Scene) -> None:
    scene.assign(2, 1, **HALF, max_offline_attempts=4)
    scene.rounds(2)
    scene.robot.weather.down = True
    scene.rounds(10)
    assert scene.versions[:6].count(2) == 3  # two in contact, four out of it
    assert set(scene.versions[6:]) == {1}
    scene.robot.weather.down = False
    scene.rounds(2)
    reports = list(scene.plane.attempts[NAME].values())
    assert len(reports) == 14
    measured = [report.index for report in reports if report.side != "only"]
    assert measured == list(range(8)), "the segment's indices go on where they were"


def test_a_candidate_out_of_contact_ends_by_time(scene: Scene) -> None:
    scene.assign(2, 1, **HALF, max_offline_s=100.0)
    scene.rounds(1)
    scene.robot.weather.down = True
    scene.clock.passes(101.0)
    before = len(scene.versions)
    scene.rounds(4)
    assert set(scene.versions[before:]) == {1}


def test_an_agent_that_starts_out_of_contact_runs_the_baseline_only(scene: Scene) -> None:
    scene.assign(2, 1, **HALF)
    scene.rounds(2)
    scene.robot.weather.down = True
    scene.robot.restart()
    scene.rounds(4)
    assert set(scene.versions[2:]) == {1}


@pytest.mark.parametrize("instant", ["open", "end"])
def test_a_killed_agent_cannot_draw_its_side_again(scene: Scene, instant: str) -> None:
    scene.assign(2, 1, **HALF)
    scene.robot.kill_at = instant
    scene.rounds(6)
    reports = list(scene.plane.attempts[NAME].values())
    assert [report.index for report in reports] == list(range(6))
    assert reports[0].failure_mode == "agent_lost"
    assert [report.version for report in reports] == scene.versions


def test_a_kill_before_the_attempt_is_opened_consumes_nothing(scene: Scene) -> None:
    scene.assign(2, 1, **HALF)
    scene.robot.kill_at = "scene"
    scene.rounds(3)
    reports = list(scene.plane.attempts[NAME].values())
    assert [(report.number, report.index) for report in reports] == [(1, 0), (2, 1)]


def test_a_lost_answer_doubles_nothing(scene: Scene) -> None:
    scene.assign(None, 1)
    scene.rounds(1)
    scene.robot.weather.lost_answers = True
    scene.rounds(3)
    scene.robot.weather.lost_answers = False
    scene.rounds(1)
    assert sorted(scene.plane.attempts[NAME]) == [1, 2, 3, 4, 5]
    assert scene.robot.spool.waiting == 0


def test_a_robot_whose_disk_was_lost_stands_still_instead_of_hiding_attempts(scene: Scene) -> None:
    scene.assign(None, 1)
    scene.rounds(2)
    scene.robot.die()
    fresh = Robot(NAME, scene.robot._folder.parent / "new-disk", scene.plane, scene.clock)
    assert [fresh.tick() for _ in range(3)] == [False] * 3
    assert fresh.spool.last_number == 0
    assert "reported 2 attempts" in scene.status["report_refused"]


@pytest.mark.parametrize("restart", [True, False])
def test_a_registry_that_lost_what_the_robot_no_longer_keeps_is_told_so(
    scene: Scene, restart: bool
) -> None:
    """It was restored from a backup of long ago; a newer one brings the robot back to work."""
    scene.robot.spool._keep = 2
    scene.assign(None, 1)
    scene.rounds(6)
    whole = scene.plane.attempts[NAME]
    scene.plane.attempts[NAME] = {number: whole[number] for number in (1, 2)}
    if restart:
        scene.robot.restart()
    scene.rounds(1)
    assert scene.rounds(3) == [False] * 3
    assert "attempts that robot-01 no longer has" in scene.status["report_refused"]
    assert "up to 2, the spool from 5 on" in scene.status["report_refused"]
    scene.plane.attempts[NAME] = {number: whole[number] for number in (1, 2, 3, 4)}
    assert all(scene.rounds(2))
    assert scene.status["report_refused"] == ""
    assert sorted(scene.plane.attempts[NAME]) == list(range(1, scene.robot.spool.last_number + 1))


def test_while_a_report_is_refused_no_attempt_is_opened_and_then_it_goes_on(scene: Scene) -> None:
    scene.assign(None, 1)
    scene.rounds(2)
    scene.robot.weather.refuse_reports = True
    assert scene.rounds(4) == [True, False, False, False]
    assert (scene.robot.spool.last_number, scene.robot.spool.waiting) == (3, 1)
    assert scene.status["report_refused"] == "a closed attempt differs (attempt 3)"
    assert scene.status["state"] == "report refused"
    scene.robot.restart()
    assert scene.rounds(3) == [False] * 3, "nor by the next agent"
    scene.assign(None, 2)
    scene.rounds(1)
    assert scene.status["baseline"] == 2, "it goes on listening"
    scene.robot.weather.refuse_reports = False
    assert scene.rounds(2) == [True, True]
    assert scene.status["report_refused"] == ""
    assert sorted(scene.plane.attempts[NAME]) == [1, 2, 3, 4, 5]


def test_the_registry_refuses_an_altered_spool_and_the_robot_stands_still(tmp_path: Path) -> None:
    """A real registry: what the spool says it ran is not what the robot was assigned."""
    fleet = Fleet(tmp_path, robots=1)
    fleet.release(1.0)
    robot = fleet.robots[NAME]
    robot.tick()
    robot.weather.down = True
    robot.tick()
    robot.die()
    alter = "UPDATE attempts SET opening=replace(opening, '\"segment\": 0', '\"segment\": 7')"
    with closing(sqlite3.connect(robot._folder / "spool.db")) as spool, spool:
        spool.execute(alter + f" WHERE number={robot.ran[-1].number}")
    robot.weather.down = False
    robot.start()
    before = len(robot.ran)
    assert [robot.tick() for _ in range(3)] == [False] * 3
    assert len(robot.ran) == before
    (said,) = fleet.registry.robots()
    assert "is not what it was assigned to run" in said.status["report_refused"]
    fleet.close()


def test_on_rollout_only_a_robot_works_while_a_rollout_measures(tmp_path: Path) -> None:
    scene = Scene(tmp_path, on_rollout_only=True)
    scene.assign(None, 1)
    assert scene.rounds(2) == [False, False]
    assert scene.plane.heartbeats[-1][1:3] == (1, 1), "ready to run v1 all the same"
    scene.assign(2, 1, **HALF)
    assert scene.rounds(2) == [True, True]


def test_the_budget_of_attempts_ends_the_loop(tmp_path: Path) -> None:
    scene = Scene(tmp_path, max_attempts=3)
    scene.assign(None, 1)
    scene.robot.supervisor.loop(Stop())
    assert len(scene.versions) == 3
    assert scene.status["state"] == "stopped"


def test_asked_to_stop_it_finishes_the_attempt_and_asked_twice_it_stops_now(scene: Scene) -> None:
    scene.assign(None, 1)
    once, twice = Stop(), Stop()
    scene.robot.during = once.request
    scene.robot.supervisor.loop(once)

    def ask_twice() -> None:
        twice.request()
        twice.request()

    scene.robot.during = ask_twice
    scene.robot.supervisor.loop(twice)
    ended = [(r.outcome, r.failure_mode) for r in scene.plane.attempts[NAME].values()]
    assert ended == [("success", ""), ("failure", "agent_stopped")]


def test_asked_to_stop_before_an_attempt_is_opened_once_is_enough(scene: Scene) -> None:
    scene.assign(None, 1)
    stop = Stop()
    scene.robot.before = stop.request
    scene.robot.supervisor.loop(stop)
    assert stop.requests == 1
    assert scene.robot.ran == []
    assert scene.plane.attempts.get(NAME, {}) == {}


def test_a_stop_now_before_an_attempt_is_opened_costs_none(scene: Scene) -> None:
    scene.assign(None, 1)

    def withdrawn() -> None:
        scene.robot.before = None
        scene.assign(None, 2, stop="now")
        scene.clock.passes(1.0)

    scene.robot.before = withdrawn
    assert scene.rounds(2) == [False, True]
    assert scene.versions == [2]
