"""The simulated classroom: the expert drives or watches, and labels every state it sees.

Training episodes draw their physics from the recipe's ranges by the recipe's seed; their cells
begin with a number no grid uses, so that no training scene is a scene of a gate. A recipe's further
axes are drawn from generators of their own, so none moves another's draws. Where the recipe has a
curriculum, ranges are narrowed towards the nominal world by how far training has come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from harness.sim import seeds
from harness.sim.env import BatchEnv
from harness.sim.episode import Change, EpisodeSpec
from harness.sim.experts import expert_of
from harness.sim.fields import find
from harness.sim.randomization import AXES, change
from harness.tasks import TASKS
from policies.training.imitation import Act, Lesson, contract_of
from policies.training.recipe import Randomization, Recipe, Round
from registry.errors import ConfigError
from registry.gates import Term

Rows = npt.NDArray[np.float32]

TRAINING_CELL = 7_919
"""First number of a training episode's cell: grids of gates have none this long."""


class SimClassroom:
    """A task in simulation with its scripted expert; see training.imitation.Classroom."""

    def __init__(self, recipe: Recipe, *, slots: int = 64, threads: int = 1) -> None:
        self._recipe = recipe
        if recipe.task not in TASKS:
            raise ConfigError(
                f"there is no task '{recipe.task}'",
                where="recipe",
                field=f"task is {recipe.task}",
                hint=f"tasks: {', '.join(TASKS)}",
            )
        _check(recipe.randomization.axes)
        if recipe.curriculum is not None:
            _check(narrowed(recipe.randomization, 0.0).axes)
        contract = contract_of(recipe)
        self._env = BatchEnv(contract, slots, threads=threads)
        expert = expert_of(contract, recipe.teacher)
        if expert is None:
            raise ConfigError(
                "no scripted expert drives this task by these actions",
                where="recipe",
                field=f"task is {recipe.task}, action.space is {recipe.action.space}",
            )
        self._expert = expert

    def collect(self, number: int, plan: Round, student: Act | None) -> Lesson:
        """Play the round's episodes; the samples of an episode follow from its specification."""
        specs = [self._spec(number, episode) for episode in range(plan.episodes)]
        observations: list[Rows] = []
        labels: list[Rows] = []
        env, successes, steps = self._env, 0, 0
        joints = len(env.contract.joints)
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
                    added = np.stack([noise[slot].standard_normal(joints) for slot in slots])
                    action = action + (plan.action_noise * added).astype(np.float32)
                done = env.step(slots, action)
                steps += len(slots)
                successes += sum(env.record(int(slot)).success for slot in slots[done])
                slots = slots[~done]
        return Lesson(
            np.concatenate(observations), np.concatenate(labels), successes / len(specs), steps
        )

    def _spec(self, number: int, episode: int) -> EpisodeSpec:
        recipe = self._recipe
        cell = (TRAINING_CELL, recipe.seed, number)
        u = seeds.rng(recipe.task, cell, episode, seeds.PHYSICS).random(8)
        ranges = narrowed(recipe.randomization, recipe.width(number))
        spec = physics(ranges, u, cell, episode, recipe.task)
        return replace(spec, changes=(*spec.changes, *drawn(ranges.axes, spec)))


def physics(
    ranges: Randomization,
    u: npt.NDArray[np.float64],
    cell: tuple[int, ...],
    episode: int,
    task: str,
) -> EpisodeSpec:
    """An episode whose physics are drawn from `ranges` by uniform numbers u (8,)."""
    return EpisodeSpec(
        cell=cell,
        episode=episode,
        changes=(
            Change("box", "friction", "set", _log(ranges.friction, u[0])),
            Change("box", "mass", "set", _log(ranges.mass, u[1])),
            Change("command", "delay", "set", _whole(ranges.delay, u[2])),
            Change("joints", "friction", "scale", _log(ranges.joint_friction, u[3])),
            Change("joints", "damping", "scale", _log(ranges.joint_damping, u[4])),
        ),
        task=task,
    )


def drawn(axes: Mapping[str, tuple[float, float]], spec: EpisodeSpec) -> tuple[Change, ...]:
    """What the recipe's further axes change in an episode."""
    changes = []
    for name, (low, high) in sorted(axes.items()):
        u = seeds.named(spec.task, spec.cell, spec.episode, name).random()
        example = _change(name, low)
        whole = find(example).whole
        value = _whole((int(low), int(high)), u) if whole else low + (high - low) * u
        changes.append(replace(example, value=float(value)))
    return tuple(changes)


def narrowed(ranges: Randomization, width: float) -> Randomization:
    """The ranges with both ends moved to the nominal world, all the way where `width` is 0."""
    if width >= 1.0:
        return ranges
    own = {
        name: _towards(getattr(Randomization(), name)[0], getattr(ranges, name), width)
        for name in Randomization.model_fields
        if name != "axes"
    }
    own["delay"] = tuple(round(end) for end in own["delay"])
    axes = {name: _narrowed(name, ends, width) for name, ends in ranges.axes.items()}
    return Randomization.model_validate({**own, "axes": axes})


def _towards(nominal: float, ends: tuple[float, float], width: float) -> tuple[float, ...]:
    return tuple(nominal + width * (end - nominal) for end in ends)


def _narrowed(name: str, ends: tuple[float, float], width: float) -> tuple[float, ...]:
    """The ends of a further axis, moved; whole where the axis is."""
    where, field = "recipe", f"randomization.axes.{name}"
    example = _change(name, ends[0])
    found = find(example, where=where, field=field)
    nominal = found.unchanged(example.operation)
    if nominal is None:
        raise ConfigError(f"'{name}' has no nominal value to widen from", where=where, field=field)
    moved = _towards(nominal, ends, width)
    return tuple(float(round(end)) for end in moved) if found.whole else moved


def _check(axes: Mapping[str, tuple[float, float]]) -> None:
    """ConfigError for an axis that the simulator does not have, or a value it cannot take."""
    for name, ends in axes.items():
        if name not in AXES:
            raise ConfigError(
                f"there is no axis '{name}'",
                where="recipe",
                field=f"randomization.axes.{name}",
                hint=f"axes: {', '.join(AXES)}",
            )
        for value in ends:
            find(_change(name, value), where="recipe", field=f"randomization.axes.{name}")


def _change(name: str, value: float) -> Change:
    return change(name, Term((value,)), value, where="recipe")


def _whole(ends: tuple[int, int], u: float) -> int:
    low, high = ends
    return low + min(int(u * (high - low + 1)), high - low)


def _log(bounds: tuple[float, float], u: float) -> float:
    return float(bounds[0] * (bounds[1] / bounds[0]) ** u)
