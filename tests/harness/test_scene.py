"""The scene: the official model with MIT motors, the arms asked for, and a box that can slip."""

from __future__ import annotations

import itertools

import mujoco
import numpy as np
import pytest

from fleet.can.motors import PEAK_TORQUE
from fleet.kinematics import ArmKinematics
from fleet.servo import KD, KP
from harness.sim import scene as scenes
from harness.sim.scene import APART, BASE_HEIGHT, PREFIX, Scene, SceneConfig, build_scene
from harness.tasks.box_grasp import BOX_GRASP

START = np.array(BOX_GRASP.start_q)


def standing(scene: Scene) -> mujoco.MjData:
    """The arm at its start pose, commanded to stay."""
    data = mujoco.MjData(scene.model)
    for index, arm in enumerate(scene.arms):
        q = START if arm.name == "right" else np.zeros(8)
        data.qpos[arm.qpos] = q
        data.qpos[arm.mirror_qpos] = q[7]
        data.ctrl[arm.ctrl] = scene.mit_ctrl(data.qpos[scene.qpos])[8 * index : 8 * index + 8]
    mujoco.mj_forward(scene.model, data)
    return data


@pytest.mark.parametrize(
    ("arms", "joints"), [(("right",), 8), (("left",), 8), (("right", "left"), 16)]
)
def test_only_the_arms_asked_for_are_there(arms: tuple[str, ...], joints: int) -> None:
    scene = build_scene(SceneConfig(arms=arms))
    assert scene.model.nu == joints == len(scene.qpos)
    assert scene.model.nmesh < 40
    data = mujoco.MjData(scene.model)
    mujoco.mj_forward(scene.model, data)
    for arm in scene.arms:
        side = -1.0 if arm.name == "right" else 1.0
        assert data.site_xpos[arm.tcp_site][1] * side > 0


def test_left_mirrors_right() -> None:
    right = build_scene(SceneConfig(arms=("right",)))
    left = build_scene(SceneConfig(arms=("left",)))
    assert right.q_min[7] == pytest.approx(-0.7854)
    assert left.q_max[7] == pytest.approx(0.7854)


def test_the_arm_stands_still_without_gravity_and_sags_with_it() -> None:
    moved = {}
    for gravcomp in (True, False):
        scene = build_scene(SceneConfig(gravcomp=gravcomp))
        data = standing(scene)
        mujoco.mj_step(scene.model, data, nstep=500)
        moved[gravcomp] = np.abs(data.qpos[scene.qpos] - START).max()
    assert moved[True] < 1e-6
    assert moved[False] > 0.01


def test_gravity_feed_forward_takes_the_place_of_gravcomp() -> None:
    scene = build_scene(SceneConfig(gravcomp=False, timestep=0.001))
    data = standing(scene)
    tau = np.append(ArmKinematics.load("right").gravity(START[:7]), 0.0)
    data.ctrl[scene.ctrl] = scene.mit_ctrl(START, tau=tau)
    mujoco.mj_step(scene.model, data, nstep=1000)
    assert np.abs(data.qpos[scene.qpos][:7] - START[:7]).max() < 0.01


def test_a_motor_gives_kp_error_plus_kd_speed_up_to_its_peak() -> None:
    scene = build_scene()
    data = standing(scene)
    wanted, speed, extra = START + 0.01, 0.2, 0.3
    data.ctrl[scene.ctrl] = scene.mit_ctrl(wanted, speed, extra)
    mujoco.mj_forward(scene.model, data)
    np.testing.assert_allclose(
        data.actuator_force[scene.ctrl],
        np.clip(np.array(KP) * 0.01 + np.array(KD) * speed + extra, -PEAK_TORQUE, PEAK_TORQUE),
        atol=1e-9,
    )
    data.ctrl[scene.ctrl] = scene.mit_ctrl(START + 2.0)
    mujoco.mj_forward(scene.model, data)
    np.testing.assert_allclose(data.actuator_force[scene.ctrl], PEAK_TORQUE)


def test_kinematics_agree_with_the_scene() -> None:
    scene = build_scene()
    data = standing(scene)
    tcp, axes = ArmKinematics.load("right").fk(START[None, :7])
    arm = scene.arms[0]
    np.testing.assert_allclose(
        data.site_xpos[arm.tcp_site] - [0, 0, BASE_HEIGHT], tcp[0], atol=1e-9
    )
    rotation = data.xmat[arm.hand_body].reshape(3, 3)
    np.testing.assert_allclose(
        np.concatenate([-rotation[:, 2], rotation[:, 1]]), axes[0], atol=1e-9
    )


def test_the_box_rests_on_the_table_and_touches_no_finger() -> None:
    scene = build_scene()
    data = standing(scene)
    mujoco.mj_step(scene.model, data, nstep=300)
    height = data.qpos[scene.box_qpos + 2] - BASE_HEIGHT
    assert height == pytest.approx(BOX_GRASP.rest_z, abs=1e-3)
    assert (data.sensordata[scene.touch] == 0).all()


def test_the_boxs_friction_is_that_of_its_contacts() -> None:
    scene = build_scene(SceneConfig(box_friction=0.37))
    data = standing(scene)
    mujoco.mj_step(scene.model, data, nstep=50)
    box = [c for c in data.contact if scene.box_geom in (c.geom1, c.geom2)]
    assert box
    assert all(c.friction[0] == pytest.approx(0.37) for c in box)


def chain(model: mujoco.MjModel, body: int) -> set[int]:
    """A body and all it hangs on, without the world."""
    found = set()
    while body:
        found.add(body)
        body = int(model.body_parentid[body])
    return found


@pytest.mark.parametrize("side", ["right", "left"])
def test_links_called_apart_cannot_touch(side: str) -> None:
    """On a grid of the joints between them, to .1 rad past the limits."""
    model = build_scene(SceneConfig(arms=(side,))).model
    data = mujoco.MjData(model)
    geoms = {
        model.body(i).name: [g for g in range(model.ngeom) if model.geom_bodyid[g] == i]
        for i in range(model.nbody)
    }
    none = np.zeros(6)
    for one, other in ((link, far) for link, others in APART.items() for far in others):
        near, far = (f"{PREFIX}openarm_{side}_{name}" for name in (one, other))
        between = chain(model, model.body(near).id) ^ chain(model, model.body(far).id)
        joints = [j for j in range(model.njnt) if model.jnt_bodyid[j] in between]
        assert len(joints) in (1, 2, 3)
        low, high = model.jnt_range[joints].T + np.array([[-0.1], [0.1]])
        counts = {1: 801, 2: 41, 3: 11}[len(joints)]
        for q in itertools.product(*np.linspace(low, high, counts).T):
            data.qpos[model.jnt_qposadr[joints]] = q
            mujoco.mj_kinematics(model, data)
            for a, b in itertools.product(geoms[near], geoms[far]):
                distance = mujoco.mj_geomDistance(model, data, a, b, 1.0, none)
                assert distance > 0.0009, (one, other, q)


def test_what_is_apart_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arm thrown about, onto table and box: the same states with and without the search."""
    states = []
    for apart in (APART, {}):
        monkeypatch.setattr(scenes, "APART", apart)
        scenes._compiled.cache_clear()
        scene = build_scene()
        assert scene.model.nexclude == (15 if apart else 0)
        data = standing(scene)
        arm, rng, contacts = ArmKinematics.load("right"), np.random.default_rng(7), 0
        for _ in range(60):
            goal = rng.uniform(arm.q_min, arm.q_max)
            data.ctrl[scene.ctrl] = scene.mit_ctrl(goal)
            mujoco.mj_step(scene.model, data, nstep=50)
            contacts = max(contacts, data.ncon)
        assert contacts > 4
        states.append(np.concatenate([data.qpos, data.qvel]))
    scenes._compiled.cache_clear()
    assert np.array_equal(*states)


def test_a_scene_has_a_model_of_its_own() -> None:
    one, other = build_scene(), build_scene()
    one.model.opt.timestep, one.model.body_mass[one.box_body] = 0.5, 9.0
    for scene in (other, build_scene()):
        assert scene.model.opt.timestep == scene.config.timestep
        assert scene.model.body_mass[scene.box_body] == pytest.approx(scene.config.box_mass)
