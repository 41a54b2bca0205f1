"""What may be changed of what is seen: each field changes an image or a detection, and leaves no
trace."""

from __future__ import annotations

import numpy as np
import pytest
from sim_policies import ExpertPolicy, contract
from vision_policies import CELL, SHORT, camera_contract

from harness.sim.env import BatchEnv
from harness.sim.episode import Change, EpisodeSpec
from harness.sim.fields import FIELDS, find
from harness.sim.grid import Grid
from harness.sim.randomization import AXES, changes
from harness.sim.runner import play
from harness.sim.scene import SceneConfig, build_scene
from harness.sim.vision import VISION, VISION_AXES, black_body
from harness.tasks.box_grasp import BOX_GRASP
from registry.errors import ConfigError

SEEN = camera_contract(
    ["front", "scene", "right_wrist"],
    size=(48, 36),
    depth=True,
    terms=["object_position", "object_yaw"],
)
FIELD_CASES = [
    Change(target, name, operation, float(bound))
    for (target, name), field in VISION.items()
    for operation, bounds in field.operations.items()
    for bound in bounds
    if target != "left_wrist_camera"
]


@pytest.fixture(scope="module")
def env() -> BatchEnv:
    return BatchEnv(SEEN, 2, scene=build_scene(SceneConfig()))


def look(env: BatchEnv, *made: Change, slot: int = 0) -> np.ndarray:
    env.reset([slot], [EpisodeSpec(CELL, 5, made)])
    return env.observe([slot])[0].copy()


def nominal(change: Change) -> bool:
    """A bound that is the nominal world itself."""
    same = {("light", "count", 1.0), ("image", "noise", 0.0), ("image", "depth_dropout", 0.0)}
    return (change.target, change.field, change.value) in same or (
        change.field == "texture" and change.value == 0.0
    )


@pytest.mark.parametrize(
    "change", FIELD_CASES, ids=lambda c: f"{c.target}.{c.field}-{c.operation}-{c.value:g}"
)
def test_each_field_changes_what_is_seen(env: BatchEnv, change: Change) -> None:
    before = look(env)
    after = look(env, change)
    assert (after != before).any() != nominal(change)
    np.testing.assert_array_equal(look(env), before)


def test_a_change_stays_in_its_scene(env: BatchEnv) -> None:
    before = look(env, slot=1)
    env.reset([0, 1], [EpisodeSpec(CELL, 5, tuple(FIELD_CASES[:40])), EpisodeSpec(CELL, 5)])
    np.testing.assert_array_equal(env.observe([0, 1])[1], before)


def test_every_vision_axis_can_be_named() -> None:
    assert set(VISION) <= set(FIELDS)
    for name, (target, field, operation) in VISION_AXES.items():
        assert (AXES[name].target, AXES[name].field) == (target, field)
        low, high = VISION[target, field].operations[operation]
        assert changes({name: low})
        assert changes({name: high})


@pytest.mark.parametrize(
    "change",
    [
        Change("light", "count", "set", 5),
        Change("light", "count", "set", 1.5),
        Change("light", "temperature", "set", 900.0),
        Change("camera", "x", "add", 0.5),
        Change("image", "noise", "set", -0.1),
        Change("table", "texture", "set", 4),
        Change("box", "hue", "scale", 1.0),
    ],
)
def test_values_without_meaning_are_refused(change: Change) -> None:
    with pytest.raises(ConfigError):
        find(change)


def test_warm_light_is_red_and_cold_light_is_blue() -> None:
    warm, day, cold = black_body(3000.0), black_body(6500.0), black_body(7000.0)
    assert warm.argmax() == 0
    assert warm[0] > warm[1] > warm[2]
    np.testing.assert_allclose(warm, np.array([255, 180, 107]) / 255.0, atol=0.03)
    assert day.min() > 0.93
    assert cold.argmax() == 2
    reds = [black_body(k)[2] / black_body(k)[0] for k in np.arange(2000.0, 12001.0, 250.0)]
    assert (np.diff(reds) > 0).all()


def test_twice_the_focal_change_is_not_half_the_angle(env: BatchEnv) -> None:
    look(env, Change("scene_camera", "fov", "set", 60.0), Change("camera", "focal", "scale", 1.25))
    camera = env.scene.model.camera("scene").id
    fov = np.radians(env.world.expand("cam_fovy")[0, camera])
    assert np.tan(fov / 2) == pytest.approx(np.tan(np.radians(30.0)) / 1.25)


def detection(env: BatchEnv, *made: Change) -> np.ndarray:
    """Detected x, y, z and yaw of the first frame; its noise is the episode's, whatever changes."""
    env.reset([0], [EpisodeSpec(CELL, 5, made)])
    m = env.measure(np.array([0]))
    return np.array([*m.object_position[0], m.object_yaw[0]])


def test_a_camera_that_moved_shows_the_object_where_it_is_not() -> None:
    env = BatchEnv(contract(), 1)
    before = detection(env)
    moved = detection(env, Change("camera", "x", "add", 0.05), Change("camera", "z", "add", -0.02))
    np.testing.assert_allclose(moved - before, [-0.05, 0.0, 0.02, 0.0], atol=1e-12)
    np.testing.assert_array_equal(detection(env, Change("scene_camera", "x", "add", 0.05)), before)


def test_a_camera_that_turned_moves_what_it_sees_about_itself() -> None:
    env = BatchEnv(contract(), 1)
    before = detection(env)
    after = detection(env, Change("front_camera", "roll", "add", 0.05))
    camera = env.scene.model.camera("front")
    stands = camera.pos - np.array([0.0, 0.0, 0.698])
    noise = before[:3] - env.truth(np.array([0])).position[0]
    ranges = [np.linalg.norm(p[:3] - noise - stands) for p in (before, after)]
    assert ranges[0] == pytest.approx(ranges[1], abs=1e-9)
    assert 0.001 < np.linalg.norm(after[:3] - before[:3]) < 0.05


def test_a_calibration_error_moves_poses_and_no_picture(env: BatchEnv) -> None:
    offset = tuple(
        Change("calibration", name, "add", value)
        for name, value in (("x", 0.01), ("y", -0.02), ("z", 0.005))
    )
    before = detection(env)
    np.testing.assert_allclose(
        detection(env, *offset) - before, [0.01, -0.02, 0.005, 0.0], atol=1e-12
    )
    poses = sum(term.width for term in SEEN.observation[:2])
    np.testing.assert_array_equal(look(env, *offset)[poses:], look(env)[poses:])
    turned = detection(env, Change("calibration", "yaw", "add", 0.1)) - before
    assert turned[3] == pytest.approx(0.1)
    assert np.linalg.norm(turned[:2]) > 0.02


SUITES = {
    "camera": {
        "camera_x": (-0.05, -0.02, 0.0, 0.02, 0.05),
        "camera_y": (-0.05, -0.02, 0.0, 0.02, 0.05),
    },
    "held-out": {"shape": (1, 2, 3)},
}


@pytest.mark.parametrize("suite", SUITES)
def test_robustness_suites_are_alive_for_state_policies(suite: str) -> None:
    """Each value of each axis gives another episode than the nominal one."""
    policy = ExpertPolicy()
    task = SHORT if suite == "camera" else BOX_GRASP
    env = BatchEnv(policy.contract, 4, task=task)
    grid = Grid.of("box-grasp", SUITES[suite], 1)
    made = {()} | {
        changes({name: value}) for name, values in grid.axes for value in values if value != 0.0
    }
    todo = [EpisodeSpec(CELL, 9, each) for each in made]
    digests = {record.digest for record in play(env, policy.act, todo)}
    assert len(digests) == len(todo)
