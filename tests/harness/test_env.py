"""The simulated task: an episode is a function of its specification and of nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sim_policies import ExpertPolicy, contract, world

from harness.sim import seeds
from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeSpec
from harness.sim.gym_env import contract_for
from harness.sim.randomization import changes
from harness.sim.runner import play
from harness.tasks.box_grasp import BOX_GRASP
from policies.contract import parse_contract
from registry.errors import ConfigError

pytestmark = pytest.mark.slow

CELL = (31,)


def specs(count: int) -> list[EpisodeSpec]:
    return [
        EpisodeSpec(
            CELL,
            i,
            world(
                friction=0.3 + 0.1 * (i % 6),
                mass=0.1 + 0.1 * (i % 9),
                delay=i % 4,
                joint_friction=0.5 + 0.2 * (i % 5),
            ),
        )
        for i in range(count)
    ]


def outcomes(size: int, threads: int, order: list[int]) -> dict[int, tuple[object, ...]]:
    policy = ExpertPolicy()
    env = BatchEnv(policy.contract, size, threads=threads)
    todo = specs(12)
    return {
        r.spec.episode: (r.success, r.steps, r.failure_mode, r.digest, r.interventions)
        for r in play(env, policy.act, [todo[i] for i in order])
    }


def test_an_episode_does_not_depend_on_batch_order_threads_or_slot() -> None:
    forward = list(range(12))
    reference = outcomes(12, 1, forward)
    assert len(reference) == 12
    assert len({row[3] for row in reference.values()}) == 12
    assert outcomes(5, 2, forward[::-1]) == reference
    assert outcomes(1, 1, [7, 2]) == {i: reference[i] for i in (7, 2)}


def test_observations_hold_what_a_robot_measures() -> None:
    env = BatchEnv(contract(), 3)
    env.reset([0, 1, 2], specs(3))
    assert env.observe([0, 1, 2]).shape == (3, env.contract.width)
    m = env.measure(np.arange(3))
    np.testing.assert_allclose(m.q[:, 7], BOX_GRASP.start_q[7])
    np.testing.assert_array_equal(m.tcp, env.measure(np.arange(3)).tcp)
    truth = env.truth(np.arange(3))
    error = np.abs(m.object_position - truth.position)
    assert (error > 0).all()
    assert (error < 0.02).all()
    assert ((m.object_age >= 0.03) & (m.object_age <= 0.06)).all()


def test_a_command_acts_after_its_delay() -> None:
    env = BatchEnv(contract(), 4)
    env.reset([0, 1, 2, 3], [EpisodeSpec(CELL, 1, world(delay=d)) for d in range(4)])
    began = env.measure(np.arange(4)).q
    push = np.zeros((4, 8), dtype=np.float32)
    push[:, 3] = -1.0
    moved = []
    for _ in range(6):
        env.step([0, 1, 2, 3], push)
        moved.append(np.abs(env.measure(np.arange(4)).q - began)[:, 3] > 1e-4)
    first = np.argmax(np.array(moved), axis=0)
    assert first.tolist() == [0, 1, 2, 3]


def test_mass_and_friction_reach_the_physics() -> None:
    env = BatchEnv(contract(), 2)
    env.reset(
        [0, 1],
        [
            EpisodeSpec(CELL, 1, world(friction=0.3, mass=0.1)),
            EpisodeSpec(CELL, 1, world(mass=0.9)),
        ],
    )
    model = [env.world.batch.get_model(slot) for slot in (0, 1)]
    body, geom = env.scene.box_body, env.scene.box_geom
    assert [m.body_mass[body] for m in model] == pytest.approx([0.1, 0.9])
    assert model[1].body_inertia[body] == pytest.approx(9 * model[0].body_inertia[body])
    assert [m.geom_friction[geom, 0] for m in model] == pytest.approx([0.3, 0.8])


def test_an_output_that_is_not_finite_ends_the_episode_as_the_policys_fault() -> None:
    env = BatchEnv(contract(), 2)
    env.reset([0, 1], specs(2))
    raw = np.zeros((2, 8), dtype=np.float32)
    raw[1, 0] = np.nan
    assert env.step([0, 1], raw).tolist() == [False, True]
    record = env.record(1)
    assert (record.success, record.failure_mode, record.steps) == (False, "policy_nan", 1)


def test_doing_nothing_is_frozen_after_eight_seconds() -> None:
    env = BatchEnv(contract(), 1)
    idle = play(env, lambda seen: np.zeros((len(seen), 8), dtype=np.float32), specs(1))
    (record,) = list(idle)
    assert (record.failure_mode, record.steps) == ("frozen", 400)


def test_success_needs_the_whole_hold() -> None:
    policy = ExpertPolicy()
    env = BatchEnv(policy.contract, 1)
    env.reset([0], [EpisodeSpec(CELL, 3)])
    high = 0
    while True:
        done = env.step([0], policy.act(env.observe([0])))[0]
        truth = env.truth(np.array([0]))
        above = truth.position[0, 2] - BOX_GRASP.rest_z > BOX_GRASP.lift_m
        high = high + 1 if above and truth.touch[0] else 0
        assert bool(done) == (high == 50)
        if done:
            break
    assert env.record(0).success


@pytest.mark.parametrize("hold_s", [0.0, 0.001, 0.02])
def test_a_hold_is_one_policy_step_at_least(hold_s: float) -> None:
    """A task without a hold succeeds when it is achieved, not before anything was."""
    task = replace(BOX_GRASP, hold_s=hold_s)
    still = np.zeros((1, 8), dtype=np.float32)
    env = BatchEnv(contract(), 1, task=task)
    env.reset([0], [EpisodeSpec(CELL, 3)])
    assert not env.step([0], still)[0]
    assert not env.record(0).success
    policy, steps, done = ExpertPolicy(), 0, False
    env.reset([0], [EpisodeSpec(CELL, 3)])
    while not done:
        done = bool(env.step([0], policy.act(env.observe([0])))[0])
        truth, steps = env.truth(np.array([0])), steps + 1
        assert done == bool(task.achieved(truth)[0])
    assert env.record(0).success
    assert env.record(0).steps == steps


def test_every_episode_is_played_once_through_refills() -> None:
    policy = ExpertPolicy()
    todo = [EpisodeSpec(CELL, i) for i in range(11)]
    played = [r.spec for r in play(BatchEnv(policy.contract, 4), policy.act, todo)]
    assert sorted(played, key=lambda s: s.episode) == todo
    assert list(play(BatchEnv(policy.contract, 4), policy.act, [])) == []


def test_what_does_not_fit_is_refused() -> None:
    data = contract().to_json()
    with pytest.raises(ConfigError, match="no task that is simulated"):
        BatchEnv(parse_contract({**data, "task": "juggling"}), 1)
    with pytest.raises(ConfigError, match="does not fit: task"):
        BatchEnv(parse_contract({**data, "task": "juggling"}), 1, task=BOX_GRASP)
    with pytest.raises(ConfigError, match="divide"):
        BatchEnv(parse_contract({**data, "rate_hz": 40}), 1)


def test_seeds_come_from_names_not_from_order() -> None:
    def draw(task: str, cell: tuple[int, ...], episode: int, stream: int) -> float:
        return float(seeds.rng(task, cell, episode, stream).random())

    assert draw("a", (1, 2), 3, 0) == draw("a", (1, 2), 3, 0)
    different = {
        draw("a", (1, 2), 3, 0),
        draw("b", (1, 2), 3, 0),
        draw("a", (1, 2), 4, 0),
        draw("a", (1,), 2, 0),
        draw("a", (1, 2), 3, 1),
        draw("a", (), 3, 0),
    }
    assert len(different) == 6


def test_noise_keeps_its_bits_beside_an_episode_that_lags() -> None:
    """A row without lag is what it is alone: arithmetic for its mates must not touch it."""
    noisy = EpisodeSpec(CELL, 1, changes({"action_noise": 0.01, "delay": 1}))
    whole = EpisodeSpec(CELL, 1, changes({"action_noise": 0.01, "latency": 0.02}))
    late = EpisodeSpec(CELL, 2, changes({"latency": 0.007}))
    policy = ExpertPolicy()
    for spec in (noisy, whole):
        (alone,) = play(BatchEnv(policy.contract, 1), policy.act, [spec])
        mates = {r.spec: r for r in play(BatchEnv(policy.contract, 2), policy.act, [spec, late])}
        assert mates[spec].digest == alone.digest


def test_shape_and_size_make_the_objects_geometry_and_inertia_in_any_order() -> None:
    def model(*names: str) -> object:
        values = {"size": 1.3, "shape": 3.0}
        made = tuple(change for name in names for change in changes({name: values[name]}))
        env = BatchEnv(contract(), 1)
        env.reset([0], [EpisodeSpec(CELL, 1, made)])
        return env.world.batch.get_model(0)

    one, other = model("size", "shape"), model("shape", "size")
    box = BatchEnv(contract(), 1).scene
    for found in (one, other):
        np.testing.assert_allclose(
            found.geom_size[box.box_geom], 0.025 * 1.3 * np.array([0.9, 0.9, 1.4])
        )
        half = found.geom_size[box.box_geom] ** 2
        inertia = 0.2 / 3 * np.array([half[1] + half[2], half[0] + half[2], half[0] + half[1]])
        np.testing.assert_allclose(np.sort(found.body_inertia[box.box_body]), np.sort(inertia))


def thrashing(seen: np.ndarray) -> np.ndarray:
    """Drives each joint hard here and there, as its observation says: into whatever is there."""
    joints = np.arange(1, 9)
    way = np.sin(seen.sum(axis=1, keepdims=True) * joints * 3.7)
    return (1.7 * np.tanh(2.5 * way)).astype(np.float32)


@pytest.mark.parametrize("task", ["box-grasp", "pick-place"])
def test_a_step_at_once_is_its_ticks_one_by_one(task: str) -> None:
    """Whoever watches each tick makes the servo go tick by tick; no bit may tell."""
    made = contract_for(task)
    records = []
    for watched in (False, True):
        env = BatchEnv(made, 8)
        env.on_tick = (lambda: None) if watched else None
        todo = [EpisodeSpec(CELL, i, world(latency=0.006 * (i % 3)), task) for i in range(10)]
        records.append(list(play(env, thrashing, todo)))
    assert records[0] == records[1]
    modes = {record.failure_mode for record in records[0]}
    assert modes & {"collision", "overspeed"}, "nothing went wrong on the way"


def test_protection_has_felt_in_a_step_at_once_what_it_feels_tick_by_tick() -> None:
    felt = []
    for watched in (False, True):
        env = BatchEnv(contract(), 3)
        env.on_tick = (lambda: None) if watched else None
        env.reset([0, 1, 2], specs(3))
        for step in range(12):
            env.step([0, 1, 2], np.full((3, 8), 0.3 * (-1) ** step, dtype=np.float32))
        assert not env._protection.stopped.any()
        felt.append(env._protection._load.copy())
    assert felt[0].any()
    np.testing.assert_array_equal(felt[0], felt[1])


def test_physics_that_fail_within_a_step_leave_the_other_scenes_alone() -> None:
    alone = []
    for watched in (False, True):
        env = BatchEnv(contract(), 3)
        env.on_tick = (lambda: None) if watched else None
        env.reset([0, 1, 2], specs(3))
        env.world.qvel[1, env.scene.box_dof] = 1e12
        done = env.step([0, 1, 2], np.zeros((3, 8), dtype=np.float32))
        assert done.tolist() == [False, True, False]
        assert env.record(1).failure_mode == "unstable"
        alone.append([env.record(slot) for slot in range(3)])
    assert alone[0] == alone[1]
