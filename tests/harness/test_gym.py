"""The Gymnasium export: found by name, clean, and bit for bit what a gate plays."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.gym import ENVIRONMENTS
from harness.sim.gym_env import GYM_CELL, contract_for
from harness.sim.randomization import changes
from harness.sim.runner import play
from policies.loading import load_policy
from registry.errors import ConfigError

BOX, PLACE = "policyctl/BoxGrasp-v0", "policyctl/PickPlace-v0"
AXES = {"friction": 0.5, "mass": 1.5, "delay": 2.0}


def waving(seen: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A policy that moves, and whose answer to a row is that row's alone."""
    return np.clip(np.sin(37.0 * seen[:, :8]), -1.0, 1.0).astype(np.float32)


def outcome(record: EpisodeRecord) -> tuple[object, ...]:
    how = (record.success, record.failure_mode, record.steps, record.digest)
    return (*how, dict(record.metrics), dict(record.interventions))


def test_they_are_found_by_name_and_registering_imports_nothing_heavy() -> None:
    code = (
        "import sys, gymnasium, harness.sim.gym as g; g.register();"
        "assert set(g.ENVIRONMENTS) <= set(gymnasium.registry);"
        "heavy = {'mujoco', 'torch', 'scipy', 'pydantic', 'harness.sim.env'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize(
    "made",
    [
        "import harness.sim.gym; e = gymnasium.make('policyctl/PickPlace-v0')",
        "e = gymnasium.make('harness.sim.gym:policyctl/PickPlace-v0')",
    ],
)
def test_the_module_imported_or_before_the_colon_is_enough(made: str) -> None:
    code = f"import gymnasium; {made}; print(e.reset(seed=1)[0].shape)"
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True
    )
    assert said.stdout.strip() == "(50,)"


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_gymnasiums_own_check_has_nothing_to_say(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(name).unwrapped)


@pytest.mark.slow
def test_an_episode_is_bit_for_bit_the_one_that_a_gate_plays() -> None:
    spec = EpisodeSpec(GYM_CELL, 12, changes(AXES), "box-grasp")
    made = contract_for("box-grasp")
    (played,) = play(BatchEnv(made, 1), waving, [spec])
    env: Any = gymnasium.make(BOX).unwrapped
    for options, seed in ((AXES, 12), ({"spec": spec}, None)):
        seen, _ = env.reset(seed=seed, options=options)
        ended, late, info = False, False, {}
        while not (ended or late):
            seen, reward, ended, late, info = env.step(waving(seen[None])[0])
        assert outcome(env.record()) == outcome(played)
        assert (info["is_success"], info["failure_mode"]) == (played.success, played.failure_mode)
        assert info["interventions"] == played.interventions
        assert reward == float(played.success)


def test_a_trained_policy_earns_its_reward_and_ends_the_episode() -> None:
    policy = load_policy(Path(__file__).parents[2] / "ci/demo/checkpoints/v1")
    env: Any = gymnasium.make(BOX, contract=policy.contract)
    seen, info = env.reset(seed=4)
    rewards = []
    ended = late = False
    while not (ended or late):
        assert not info["is_success"]
        seen, reward, ended, late, info = env.step(policy.act(seen[None])[0])
        rewards.append(reward)
    assert (ended, late, info["is_success"]) == (True, False, True)
    assert sum(rewards) == rewards[-1] == 1.0
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.unwrapped.step(np.zeros(8, dtype=np.float32))


def test_the_horizon_truncates() -> None:
    env: Any = gymnasium.make(PLACE)
    env.reset(seed=1)
    for step in range(1, 501):
        _, reward, ended, late, info = env.step(np.zeros(8, dtype=np.float32))
        assert reward == 0.0
        assert (ended, late) == (False, step == 500)
    assert info["failure_mode"] == "frozen"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"friction": 99.0}, "outside 'box.friction'"),
        ({"frictoin": 0.5}, "did you mean 'friction'"),
        ({"delay": 1.5}, "no whole number"),
        ({"spec": "box-grasp:0:1"}, "EpisodeSpec"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], why: str) -> None:
    env: Any = gymnasium.make(BOX)
    with pytest.raises(ConfigError) as refused:
        env.reset(seed=1, options=options)
    assert why in f"{refused.value} {refused.value.hint}"


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="render"):
        gymnasium.make_vec(BOX, 2, render_mode="rgb_array")
    with pytest.raises(ConfigError, match="robot class"):
        gymnasium.make(BOX, robot_class="openarm-v9")


def vector(count: int, name: str = BOX, **more: Any) -> Any:
    return gymnasium.make_vec(name, count, vectorization_mode="vector_entry_point", **more)


@pytest.mark.slow
def test_a_vector_of_environments_plays_the_same_episodes() -> None:
    todo = [EpisodeSpec(GYM_CELL, 20 + i, changes(AXES), "box-grasp") for i in range(4)]
    wanted = {
        record.spec.episode: outcome(record)
        for record in play(BatchEnv(contract_for("box-grasp"), 2), waving, todo)
    }
    env = vector(4)
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    seen, _ = env.reset(seed=20, options=AXES)
    ended = late = np.zeros(4, dtype=bool)
    while not (ended | late).all():
        seen, rewards, ended, late, info = env.step(waving(seen))
        assert seen.shape == (4, env.contract.width)
        assert info["is_success"].shape == rewards.shape == (4,)
    assert {20 + i: outcome(env.record(i)) for i in range(4)} == wanted
    env.reset(options={"specs": todo})
    assert [env.record(i).spec for i in range(4)] == todo


def test_only_those_named_are_reset_and_what_has_ended_stands_still() -> None:
    env = vector(3)
    env.reset(seed=0)
    env._env.world.qvel[1] = 1e12
    seen, _, ended, _, info = env.step(np.zeros((3, 8), dtype=np.float32))
    assert ended.tolist() == [False, True, False]
    assert info["_failure_mode"].tolist() == [False, True, False]
    assert info["failure_mode"][1] == "unstable"
    push = np.full((3, 8), 0.5, dtype=np.float32)
    push[1] = np.nan  # it has ended: nobody listens
    again, _, ended, _, info = env.step(push)
    assert ended.tolist() == [False, True, False]
    np.testing.assert_array_equal(again[1], seen[1])
    assert (again[[0, 2]] != seen[[0, 2]]).any()
    assert "failure_mode" not in info
    fresh, _ = env.reset(seed=[None, 1, None], options={"reset_mask": np.array([0, 1, 0]) > 0})
    np.testing.assert_array_equal(fresh[[0, 2]], again[[0, 2]])
    assert [env.record(i).steps for i in range(3)] == [2, 0, 2]
    assert not env.step(np.zeros((3, 8), dtype=np.float32))[2].any()
    for mask in (np.zeros(3, dtype=bool), np.ones(2, dtype=bool), [True, False, False]):
        with pytest.raises(ConfigError, match="reset_mask"):
            env.reset(options={"reset_mask": mask})


def test_seeds_name_scenes_and_without_one_they_follow_the_last() -> None:
    env = vector(2, PLACE, robot_class="openarm-v2-bimanual")
    first, _ = env.reset(seed=7)
    following, _ = env.reset()
    assert (first != following).any()
    np.testing.assert_array_equal(env.reset(seed=7)[0], first)
    np.testing.assert_array_equal(env.reset()[0], following)
    np.testing.assert_array_equal(env.reset(seed=[7, 8])[0], first)
    with pytest.raises(ConfigError, match="seeds"):
        env.reset(seed=[1])


BAD_ACTIONS = [
    (np.zeros(7, dtype=np.float32), r"shape is \(7,\), \(8,\) is needed"),
    (np.zeros((1, 8), dtype=np.float32), r"shape is \(1, 8\)"),
    (0.5, r"shape is \(\)"),
    (np.zeros(8, dtype=np.complex128), "complex128, real numbers"),
    (np.zeros(8, dtype=bool), "bool, real numbers"),
    (["still"] * 8, "real numbers are needed"),
    ([None] * 8, "object, real numbers"),
    (np.array([0, 0, np.nan, 0, 0, 0, 0, 0]), "not finite"),
    (np.array([0, 0, 0, 0, 0, 0, 0, np.inf]), "not finite"),
    (np.array([0, 0, 0, 0, 0, 0, 0, 1e300]), "not finite"),
]


@pytest.mark.parametrize(("action", "why"), BAD_ACTIONS)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_an_action_that_is_none_is_refused_and_nothing_moves(action: Any, why: str) -> None:
    env: Any = gymnasium.make(BOX).unwrapped
    env.reset(seed=3)
    before = env.record()
    with pytest.raises(ConfigError) as refused:
        env.step(action)
    assert re.search(why, str(refused.value))
    assert "action_space.sample()" in refused.value.hint
    assert env.record() == before
    env.step([0.5] * 8)
    assert env.record().steps == 1


@pytest.mark.parametrize(
    ("actions", "why"),
    [
        (np.zeros((3, 8), dtype=np.float32), r"shape is \(3, 8\), \(2, 8\) is needed"),
        (np.zeros(8, dtype=np.float32), r"shape is \(8,\)"),
        (np.zeros((2, 8), dtype=str), "real numbers"),
        (np.array([[0.0] * 8, [np.nan] * 8]), "not finite for environment 1$"),
    ],
)
def test_actions_that_are_none_are_refused_and_nothing_moves(actions: Any, why: str) -> None:
    env = vector(2)
    env.reset(seed=3)
    before = [env.record(i) for i in range(2)]
    with pytest.raises(ConfigError) as refused:
        env.step(actions)
    assert re.search(why, refused.value.evidence)
    assert [env.record(i) for i in range(2)] == before
