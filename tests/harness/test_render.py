"""Images are a function of the episode: not of batch, threads, order or process."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from mujoco.batch import Batch
from sim_policies import ExpertPolicy, contract, world
from vision_policies import CELL, camera_contract, played, seen, specs, write_camera_policy

from harness.sim import gl
from harness.sim.env import BatchEnv
from harness.sim.episode import Change, EpisodeSpec
from harness.sim.render import Renderer
from harness.sim.runner import play
from harness.sim.scene import BASE_HEIGHT, SceneConfig, build_scene
from harness.sim.scenery import camera_name, cameras
from policies.loading import load_policy
from registry.errors import ConfigError, ServiceFailed

pytestmark = pytest.mark.slow


def test_images_do_not_depend_on_batch_threads_order_or_process(tmp_path: Path) -> None:
    folder = write_camera_policy(tmp_path / "policy")
    alone = seen(folder, 1, 1, [0, 1, 2, 3, 4])
    assert len(set(alone.values())) == 5
    assert seen(folder, 5, 2, [4, 2, 0, 1, 3]) == alone
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(seen, (folder, 2, 1, [3, 1])) == {i: alone[i] for i in (3, 1)}


def test_threads_draw_side_by_side(tmp_path: Path) -> None:
    folder = write_camera_policy(tmp_path / "policy")
    alone = seen(folder, 2, 1, [0, 1])
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(seen, folder, 2, 1, [0, 1]) for _ in range(2)]
        assert [each.result() for each in both] == [alone, alone]


def test_a_camera_policy_plays_the_same_episodes_in_any_batch(tmp_path: Path) -> None:
    folder = write_camera_policy(tmp_path / "policy")
    reference = played(folder, 6, 2, range(6))
    assert len(set(reference.values())) == 6
    assert played(folder, 2, 1, [5, 4, 3, 2, 1, 0]) == reference


def test_motion_follows_from_pixels(tmp_path: Path) -> None:
    folder = write_camera_policy(tmp_path / "policy")
    env = BatchEnv(camera_contract(), 2, scene=build_scene(SceneConfig()))
    dark = Change("light", "intensity", "scale", 0.3)
    env.reset([0, 1], [EpisodeSpec(CELL, 1), EpisodeSpec(CELL, 1, (dark,))])
    first, second = env.observe([0, 1])
    joints = slice(0, 16)
    np.testing.assert_array_equal(first[joints], second[joints])
    assert (first[16:] != second[16:]).mean() > 0.5
    answers = load_policy(folder).act(np.stack([first, second]))
    assert np.abs(answers[0] - answers[1]).max() > 1e-3


def test_images_are_taken_once_a_step() -> None:
    env = BatchEnv(camera_contract(), 1, scene=build_scene(SceneConfig()))
    env.reset([0], [EpisodeSpec(CELL, 1, (Change("image", "noise", "set", 0.1),))])
    first = env.observe([0]).copy()
    np.testing.assert_array_equal(env.observe([0]), first)
    env.step([0], np.zeros((1, 8), dtype=np.float32))
    assert (env.observe([0])[0, 16:] != first[0, 16:]).any()


def test_nobody_renders_for_a_policy_without_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(width: int, height: int) -> None:
        raise AssertionError("a context was opened")

    monkeypatch.setattr(gl, "context", refuse)
    env = BatchEnv(contract(), 1)
    env.reset([0], [EpisodeSpec(CELL, 1, specs(2)[1].changes)])
    assert env.observe([0]).shape == (1, env.contract.width)


def test_physics_have_the_same_bits_with_and_without_visual_meshes() -> None:
    policy = ExpertPolicy()
    todo = [EpisodeSpec(CELL, i, world(friction=0.4 + 0.2 * i)) for i in range(2)]
    digests = [
        {
            r.spec.episode: r.digest
            for r in play(BatchEnv(policy.contract, 2, scene=scene), policy.act, todo)
        }
        for scene in (build_scene(SceneConfig(visuals=True)), build_scene(SceneConfig()))
    ]
    assert digests[0] == digests[1]


def test_what_lies_behind_is_further_away() -> None:
    env = BatchEnv(
        camera_contract(["scene"], size=(64, 48), depth=True), 1, scene=build_scene(SceneConfig())
    )
    env.reset([0], [EpisodeSpec(CELL, 1)])
    depth = env.observe([0])[0, 16 + 3 * 64 * 48 :].reshape(48, 64)
    along = np.hypot(0.2, 0.45)
    assert depth[24, 32] == pytest.approx(along, abs=0.02)
    assert depth[44, 60] < depth[24, 60] < depth[2, 60]


def test_pictures_are_upright() -> None:
    scene = build_scene(SceneConfig())
    env = BatchEnv(camera_contract(["front"], size=(64, 48)), 1, scene=scene)
    env.reset([0], [EpisodeSpec(CELL, 1)])
    env.world.qpos[0, scene.box_qpos : scene.box_qpos + 3] = (0.25, -0.18, BASE_HEIGHT - 0.42)
    low = _orange(env.observe([0])[0, 16:].reshape(48, 64, 3))
    env.step([0], np.zeros((1, 8), dtype=np.float32))
    env.world.qpos[0, scene.box_qpos + 2] += 0.15
    assert _orange(env.observe([0])[0, 16:].reshape(48, 64, 3)) < low - 2


def _orange(image: np.ndarray) -> float:
    """The mean row of the box's pixels."""
    rows = np.argwhere((image[..., 0] > 0.3) & (image[..., 0] > 3 * image[..., 2]))[:, 0]
    assert len(rows) > 3
    return float(rows.mean())


def test_a_camera_that_the_scene_lacks_is_refused_by_name() -> None:
    with pytest.raises(ConfigError) as caught:
        BatchEnv(camera_contract(["left_wrist"]), 1, scene=build_scene(SceneConfig()))
    assert "left_wrist" in caught.value.field
    assert "right_wrist" in (caught.value.hint or "")


@pytest.mark.parametrize("arms", [("right",), ("left",), ("right", "left")])
def test_every_camera_of_a_robot_looks_at_its_table(arms: tuple[str, ...]) -> None:
    batch = Batch(build_scene(SceneConfig(arms=arms)).model, 1)
    renderer = Renderer(batch.get_model(0), 64, 48, visuals=False)
    renderer.look(batch, 0)
    for name in cameras(arms):
        camera = int(renderer.model.camera(camera_name(name)).id)
        depth = renderer.shoot(camera, 64, 48, depth=True).depth
        assert depth is not None
        assert 0.05 < depth[24, 32] < 1.5


def test_a_renderer_can_be_opened_and_closed_again() -> None:
    env = BatchEnv(contract(), 1)
    env.reset([0], [EpisodeSpec(CELL, 1)])
    shots = []
    for _ in range(3):
        renderer = Renderer(env.world.batch.get_model(0), 32, 24, visuals=False)
        renderer.look(env.world.batch, 0)
        shots.append(renderer.shoot(0, 32, 24).rgb)
        renderer.close()
    assert shots[0].any()
    for shot in shots[1:]:
        np.testing.assert_array_equal(shot, shots[0])


_SHOOT = """
import hashlib, mujoco, os
from harness.sim import gl
from harness.sim.render import Renderer
from harness.sim.scene import SceneConfig, build_scene
from mujoco.batch import Batch
batch = Batch(build_scene(SceneConfig()).model, 1)
renderer = Renderer(batch.get_model(0), 32, 24, visuals=False)
renderer.look(batch, 0)
pixels = renderer.shoot(0, 32, 24).rgb
assert pixels.std() > 5
print(gl.choose(), os.environ["MUJOCO_GL"])
"""


@pytest.mark.parametrize("named", ["", *gl.BACKENDS])
def test_the_backend_is_chosen_after_mujoco_is_imported(named: str) -> None:
    environment = {
        k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")
    }
    if named:
        environment["MUJOCO_GL"] = named
    done = subprocess.run(
        [sys.executable, "-c", _SHOOT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    chosen, left = done.stdout.split()
    assert chosen == left
    assert chosen == (named or gl.BACKENDS[0])


def test_where_nothing_renders_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(gl, "working", lambda: None)
    env = BatchEnv(camera_contract(), 1, scene=build_scene(SceneConfig()))
    env.reset([0], [EpisodeSpec(CELL, 1)])
    with pytest.raises(ServiceFailed) as caught:
        env.observe([0])
    assert "render" in caught.value.what
