"""Which trial comes when, and where its object stands. Pure: suite and seed decide everything.

Trials come in blocks; a block holds every task of the suite once, in an order drawn for the block,
so at any moment the numbers of trials of two tasks differ by at most one. Start poses are drawn
uniformly within the task's ranges, from streams named by (seed, block, task): adding a task or
asking for more trials changes no pose that was drawn before.
"""

from __future__ import annotations

import hashlib

import numpy as np

from harness.hil.model import Goal, Range, Suite, TaskSpec, TrialSpec


def seed_of(suite: Suite, subject_digest: str) -> int:
    """The seed of a run: the same version on the same suite meets the same scenes again."""
    return int.from_bytes(hashlib.sha256(f"{suite.digest}|{subject_digest}".encode()).digest()[:8])


def _stream(seed: int, *names: str | int) -> np.random.Generator:
    key = hashlib.sha256("|".join(map(str, names)).encode()).digest()
    words = [int.from_bytes(key[i : i + 4]) for i in range(0, 16, 4)]
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=tuple(words)))


def _goal(task: TaskSpec, rng: np.random.Generator) -> Goal:
    def draw(span: Range) -> float:
        return round(float(rng.uniform(span.low, span.high)), 4)

    return Goal(x=draw(task.scene.x), y=draw(task.scene.y), yaw=draw(task.scene.yaw))


def trial(suite: Suite, seed: int, index: int) -> TrialSpec:
    """Trial number `index`, from 0."""
    block, position = divmod(index, len(suite.tasks))
    order = _stream(seed, "order", block).permutation(len(suite.tasks))
    task = suite.tasks[int(order[position])]
    rng = _stream(seed, "scene", block, task.name)
    goal = _goal(task, rng)
    return TrialSpec(index, block, task.name, goal, audit=bool(rng.random() < suite.audit_fraction))
