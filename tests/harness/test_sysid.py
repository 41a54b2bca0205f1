"""Identification finds what an arm hides: by an oracle of plain MjData, and over the twin's bus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from fleet.can.arm import Arm
from fleet.can.frames import ArmCodec
from fleet.can.motors import OPENARM_MOTORS
from fleet.kinematics import ArmKinematics
from fleet.limits import SafetyLimits
from fleet.servo import Servo
from harness.episodes.log import MotionLog
from harness.sim.motion import ACCELERATION, JOINTS, SPEED, excitation, record
from harness.sim.scene import SceneConfig, build_scene
from harness.sim.sysid import Fit, arm_of, fit
from harness.tasks.box_grasp import BOX_GRASP
from harness.twin.bus import TwinBus
from harness.twin.physics import TwinConfig, TwinWorld
from registry.errors import ConfigError, ServiceFailed

LOG = Path("arm.mcap")
PERIOD_S = 0.005
HIDDEN = {
    "friction": np.array([0.35, 0.1, 0.2, 0.15, 0.08, 0.02, 0.06, 0.03]),
    "damping": np.array([1.4, 0.7, 1.3, 0.6, 1.5, 0.8, 1.2, 0.7]),
    "armature": np.array([1.0, 1.0, 1.2, 0.8, 1.3, 0.7, 1.2, 1.0]),
    "kp": np.array([0.9, 1.1, 0.95, 1.05, 0.9, 1.1, 0.95, 1.0]),
    "kd": np.array([1.2, 0.9, 1.1, 0.8, 1.2, 0.9, 1.1, 1.0]),
}
NOMINAL = {
    "friction": np.array([0.2, 0.2, 0.1, 0.1, 0.04, 0.04, 0.04, 0.0]),
    **{field: np.ones(8) for field in ("damping", "armature", "kp", "kd")},
}


def kinematics(side: str = "right") -> ArmKinematics:
    return ArmKinematics.load(side)


def oracle(
    hidden: Mapping[str, Any], latency_s: float, path: np.ndarray, *, step_s: float = 0.0005
) -> MotionLog:
    """What an arm with these parameters logs: plain MjData at another step, noise, CAN fields."""
    kin, rng = kinematics(), np.random.default_rng(6)
    scene = build_scene(SceneConfig(timestep=step_s, gravcomp=False))
    model, data = scene.model, mujoco.MjData(scene.model)
    dof, act = scene.dof, scene.ctrl
    model.dof_frictionloss[dof] = hidden["friction"]
    model.dof_damping[dof] *= hidden["damping"]
    model.dof_armature[dof] *= hidden["armature"]
    kp, kd = scene.kp * hidden["kp"], scene.kd * hidden["kd"]
    model.actuator_biasprm[act, 1], model.actuator_biasprm[act, 2] = -kp, -kd
    mujoco.mj_setConst(model, data)
    data.qpos[scene.qpos], data.qpos[scene.arms[0].mirror_qpos] = path[0], path[0, 7]
    # the box is far away
    data.qpos[scene.box_qpos] = 5.0
    codec, late = ArmCodec([m.type.ranges for m in OPENARM_MOTORS]), round(latency_s / step_s)
    feedback_of = [m.type.ranges for m in OPENARM_MOTORS]
    full = np.array([(r.pmax, r.vmax, r.tmax) for r in feedback_of]).T[:, :, None]
    bits = np.array([65535.0, 4095.0, 4095.0])
    zero, waiting, rows, step = np.zeros(8), [], [], 0
    for tick, target in enumerate(path):
        exact = np.stack([data.qpos[scene.qpos], data.qvel[dof], data.actuator_force[act]])
        exact += rng.normal(size=(3, 8)) * np.array([[1e-4], [0.01], [0.02]])
        share = (exact + full[..., 0]) / (2 * full[..., 0])
        seen = np.floor(share * bits[:, None]) / bits[:, None] * 2 * full[..., 0] - full[..., 0]
        weight = np.append(kin.gravity(seen[0, :7]), 0.0)
        sent = codec.decode_mit(codec.encode_mit(target, zero, zero, zero, weight))
        rows.append((tick * PERIOD_S, *seen, sent[0], sent[1], sent[4]))
        waiting.append((step + late, kp * sent[0] + kd * sent[1] + sent[4]))
        for _ in range(round(PERIOD_S / step_s)):
            while waiting and waiting[0][0] <= step:
                data.ctrl[act] = waiting.pop(0)[1]
            if step == 0:
                data.ctrl[act] = kp * sent[0] + sent[4]
            mujoco.mj_step(model, data)
            step += 1
    time, q, dq, tau, command, speed, feedforward = map(np.array, zip(*rows, strict=True))
    return MotionLog(JOINTS, time, q, dq, tau, command, speed, feedforward)


def bench(**settings: Any) -> tuple[Servo, ArmKinematics]:
    """A servo on a twin behind its CAN bus."""
    kin = kinematics()
    world = TwinWorld(TwinConfig(seed=3, **settings))
    arm = Arm(TwinBus(world), limits=(kin.q_min, kin.q_max))
    arm.connect()
    arm.enable()
    limits = SafetyLimits.for_arms((kin,), table_z=BOX_GRASP.table_z)
    servo = Servo([arm], [kin], limits, period_s=PERIOD_S, physics_s=0.001)
    servo.start()
    servo.hold(1)
    return servo, kin


def found(result: Fit) -> dict[str, tuple[float, float]]:
    return {e.unknown.name: (e.value, e.error) for e in result.estimates}


def recovered(result: Fit, truth: Mapping[str, float]) -> None:
    """Each within three standard errors, and within a tenth or what the physics step changes."""
    estimates = {e.unknown.name: e for e in result.estimates}
    for name, true in truth.items():
        e = estimates[name]
        off = abs(e.value - true)
        assert off <= 3.0 * e.error, (name, true, e)
        assert off <= 0.1 * true + 2.0 * e.step_error, (name, true, e)


# -- what is found


@pytest.mark.slow
@pytest.mark.parametrize("step_s", [0.001, 0.0005])
def test_hidden_friction_damping_armature_gains_and_latency_are_recovered(step_s: float) -> None:
    log = oracle(HIDDEN, 0.003, excitation(kinematics(), 4.0), step_s=step_s)
    result = fit(log, LOG, threads=2)
    values, truth = found(result), {"command.latency_s": 0.003}
    for field, hidden in HIDDEN.items():
        truth |= {f"{JOINTS[j]}.{field}": float(v) for j, v in enumerate(hidden)}
    left = {unknown.name for unknown in result.left}
    assert left == {"gripper.kd"}  # .2 Nm s/rad beside a damping of 2: no motion tells
    assert set(truth) == set(values) | left
    recovered(result, {name: truth[name] for name in values})
    if step_s == 0.001:
        for name, (value, _) in values.items():
            assert value == pytest.approx(truth[name], rel=0.1), name
    assert 0.8 < result.chi2_dof < 1.3
    assert min(result.singular_values) > 1.0


@pytest.mark.slow
def test_a_twin_behind_its_bus_is_identified() -> None:
    servo, kin = bench(
        joint_friction_scale=(1.6, 1.6), joint_damping_scale=(0.6, 0.6), latency_s=(0.004, 0.004)
    )
    path = excitation(kin, 4.0, limits=servo.limits)
    log = record(servo, kin, path)
    assert servo.interventions() == {}
    result = fit(log, LOG, ("friction", "damping", "gains", "latency"), threads=2)
    nominal = build_scene().model.dof_frictionloss[build_scene().dof]
    truth = {f"{JOINTS[j]}.friction": 1.6 * float(nominal[j]) for j in range(7)}
    truth |= {f"{joint}.damping": 0.6 for joint in JOINTS}
    recovered(result, truth | {"command.latency_s": 0.004})
    assert found(result)["gripper.friction"][0] < 0.005
    assert {unknown.name for unknown in result.left} <= {"gripper.kd", "gripper.kp"}


@pytest.mark.slow
def test_what_a_motion_does_not_excite_is_named_and_left_alone() -> None:
    path = excitation(kinematics(), 3.0)
    path[:, 4:] = path[0, 4:]
    log = oracle({**NOMINAL, "damping": HIDDEN["damping"]}, 0.0, path)
    result = fit(log, LOG, ("damping",), threads=2)
    values, left = found(result), {unknown.name for unknown in result.left}
    assert {"joint1.damping", "joint2.damping", "joint3.damping", "joint4.damping"} <= set(values)
    assert "gripper.damping" in left
    assert all(error > 0.1 for error in result.left.values())
    targets = {change.target for change in result.changes()}
    assert "gripper" not in targets


@pytest.mark.slow
def test_an_arm_at_rest_determines_nothing() -> None:
    path = np.tile(excitation(kinematics(), 3.0)[:1], (600, 1))
    with pytest.raises(ConfigError, match="hardly moves"):
        fit(oracle(HIDDEN, 0.0, path), LOG, ("damping", "latency"))


# -- the motion


@pytest.mark.parametrize("side", ["right", "left"])
def test_an_excitation_is_safe_and_moves_every_joint(side: str) -> None:
    kin = kinematics(side)
    limits = SafetyLimits.for_arms((kin,), table_z=BOX_GRASP.table_z)
    path = excitation(kin, 10.0, limits=limits)
    speed = np.gradient(path, PERIOD_S, axis=0)
    push = np.gradient(speed, PERIOD_S, axis=0)
    assert path.shape == (2001, 8)
    assert (np.abs(speed).max(axis=0) <= SPEED * limits.dq_max + 1e-9).all()
    assert (np.abs(push).max(axis=0) <= ACCELERATION * limits.ddq_max + 1e-9).all()
    assert (path > limits.q_min + 0.04).all()
    assert (path < limits.q_max - 0.04).all()
    assert min(part.min() for part in limits.clearance(path)) > 0.05
    assert (np.ptp(path, axis=0) > 0.15).all()
    np.testing.assert_allclose(path[0], path[-1], atol=1e-9)
    assert np.abs(np.corrcoef(path.T) - np.eye(8)).max() < 0.7


def test_an_excitation_without_room_is_refused() -> None:
    kin = kinematics()
    with pytest.raises(ServiceFailed, match="no room"):
        excitation(kin, 4.0, limits=SafetyLimits.for_arms((kin,), high=(0.2, 0.12, 0.45)))
    with pytest.raises(ValueError, match="too short"):
        excitation(kin, 1.0)


def test_a_motion_that_is_stopped_gives_no_log() -> None:
    servo, kin = bench()
    ticks = iter(range(10**6))
    with pytest.raises(ServiceFailed, match="stopped before"):
        record(servo, kin, excitation(kin, 4.0), keep_going=lambda: next(ticks) < 50)


# -- logs that cannot be fitted


def still(samples: int = 500) -> MotionLog:
    zero = np.zeros((samples, 8))
    return MotionLog(JOINTS, np.arange(samples) * PERIOD_S, zero, zero, zero, zero)


def spoilt(name: str, value: float) -> np.ndarray:
    array = np.array(getattr(still(), name))
    array[7, ...] = value
    return array


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"joints": ("a", *JOINTS[1:])}, "there is no arm 'a'"),
        ({"joints": (*JOINTS[:6], "gripper", "joint7")}, "the log is of"),
        ({"metadata": {"arm": "middle"}}, "no arm 'middle'"),
        ({"q": spoilt("q", np.nan)}, "q of joint1 is not a number"),
        ({"command": spoilt("command", np.inf)}, "command of joint1 is not a number"),
        ({"time": spoilt("time", 0.0)}, "time does not rise"),
        ({"time": np.concatenate((still().time[:9], still().time[9:] + 0.4))}, "a gap of 0.405"),
    ],
)
def test_a_log_that_cannot_be_fitted_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        fit(replace(still(), **changes), LOG)
    assert caught.value.where == str(LOG)


def test_a_log_of_a_moment_is_refused() -> None:
    with pytest.raises(ConfigError, match="too short"):
        fit(still(100), LOG)


def test_both_ways_to_name_an_arms_joints_are_known() -> None:
    named = tuple(f"left_{joint}" for joint in JOINTS)
    assert arm_of(replace(still(), joints=named), LOG) == "left"
    assert arm_of(still(), LOG) == "right"
    assert arm_of(replace(still(), metadata={"arm": "left"}), LOG) == "left"
