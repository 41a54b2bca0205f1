"""Builds a robot from its file: buses, arms, servo, runtime, and what sees and judges.

The one place where a twin and a real robot differ: here a bus is opened or emulated, a scene is a
conveyor of new boxes or a person's, and poses come from a detector model or from a camera. All
that runs afterwards is the same code. On twins a monitor of its own decoder reads every frame of
both directions from the first on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import can
import numpy as np

from ci.cycle_log import CycleLog
from fleet.attempt import Scene, SceneCheck
from fleet.camera import PoseSource
from fleet.can.arm import Arm
from fleet.can.bus import FrameTap, open_bus
from fleet.can.calibration import load_calibration
from fleet.cycle_log import ROWS, Ring
from fleet.kinematics import ArmKinematics, load_arms
from fleet.limits import CONTACT_MAX, JOINTS
from fleet.robot import RobotConfig, TwinSettings
from fleet.runtime import Runtime
from fleet.servo import Servo
from fleet.servo_client import RemoteArm, ServoClient
from fleet.servo_setup import BusSetup, LimitValues, ServoSetup
from harness.tasks import find_robot_task
from harness.tasks.box_grasp import BOX_GRASP, JointJudge
from harness.twin.bus import TwinBus
from harness.twin.monitor import FrameMonitor
from harness.twin.physics import TwinConfig, TwinWorld
from harness.twin.remote import RemoteTwin
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
    servo: Servo | ServoClient
    runtime: Runtime
    kinematics: tuple[ArmKinematics, ...]
    poses: PoseSource
    arms: tuple[Arm, ...] | tuple[RemoteArm, ...]
    world: TwinWorld | None = None
    monitors: tuple[FrameMonitor, ...] = field(default=())
    cycles: CycleLog | None = None
    ring: Ring | None = None

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def judge(self, task: str) -> JointJudge:
        """Who decides an attempt's outcome, from what the arm measures."""
        return JointJudge(self.kinematics[0], find_robot_task(task))

    def conveyor(self) -> Scene:
        """The scene of a robot that works by itself."""
        if self.config.twin_control is not None:
            return RemoteTwin(self.config.twin_control)
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
        """Closes log and buses. The motors hold their last command; nothing falls."""
        try:
            if self.cycles is not None:
                self.cycles.close()
        finally:
            if self.ring is not None:
                self.ring.close()
            if isinstance(self.servo, ServoClient):
                self.servo.close()
            for arm in self.arms:
                arm.close()


def build_rig(
    config: RobotConfig, *, log: Path | None = None, poses: PoseSource | None = None
) -> Rig:
    """Connects to the robot of `config` and takes it over where it stands.

    `log` is a cycle log's file, by default a new one in the robot's `cycle_log`. `poses` sees the
    object, by default what the robot has for that. Raises ArmFault, ConfigError, ServiceFailed.
    """
    kinematics = load_arms(config.robot_class)
    values = _limits(config, kinematics)
    if log is None and config.cycle_log is not None:
        now = datetime.now(UTC)
        log = config.cycle_log / f"{config.robot}-{now:%Y%m%dT%H%M%S.%f}.mcap"
    if config.servo_process:
        return _remote(config, values, poses or _poses(config, None), log)
    return _inline(config, kinematics, values, poses, log)


def _remote(config: RobotConfig, values: LimitValues, poses: PoseSource, log: Path | None) -> Rig:
    """The servo in a process of its own, a guardian beside it for each bus."""
    buses = tuple(BusSetup(arm.name, arm.bus.to_can(), arm.bus.fd) for arm in config.arms)
    servo = ServoClient(
        ServoSetup(
            config.robot,
            f"policyctl-{config.robot}-{time.monotonic_ns()}",
            config.robot_class,
            buses,
            values,
            config.period_s,
            config.on_host_loss,
            config.servo_core,
            log=log is not None,
        )
    )
    servo.start()
    rig = Rig(
        config,
        servo,
        Runtime(
            servo, servo.kinematics, poses, speed_scale=config.speed_scale, async_inference=True
        ),
        servo.kinematics,
        poses,
        servo.arms,
    )
    if log is not None:
        with _closing_on_error(rig):
            rig.cycles = CycleLog(log, servo.setup.ring, config.class_.joints)
    return rig


def _inline(
    config: RobotConfig,
    kinematics: tuple[ArmKinematics, ...],
    values: LimitValues,
    poses: PoseSource | None,
    log: Path | None,
) -> Rig:
    """The servo in this process: in lock-step with its twin, or on a virtual bus.

    Whatever fails on the way, no bus stays open.
    """
    names = tuple(arm.name for arm in config.arms)
    world = None if config.twin is None else _world(config.twin, names)
    monitors = []
    arms = []
    with ExitStack() as undo:
        for settings, (low, high) in zip(config.arms, values.ranges, strict=True):
            bus: can.BusABC
            if world is not None:
                monitor = FrameMonitor(settings.name)
                monitors.append(monitor)
                bus = FrameTap(TwinBus(world, settings.name), monitor)
            else:
                bus = open_bus(settings.bus.to_can())
            undo.callback(bus.shutdown)
            arms.append(
                Arm(
                    bus,
                    name=settings.name,
                    limits=(np.array(low), np.array(high)),
                    fd=settings.bus.fd,
                    on_host_loss=config.on_host_loss,
                )
            )
        servo = Servo(
            arms,
            kinematics,
            values.safety(kinematics),
            period_s=config.period_s,
            physics_s=config.physics_s,
        )
        witnesses = tuple(monitors)
        servo.on_stop = _told(servo, witnesses)
        sight = poses or _poses(config, world)
        for arm in arms:
            arm.connect()
        for arm in arms:
            arm.enable()
        servo.start()
        servo.hold(
            1
        )  # motors are limp from being switched on to their first command: the arm sinks
        runtime = Runtime(servo, kinematics, sight, speed_scale=config.speed_scale)
        rig = Rig(config, servo, runtime, kinematics, sight, tuple(arms), world, witnesses)
        if log is not None:
            with _closing_on_error(rig):
                _log_cycles(rig, servo, log)
        undo.pop_all()
    return rig


def _told(servo: Servo, witnesses: tuple[FrameMonitor, ...]) -> Callable[[bool], None]:
    """What tells the witnesses of stops and resumes."""

    def on_stop(stopped: bool) -> None:
        for witness in witnesses:
            if stopped:
                witness.stop(servo.now())
            else:
                witness.resume()

    return on_stop


def _log_cycles(rig: Rig, servo: Servo, path: Path) -> None:
    name = f"policyctl-{rig.config.robot}-inline-{time.monotonic_ns()}-cycles"
    ring = rig.ring = Ring.create(name, JOINTS * len(rig.arms))
    log = rig.cycles = CycleLog(path, name, rig.config.class_.joints)
    ring.hide()
    lock_step = rig.world is not None

    def append(servo: Servo) -> None:
        while lock_step and ring.unread > ROWS // 2:  # simulated time waits for its log
            log.check()
            time.sleep(0.01)
        ring.append(
            servo.now(), servo.stopped, servo.counts,
            (servo.command, servo.q[0], servo.dq[0], servo.tau[0]),
        )  # fmt: skip

    servo.before_tick = append


@contextmanager
def _closing_on_error(rig: Rig) -> Iterator[None]:
    try:
        yield
    except BaseException:
        rig.close()
        raise


def _limits(config: RobotConfig, kinematics: tuple[ArmKinematics, ...]) -> LimitValues:
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
        ranges.append((tuple(low.tolist()), tuple(high.tolist())))
    narrow = config.limits
    return LimitValues(
        tuple(ranges),
        {
            "table_z": BOX_GRASP.table_z if config.table_z is None else config.table_z,
            "dq_max": narrow.joint_speed,
            "ddq_max": narrow.joint_acceleration,
            "contact_max": (*narrow.contact_torque, CONTACT_MAX[-1]),
            "low": narrow.workspace.low,
            "high": narrow.workspace.high,
        },
    )


def _poses(config: RobotConfig, world: TwinWorld | None) -> PoseSource:
    if config.twin_control is not None:
        return RemoteTwin(config.twin_control)
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
