"""The contact monitor on the twin: silent in free motion at the limits, quick on a known force."""

import numpy as np
import pytest

from fleet.can.arm import Arm
from fleet.kinematics import load_arms
from fleet.limits import CONTACT_MAX, SafetyLimits
from fleet.servo import Servo
from harness.tasks.box_grasp import BOX_GRASP
from harness.twin.bus import TwinBus
from harness.twin.physics import TwinConfig, TwinWorld

HOME = np.array(BOX_GRASP.start_q)
HAND = "robot/openarm_right_ee_base_link"


def standing(seed, friction=(0.8, 1.2)):
    """A twin at home, driven by a servo with the house limits; no box is near."""
    world = TwinWorld(TwinConfig(seed=seed, joint_friction_scale=friction))
    arm = Arm(TwinBus(world, "right"))
    arm.connect()
    arm.enable()
    kinematics = load_arms("openarm-v2-right")
    limits = SafetyLimits.for_arms(kinematics, table_z=BOX_GRASP.table_z)
    servo = Servo([arm], kinematics, limits, physics_s=0.001)
    servo.start()
    servo.hold(20)
    assert servo.move_to(HOME)
    servo.hold(40)
    return world, servo


def push(world, axis, newton):
    """A steady force on the hand, in the base frame, from now on."""
    world._data.xfrc_applied[world._model.body(HAND).id, axis] = newton


@pytest.mark.parametrize("seed", range(3))
def test_free_motion_at_the_limits_of_speed_and_acceleration_is_no_contact(seed):
    _, servo = standing(seed)
    rng = np.random.default_rng(seed)
    loads = []
    for _ in range(25):
        # away from table, column and stops, so that all it feels is its own motion
        goal = HOME + rng.uniform(-0.25, 0.25, 8) * [1, 0, 1, 0, 1, 1, 1, 0]
        goal[3] = HOME[3] + rng.uniform(0.0, 0.25)
        goal = np.clip(goal, servo.limits.q_min + 0.05, servo.limits.q_max - 0.05)
        for _ in range(60):
            servo.tick(goal)
            loads.append(np.abs(servo._protection._load[1, 0, :7]))
    assert servo.events == []
    assert servo.interventions()["acceleration"] > 200, "it did move as hard as it may"
    assert (np.max(loads, axis=0) < np.array(CONTACT_MAX[:7]) / 3).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("newton", [80.0, -80.0])
def test_eighty_newton_at_the_hand_stop_the_arm_within_80_ms(axis, newton):
    world, servo = standing(1)
    push(world, axis, newton)
    servo.hold(16)
    assert servo.stopped
    assert servo.events == ["contact_force"]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_fifteen_newton_at_the_hand_stop_nothing(axis):
    world, servo = standing(1)
    push(world, axis, -15.0)
    servo.hold(200)
    assert servo.events == []


def test_the_motions_torque_is_the_models():
    """Against MuJoCo's mass matrix and bias force, which come by another way than `dynamics`."""
    import mujoco

    (kin,) = load_arms("openarm-v2-right")
    rng = np.random.default_rng(3)
    for _ in range(20):
        q = rng.uniform(kin.q_min[:7], kin.q_max[:7])
        dq, ddq = rng.normal(size=7), 10.0 * rng.normal(size=7)
        weight, motion = kin.dynamics(q, dq, ddq)
        model, data = kin._model, mujoco.MjData(kin._model)
        data.qpos[:], data.qvel[:7], data.qacc[:7] = kin._qpos, dq, ddq
        mujoco.mj_fwdPosition(model, data)
        mujoco.mj_fwdVelocity(model, data)
        inertia = np.zeros(model.nv)
        mujoco.mj_mulM(model, data, inertia, np.concatenate([ddq, np.zeros(model.nv - 7)]))
        friction = model.dof_damping * data.qvel + model.dof_frictionloss * np.tanh(
            data.qvel / 0.05
        )
        want = (inertia + data.qfrc_bias + friction)[:7]
        np.testing.assert_allclose(motion, want, atol=1e-9)
        np.testing.assert_array_equal(weight, kin.gravity(q))
