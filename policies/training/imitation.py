"""Cloning a teacher and repairing the clone: behaviour cloning, then DAgger.

Each round collects episodes (the teacher drives, or the student drives and the teacher says what it
would have done), adds them to the data and trains on all of it. The environment and the teacher are
an argument (`Classroom`): this module knows neither simulator nor task.

Deterministic on one machine: torch runs one thread, from the recipe's seed; batches are drawn
by numpy. The loss is smooth L1 on outputs in units of the action limit; the learning rate falls
to zero over a round's iterations.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from policies.contract import ROBOT_CLASSES, Contract, parse_contract, term_width
from policies.formats.native import CLIP, NativePolicy, Network
from policies.training.recipe import Recipe, Round
from registry.errors import ConfigError

Rows = npt.NDArray[np.float32]
Act = Callable[[Rows], Rows]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Lesson:
    """What a round collected: observations (n, N), the teacher's outputs (n, J), success rate."""

    observations: Rows
    labels: Rows
    success: float
    env_steps: int


class Classroom(Protocol):
    """Environment and teacher. `student` None lets the teacher drive."""

    def collect(self, number: int, plan: Round, student: Act | None) -> Lesson: ...


@dataclass(frozen=True)
class Trained:
    """A trained network and how the rounds went."""

    network: Network
    rounds: tuple[dict[str, float], ...]


def contract_of(recipe: Recipe) -> Contract:
    """The contract a recipe trains for."""
    robot = ROBOT_CLASSES.get(recipe.robot_class)
    if robot is None:
        raise ConfigError(
            "the recipe names a robot class that does not exist",
            where="recipe",
            field=f"robot_class is {recipe.robot_class}",
            hint=f"known: {', '.join(sorted(ROBOT_CLASSES))}",
        )
    arms = [arm.name for arm in robot.arms]
    terms = [{"name": n, "width": term_width(n, len(arms)) or 1} for n in recipe.observation]
    return parse_contract(
        {
            "schema": "policyctl.contract/1",
            "task": recipe.task,
            "robot_class": robot.name,
            "arms": arms,
            "joints": list(robot.joints),
            "rate_hz": recipe.rate_hz,
            "observation": terms,
            "action": recipe.action.model_dump(),
            "memory_mb": 64,
            "load_s": 5.0,
            "latency_ms": 10.0,
        },
        where="recipe",
    )


def train(recipe: Recipe, classroom: Classroom, say: Say = lambda _: None) -> Trained:
    """Run the recipe's rounds."""
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    contract = contract_of(recipe)
    picks = np.random.Generator(np.random.PCG64(np.random.SeedSequence(recipe.seed)))
    observations: list[Rows] = []
    labels: list[Rows] = []
    student: _Student | None = None
    history: list[dict[str, float]] = []
    for number, plan in enumerate(recipe.rounds):
        began = time.perf_counter()
        driver = None
        if student is not None and plan.driver == "student":
            driver = NativePolicy(contract, student.network()).act
        lesson = classroom.collect(number, plan, driver)
        observations.append(lesson.observations)
        labels.append(lesson.labels)
        collected = time.perf_counter()
        if student is None:
            student = _Student(contract, recipe, lesson.observations)
        loss = student.learn(np.concatenate(observations), np.concatenate(labels), plan, picks)
        ended = time.perf_counter()
        history.append(
            {
                "episodes": plan.episodes,
                "driver_success": round(lesson.success, 4),
                "samples": int(sum(len(x) for x in observations)),
                "loss": round(loss, 5),
            }
        )
        say(
            f"round {number}: {plan.driver} drove {plan.episodes} episodes, "
            f"{lesson.success:.1%} succeeded, {lesson.env_steps} steps in "
            f"{collected - began:.1f} s; trained {ended - collected:.1f} s, loss {loss:.4f}"
        )
    if student is None:
        raise ValueError("a recipe has at least one round")
    return Trained(student.network(), tuple(history))


class _Student:
    """The network in training."""

    def __init__(self, contract: Contract, recipe: Recipe, observations: Rows) -> None:
        self._recipe = recipe
        self._mean = observations.mean(axis=0)
        self._scale = np.maximum(observations.std(axis=0), 1e-3).astype(np.float32)
        widths = [contract.width, *recipe.hidden, len(contract.joints)]
        layers: list[Any] = []
        for a, b in pairwise(widths):
            layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
        self._module = torch.nn.Sequential(*layers[:-1])

    def learn(
        self, observations: Rows, labels: Rows, plan: Round, picks: np.random.Generator
    ) -> float:
        """Train on everything; the mean loss of the last tenth."""
        inputs = torch.from_numpy(
            np.clip((observations - self._mean) / self._scale, -CLIP, CLIP).astype(np.float32)
        )
        targets = torch.from_numpy(labels)
        optimizer = torch.optim.Adam(self._module.parameters(), lr=plan.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, plan.iterations)
        losses = []
        for _ in range(plan.iterations):
            batch = torch.from_numpy(picks.integers(0, len(inputs), self._recipe.batch))
            loss = torch.nn.functional.smooth_l1_loss(
                self._module(inputs[batch]), targets[batch], beta=0.1
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        return float(np.mean(losses[-max(1, plan.iterations // 10) :]))

    def network(self) -> Network:
        linear = [m for m in self._module if isinstance(m, torch.nn.Linear)]
        layers = tuple(
            (m.weight.detach().numpy().copy(), m.bias.detach().numpy().copy()) for m in linear
        )
        return Network(layers, self._mean, self._scale)
