"""One arm or two: a left arm's scene mirrors a right one's, and a second arm may stand by."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from experts import drive, expert_for, rate, specs

from fleet.kinematics import ArmKinematics
from harness.sim.arms import mirrored, mirrored_truth
from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeSpec
from harness.sim.gym_env import contract_for
from harness.sim.mirror import MIRROR
from harness.sim.randomization import changes
from harness.sim.scene import SceneConfig, build_scene

LEFT, RIGHT, BOTH = "openarm-v2-left", "openarm-v2-right", "openarm-v2-bimanual"
FLIP = np.array([1.0, -1.0, 1.0])
TASKS = ("box-grasp", "pick-place")


def begun(task: str, robot: str, todo: list[EpisodeSpec]) -> BatchEnv:
    env = BatchEnv(contract_for(task, robot), len(todo))
    env.reset(list(range(len(todo))), todo)
    return env


@pytest.mark.parametrize("task", TASKS)
def test_a_left_scene_begins_as_the_mirror_image(task: str) -> None:
    todo = [
        EpisodeSpec((3,), i, changes({"y": 0.01 * i, "yaw": 0.1, "x": -0.01}), task)
        for i in range(4)
    ]
    rows = np.arange(4)
    right, left = begun(task, RIGHT, todo), begun(task, LEFT, todo)
    for ours, theirs in (
        (right.measure(rows), mirrored(left.measure(rows))),
        (right.truth(rows), mirrored_truth(left.truth(rows))),
    ):
        for each in fields(ours):
            if each.name in ("images", "depths"):  # there are no cameras
                continue
            np.testing.assert_allclose(
                getattr(ours, each.name), getattr(theirs, each.name), atol=1e-9, err_msg=each.name
            )


def test_the_arms_are_mirror_images_but_for_the_balance_of_two_links() -> None:
    """Links 3 and 4 are one part in both arms of the official model: their centres of mass, off
    the middle by a millimetre, are not mirrored. Everything else is."""
    right, left = (build_scene(SceneConfig(arms=(side,))).model for side in ("right", "left"))
    uneven = []
    for index in range(2, right.nbody):
        ours = right.body(index)
        theirs = left.body(ours.name.replace("right", "left"))
        assert ours.mass == theirs.mass
        np.testing.assert_allclose(ours.pos, theirs.pos * FLIP, atol=1e-12)
        off = np.abs(ours.ipos - theirs.ipos * FLIP).max()
        assert off < 0.003
        if off > 1e-9:
            uneven.append(ours.name.removeprefix("robot/openarm_right_"))
    assert uneven == ["link3", "link4"]


def test_a_left_scene_goes_on_as_the_mirror_image_while_nothing_touches() -> None:
    todo = specs("box-grasp", 3, delay=1, joint_friction=1.5, observation_delay=1)
    rows = np.arange(3)
    right, left = begun("box-grasp", RIGHT, todo), begun("box-grasp", LEFT, todo)
    push = np.random.default_rng(5).uniform(-1, 1, (10, 3, 8)).astype(np.float32)
    for raw in push:
        right.step(rows, raw)
        left.step(rows, raw * MIRROR.astype(np.float32))
    ours, theirs = right.measure(rows), mirrored(left.measure(rows))
    np.testing.assert_array_equal(ours.command, theirs.command)
    np.testing.assert_allclose(ours.q, theirs.q, atol=2e-3)
    np.testing.assert_allclose(ours.tcp, theirs.tcp, atol=1e-3)
    np.testing.assert_allclose(ours.object_position, theirs.object_position, atol=1e-6)
    np.testing.assert_allclose(ours.object_yaw, theirs.object_yaw, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_left_arm_is_as_good_as_a_right_one(task: str) -> None:
    rates = {robot: rate(drive(specs(task, 32, mass=1.5), robot)) for robot in (RIGHT, LEFT)}
    assert min(rates.values()) >= 0.95
    assert abs(rates[RIGHT] - rates[LEFT]) <= 0.04


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_with_two_arms_the_right_one_succeeds_while_the_left_one_stands(task: str) -> None:
    moved: list[float] = []

    def watch(env: BatchEnv) -> None:
        q = env.measure(np.arange(env.size)).q[:, 8:15]
        moved.append(float(np.abs(q - np.array(env.task.start_q[:7]) * MIRROR[:7]).max()))

    records = drive(specs(task, 32), BOTH, watch)
    assert rate(records) >= 0.97
    assert max(moved) < 0.06
    assert not any(record.failure_mode == "collision" for record in records)


def test_with_two_arms_objects_lie_where_the_hand_may_go() -> None:
    env = begun("box-grasp", BOTH, specs("box-grasp", 64))
    one = begun("box-grasp", RIGHT, specs("box-grasp", 64))
    rows = np.arange(64)
    here, there = env.truth(rows).position, one.truth(rows).position
    assert here[:, 1].max() <= -0.12
    folded = there[:, 1] > -0.12
    assert 0 < folded.sum() < 32
    np.testing.assert_allclose(here[~folded], there[~folded])
    np.testing.assert_allclose(here[folded, 1], -0.24 - there[folded, 1])


def test_protection_keeps_a_hand_on_its_side_of_two_arms() -> None:
    env = begun("box-grasp", BOTH, specs("box-grasp", 1))
    row, arm, push = np.array([0]), ArmKinematics.load("right"), np.zeros((1, 16), np.float32)
    for _ in range(100):
        sideways = np.sign(arm.jacobian(env.measure(row).q[:, :7])[0, 1])
        push[0, :7], push[0, 8:15] = 0.2 * sideways, 0.2 * sideways * MIRROR[:7]
        if env.step(row, push)[0]:
            break
    right, left = env.measure(row).tcp[0]
    assert -0.12 < right[1] < -0.06
    assert 0.06 < left[1] < 0.12
    assert env.record(0).interventions["self_collision"] > 0


def test_a_policy_of_two_arms_sees_and_moves_both() -> None:
    env = begun("pick-place", BOTH, specs("pick-place", 2))
    assert env.observe([0, 1]).shape == (2, env.contract.width)
    before = env.measure(np.arange(2)).q
    push = np.zeros((2, 16), dtype=np.float32)
    push[0, 3], push[1, 11] = 1.0, 1.0
    for _ in range(5):
        env.step([0, 1], push)
    moved = np.abs(env.measure(np.arange(2)).q - before) > 0.01
    assert np.argwhere(moved).tolist() == [[0, 3], [1, 11]]
    assert expert_for(env).act(env.measure(np.arange(2)), env.truth(np.arange(2))).shape == (2, 16)
