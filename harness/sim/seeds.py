"""Randomness from names, never from order.

A generator is made from (task, cell, episode, stream) alone, so an episode's draws do not depend on
the batch slot, the worker or what ran before. Streams keep the uses apart: a new noise term takes a
new stream and shifts nobody's draws.
"""

from __future__ import annotations

import hashlib

import numpy as np

SCENE = 0
NOISE = 1
POLICY = 2
PHYSICS = 3
COMMAND = 4
SENSORS = 5
IMAGES = 6


def rng(task: str, cell: tuple[int, ...], episode: int, stream: int) -> np.random.Generator:
    """The generator of one use (`stream`) in one episode of one cell of a task's grid."""
    entropy = int.from_bytes(hashlib.sha256(task.encode()).digest()[:16], "big")
    key = (stream, len(cell), *cell, episode)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy, spawn_key=key)))


class Streams:
    """The generators of one episode, each made when it is first asked for."""

    def __init__(self, task: str, cell: tuple[int, ...], episode: int) -> None:
        self._of = (task, cell, episode)
        self._made: dict[int, np.random.Generator] = {}

    def __getitem__(self, stream: int) -> np.random.Generator:
        if stream not in self._made:
            self._made[stream] = rng(*self._of, stream)
        return self._made[stream]


def named(task: str, cell: tuple[int, ...], episode: int, name: str) -> np.random.Generator:
    """The generator of one named term of an episode's physics: its own, so that a term which is
    added or taken away moves no other term's draws."""
    word = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return rng(task, (*cell, word), episode, PHYSICS)
