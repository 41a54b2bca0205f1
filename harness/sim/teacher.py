"""The simulated classroom: the expert drives or watches, and labels every state it sees.

Training episodes draw their physics from the recipe's ranges by the recipe's seed; their cells
begin with a number no grid uses, so that no training scene is a scene of a gate.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fleet.kinematics import ArmKinematics
from harness.sim import seeds
from harness.sim.env import BatchEnv
from harness.sim.episode import Change, EpisodeSpec
from harness.sim.expert import Expert, ExpertConfig
from harness.tasks.box_grasp import BOX_GRASP
from policies.training.imitation import Act, Lesson, contract_of
from policies.training.recipe import Randomization, Recipe, Round

Rows = npt.NDArray[np.float32]

TRAINING_CELL = 7_919
"""First number of a training episode's cell: grids of gates have none this long."""


class SimClassroom:
    """Box grasp in simulation with the scripted expert; see training.imitation.Classroom."""

    def __init__(self, recipe: Recipe, *, slots: int = 64, threads: int = 1) -> None:
        self._recipe = recipe
        contract = contract_of(recipe)
        self._env = BatchEnv(contract, slots, threads=threads)
        teacher = recipe.teacher
        self._expert = Expert(
            ArmKinematics.load("right"),
            np.array(contract.action.limit),
            ExpertConfig(
                close=teacher.close,
                lift_m=teacher.lift_m,
                speed=teacher.speed,
                lift_speed=teacher.lift_speed,
            ),
            BOX_GRASP,
        )

    def collect(self, number: int, plan: Round, student: Act | None) -> Lesson:
        """Play the round's episodes; the samples of an episode follow from its specification."""
        specs = [self._spec(number, episode) for episode in range(plan.episodes)]
        observations: list[Rows] = []
        labels: list[Rows] = []
        env, successes, steps = self._env, 0, 0
        for start in range(0, len(specs), env.size):
            batch = specs[start : start + env.size]
            slots = np.arange(len(batch))
            env.reset(list(range(len(batch))), batch)
            noise = [seeds.rng(s.task, s.cell, s.episode, seeds.POLICY) for s in batch]
            while len(slots):
                seen = env.observe(slots)
                label = self._expert.act(env.measure(slots), env.truth(slots))
                observations.append(seen)
                labels.append(label)
                action = label if student is None else student(seen)
                if plan.action_noise > 0:
                    added = np.stack([noise[slot].standard_normal(8) for slot in slots])
                    action = action + (plan.action_noise * added).astype(np.float32)
                done = env.step(slots, action)
                steps += len(slots)
                successes += sum(env.record(int(slot)).success for slot in slots[done])
                slots = slots[~done]
        return Lesson(
            np.concatenate(observations), np.concatenate(labels), successes / len(specs), steps
        )

    def _spec(self, number: int, episode: int) -> EpisodeSpec:
        cell = (TRAINING_CELL, self._recipe.seed, number)
        u = seeds.rng(self._recipe.task, cell, episode, seeds.PHYSICS).random(8)
        return physics(self._recipe.randomization, u, cell, episode, self._recipe.task)


def physics(
    ranges: Randomization,
    u: npt.NDArray[np.float64],
    cell: tuple[int, ...],
    episode: int,
    task: str,
) -> EpisodeSpec:
    """An episode whose physics are drawn from `ranges` by uniform numbers u (8,)."""
    low, high = ranges.delay
    return EpisodeSpec(
        cell=cell,
        episode=episode,
        changes=(
            Change("box", "friction", "set", _log(ranges.friction, u[0])),
            Change("box", "mass", "set", _log(ranges.mass, u[1])),
            Change("command", "delay", "set", low + min(int(u[2] * (high - low + 1)), high - low)),
            Change("joints", "friction", "scale", _log(ranges.joint_friction, u[3])),
            Change("joints", "damping", "scale", _log(ranges.joint_damping, u[4])),
        ),
        task=task,
    )


def _log(bounds: tuple[float, float], u: float) -> float:
    return float(bounds[0] * (bounds[1] / bounds[0]) ** u)
