"""Policies that answer with chunks, in simulation: as robots follow them, as gates need them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from sim_policies import contract

from fleet.answers import ChunkedAnswers, LockStepInference
from harness.sim.chunks import ActionChunks
from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeSpec
from harness.sim.executors.threads import InProcess
from harness.sim.grid import Grid
from harness.sim.replay import Replayer
from harness.sim.results import row
from harness.sim.runner import lateness, play
from policies.actions import ActionState, shape, start
from policies.contract import Contract

Rows = npt.NDArray[np.float32]
CHUNK = {"rows": 16, "every": 8, "blend": 3}
GRID = Grid.of("box-grasp", {"friction": (0.5, 1.5), "delay": (0, 3)}, 2)


def chunked(**changes: object) -> Contract:
    return contract(**({"chunk": CHUNK, "latency_ms": 35.0} | changes))


class Swinging:
    """Answers 16 rows that follow from the observation alone, in any batch the same."""

    def __init__(self, told: Contract | None = None) -> None:
        self.contract = told or chunked()
        self.asked: list[int] = []

    def reset(self) -> None:
        pass

    def act(self, observation: Rows) -> Rows:
        self.asked.append(len(observation))
        phase = np.arange(16)[:, None] / 5.0 + np.arange(8)
        rows = np.sin(phase[None] + 40.0 * observation[:, None, :8])
        return np.asarray(0.4 * rows, dtype=np.float32).reshape(len(observation), -1)


@pytest.mark.parametrize("ema_alpha", [1.0, 0.7])
def test_what_is_followed_is_what_a_robot_follows(ema_alpha: float) -> None:
    """The same answers to the same questions, given to the robot's side and to the simulation's;
    many of them, and the mixture, beyond the step limit."""
    action = contract().to_json()["action"] | {"ema_alpha": ema_alpha}
    policy = Swinging(chunked(action=action))
    env = BatchEnv(policy.contract, 1)
    env.reset([0], [EpisodeSpec((), 0)])
    seen = env.measure(np.array([0]))
    told = np.random.default_rng(4).standard_normal((9, 1, policy.contract.outputs))

    class Told(Swinging):
        def act(self, observation: Rows) -> Rows:
            super().act(observation)
            return np.asarray(told[len(self.asked) - 1], dtype=np.float32)

    clock = [0.0]
    there, here = Told(policy.contract), Told(policy.contract)
    state = begin = start(policy.contract, seen.q)
    robot = ChunkedAnswers(policy.contract, LockStepInference(there, lambda: clock[0]), 0.02, begin)
    chunks = ActionChunks(policy.contract, 1)
    command = begin.command
    moved = 0.0
    for step in range(60):
        clock[0] = 0.02 * step
        state, _ = robot.next(state, seen, 0.02 * (step + 1))
        raw = chunks.next(
            np.array([0]), np.array([step]), command, lambda _: here.act(np.zeros((1, 1)))
        )
        command = shape(policy.contract, ActionState(command), raw)[1]
        np.testing.assert_allclose(command, state.command, atol=1e-6)
        moved = max(moved, float(np.abs(command - begin.command).max()))
    assert there.asked == here.asked == [1] * 8
    assert moved > 0.1


def test_a_policy_is_asked_when_its_turn_is_and_an_answer_waits_for_its_latency() -> None:
    policy = Swinging()
    env = BatchEnv(policy.contract, 1)
    env.reset([0], [EpisodeSpec((), 0)])
    at_rest = env.commands(np.array([0])).copy()
    chunks, asked, moving = ActionChunks(policy.contract, 1), [], []
    command = at_rest
    for step in range(20):

        def answer(due: npt.NDArray[np.intp], step: int = step) -> Rows:
            asked.append(step)
            return policy.act(np.zeros((len(due), policy.contract.width), dtype=np.float32))

        raw = chunks.next(np.array([0]), np.array([step]), command, answer)
        moving.append(bool(np.abs(raw).max() > 0))
        command = shape(policy.contract, start(policy.contract, command), raw)[1]
    assert asked == [0, 8, 16]
    assert moving == [False, False] + [True] * 18, "35 ms are two steps of 20 ms"


@pytest.mark.slow
def test_results_do_not_depend_on_slots_or_threads_and_replay_to_the_bit(tmp_path: Path) -> None:
    specs = [GRID.spec(number) for number in range(3)]
    one = {r.spec: r for r in InProcess(Swinging(), slots=1, threads=1).map(specs)}
    many = {r.spec: r for r in InProcess(Swinging(), slots=2, threads=2).map(reversed(specs))}
    assert one == many
    assert len({record.digest for record in one.values()}) == len(specs)
    number = 2
    record = one[specs[number]]
    kept = row(GRID, number, record)
    player = Replayer(Swinging())
    assert player.replay(record.spec, kept, same_engine=True).identical is True
    log = player.replay_log(record.spec, kept, same_engine=True)
    assert log is not None
    assert log.identical is True


@pytest.mark.parametrize(
    ("answer", "mode"),
    [
        (lambda n: np.full((n, 128), np.nan, dtype=np.float32), "policy_nan"),
        (lambda n: np.zeros((n, 8), dtype=np.float32), "policy_shape"),
    ],
)
def test_an_answer_that_is_none_fails_its_episodes_and_says_how(answer, mode) -> None:  # type: ignore[no-untyped-def]
    class Wrong(Swinging):
        def act(self, observation: Rows) -> Rows:
            super().act(observation)
            wrong = len(self.asked) > 1
            return answer(len(observation)) if wrong else np.zeros((len(observation), 128), "f4")

    policy = Wrong()
    env = BatchEnv(policy.contract, 2)
    records = list(play(env, policy.act, [EpisodeSpec((), n) for n in range(2)]))
    assert [(record.failure_mode, record.steps) for record in records] == [(mode, 9)] * 2


def test_it_is_late_where_an_answer_takes_longer_than_the_contract_says() -> None:
    assert lateness(Swinging()) == ""
    policy = Swinging(chunked(latency_ms=1e-3))
    assert "the contract's latency is 0.0 ms" in lateness(policy)
