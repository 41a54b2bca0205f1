"""A Gymnasium gate as the gate sees it: axes, and policies that are too slow."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
from gym_policies import write_constant
from sim_gate import Memory

from harness.gym.engine import fingerprint
from harness.gym.simulation import ANSWERS, WARM_UP, GymSimulation, lateness
from harness.gym.tasks import GymTask
from harness.sim.gate import SimResult, SimRun, run_sim_gate
from harness.sim.simulation import Contestant
from harness.simulations import simulation_of
from policies.space import SpaceContract
from registry.evidence import Subject
from registry.gates import GridGate, Term
from registry.verdicts import Outcome

Rows = npt.NDArray[np.float32]
GATE = GridGate("CartPole-v1", {"high": Term((0.05,))}, 20, gymnasium={"success": {"return": 195}})


@pytest.fixture(scope="module")
def contract() -> SpaceContract:
    return GymTask.of("CartPole-v1", {"return": 195}, {}, where="here").contract()


@pytest.fixture
def who(tmp_path: Path, contract: SpaceContract) -> Contestant:
    folder = write_constant(tmp_path, contract, [0.0, 1.0])
    return Contestant(folder, Subject("cart-pole", 1, "sha256:" + "0" * 64))


def test_an_axis_of_one_value_is_moved_from_the_nominal_and_a_dead_one_changes_nothing(
    who: Contestant,
) -> None:
    axes = {"high": Term((0.1,)), "low": Term(range=(-0.2, -0.1)), "gravity": Term((9.8, 1.6))}
    gate = GridGate("CartPole-v1", axes, gymnasium={"success": {"return": 195}})
    found = GymSimulation.of(gate, "gates.yaml").try_axes(who)
    assert [(a.axis, a.low, a.high, a.alive) for a in found] == [
        ("gravity", 1.6, 9.8, False),
        ("high", None, 0.1, True),
        ("low", -0.2, -0.1, True),
    ]


def test_episodes_of_a_late_policy_fail_and_nothing_is_kept(
    who: Contestant, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = "31.0 ms an answer"
    monkeypatch.setattr("harness.gym.simulation.lateness", lambda policy: late)
    memory = Memory()
    result = run_sim_gate(SimRun(who, GATE, "nonce"), simulation_of(GATE), keeper=memory)
    assert result.verdict.outcome is Outcome.FAIL
    assert {(row.failure_mode, row.detail) for row in result.rows} == {("policy_late", late)}
    assert (memory.results, memory.drawers) == ({}, {})


class Slow:
    """A policy whose answers take so many control periods each."""

    def __init__(self, contract: SpaceContract, periods: list[float], answer: Any) -> None:
        self.contract, self.now = contract, 0.0
        self._periods, self._answer = iter(periods), answer

    def reset(self) -> None:
        """Nothing to forget."""

    def act(self, observation: Rows) -> Any:
        self.now += next(self._periods) / self.contract.rate_hz
        return self._answer


@pytest.mark.parametrize(
    ("periods", "late"),
    [
        ([0.5] * (WARM_UP + ANSWERS), False),
        ([9.0] * WARM_UP + [0.5] * ANSWERS, False),
        ([0.5] * WARM_UP + [9.0] * (ANSWERS // 2) + [0.5] * (ANSWERS // 2 + 1), False),
        ([0.5] * WARM_UP + [0.5] * (ANSWERS // 2) + [1.5] * (ANSWERS // 2 + 1), True),
    ],
)
def test_late_is_slower_than_the_control_period_most_of_the_time(
    contract: SpaceContract, periods: list[float], late: bool
) -> None:
    policy = Slow(contract, periods, np.zeros((1, 2)))
    said = lateness(policy, clock=lambda: policy.now)
    assert said == ("30.0 ms an answer, the control period is 20.0 ms" if late else "")


def test_a_policy_that_cannot_be_asked_is_not_late(contract: SpaceContract) -> None:
    policy = Slow(contract, list(itertools.repeat(9.0, 99)), np.zeros((1, 3)))
    assert lateness(policy, clock=lambda: policy.now) == ""


def test_a_verdict_is_of_the_environment_as_it_was_registered(
    who: Contestant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's fingerprint is part of the gate's key: the same environment under another step
    limit is another, and what was judged under the first is not taken for it."""
    memory, registered = Memory(), gymnasium.spec(GATE.task)
    gate = replace(GATE, axes={"high": Term((0.1,))})

    def run() -> SimResult:
        fingerprint.cache_clear()
        return run_sim_gate(SimRun(who, gate, "nonce"), simulation_of(gate), keeper=memory)

    first = run()
    assert run().cached
    shorter = replace(registered, max_episode_steps=40)
    monkeypatch.setitem(gymnasium.registry, GATE.task, shorter)
    other = run()
    assert not other.cached
    assert other.played >= len(other.rows)
    assert other.evidence.engine != first.evidence.engine
    monkeypatch.setitem(gymnasium.registry, GATE.task, registered)
    again = run()
    assert (again.cached, again.evidence) == (True, first.evidence)
    fingerprint.cache_clear()
