"""A whole emulated robot: world, arms on their buses, servo, runtime. What a real one is, but time.

Rules
- It is built from the same robot file as a real robot, and runs the same arm, servo and runtime.
- A scene is a new box; what it weighs and how it slides is written down with the attempt and shown
  to nobody who acts. The arm then starts at the pose that the task draws.
- Every frame goes through a tap to one monitor per arm where `watched`.
"""

from __future__ import annotations

from collections.abc import Sequence

import can

from fleet.can.arm import Arm
from fleet.can.bus import FrameTap
from fleet.kinematics import ArmKinematics
from fleet.robot import RobotConfig
from fleet.runtime import Runtime, SceneCheck
from fleet.safety import SafetyLimits
from fleet.servo import Servo
from harness.tasks.box_grasp import BOX_GRASP, BoxGrasp
from harness.twin.monitor import FrameMonitor, FrameReport
from harness.twin.physics import TwinConfig, TwinWorld
from registry.errors import ConfigError


def twin_config(robot: RobotConfig) -> TwinConfig:
    """What a robot file says of its twin. ConfigError if the robot is a real one."""
    twin = robot.twin
    if twin is None:
        raise ConfigError("this robot is not a twin", where=robot.robot, field="twin")
    return TwinConfig(
        seed=twin.seed,
        arms=tuple(arm.name for arm in robot.arms),
        physics_hz=twin.physics_hz,
        box_mass=twin.box.mass,
        box_friction=twin.box.friction,
        joint_friction_scale=twin.joint_friction_scale,
        joint_damping_scale=twin.joint_damping_scale,
        latency_s=twin.latency_s,
    )


class TwinScene:
    """`Scene` of a twin: each attempt gets a new box at a new pose."""

    def __init__(self, world: TwinWorld) -> None:
        self._world = world

    def prepare(self) -> SceneCheck:
        world = self._world
        placement = world.new_scene()
        facts = {
            "scene": world.scene_number - 1,
            "box_mass": round(world.box_mass, 4),
            "box_friction": round(world.box_friction, 4),
            "box_x": round(placement.x, 4),
            "box_y": round(placement.y, 4),
            "box_yaw": round(placement.yaw, 4),
        }
        start = tuple(float(q) for q in placement.start_q) if len(world.config.arms) == 1 else None
        return SceneCheck(True, facts=facts, start_q=start)


class TwinRobot:
    """An emulated robot, switched off until `start`."""

    def __init__(
        self, robot: RobotConfig, *, watched: bool = False, task: BoxGrasp = BOX_GRASP
    ) -> None:
        config = twin_config(robot)
        self.config = robot
        self.world = TwinWorld(config, task)
        self.monitors = tuple(FrameMonitor(name) for name in config.arms) if watched else ()
        self.arms = tuple(
            Arm(self._bus(i, name), name=name, fd=arm.bus.fd)
            for i, (name, arm) in enumerate(zip(config.arms, robot.arms, strict=True))
        )
        self.kinematics = tuple(ArmKinematics.load(name) for name in config.arms)
        self.limits = SafetyLimits.for_arms(self.kinematics, table_z=task.table_z)
        self.scene = TwinScene(self.world)
        self._runtime: Runtime | None = None

    def start(self) -> Runtime:
        """Connect and enable the arms, start the servo; the runtime that makes attempts."""
        for arm in self.arms:
            arm.connect()
        for arm in self.arms:
            arm.enable()
        servo = Servo(
            self.arms,
            self.kinematics,
            self.limits,
            period_s=self.config.period_s,
            physics_s=self.config.physics_s,
        )
        servo.start()
        self._runtime = Runtime(
            servo,
            self.kinematics,
            self.world.pose_source(),
            speed_scale=self.config.speed_scale,
        )
        return self._runtime

    def park(self) -> None:
        """A person takes the arms to their stands and switches them off."""
        for arm in self.arms:
            arm.disable()
            self.world.park(arm.name)

    def frames(self) -> Sequence[FrameReport]:
        """What the monitors saw, one report per arm; empty if not watched."""
        return [monitor.report() for monitor in self.monitors]

    def _bus(self, index: int, arm: str) -> can.BusABC:
        bus = self.world.bus(arm)
        return FrameTap(bus, self.monitors[index]) if self.monitors else bus
