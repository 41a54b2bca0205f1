"""Builds a robot from its file: buses, arms, servo, runtime, and what sees and judges.

The one place where a twin and a real robot differ: here a bus is opened or emulated, a scene is a
conveyor of new boxes or a person's, and poses come from a detector model or from a camera. All
that runs afterwards is the same code. On twins a monitor of its own decoder reads every frame of
both directions from the first on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import can
import numpy as np

from fleet.attempt import SceneCheck
from fleet.camera import PoseSource
from fleet.can.arm import Arm
from fleet.can.bus import FrameTap, open_bus
from fleet.can.calibration import load_calibration
from fleet.kinematics import ArmKinematics, load_arms
from fleet.limits import CONTACT_MAX, JOINTS, SafetyLimits
from fleet.robot import RobotConfig, TwinSettings
from fleet.runtime import Runtime
from fleet.servo import Servo
from harness.tasks import find_robot_task
from harness.tasks.box_grasp import BOX_GRASP, JointJudge
from harness.twin.monitor import FrameMonitor
from harness.twin.physics import TwinConfig, TwinWorld
from registry.errors import ConfigError, ServiceFailed


@dataclass
class Conveyor:
    """The scene of a twin on its own: a new box at a random pose before each attempt."""

    world: TwinWorld

    def prepare(self) -> SceneCheck:
        placement = self.world.new_scene()
        facts = {
            "scene": self.world.scene_number,
            "x": round(placement.x, 4),
            "y": round(placement.y, 4),
            "yaw": round(placement.yaw, 4),
            "mass": round(self.world.box_mass, 4),
            "friction": round(self.world.box_friction, 4),
        }
        return SceneCheck(True, facts=facts)


@dataclass
class Rig:
    """A robot that stands ready: its motors hold the pose they were found in."""

    config: RobotConfig
    servo: Servo
    runtime: Runtime
    kinematics: tuple[ArmKinematics, ...]
    poses: PoseSource
    arms: tuple[Arm, ...]
    world: TwinWorld | None = None
    monitors: tuple[FrameMonitor, ...] = field(default=())

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def judge(self, task: str) -> JointJudge:
        """Who decides an attempt's outcome, from what the arm measures."""
        return JointJudge(self.kinematics[0], find_robot_task(task))

    def conveyor(self) -> Conveyor:
        """The scene of a robot that works by itself."""
        if self.world is None:
            raise ServiceFailed(
                f"{self.config.robot} has no scene source",
                evidence="only twins place their own boxes in this version",
                hint="policyctl gate run hil VERSION --station STATION.yaml",
            )
        return Conveyor(self.world)

    def frames(self) -> dict[str, Any]:
        """What the frame monitors saw so far: frames, violations and the first of them."""
        reports = [monitor.report() for monitor in self.monitors]
        return {
            "frames": sum(report.frames for report in reports),
            "violations": sum(report.violations for report in reports),
            "examples": [asdict(v) for report in reports for v in report.examples][:10],
            "worst": {report.arm: report.worst for report in reports},
        }

    def close(self) -> None:
        """Closes the buses. The motors hold their last command; nothing falls."""
        for arm in self.arms:
            arm.close()


def build_rig(config: RobotConfig) -> Rig:
    """Connects to the robot of `config` and takes it over where it stands. Raises ArmFault."""
    kinematics = load_arms(config.robot_class)
    limits = _limits(config, kinematics)
    names = tuple(arm.name for arm in config.arms)
    world = None if config.twin is None else _world(config.twin, names)
    monitors = []
    arms = []
    for i, settings in enumerate(config.arms):
        bus: can.BusABC
        if world is not None:
            monitor = FrameMonitor(settings.name)
            monitors.append(monitor)
            bus = FrameTap(world.bus(settings.name), monitor)
        else:
            bus = open_bus(settings.bus.to_can())
        part = slice(JOINTS * i, JOINTS * i + JOINTS)
        arms.append(
            Arm(
                bus,
                name=settings.name,
                limits=(limits.q_min[part], limits.q_max[part]),
                fd=settings.bus.fd,
                on_host_loss=config.on_host_loss,
            )
        )
    servo = Servo(
        arms,
        kinematics,
        limits,
        period_s=config.period_s,
        physics_s=config.physics_s,
    )
    witnesses = tuple(monitors)

    def on_stop(stopped: bool) -> None:
        for witness in witnesses:
            if stopped:
                witness.stop(servo.now())
            else:
                witness.resume()

    servo.on_stop = on_stop
    poses = _poses(config, world)
    for arm in arms:
        arm.connect()
    for arm in arms:
        arm.enable()
    servo.start()
    servo.hold(1)  # motors are limp from being switched on to their first command: the arm sinks
    runtime = Runtime(servo, kinematics, poses, speed_scale=config.speed_scale)
    return Rig(config, servo, runtime, kinematics, poses, tuple(arms), world, witnesses)


def _limits(config: RobotConfig, kinematics: tuple[ArmKinematics, ...]) -> SafetyLimits:
    """The house's limits, narrowed by the robot file. Raises ConfigError: a calibration."""
    ranges = []
    for arm, kinematic in zip(config.arms, kinematics, strict=True):
        low, high = kinematic.q_min, kinematic.q_max
        if arm.calibration is not None:
            found = load_calibration(arm.calibration)
            if found.side != arm.name:
                raise ConfigError(
                    f"this is the calibration of a {found.side} arm",
                    where=str(arm.calibration),
                    field="side",
                    hint=f"the {arm.name} arm of {config.robot} names it",
                )
            low, high = np.maximum(low, found.low), np.minimum(high, found.high)
        ranges.append((low, high))
    narrow = config.limits
    return SafetyLimits.for_arms(
        kinematics,
        table_z=BOX_GRASP.table_z if config.table_z is None else config.table_z,
        dq_max=narrow.joint_speed,
        ddq_max=narrow.joint_acceleration,
        contact_max=(*narrow.contact_torque, CONTACT_MAX[-1]),
        low=narrow.workspace.low,
        high=narrow.workspace.high,
        ranges=ranges,
    )


def _poses(config: RobotConfig, world: TwinWorld | None) -> PoseSource:
    if world is None:
        raise ServiceFailed(
            f"{config.robot} has no camera that sees the object",
            evidence="object poses from real cameras are not part of this version",
            hint="use a twin: bus: {interface: twin}",
        )
    return world.pose_source()


def _world(settings: TwinSettings, arms: tuple[str, ...]) -> TwinWorld:
    config = TwinConfig(
        seed=settings.seed,
        arms=arms,
        physics_hz=settings.physics_hz,
        box_mass=settings.box.mass,
        box_friction=settings.box.friction,
        joint_friction_scale=settings.joint_friction_scale,
        joint_damping_scale=settings.joint_damping_scale,
        latency_s=settings.latency_s,
    )
    return TwinWorld(config, find_robot_task(settings.task))
