"""A whole twin: the ordinary runtime, servo and arm on frames and physics, judged and watched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from fleet.can.frames import Status
from fleet.robot import RobotConfig
from harness.sim.env import Truth
from harness.sim.expert import Expert, ExpertConfig
from harness.tasks.box_grasp import BOX_GRASP, JointJudge
from harness.twin.robot import TwinRobot, twin_config
from policies.contract import ROBOT_CLASSES, Contract, parse_contract
from policies.observation import Measurement
from registry.errors import ConfigError

LIMIT = [0.05, 0.05, 0.06, 0.06, 0.06, 0.06, 0.06, 0.08]
WIDTHS = {"joint_position": 8, "joint_command": 8, "tcp_position": 3}


def contract() -> Contract:
    robot = ROBOT_CLASSES["openarm-v2-right"]
    return parse_contract(
        {
            "schema": "policyctl.contract/1",
            "task": "box-grasp",
            "robot_class": robot.name,
            "arms": ["right"],
            "joints": list(robot.joints),
            "rate_hz": 50,
            "observation": [{"name": name, "width": width} for name, width in WIDTHS.items()],
            "action": {
                "space": "delta",
                "limit": LIMIT,
                "ema_alpha": 0.7,
                "low": [-1.35, -0.14, -1.53, 0.04, -1.53, -0.745, -1.53, -0.75],
                "high": [3.45, 3.27, 1.53, 2.40, 1.53, 0.745, 1.53, -0.01],
            },
            "memory_mb": 64,
            "load_s": 5.0,
            "latency_ms": 10.0,
        }
    )


def twin(mass: float = 0.2, **settings: Any) -> RobotConfig:
    return RobotConfig.model_validate(
        {
            "robot": "robot-01",
            "class": "openarm-v2-right",
            "arms": [{"name": "right", "bus": {"interface": "twin"}}],
            "twin": {"seed": 1, "box": {"mass": [mass, mass], "friction": [0.5, 0.5]}, **settings},
        }
    )


class ExpertPolicy:
    """The scripted expert in a policy's place; it alone is told where the box really is."""

    def __init__(self, robot: TwinRobot, close: float = -0.01) -> None:
        self.contract = contract()
        self._world = robot.world
        self._expert = Expert(robot.kinematics[0], np.array(LIMIT), ExpertConfig(close=close))

    def reset(self) -> None:
        self.rise = 0.0

    def act(self, observation: np.ndarray) -> np.ndarray:
        seen = np.asarray(observation, float)
        truth = self._world.truth()
        self.rise = max(self.rise, truth.rise)
        blank = np.zeros((1, 8))
        measured = Measurement(
            q=seen[:, :8],
            dq=blank,
            tau=blank,
            command=seen[:, 8:16],
            tcp=seen[:, None, 16:19],
            tcp_command=seen[:, None, 16:19],
            hand_axes=np.zeros((1, 1, 6)),
            object_position=truth.position[None],
            object_yaw=np.array([truth.yaw]),
            object_age=np.zeros(1),
        )
        held = np.array([truth.held])
        return self._expert.act(measured, Truth(truth.position[None], np.array([truth.yaw]), held))


class StillPolicy:
    def __init__(self) -> None:
        self.contract = contract()

    def reset(self) -> None:
        pass

    def act(self, observation: np.ndarray) -> np.ndarray:
        return np.zeros((1, 8), np.float32)


def forget(facts: Mapping[str, Any]) -> None:
    """Opens an attempt nowhere."""


@pytest.mark.slow
def test_the_expert_lifts_the_box_through_frames_and_no_bound_is_broken() -> None:
    robot = TwinRobot(twin(), watched=True)
    runtime = robot.start()
    policy, judge = ExpertPolicy(robot), JointJudge(robot.kinematics[0])
    for _ in range(5):
        episode = runtime.run_attempt(policy, BOX_GRASP, judge, forget, robot.scene)
        assert (episode.outcome, episode.detail) == ("success", "")
        assert policy.rise > 0.10
        assert episode.scene["box_mass"] == 0.2
        assert episode.overruns == 0
    (report,) = robot.frames()
    assert report.kept, report.examples
    assert report.frames > 16 * 200 * 5
    assert (report.foreign, report.motor_faults) == (0, 0)
    assert report.worst["command_speed"] > 0.9
    robot.park()


@pytest.mark.slow
def test_a_soft_grip_drops_heavy_boxes_that_a_full_grip_holds() -> None:
    def successes(close: float) -> int:
        robot = TwinRobot(twin(mass=1.0))
        runtime = robot.start()
        policy, judge = ExpertPolicy(robot, close), JointJudge(robot.kinematics[0])
        run = [runtime.run_attempt(policy, BOX_GRASP, judge, forget, robot.scene) for _ in range(4)]
        return sum(episode.outcome == "success" for episode in run)

    assert successes(close=-0.01) == 4
    assert successes(close=-0.1875) <= 1


def test_a_policy_that_does_nothing_fails_and_the_same_seed_repeats() -> None:
    def facts() -> Mapping[str, Any]:
        robot = TwinRobot(twin())
        runtime = robot.start()
        judge = JointJudge(robot.kinematics[0])
        episode = runtime.run_attempt(StillPolicy(), BOX_GRASP, judge, forget, robot.scene)
        assert (episode.outcome, episode.opened) == ("failure", True)
        assert episode.duration_s == pytest.approx(BOX_GRASP.horizon_s, abs=0.05)
        return episode.scene

    assert facts() == facts()


def test_a_motor_fault_in_an_attempt_is_the_attempts_failure() -> None:
    robot = TwinRobot(twin())
    runtime = robot.start()

    class Breaks(StillPolicy):
        def act(self, observation: np.ndarray) -> np.ndarray:
            robot.world.bank().fail(2, Status.OVER_CURRENT)
            return super().act(observation)

    judge = JointJudge(robot.kinematics[0])
    episode = runtime.run_attempt(Breaks(), BOX_GRASP, judge, forget, robot.scene)
    assert (episode.outcome, episode.failure_mode) == ("failure", "arm_fault")
    assert "joint3" in episode.detail


def test_a_robot_file_says_how_its_twin_differs() -> None:
    config = twin_config(twin(mass=0.9, latency_s=[0.004, 0.004]))
    assert (config.box_mass, config.latency_s, config.arms) == (
        (0.9, 0.9),
        (0.004, 0.004),
        ("right",),
    )
    assert TwinRobot(twin(latency_s=[0.004, 0.004])).world.latency_steps == 4


def test_a_real_robot_is_not_a_twin() -> None:
    real = RobotConfig.model_validate(
        {
            "robot": "robot-02",
            "class": "openarm-v2-right",
            "on_host_loss": "hold",
            "arms": [{"name": "right", "bus": {"interface": "socketcan", "channel": "can0"}}],
        }
    )
    with pytest.raises(ConfigError, match="not a twin"):
        twin_config(real)
