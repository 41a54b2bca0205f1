"""The world behind a twin's motors: the scene in MuJoCo, its clock, one robot's own physics.

Rules
- Time passes only in `advance`, in whole physics steps; what is left over waits for the next call.
  One tick decodes the commands once, writes ctrl once and steps MuJoCo once (twice where the
  robot's command latency ends inside it): the MIT law runs inside every physics step.
- Nothing is compensated here (gravcomp 0): the servo must send the arm's weight as feed-forward.
- Each robot differs by its seed: joint friction and damping, command latency. Each scene differs by
  seed and scene number: box pose, mass, friction. Same seed, same commands: same trace, to the bit.
- Until a motor is first enabled the arm rests on its stand, at `park`'s pose; then it stands in
  the way of nothing but gravity. Switching motors off in mid-air lets it fall.
- The box's true pose leaves this file by two doors: the tag detector (noise, rate, delay, dropout),
  which is what a policy may see, and `truth`, which only scores judges.

Units SI; positions in the base frame (shoulder mount); yaw about z.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import mujoco
import numpy as np
import numpy.typing as npt

from fleet.camera import Pose
from fleet.can.frames import Array
from fleet.can.motors import BIT_RATES
from harness.sim.mirror import as_arm
from harness.sim.scene import BASE_HEIGHT, ArmIndex, SceneConfig, build_scene
from harness.tasks.box_grasp import BOX_GRASP, BoxGrasp
from harness.tasks.detector import Detector, DetectorModel
from harness.tasks.task import Placement
from harness.twin.adapter import Adapter
from harness.twin.modes import Loops
from harness.twin.motors import Drive, MotorBank
from harness.twin.registers import FD_CODE
from registry.errors import ServiceFailed

Range = tuple[float, float]

HEAT_PERIOD_S = 0.05
_ROBOT, _SCENE, _CAMERA = 0, 1, 2
"""Streams of randomness: a new use takes a new number and shifts nobody's draws."""


@dataclass(frozen=True)
class TwinConfig:
    """One twin. Ranges are drawn uniformly: the robot's once per seed, the box's per scene."""

    seed: int = 0
    arms: tuple[str, ...] = ("right",)
    physics_hz: int = 1000
    box_mass: Range = (0.2, 0.2)
    box_friction: Range = (0.5, 0.5)
    joint_friction_scale: Range = (0.8, 1.2)
    joint_damping_scale: Range = (0.8, 1.2)
    latency_s: Range = (0.001, 0.003)
    """Between a command's arrival at the motors and its effect."""
    can_br: int = FD_CODE
    """The motors' bit rate register as shipped: 9 answers in CAN FD frames, 4 in classic ones."""
    any_frame_feeds: bool = True
    """Whether a read feeds a motor's watchdog as a command does: the manuals do not say."""

    def __post_init__(self) -> None:
        if self.physics_hz <= 0 or 1_000_000_000 % self.physics_hz:
            raise ValueError(f"physics_hz {self.physics_hz} does not divide a second into whole ns")
        for name in ("box_mass", "box_friction", "joint_friction_scale", "joint_damping_scale"):
            low, high = getattr(self, name)
            if not 0.0 < low <= high:
                raise ValueError(f"{name} [{low}, {high}] is not a rising range above 0")
        if self.can_br not in BIT_RATES:
            raise ValueError(f"can_br {self.can_br} is none of {list(BIT_RATES)}")
        if not 0.0 <= self.latency_s[0] <= self.latency_s[1]:
            raise ValueError(f"latency_s {list(self.latency_s)} is not a rising range from 0")


class BoxTruth(NamedTuple):
    """Where the box really is and whether both fingers of an arm touch it. Scores judges only."""

    position: Array
    yaw: float
    rise: float
    """Height [m] of the centre above rest."""
    held: bool


class _Command(NamedTuple):
    """Motor commands of one arm that take effect at physics step `due`."""

    due: int
    rig: _Rig
    drive: Drive


class _Rig:
    """One arm's motors, and its joints and actuators as views into the model and its state."""

    def __init__(
        self, config: TwinConfig, model: mujoco.MjModel, data: mujoco.MjData, index: ArmIndex
    ) -> None:
        self.index = index
        act = _span(index.ctrl)
        joints = data.qpos[_span(index.qpos)], data.qvel[_span(index.dof)], data.actuator_force[act]
        self.bank = MotorBank(
            lambda: joints, can_br=config.can_br, any_frame_feeds=config.any_frame_feeds
        )
        self.adapter = Adapter(lambda: self.bank.acknowledges)
        self.loops = Loops(np.array([motor.type.peak_torque for motor in self.bank.addresses]))
        self.joints = joints
        self.torque = joints[2]
        self.ctrl = data.ctrl[act]
        self.bias_kp, self.bias_kd = model.actuator_biasprm[act, 1:3].T
        self.parked = np.zeros(len(index.qpos))
        """Pose of the joints while the arm is on its stand."""


class TwinWorld:
    """One robot's world; not for use from two threads."""

    def __init__(self, config: TwinConfig | None = None, task: BoxGrasp = BOX_GRASP) -> None:
        self.config = config = config or TwinConfig()
        self.task = task
        self.steps = 0
        """Physics steps since construction."""
        self.scene_number = 0
        """Scenes placed so far; the next one's randomness follows from it."""
        self.injected: dict[str, dict[tuple[str, str | None], Mapping[str, Any]]] = {}
        """Details of the troubles at work, by arm, name and joint, the newest last: the book of
        harness/twin/faults.py."""
        self._step_ns = 1_000_000_000 // config.physics_hz
        self._now_ns = 0
        self._now_s = 0.0
        self._scene = build_scene(
            SceneConfig(
                timestep=1.0 / config.physics_hz,
                gravcomp=False,
                arms=config.arms,
                table_z=task.table_z,
                box_half=task.box_half,
            )
        )
        self._model = self._scene.model
        self._data = mujoco.MjData(self._model)
        self._scratch = mujoco.MjData(self._model)
        self._rigs = {
            arm.name: _Rig(config, self._model, self._data, arm) for arm in self._scene.arms
        }
        self._all = tuple(self._rigs.values())
        self._on_stand: list[_Rig] = []
        self._own_loops: list[_Rig] = []
        """Arms with motors in other modes than MIT: their drives run at every step."""
        self._pending: deque[_Command] = deque()
        self._heated_at = 0
        self._heat_steps = max(round(HEAT_PERIOD_S * config.physics_hz), 1)
        self._detector = Detector(1, DetectorModel())
        self._vary_robot()
        for name in config.arms:
            self.park(name)
        self.new_scene()

    # -- time

    def now(self) -> float:
        """Simulated time [s]."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Let `seconds` of simulated time pass."""
        self._now_ns += round(seconds * 1e9)
        self._now_s = self._now_ns * 1e-9
        target = self._now_ns // self._step_ns
        if target <= self.steps:
            return
        for rig in self._all:
            if rig.bank.touched:
                self._fetch(rig)
        pending = self._pending
        while self.steps < target:
            while pending and pending[0].due <= self.steps:
                self._apply(pending.popleft())
            until = min(target, pending[0].due) if pending else target
            if self._on_stand or self._own_loops:
                until = self.steps + 1
            for rig in self._own_loops:
                rig.loops.run(*rig.joints[:2], 1.0 / self.config.physics_hz, rig.ctrl)
            mujoco.mj_step(self._model, self._data, until - self.steps)
            self.steps = until
            for rig in self._on_stand:
                self._hold_on_stand(rig)
        for rig in self._all:
            rig.bank.moved()
            if rig.bank.watched:
                rig.bank.watch(self.now())
        if self.steps - self._heated_at >= self._heat_steps:
            self._keep_house()

    # -- the robot

    def bank(self, arm: str = "right") -> MotorBank:
        """The motors of one arm; faults are injected here."""
        return self._rigs[arm].bank

    def adapter(self, arm: str = "right") -> Adapter:
        """What stands between a program and that arm's motors, for a FaultyBus."""
        return self._rigs[arm].adapter

    def park(self, arm: str = "right", q: Array | None = None) -> None:
        """Put a switched-off arm on its stand at q (8,), by default the task's start pose."""
        rig = self._rigs[arm]
        if rig.bank.any_enabled:
            raise ValueError(f"{arm} arm is enabled: it cannot be put on its stand")
        start = as_arm(arm, np.array(self.task.start_q))
        rig.parked = start if q is None else np.array(q, float)
        if rig not in self._on_stand:
            self._on_stand.append(rig)
        self._hold_on_stand(rig)

    def joints(self, arm: str = "right") -> Array:
        """True joint positions (8,) [rad], for tests and traces."""
        return np.array(self._data.qpos[self._rigs[arm].index.qpos])

    def sensed(self, arm: str = "right") -> tuple[Array, Array, Array]:
        """Joint positions [rad], speeds [rad/s] and motor torques [Nm], each (8,), as they are."""
        q, dq, tau = self._rigs[arm].joints
        return q.copy(), dq.copy(), tau.copy()

    # -- the scene

    def new_scene(self) -> Placement:
        """Take the box away and put a new one at a random pose of the task. The arm stays."""
        rng = self._rng(_SCENE, self.scene_number)
        placement = self.task.place(rng)
        low, high = np.array([self.config.box_mass, self.config.box_friction]).T
        mass, friction = low + (high - low) * rng.random(2)
        self.place_box(placement.x, placement.y, placement.yaw, float(mass), float(friction))
        self.scene_number += 1
        return placement

    def place_box(self, x: float, y: float, yaw: float, mass: float, friction: float) -> None:
        """Put the box on the table at x, y [m], yaw [rad], at rest; mass [kg]."""
        model, scene, data = self._model, self._scene, self._data
        body, geom, at, dof = scene.box_body, scene.box_geom, scene.box_qpos, scene.box_dof
        model.body_inertia[body] *= mass / model.body_mass[body]
        model.body_mass[body] = mass
        model.geom_friction[geom, 0] = friction
        mujoco.mj_setConst(model, self._scratch)
        data.qpos[at : at + 3] = x, y, BASE_HEIGHT + self.task.rest_z
        data.qpos[at + 3 : at + 7] = np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)
        data.qvel[dof : dof + 6] = 0.0
        mujoco.mj_forward(model, data)
        self.box_mass, self.box_friction = mass, friction
        position, heading = self._box()
        camera = self._rng(_CAMERA, self.scene_number)
        self._detector.reset([0], [camera], position[None], np.array([heading]))
        self._scene_began_ns = self._now_ns

    def pose_source(self) -> TwinPoseSource:
        """The tag detector on this world's box: what a policy may see of it."""
        return TwinPoseSource(self._see)

    def truth(self, arm: str = "right") -> BoxTruth:
        """The box as it is. Never for policies or judges: it scores them."""
        position, yaw = self._box()
        touching = self._data.sensordata[list(self._rigs[arm].index.touch)] > 0
        rise = float(position[2] - self.task.rest_z)
        return BoxTruth(position, yaw, rise, bool(touching.all()))

    # -- inside

    def _fetch(self, rig: _Rig) -> None:
        drive = rig.bank.drive()
        if rig in self._on_stand and rig.bank.any_enabled:
            self._on_stand.remove(rig)
        self._pending.append(_Command(self.steps + self.latency_steps, rig, drive))

    def _apply(self, command: _Command) -> None:
        rig, drive = command.rig, command.drive
        np.negative(drive.kp, out=rig.bias_kp)
        np.negative(drive.kd, out=rig.bias_kd)
        rig.ctrl[:] = drive.ctrl
        if drive.goals is not None or rig.loops.running:
            rig.loops.follow(drive.goals, rig.joints[1])
            self._own_loops = [one for one in self._all if one.loops.running]

    def _hold_on_stand(self, rig: _Rig) -> None:
        index = rig.index
        self._data.qpos[index.qpos] = rig.parked
        self._data.qpos[index.mirror_qpos] = rig.parked[7]
        self._data.qvel[index.dof] = 0.0

    def _keep_house(self) -> None:
        seconds = (self.steps - self._heated_at) / self.config.physics_hz
        self._heated_at = self.steps
        for rig in self._all:
            rig.bank.heat(rig.torque, seconds)
        diverged = self._data.warning[mujoco.mjtWarning.mjWARN_BADQACC].number
        if diverged:
            raise ServiceFailed(
                "the twin's physics diverged",
                evidence=f"seed {self.config.seed}, scene {self.scene_number}, {self.now():.3f} s",
                hint="lower the gains or the physics step",
            )

    def _vary_robot(self) -> None:
        config, model = self.config, self._model
        rng = self._rng(_ROBOT, 0)
        ranges = np.array(
            [config.joint_friction_scale, config.joint_damping_scale, config.latency_s]
        )
        friction, damping, latency = ranges[:, 0] + (ranges[:, 1] - ranges[:, 0]) * rng.random(3)
        dofs = self._scene.dof
        model.dof_frictionloss[dofs] *= friction
        model.dof_damping[dofs] *= damping
        self.latency_steps = round(float(latency) * config.physics_hz)
        self.variation = {
            "joint_friction_scale": float(friction),
            "joint_damping_scale": float(damping),
            "latency_s": self.latency_steps / config.physics_hz,
        }

    def _rng(self, stream: int, number: int) -> np.random.Generator:
        entropy = int.from_bytes(hashlib.sha256(self.task.name.encode()).digest()[:16], "big")
        key = (stream, self.config.seed, number)
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy, spawn_key=key)))

    def _box(self) -> tuple[Array, float]:
        at = self._scene.box_qpos
        position = np.array(self._data.qpos[at : at + 3])
        position[2] -= BASE_HEIGHT
        w, x, y, z = self._data.qpos[at + 3 : at + 7]
        return position, float(np.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z)))

    def _see(self) -> Pose:
        position, yaw = self._box()
        time_s = np.array([(self._now_ns - self._scene_began_ns) * 1e-9])
        slots: npt.NDArray[np.intp] = np.zeros(1, np.intp)
        seen, heading, age = self._detector.read(slots, time_s, position[None], np.array([yaw]))
        return Pose(position=np.array(seen[0]), yaw=float(heading[0]), age_s=float(age[0]))


class TwinPoseSource:
    """`PoseSource` of a twin: the newest detection, with its age. Read it at policy rate."""

    def __init__(self, see: Callable[[], Pose]) -> None:
        self._see = see

    def read(self) -> Pose | None:
        return self._see()


def _span(index: npt.NDArray[np.intp]) -> slice:
    """Indices that follow one another, as the slice that makes a view of them."""
    first, last = int(index[0]), int(index[-1])
    if not np.array_equal(index, np.arange(first, last + 1)):
        raise ValueError(f"an arm's joints are not next to each other in the model: {index}")
    return slice(first, last + 1)
