"""The arm's own numpy kinematics say what the official model in MuJoCo says."""

import mujoco
import numpy as np
import openarm_mujoco.v2 as official
import pytest

from fleet.kinematics import GRIP_FOR_GRAVITY, TCP_OFFSET, ArmKinematics, load_arms
from harness.sim.mirror import MIRROR
from registry.errors import ConfigError


class OfficialArm:
    """One arm of the untouched two-arm model, asked through MuJoCo alone."""

    def __init__(self, side):
        spec = mujoco.MjSpec.from_file(str(official.asset_path("openarm_bimanual.xml")))
        hand = spec.body(f"openarm_{side}_ee_base_link")
        hand.add_site(name="tcp", pos=TCP_OFFSET)
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        names = [f"openarm_{side}_joint{i}" for i in range(1, 8)]
        fingers = [f"openarm_{side}_finger_joint{i}" for i in (1, 2)]
        self.qpos = [self.model.joint(n).qposadr[0] for n in names]
        self.dofs = [self.model.joint(n).dofadr[0] for n in names]
        self.fingers = [self.model.joint(n).qposadr[0] for n in fingers]
        self.limits = np.array([self.model.joint(n).range for n in [*names, fingers[0]]])
        self.open = -GRIP_FOR_GRAVITY if side == "right" else GRIP_FOR_GRAVITY

    def at(self, q):
        self.data.qpos[:] = 0
        self.data.qvel[:] = 0
        self.data.qpos[self.qpos] = q
        self.data.qpos[self.fingers] = self.open
        mujoco.mj_forward(self.model, self.data)
        return self.data

    def site(self, q):
        data = self.at(q)
        return data.site("tcp").xpos.copy(), data.site("tcp").xmat.reshape(3, 3).copy()

    def jacobian(self, q):
        data = self.at(q)
        jac = np.zeros((6, self.model.nv))
        mujoco.mj_jacSite(self.model, data, jac[:3], jac[3:], self.model.site("tcp").id)
        return jac[:, self.dofs]


@pytest.fixture(scope="module", params=["right", "left"])
def pair(request):
    return ArmKinematics.load(request.param), OfficialArm(request.param)


def poses(kin, count, seed=3):
    rng = np.random.default_rng(seed)
    return rng.uniform(kin.q_min[:7], kin.q_max[:7], (count, 7))


def test_limits_are_the_models(pair):
    kin, model = pair
    np.testing.assert_array_equal(kin.q_min, model.limits[:, 0])
    np.testing.assert_array_equal(kin.q_max, model.limits[:, 1])


def test_fk_is_the_models_to_1e_9(pair):
    kin, model = pair
    qs = poses(kin, 200)
    tcp, axes = kin.fk(qs)
    for q, p, a in zip(qs, tcp, axes, strict=True):
        position, rotation = model.site(q)
        np.testing.assert_allclose(p, position, atol=1e-9)
        np.testing.assert_allclose(a[:3], -rotation[:, 2], atol=1e-9)
        np.testing.assert_allclose(a[3:], rotation[:, 1], atol=1e-9)


def test_jacobian_is_the_models_to_1e_9(pair):
    kin, model = pair
    qs = poses(kin, 100)
    for q, jac in zip(qs, kin.jacobian(qs), strict=True):
        np.testing.assert_allclose(jac, model.jacobian(q), atol=1e-9)


def test_gravity_is_the_models_to_1e_6(pair):
    kin, model = pair
    for q in poses(kin, 100):
        np.testing.assert_allclose(kin.gravity(q), model.at(q).qfrc_bias[model.dofs], atol=1e-6)


def test_a_rows_bits_do_not_depend_on_its_batch(pair):
    kin, _ = pair
    qs = poses(kin, 67)
    tcp, axes = kin.fk(qs)
    for i in (0, 15, 64, 66):
        one_tcp, one_axes = kin.fk(qs[i : i + 1])
        np.testing.assert_array_equal(one_tcp[0], tcp[i])
        np.testing.assert_array_equal(one_axes[0], axes[i])


def test_the_tcp_never_moves_further_than_reach_times_the_angles(pair):
    kin, _ = pair
    start, end = poses(kin, 2000, seed=1), poses(kin, 2000, seed=2)
    moved = np.linalg.norm(kin.fk(start)[0] - kin.fk(end)[0], axis=1)
    assert np.all(moved <= np.abs(start - end) @ kin.reach)


def test_a_class_of_two_arms_loads_both_in_order():
    assert [arm.side for arm in load_arms("openarm-v2-bimanual")] == ["right", "left"]
    assert [arm.side for arm in load_arms(["left"])] == ["left"]


def test_mirrored_joints_give_a_mirrored_hand():
    right, left = load_arms("openarm-v2-bimanual")
    q = poses(right, 20)
    np.testing.assert_allclose(left.fk(q * MIRROR[:7])[0], right.fk(q)[0] * [1, -1, 1], atol=1e-6)


def test_an_unknown_arm_is_refused_by_name():
    with pytest.raises(ConfigError, match="openarm-v2-middle"):
        ArmKinematics.load("openarm-v2-middle")
