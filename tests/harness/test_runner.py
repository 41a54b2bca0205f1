"""The run of a gate: bit-equal however it is spread, judged in drawn order, whole or not at all."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim_policies import ExpertPolicy, contract, world

from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.executors.threads import InProcess
from harness.sim.grid import Grid
from harness.sim.results import digest_rows, row
from harness.sim.runner import Guard, in_order, play

AXES = {"friction": (0.5, 1.5), "mass": (1.0, 2.0), "delay": (0, 3)}
# -- equal results ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_results_do_not_depend_on_slots_threads_or_order() -> None:
    grid = Grid.of("box-grasp", AXES, 3)
    numbers = list(range(grid.population))
    shuffled = [int(n) for n in np.random.default_rng(3).permutation(numbers)]
    digests = set()
    for slots, threads, played in ((5, 1, numbers), (24, 2, numbers), (16, 2, shuffled)):
        specs = [grid.spec(number) for number in played]
        records = {
            r.spec: r for r in InProcess(ExpertPolicy(), slots=slots, threads=threads).map(specs)
        }
        digests.add(digest_rows([row(grid, n, records[grid.spec(n)]) for n in numbers]))
        assert any(record.success for record in records.values())
    assert len(digests) == 1


@pytest.mark.slow
def test_a_refilled_slot_remembers_nothing_of_its_last_episode() -> None:
    specs = [EpisodeSpec((), e, world(delay=e % 4, mass=0.2 + 0.1 * e)) for e in range(4)]
    alone = {r.spec: r for s in specs for r in InProcess(ExpertPolicy(), slots=1).map([s])}
    after = {r.spec: r for r in InProcess(ExpertPolicy(), slots=1).map(specs)}
    assert alone == after
    assert {r.digest for r in alone.values()} == {r.digest for r in after.values()}


# -- order -----------------------------------------------------------------------------------------

SPECS = [EpisodeSpec((), episode) for episode in range(12)]


def ended(spec: EpisodeSpec) -> EpisodeRecord:
    return EpisodeRecord(spec, True, "", 1)


@given(st.permutations(SPECS))
def test_results_always_come_in_the_drawn_order(finished: list[EpisodeSpec]) -> None:
    released = list(in_order((ended(spec) for spec in finished), SPECS))
    assert [record.spec for record in released] == SPECS


@given(st.permutations(SPECS), st.integers(0, 11))
def test_nothing_is_released_before_what_was_drawn_before_it(
    finished: list[EpisodeSpec], seen: int
) -> None:
    taken: list[EpisodeSpec] = []

    def records() -> Generator[EpisodeRecord]:
        for spec in finished:
            taken.append(spec)
            yield ended(spec)

    released = in_order(records(), SPECS)
    for _ in range(seen + 1):
        next(released)
    assert set(SPECS[: seen + 1]) <= set(taken)


def test_an_executor_that_loses_an_episode_is_a_bug_not_a_verdict() -> None:
    with pytest.raises(RuntimeError, match="ended without"):
        list(in_order((ended(spec) for spec in SPECS[:5]), SPECS))


# -- policies that fail by themselves --------------------------------------------------------------


def test_a_policy_that_raises_fails_in_its_rows_only() -> None:
    def act(observation: np.ndarray) -> np.ndarray:
        if (observation[:, 0] < 0).any():
            raise ZeroDivisionError
        return np.ones((len(observation), 8), dtype=np.float32)

    answer = Guard(act, 8)(np.array([[1.0], [-1.0], [2.0]], dtype=np.float32))
    assert np.isnan(answer).all(axis=1).tolist() == [False, True, False]


def test_a_policy_that_answers_another_shape_has_failed() -> None:
    answer = Guard(lambda rows: np.zeros((len(rows), 7), np.float32), 8)(
        np.zeros((3, 2), np.float32)
    )
    assert answer.shape == (3, 8)
    assert np.isnan(answer).all()


def test_physics_that_blows_up_is_a_failure_of_its_own_kind() -> None:
    env = BatchEnv(contract(), 2)
    specs = [EpisodeSpec((), 0), EpisodeSpec((), 1)]
    env.reset([0, 1], specs)
    env.world.batch.bind("qvel")[0] = 1e12
    still = np.zeros((2, 8), dtype=np.float32)
    assert env.step([0, 1], still).tolist() == [True, False]
    assert env.record(0).failure_mode == "unstable"
    env.reset([0], [specs[1]])
    for _ in range(3):
        env.step([0, 1], still)
    assert env.record(0).failure_mode != "unstable"
    clean = BatchEnv(contract(), 1)
    clean.reset([0], [specs[1]])
    for _ in range(3):
        clean.step([0], still[:1])
    assert env.record(0).digest == clean.record(0).digest


# -- play -----------------------------------------------------------------------------------------


def test_play_yields_each_spec_once() -> None:
    env = BatchEnv(contract(), 2)

    def fails(observation: np.ndarray) -> np.ndarray:
        return np.full((len(observation), 8), np.nan, dtype=np.float32)

    specs = [EpisodeSpec((), episode) for episode in range(7)]
    assert sorted(r.spec.episode for r in play(env, fails, specs)) == list(range(7))
