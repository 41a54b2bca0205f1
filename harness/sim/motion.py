"""Arm motions for identification: how to excite an arm, record it, and simulate the record again.

- `excitation` is a sum of sines per joint, from rest to rest, that stays inside the joint limits,
  the workspace, and a share of the speed and acceleration limits; each joint has its own
  frequencies, so that no two move alike.
- `record` drives a servo along it: what is logged as command is what the motors understood, after
  protection and as the CAN fields of the official motors carry it.
- `Resimulation` runs the logged commands through the scene for many sets of joint parameters at
  once. Between commands the motors hold the last one; it takes effect `latency_s` after it was
  sent, also in the middle of a physics step (the mean over the step is applied). Nothing touches
  the arm: contacts are off. Where the log has feed-forward torque the arm has its weight, else
  MuJoCo carries it.

Units rad, rad/s, Nm, s; joints joint1..joint7, gripper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np
import numpy.typing as npt
from mujoco.batch import Batch

from fleet.can.frames import ArmCodec
from fleet.can.motors import OPENARM_MOTORS
from fleet.kinematics import ArmKinematics
from fleet.limits import SafetyLimits
from fleet.servo import Servo
from harness.episodes.log import MotionLog
from harness.sim.mirror import as_arm
from harness.sim.scene import SceneConfig, build_scene
from registry.errors import ServiceFailed

Floats = npt.NDArray[np.float64]

JOINTS = tuple(motor.joint for motor in OPENARM_MOTORS)
"""joint1..joint7, gripper."""

CENTRE = (0.2, 0.5, -0.3, 1.4, 0.3, 0.0, -0.2, -0.4)
"""Middle of the excitation, right arm: the hand in the air in front of the robot, off the table."""
SWING = (0.5, 0.35, 0.5, 0.5, 0.8, 0.5, 0.8, 0.25)
"""Half width of it, each joint [rad], where nothing forbids it."""
FREQUENCIES_HZ = (0.2, 5.0)
SINES = 6
SPEED, ACCELERATION = 0.6, 0.4
"""Share of the limits that the excitation uses."""
EASE_S = 0.5
_CHUNK = 500


def excitation(
    kinematics: ArmKinematics,
    duration_s: float = 10.0,
    *,
    period_s: float = 0.005,
    limits: SafetyLimits | None = None,
    swing: float = 1.0,
    seed: int = 111,
) -> Floats:
    """Joint targets (T, 8), one per servo tick, from rest to rest at the same pose.

    The default seed is the one of 200 whose joints move least alike.

    `swing` scales the amplitudes. Safe against `limits`, by default those of one arm over the
    scene's table: speed and acceleration are kept, and amplitudes shrink until the TCP stays 5 cm
    inside the workspace. Drive the arm to the first row before, with `Servo.move_to`.
    """
    limits = limits or SafetyLimits.for_arms((kinematics,), table_z=SceneConfig().table_z)
    if duration_s < 4 * EASE_S:
        raise ValueError(f"an excitation of {duration_s:g} s is too short to ease in and out")
    centre = np.clip(
        as_arm(kinematics.side, np.array(CENTRE)), limits.q_min + 0.1, limits.q_max - 0.1
    )
    time: Floats = np.arange(round(duration_s / period_s) + 1, dtype=np.float64) * period_s
    way = as_arm(kinematics.side, _sines(time, seed) * np.array(SWING)) * swing
    way *= np.minimum(
        1.0,
        (np.minimum(centre - limits.q_min, limits.q_max - centre) - 0.05) / np.abs(way).max(axis=0),
    )
    speed = np.abs(np.gradient(way, period_s, axis=0)).max(axis=0) / (SPEED * limits.dq_max)
    push = np.abs(np.gradient(np.gradient(way, period_s, axis=0), period_s, axis=0)).max(axis=0)
    way /= np.maximum(1.0, np.maximum(speed, push / (ACCELERATION * limits.ddq_max)))
    for shrink in (1.0, 0.8, 0.6, 0.4, 0.2):
        path: Floats = centre + shrink * way
        inside, own = limits.clearance(path)
        if min(inside.min(), own.min()) > 0.05:
            return path
    raise ServiceFailed(
        "there is no room for an excitation motion",
        evidence=f"the hand comes within 5 cm of the workspace's bounds around {centre.round(2)}",
        hint="clear the table in front of the arm, or give a lower swing",
    )


def _sines(time: Floats, seed: int) -> Floats:
    """(T, 8) between -1 and 1, from 0 to 0 with no speed at both ends."""
    rng = np.random.default_rng(seed)
    low, high = FREQUENCIES_HZ
    joints, index = len(JOINTS), np.arange(SINES)
    shift = (np.arange(joints)[:, None] / joints + index) / SINES
    frequency = low * (high / low) ** shift
    phase = rng.uniform(0.0, 2.0 * np.pi, frequency.shape)
    weight = frequency**-0.8
    waves = weight * np.sin(2.0 * np.pi * frequency * time[:, None, None] + phase)
    way = waves.sum(axis=2)
    s = np.clip(np.minimum(time, time[-1] - time) / EASE_S, 0.0, 1.0)
    way *= (s**3 * (10.0 + s * (6.0 * s - 15.0)))[:, None]
    return np.asarray(way / np.abs(way).max(axis=0))


def record(
    servo: Servo,
    kinematics: ArmKinematics,
    targets: Floats,
    *,
    keep_going: Callable[[], bool] | None = None,
) -> MotionLog:
    """Drives one arm along targets (T, 8) from their first row and logs every tick.

    Protection may change the targets; the log has what the motors understood. Raises ArmFault as
    the servo does, ServiceFailed where protection stopped the arm or `keep_going` said no.
    """
    if not servo.move_to(targets[0], keep_going=keep_going):
        raise _stopped(servo)
    servo.hold(round(0.5 / servo.period_s))
    servo.begin()
    codec, still = ArmCodec([motor.type.ranges for motor in OPENARM_MOTORS]), np.zeros(8)
    start, rows = servo.now(), []
    for target in targets:
        now, weight = servo.now() - start, np.append(kinematics.gravity(servo.q[0, :7]), 0.0)
        command = servo.tick(target)
        if servo.stopped or (keep_going is not None and not keep_going()):
            raise _stopped(servo)
        sent = codec.decode_mit(codec.encode_mit(command, still, still, still, weight))
        rows.append((now, servo.q[0].copy(), servo.dq[0].copy(), servo.tau[0].copy(), sent))
    time, q, dq, tau, sent = map(np.array, zip(*rows, strict=True))
    return MotionLog(
        joints=JOINTS,
        time=time,
        q=q,
        dq=dq,
        tau=tau,
        command=sent[:, 0],
        command_dq=sent[:, 1],
        feedforward=sent[:, 4],
        metadata={"arm": kinematics.side, "motion": "excitation"},
    )


def _stopped(servo: Servo) -> ServiceFailed:
    return ServiceFailed(
        "the arm stopped before the motion was recorded",
        evidence=servo.stop_reason or "told to stop",
        hint="see why it stopped; then a person at the arm resumes it",
    )


@dataclass(frozen=True)
class JointParameters:
    """What is fitted: n sets; friction in Nm, latency in s, the rest multiples of the model's."""

    friction: Floats
    """(n, 8)"""
    damping: Floats
    armature: Floats
    kp: Floats
    kd: Floats
    latency_s: Floats
    """(n,)"""


class Resimulation:
    """The logged commands of one arm, run again for up to `size` sets of parameters."""

    def __init__(
        self, log: MotionLog, arm: str, size: int, *, threads: int = 1, timestep: float = 0.001
    ) -> None:
        config = SceneConfig(timestep=timestep, gravcomp=log.feedforward is None, arms=(arm,))
        self.scene = scene = build_scene(config)
        model = scene.model
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT
        self.log, self.timestep = log, timestep
        self.nominal_friction = np.array(model.dof_frictionloss[scene.dof])
        self._batch = Batch(model, size, nthread=threads)
        self._qpos, self._qvel = self._batch.bind("qpos"), self._batch.bind("qvel")
        self._friction = self._batch.expand("dof_frictionloss")
        self._damping = self._batch.expand("dof_damping")
        self._armature = self._batch.expand("dof_armature")
        self._bias = self._batch.expand("actuator_biasprm")
        since = (log.time - log.time[0]) / timestep
        self._at = np.floor(since + 1e-6).astype(np.intp)
        """Physics steps before each sample, and the part of one more."""
        self._part = np.clip(since - self._at, 0.0, 1.0)
        self._part[self._part < 1e-5] = 0.0
        self.steps = int(self._at[-1]) + 1

    def run(self, sets: JointParameters) -> Floats:
        """(n, 3, T, 8): positions, speeds and motor torques at the log's times."""
        n, scene = len(sets.latency_s), self.scene
        ids = np.arange(n)
        self._reset(ids, sets)
        ctrl = self._controls(sets)
        fields = ("qpos", "qvel", "actuator_force")
        columns = (scene.qpos, scene.dof, scene.ctrl)
        out = np.empty((n, 3, len(self.log.time), 8))
        before = np.stack(
            [
                self._qpos[:n, scene.qpos],
                self._qvel[:n, scene.dof],
                np.tile(self.log.tau[0], (n, 1)),
            ],
            axis=1,
        )
        track = np.empty((n, 3, _CHUNK + 1, 8))
        for start in range(0, self.steps, _CHUNK):
            stop = min(start + _CHUNK, self.steps)
            found = self._batch.rollout(
                stop - start, ctrl[:, start:stop], mujoco.mjtState.mjSTATE_CTRL,
                record=list(fields), ids=ids,
            )  # fmt: skip
            track[:, :, 0] = before
            for i, (name, column) in enumerate(zip(fields, columns, strict=True)):
                track[:, i, 1 : stop - start + 1] = found[name][:, :, column]
            inside = np.flatnonzero((self._at >= start) & (self._at < stop))
            at, part = self._at[inside] - start, self._part[inside, None]
            out[:, :, inside] = track[:, :, at] * (1.0 - part) + track[:, :, at + 1] * part
            before = track[:, :, stop - start].copy()
        return out

    def _reset(self, ids: npt.NDArray[np.intp], sets: JointParameters) -> None:
        scene, model, n = self.scene, self.scene.model, len(ids)
        self._batch.reset(ids=ids, stage=mujoco.mjtStage.mjSTAGE_NONE)
        dof, act = scene.dof, scene.ctrl
        self._friction[:n, dof] = sets.friction
        self._damping[:n, dof] = sets.damping * model.dof_damping[dof]
        self._armature[:n, dof] = sets.armature * model.dof_armature[dof]
        self._bias[:n, act, 1] = -sets.kp * scene.kp
        self._bias[:n, act, 2] = -sets.kd * scene.kd
        self._batch.set_const(ids=ids)
        self._qpos[:n, scene.qpos] = self.log.q[0]
        self._qpos[:n, scene.arms[0].mirror_qpos] = self.log.q[0, 7]
        self._qvel[:n, dof] = self.log.dq[0]

    def _controls(self, sets: JointParameters) -> Floats:
        """(n, steps, nu) ctrl [Nm] of each physics step."""
        log, scene, n = self.log, self.scene, len(sets.latency_s)
        ctrl = np.zeros((n, self.steps, scene.model.nu))
        for latency in np.unique(sets.latency_s):
            rows = np.flatnonzero(sets.latency_s == latency)
            kp = sets.kp[rows, None] * scene.kp
            wanted = kp * self._held(log.command, latency)
            if log.command_dq is not None:
                wanted = wanted + sets.kd[rows, None] * scene.kd * self._held(
                    log.command_dq, latency
                )
            if log.feedforward is not None:
                wanted = wanted + self._held(log.feedforward, latency)
            ctrl[np.ix_(rows, np.arange(self.steps), scene.ctrl)] = wanted
        return ctrl

    def _held(self, sent: Floats, latency: float) -> Floats:
        """(steps, 8): mean over each physics step of what the motors hold at that time."""
        since = self.log.time - self.log.time[0]
        knots = np.concatenate(([-1.0], since + latency, [since[-1] + latency + 1.0]))
        held = np.concatenate((sent[:1], sent))
        total = np.concatenate((np.zeros((1, 8)), np.cumsum(held * np.diff(knots)[:, None], 0)))
        edges = np.arange(self.steps + 1) * self.timestep
        at = np.stack([np.interp(edges, knots, total[:, j]) for j in range(8)], axis=1)
        return np.asarray(np.diff(at, axis=0) / self.timestep)
