"""Episodes that a scripted expert drives with the true scene before its eyes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.sim.arms import ForArms
from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.experts import expert_of
from harness.sim.gym_env import contract_for
from harness.sim.randomization import changes


def specs(task: str, count: int, **axes: float) -> list[EpisodeSpec]:
    return [EpisodeSpec((47,), i, changes(axes), task) for i in range(count)]


def expert_for(env: BatchEnv) -> ForArms:
    """Who drives this environment's robot at its task."""
    expert = expert_of(env.contract)
    assert expert is not None
    return expert


def drive(
    todo: list[EpisodeSpec],
    robot: str = "openarm-v2-right",
    watch: Callable[[BatchEnv], None] = lambda _: None,
) -> list[EpisodeRecord]:
    """Records of the episodes, in order; `watch` sees the environment after each step."""
    env = BatchEnv(contract_for(todo[0].task, robot), len(todo))
    expert = expert_for(env)
    slots = np.arange(len(todo))
    env.reset([int(slot) for slot in slots], todo)
    while len(slots):
        done = env.step(slots, expert.act(env.measure(slots), env.truth(slots)))
        watch(env)
        slots = slots[~done]
    return [env.record(slot) for slot in range(len(todo))]


def rate(records: list[EpisodeRecord]) -> float:
    return sum(record.success for record in records) / len(records)
