"""One attempt by hand: what it runs, what it writes down, and what it may not do."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from ci.cli.arm_run import _error
from ci.rig import Conveyor
from ci.solo import RunLog, SoloRun, run_solo, twin_of
from fleet.attempt import SceneCheck
from fleet.robot import RobotConfig, load_robot
from registry.errors import ConfigError, Interrupted, Refused, UsageError
from registry.home import Home
from registry.service import Actor, Registry
from registry.versions import VersionRef

CHECKPOINT = Path(__file__).parents[2] / "ci" / "demo" / "checkpoints" / "v1"
CLASS = "openarm-v2-right"
V1 = VersionRef("box-grasp", 1)


class Bench:
    """A home with one version, and attempts on its twin."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = Registry.open(Home(folder / "home"), Actor("ada"))
        self.registry.register(CHECKPOINT, "box-grasp")
        self.said: list[str] = []

    def run(
        self, config: RobotConfig | None = None, task: str = "box-grasp", **more: Any
    ) -> SoloRun:
        return run_solo(
            self.registry, self.registry.version(V1), task, config or twin_of(CLASS, 3),
            self.folder / "runs", ready=lambda: True, say=self.said.append, **more,
        )  # fmt: skip

    def lines(self, robot: str = "twin") -> list[dict[str, Any]]:
        path = self.folder / "runs" / f"{robot}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_an_attempt_on_a_twin_succeeds_is_written_down_and_changes_no_record(bench: Bench) -> None:
    before = len(bench.registry.audit_log())
    seen: list[float] = []
    done = bench.run(watch=lambda rig, seconds: seen.append(seconds))
    assert (done.episode.outcome, done.number) == ("success", 1)
    assert done.frames["violations"] == 0 < done.frames["frames"]
    opened, closed = bench.lines()
    assert (opened["event"], opened["run"], opened["version"]) == ("opened", 1, "box-grasp v1")
    assert (closed["event"], closed["outcome"], closed["steps"]) == ("closed", "success", len(seen))
    assert seen == sorted(seen)
    assert len(seen) > 50
    assert len(bench.registry.audit_log()) == before
    assert bench.registry.verdicts(V1) == []


def test_ctrl_c_in_the_middle_is_a_failure_and_the_arm_has_stopped(bench: Bench) -> None:
    def watch(rig: Any, seconds: float) -> None:
        if seconds > 0.3:
            os.kill(os.getpid(), signal.SIGINT)

    done = bench.run(watch=watch)
    assert (done.episode.outcome, done.episode.failure_mode) == ("failure", "operator_stop")
    assert done.episode.duration_s < 1.0
    assert bench.lines()[-1]["failure_mode"] == "operator_stop"


def test_ctrl_c_before_the_attempt_is_opened_leaves_no_attempt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = Conveyor.prepare

    def pressed(conveyor: Conveyor) -> SceneCheck:
        os.kill(os.getpid(), signal.SIGINT)
        return prepare(conveyor)

    monkeypatch.setattr(Conveyor, "prepare", pressed)
    done = bench.run()
    told = done.episode
    assert (told.outcome, told.failure_mode, told.opened) == ("void", "operator_stop", False)
    assert bench.lines() == []
    error = _error(done)
    assert isinstance(error, Interrupted)
    assert "no attempt" in error.evidence


def test_an_attempt_whose_program_died_is_told_and_its_number_is_not_used_again(
    bench: Bench,
) -> None:
    log = RunLog(bench.folder / "runs" / "twin.jsonl")
    log.opened({"version": "box-grasp v1"})
    with log.path.open("ab") as stream:
        stream.write(b'{"at": 1.0, "event": "clo')  # killed while writing
    done = bench.run()
    assert bench.said == ["run 1 of twin has no end: its program died"]
    assert done.number == 2
    assert RunLog(log.path).unfinished == (1,)


def test_the_wrong_task_class_or_role_moves_nothing(bench: Bench) -> None:
    with pytest.raises(UsageError, match="no robot or twin"):
        bench.run(task="pick-place")
    with pytest.raises(ConfigError, match="robot_class"):
        bench.run(twin_of("openarm-v2-left", 0))
    file = bench.folder / "robot.yaml"
    file.write_text(
        f"robot: r1\nclass: {CLASS}\non_host_loss: hold\n"
        "arms: [{name: right, bus: {interface: virtual, channel: c}}]\n"
    )
    with pytest.raises(Refused, match="no station"):
        bench.run(load_robot(file))
    assert bench.lines() == bench.lines("r1") == []


def test_a_station_moves_only_under_its_lease(bench: Bench) -> None:
    file = bench.folder / "lab.yaml"
    file.write_text(
        f"robot: lab-1\nclass: {CLASS}\nrole: lab\n"
        "arms: [{name: right, bus: {interface: twin}}]\ntwin: {seed: 3}\n"
    )
    held = bench.registry.acquire_lease("lab-1", "somebody else", 60.0)
    with pytest.raises(Refused):
        bench.run(load_robot(file))
    assert bench.lines("lab-1") == []
    bench.registry.release_lease(held)
    assert bench.run(load_robot(file)).episode.outcome == "success"
    assert bench.registry.lease("lab-1") is None
