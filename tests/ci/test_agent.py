"""The agent's program: real processes, real frames and physics, killed for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scripted_policies import POLICY, contract_json
from world import CHEAP, judge_hil, judge_sim

from ci.agent import Attempts
from ci.rig import Conveyor, build_rig
from fleet.agent.updater import Ready
from fleet.attempt import SceneCheck
from fleet.robot import load_robot
from policies.contract import parse_contract
from policies.formats.native import Network, save
from policies.loading import load_policy
from registry.errors import ServiceFailed
from registry.home import Home
from registry.service import Actor, Registry
from registry.stages import Stage

NAME = "robot-01"
AGENT = Path(sys.executable).with_name("policyctl-agent")
POLICYCTL = AGENT.with_name("policyctl")

pytestmark = pytest.mark.slow


def robot_file(folder: Path, **changes: object) -> Path:
    path = folder / f"{NAME}.yaml"
    robot = {
        "robot": NAME,
        "class": "openarm-v2-right",
        "work": "on_rollout",
        "arms": [{"name": "right", "bus": {"interface": "twin"}}],
        "twin": {"seed": 7},
    }
    path.write_text(yaml.safe_dump(robot | changes))
    return path


def waving_policy(folder: Path, gain: float) -> Path:
    """A native checkpoint that moves its joints a little, and never grasps anything."""
    contract = contract_json()
    contract["action"] |= {
        "limit": [0.01] * 8,
        "low": [-1.3, 0.0, -1.5, 0.1, -1.5, -0.7, -1.5, -0.7],
        "high": [3.0, 3.0, 1.5, 2.4, 1.5, 0.7, 1.5, -0.1],
    }
    layer = (np.eye(8, dtype=np.float32) * gain, np.zeros(8, dtype=np.float32))
    network = Network((layer,), np.zeros(8, dtype=np.float32), np.ones(8, dtype=np.float32))
    folder.mkdir(parents=True)
    save(folder, parse_contract(contract), network)
    return folder


class Road:
    """A home with one enrolled robot and a first version in its canary."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home(folder / "home")
        self.registry = Registry.open(self.home, Actor("test"), create=True)
        self.registry.enrol_robot(NAME, "openarm-v2-right")
        made = waving_policy(folder / "made", 0.1)
        self.ref = self.registry.register(made, POLICY).version.ref
        judge_sim(self.registry, self.ref)
        judge_hil(self.registry, self.ref)
        self.registry.promote(self.ref, Stage.CANARY, CHEAP)
        self.agents: list[subprocess.Popen[str]] = []

    def start(self, *words: str) -> subprocess.Popen[str]:
        agent = subprocess.Popen(
            [str(AGENT), str(robot_file(self.folder)), "--home", str(self.home.root), *words],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.agents.append(agent)
        return agent

    def until(self, condition: Callable[[], bool], agent: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 60.0
        while not condition():
            assert agent.poll() is None, agent.stderr.read() if agent.stderr else ""
            assert time.monotonic() < deadline, "waited for a minute"
            time.sleep(0.01)

    @property
    def outcomes(self) -> list[tuple[int, int, str]]:
        reports = self.registry.attempts(robot=NAME)
        return sorted((r.number, r.index, r.failure_mode) for r in reports)

    @property
    def status(self) -> dict[str, object]:
        return dict(self.registry.robots()[0].status)

    def close(self) -> None:
        for agent in self.agents:
            if agent.poll() is None:
                agent.kill()
                agent.wait()
        self.registry.close()


@pytest.fixture
def road(tmp_path: Path) -> Iterator[Road]:
    made = Road(tmp_path)
    yield made
    made.close()


def test_an_agent_works_and_ends_cleanly(road: Road) -> None:
    agent = road.start("--max-attempts", "2")
    assert agent.wait(120) == 0, agent.stderr.read() if agent.stderr else ""
    assert [(number, index) for number, index, _ in road.outcomes] == [(1, 0), (2, 1)]
    seen = json.loads((road.home.root / "agents" / NAME / "monitor.json").read_text())
    assert seen["frames"] > 16 * 200 * 8
    assert seen["violations"] == 0, seen["examples"]
    assert road.status["state"] == "stopped"
    assert road.registry.robots()[0].running == 1


def test_a_scene_that_fails_is_waited_for_and_the_agent_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the process that lays out a twin's boxes has ended and is started again."""
    checkpoint = waving_policy(tmp_path / "made", 0.1)
    ready = Ready(POLICY, 1, "sha256:" + "1" * 64, load_policy(checkpoint))
    opened: list[Mapping[str, Any]] = []
    with build_rig(load_robot(robot_file(tmp_path))) as rig:
        attempts = Attempts(rig, "box-grasp")

        def gone(conveyor: Conveyor) -> SceneCheck:
            raise ServiceFailed("no twin answers", evidence="/tmp/twin.sock")

        with monkeypatch.context() as patch:
            patch.setattr(Conveyor, "prepare", gone)
            assert attempts.run(ready, opened.append, lambda: None) is None
        assert attempts.status()["waiting"].startswith("rig_fault: no twin answers")
        assert not opened
        result = attempts.run(ready, opened.append, lambda: None)
    assert result is not None
    assert result.outcome == "failure"
    assert (len(opened), attempts.status()["waiting"]) == (1, "")


def test_an_agent_killed_mid_attempt_cannot_draw_its_side_again(road: Road) -> None:
    first = road.start("--poll", "0.05")
    road.until(lambda: bool(road.status.get("open_attempt")), first)
    first.send_signal(signal.SIGKILL)
    assert first.wait(30) == -signal.SIGKILL
    known = len(road.outcomes)
    second = road.start("--max-attempts", "1")
    assert second.wait(120) == 0, second.stderr.read() if second.stderr else ""
    ended = road.outcomes
    assert [(number, index) for number, index, _ in ended] == [
        (number, number - 1) for number in range(1, len(ended) + 1)
    ]
    assert ended[known][2] == "agent_lost"
    assert [mode for _, _, mode in ended].count("agent_lost") == 1


def test_one_sigterm_lets_the_attempt_end_and_two_stop_it(road: Road) -> None:
    agent = road.start("--poll", "0.05")
    road.until(lambda: bool(road.status.get("open_attempt")), agent)
    agent.send_signal(signal.SIGTERM)
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(60) == 0
    assert "agent_lost" not in {mode for _, _, mode in road.outcomes}
    assert road.status["state"] == "stopped"


def test_an_agent_installs_what_was_approved_and_nothing_else(road: Road) -> None:
    """Trust is turned on between two runs; then the approval of the only version is taken away."""
    assert road.start("--max-attempts", "1").wait(120) == 0
    words = [str(POLICYCTL), "--home", str(road.home.root), "trust", "init"]
    subprocess.run(words, check=True, capture_output=True)
    approvals = road.registry.approvals.open()
    anchor = approvals.repository.folder / "metadata" / "1.root.json"
    second = road.start("--max-attempts", "1", "--trust-root", str(anchor))
    with Registry.open(road.home, Actor("test")) as server:
        while second.poll() is None:
            server.renew_assignments()  # signs the order that stands, as the robot asks
            time.sleep(0.2)
    assert second.returncode == 0, second.stderr.read() if second.stderr else ""
    assert len(road.outcomes) == 2
    approvals.withdraw([road.ref])
    third = road.start("--poll", "0.05")
    road.until(lambda: "taken back" in str(road.status.get("problem")), third)
    third.send_signal(signal.SIGTERM)
    assert third.wait(60) == 0
    assert len(road.outcomes) == 2


def test_a_robot_that_is_not_enrolled_is_told_so(road: Road, tmp_path: Path) -> None:
    stranger = robot_file(tmp_path, robot="robot-99")
    ended = subprocess.run(
        [str(AGENT), str(stranger), "--home", str(road.home.root)], capture_output=True, text=True
    )
    assert ended.returncode == 6
    assert "hint: policyctl robot enrol" in ended.stderr


def test_a_wrong_robot_file_names_its_line(road: Road, tmp_path: Path) -> None:
    wrong = robot_file(tmp_path, worck="continuous")
    ended = subprocess.run(
        [str(AGENT), str(wrong), "--home", str(road.home.root)], capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert f"{wrong}:" in ended.stderr


def test_the_robots_program_is_light() -> None:
    """Neither torch nor scipy nor a web framework on a robot; mujoco is the twin's."""
    heavy = ["torch", "scipy", "matplotlib", "fastapi", "transformers", "boto3", "cv2"]
    code = (
        "import sys, ci.agent, ci.rig, fleet.agent.supervisor, fleet.agent.updater, "
        "registry.service, policies.formats.native\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert ended.stdout.strip() == "[]", ended.stderr
