"""A twin with everything an attempt needs, a policy and a judge that do what they are told."""

import numpy as np
import pytest

from fleet.attempt import SceneCheck
from fleet.can.arm import Arm
from fleet.kinematics import load_arms
from fleet.limits import SafetyLimits
from fleet.runtime import Runtime
from fleet.servo import Servo
from harness.sim.mirror import MIRROR
from harness.tasks.box_grasp import BOX_GRASP
from harness.twin.bus import TwinBus
from harness.twin.physics import TwinConfig, TwinWorld
from policies.contract import ROBOT_CLASSES, parse_contract

WIDTHS = {"joint_position": 8, "joint_command": 8, "tcp_position": 3, "gripper_torque": 1}


def contract_for(robot_class):
    robot = ROBOT_CLASSES[robot_class]
    arms = len(robot.arms)
    kinematics = load_arms(robot_class)
    return parse_contract(
        {
            "schema": "policyctl.contract/1",
            "task": "box-grasp",
            "robot_class": robot_class,
            "arms": [arm.name for arm in robot.arms],
            "joints": list(robot.joints),
            "rate_hz": 50,
            "observation": [
                *({"name": name, "width": width * arms} for name, width in WIDTHS.items()),
                {"name": "object_position", "width": 3},
            ],
            "action": {
                "space": "delta",
                "limit": [0.04, 0.04, 0.06, 0.06, 0.06, 0.06, 0.06, 0.1] * arms,
                "ema_alpha": 1.0,
                "low": [float(x) for arm in kinematics for x in arm.q_min],
                "high": [float(x) for arm in kinematics for x in arm.q_max],
            },
            "memory_mb": 64,
            "load_s": 1.0,
            "latency_ms": 20.0,
        }
    )


class ScriptedPolicy:
    """Answers every observation by a function of the step."""

    def __init__(self, contract, answer):
        self.contract = contract
        self.answer = answer
        self.log = []
        self.steps = 0

    def reset(self):
        self.log.append("reset")
        self.steps = 0

    def act(self, observation):
        assert observation.shape == (1, self.contract.width)
        assert observation.dtype == np.float32
        self.steps += 1
        return np.asarray(self.answer(self.steps), dtype=np.float32)


class PatientJudge:
    """Says what it was told to say after so many steps."""

    version = "patient/1"

    def __init__(self, steps=10, says="success"):
        self.steps, self.says = steps, says
        self.seen = 0

    def reset(self):
        self.seen = 0

    def update(self, q, dq, tau, dt):
        assert dt == pytest.approx(0.02)
        self.seen += 1

    def outcome(self):
        return self.says if self.seen >= self.steps else None

    def failure_mode(self):
        return "miss_grasp"


class TwinTask:
    horizon_s = 0.8

    def __init__(self, arms):
        start = np.array(BOX_GRASP.start_q)
        self.start_q = np.concatenate([start if a == "right" else start * MIRROR for a in arms])


class Rig:
    """A twin with everything an attempt needs."""

    def __init__(self, robot_class="openarm-v2-right", **limits):
        arms = tuple(arm.name for arm in ROBOT_CLASSES[robot_class].arms)
        self.world = TwinWorld(TwinConfig(seed=5, arms=arms))
        self.buses = [TwinBus(self.world, name) for name in arms]
        self.arms = [Arm(bus, name=name) for bus, name in zip(self.buses, arms, strict=True)]
        for arm in self.arms:
            arm.connect()
            arm.enable()
        kinematics = load_arms(robot_class)
        bounds = SafetyLimits.for_arms(kinematics, table_z=BOX_GRASP.table_z, **limits)
        self.servo = Servo(self.arms, kinematics, bounds, physics_s=0.001)
        self.servo.start()
        self.contract = contract_for(robot_class)
        self.task = TwinTask(arms)
        self.joints = 8 * len(arms)
        self.log = []
        self.ready = SceneCheck(True, facts={"scene": 1})
        self.poses = self.world.pose_source()
        self.runtime = Runtime(self.servo, kinematics, self)

    def read(self):
        return self.poses.read() if self.poses else None

    def prepare(self):
        self.log.append("scene")
        self.world.new_scene()
        return self.ready

    def still(self, step):
        return np.zeros((1, self.joints))

    def attempt(self, answer=None, judge=None, **options):
        policy = ScriptedPolicy(self.contract, answer or self.still)
        policy.log = self.log
        return self.runtime.run_attempt(
            policy, self.task, judge or PatientJudge(), self.opened, self, **options
        )

    def opened(self, facts):
        self.log.append("opened")
        self.at_opening = self.servo.command.copy()
        self.facts = facts

    def close(self):
        for bus in self.buses:
            bus.shutdown()


def sway(step):
    row = np.zeros((1, 8))
    row[0, 0] = 0.4 if step < 10 else -0.4
    return row
