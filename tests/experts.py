"""Episodes that a scripted expert drives with the true scene before its eyes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fleet.kinematics import ArmKinematics
from harness.sim.arms import Expert, ForArms
from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.expert import Expert as LiftExpert
from harness.sim.gym_env import contract_for
from harness.sim.place_expert import PlaceExpert
from harness.sim.randomization import changes
from harness.tasks import find_task
from harness.tasks.pick_place import PickPlace


def specs(task: str, count: int, **axes: float) -> list[EpisodeSpec]:
    return [EpisodeSpec((47,), i, changes(axes), task) for i in range(count)]


def expert_for(env: BatchEnv) -> ForArms:
    """Who drives this environment's robot at its task."""
    task, arm = find_task(env.contract.task), ArmKinematics.load("right")
    limit = np.array(env.contract.action.limit[:8])
    right: Expert = LiftExpert(arm, limit)
    if isinstance(task, PickPlace):
        right = PlaceExpert(arm, limit, task=task)
    return ForArms(right, env.contract.arms)


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
