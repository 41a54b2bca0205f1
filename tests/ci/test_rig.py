"""A robot built from its file on a twin: runtime, servo and arm on frames and physics, watched."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import can
import numpy as np
import pytest
from sim_policies import detected

import ci.rig
from ci.rig import Rig, build_rig
from fleet.can.calibration import Calibration
from fleet.can.faults import ArmFault
from fleet.can.frames import Status
from fleet.can.motors import joint_limits
from fleet.robot import RobotConfig
from harness.episodes.log import read_log
from harness.sim.expert import Expert, ExpertConfig
from harness.tasks.box_grasp import BOX_GRASP
from harness.twin.bus import TwinBus
from harness.twin.physics import TwinWorld
from policies.contract import ROBOT_CLASSES, Contract, parse_contract
from policies.observation import Measurement
from registry.errors import ConfigError, ServiceFailed

pytestmark = pytest.mark.slow

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

    def __init__(self, robot: Rig, close: float = -0.01) -> None:
        self.contract = contract()
        assert robot.world is not None
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
        return self._expert.act(measured, detected(truth.position[None], np.array([truth.yaw])))


class StillPolicy:
    def __init__(self) -> None:
        self.contract = contract()

    def reset(self) -> None:
        pass

    def act(self, observation: np.ndarray) -> np.ndarray:
        return np.zeros((1, 8), np.float32)


def forget(facts: Mapping[str, Any]) -> None:
    """Opens an attempt nowhere."""


def test_the_expert_lifts_the_box_through_frames_and_no_bound_is_broken() -> None:
    robot = build_rig(twin())
    runtime = robot.runtime
    policy, judge = ExpertPolicy(robot), robot.judge("box-grasp")
    for _ in range(5):
        episode = runtime.run_attempt(policy, BOX_GRASP, judge, forget, robot.conveyor())
        assert (episode.outcome, episode.detail) == ("success", "")
        assert policy.rise > 0.10
        assert episode.scene["mass"] == 0.2
        assert episode.overruns == 0
    report = robot.monitors[0].report()
    assert report.kept, report.examples
    assert report.frames > 16 * 200 * 5
    assert (report.foreign, report.motor_faults) == (0, 0)
    assert report.worst["command_speed"] > 0.9


def test_a_soft_grip_drops_heavy_boxes_that_a_full_grip_holds() -> None:
    def successes(close: float) -> int:
        robot = build_rig(twin(mass=1.0))
        runtime = robot.runtime
        policy, judge = ExpertPolicy(robot, close), robot.judge("box-grasp")
        run = [
            runtime.run_attempt(policy, BOX_GRASP, judge, forget, robot.conveyor())
            for _ in range(3)
        ]
        return sum(episode.outcome == "success" for episode in run)

    assert successes(close=-0.01) == 3
    assert successes(close=-0.1875) <= 1


def test_a_robot_that_was_built_and_waits_for_work_stays_where_it_was_found() -> None:
    with build_rig(twin()) as robot:
        (arm,) = robot.arms
        found = arm.state.q
        arm.wait(1.0)
        np.testing.assert_allclose(arm.refresh().q, found, atol=0.01)
        np.testing.assert_allclose(robot.servo.command, found, atol=0.01)


def test_a_speed_scale_slows_the_way_home_too() -> None:
    took = {}
    for scale in (1.0, 0.25):
        with build_rig(twin().model_copy(update={"speed_scale": scale})) as robot:
            home = np.array(BOX_GRASP.start_q)
            away = home + np.array([0.5, 0.0, 0.0, -0.3, 0.0, 0.0, 0.0, 0.0])
            assert robot.runtime.home(away) == ""
            began = robot.servo.now()
            assert robot.runtime.home(home) == ""
            took[scale] = robot.servo.now() - began
    assert took[0.25] > 3 * took[1.0]


def test_a_policy_that_does_nothing_fails_at_the_horizon() -> None:
    robot = build_rig(twin())
    judge = robot.judge("box-grasp")
    episode = robot.runtime.run_attempt(StillPolicy(), BOX_GRASP, judge, forget, robot.conveyor())
    assert (episode.outcome, episode.opened) == ("failure", True)
    assert episode.duration_s == pytest.approx(BOX_GRASP.horizon_s, abs=0.05)


def test_a_motor_fault_in_an_attempt_is_the_attempts_failure() -> None:
    robot = build_rig(twin())
    runtime, world = robot.runtime, robot.world
    assert world is not None

    class Breaks(StillPolicy):
        def act(self, observation: np.ndarray) -> np.ndarray:
            world.bank().fail(2, Status.OVER_CURRENT)
            return super().act(observation)

    judge = robot.judge("box-grasp")
    episode = runtime.run_attempt(Breaks(), BOX_GRASP, judge, forget, robot.conveyor())
    assert (episode.outcome, episode.failure_mode) == ("failure", "arm_fault")
    assert "joint3" in episode.detail


def test_a_robot_file_says_how_its_twin_differs() -> None:
    world = build_rig(twin(mass=0.9, latency_s=[0.004, 0.004])).world
    assert world is not None
    assert (world.box_mass, world.latency_steps) == (0.9, 4)


def calibrated(tmp_path: Path, side: str = "right", **limits: Any) -> RobotConfig:
    low, high = joint_limits(side)
    low[0], high[0] = -0.2, 0.6
    path = tmp_path / "calibration.json"
    Calibration(side, "v2", low, high).save(path)
    config = twin().model_dump(by_alias=True) | {"limits": limits}
    config["arms"][0]["calibration"] = path
    return RobotConfig.model_validate(config)


def test_calibration_and_station_narrow_what_the_arm_may_do(tmp_path: Path) -> None:
    slow = [0.5] * 8
    with build_rig(calibrated(tmp_path, joint_speed=slow)) as robot:
        servo = robot.servo
        assert (robot.arms[0].q_min[0], robot.arms[0].q_max[0]) == (-0.2, 0.6)
        far = servo.command.copy()
        far[0] += 2.0
        before, fastest = servo.command.copy(), 0.0
        for _ in range(600):
            servo.tick(far)
            fastest = max(fastest, np.abs(servo.command - before).max() / servo.period_s)
            before = servo.command.copy()
        assert servo.command[0] == pytest.approx(0.6, abs=1e-6)
        assert 0.45 < fastest <= 0.5 + 1e-9
        assert servo.interventions()["joint_limit"] > 0


def test_a_calibration_of_the_other_arm_is_refused_before_anything_moves(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="of a left arm"):
        build_rig(calibrated(tmp_path, side="left"))


def test_a_calibration_that_is_missing_is_named(tmp_path: Path) -> None:
    config = calibrated(tmp_path)
    (tmp_path / "calibration.json").unlink()
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        build_rig(config)
    assert "calibration.json" in caught.value.where


def test_a_real_robot_is_not_built_without_something_that_sees() -> None:
    real = RobotConfig.model_validate(
        {
            "robot": "robot-02",
            "class": "openarm-v2-right",
            "on_host_loss": "hold",
            "arms": [{"name": "right", "bus": {"interface": "virtual", "channel": "test_rig"}}],
        }
    )
    with pytest.raises(ServiceFailed, match="no camera"):
        build_rig(real)


def test_an_arm_that_does_not_connect_leaves_no_bus_of_the_other_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = RobotConfig.model_validate(
        {
            "robot": "robot-03",
            "class": "openarm-v2-bimanual",
            "arms": [{"name": name, "bus": {"interface": "twin"}} for name in ("right", "left")],
            "twin": {"seed": 1},
        }
    )
    make = ci.rig._world
    opened: list[str] = []
    closed: list[str] = []

    def world(*args: Any) -> TwinWorld:
        found = make(*args)
        for slot in range(8):
            found.bank("left").mute(slot)
        return found

    def bus(world: TwinWorld, name: str) -> can.BusABC:
        made = TwinBus(world, name)
        opened.append(name)
        made.shutdown = lambda: closed.append(name)
        return made

    monkeypatch.setattr(ci.rig, "_world", world)
    monkeypatch.setattr(ci.rig, "TwinBus", bus)
    with pytest.raises(ArmFault, match="left arm: dead bus") as caught:
        build_rig(both)
    assert caught.tb, "while it is told, nothing is closed by being forgotten"
    assert opened == ["right", "left"]
    assert set(closed) == {"right", "left"}


def test_the_witness_hears_of_every_stop_and_of_the_resume() -> None:
    with build_rig(twin()) as rig:
        goal = rig.servo.command.copy()
        goal[0] += 0.1
        rig.servo.move_to(goal)
        rig.servo.protective_stop("operator")
        rig.servo.hold(40)
        rig.runtime.resume()
        rig.servo.move_to(goal + 0.02)
        assert rig.frames()["violations"] == 0
        rig.servo.protective_stop("operator")
        rig.servo.hold(20)
        (arm,), still = rig.arms, np.zeros(8)
        q = rig.servo.command + 0.002
        arm.exchange(q, still, np.full(8, 30.0), np.full(8, 1.0), still)
        assert {found["what"] for found in rig.frames()["examples"]} == {"moved_while_stopped"}


def test_every_cycle_of_a_lock_step_twin_is_logged_however_fast_it_runs(tmp_path: Path) -> None:
    log = tmp_path / "cycles.mcap"
    with build_rig(twin(), log=log) as robot:
        assert robot.ring is not None
        assert not robot.ring.path.exists(), "a process that is killed would leave it behind"
        first = robot.servo.ticks
        robot.servo.hold(6000)
        ticks = robot.servo.ticks - first
        robot.servo.protective_stop("test")
    assert robot.cycles is not None
    assert robot.cycles.dropped == 0
    motion = read_log(log)
    assert len(motion.time) >= ticks
    assert np.diff(motion.time) == pytest.approx(0.005)


def test_simulated_time_does_not_wait_for_a_log_whose_writer_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ci.rig, "ROWS", 8)
    with build_rig(twin(), log=tmp_path / "cycles.mcap") as robot:
        assert robot.cycles is not None
        os.kill(robot.cycles._process.pid, signal.SIGKILL)
        with pytest.raises(ServiceFailed, match="the cycle log ended") as failed:
            robot.servo.hold(20)
    assert failed.value.evidence == f"exit status {-signal.SIGKILL}"
