"""A camera policy for tests: joints and a small image in, a step of each joint out.

It has not learnt anything; that its motion follows from every pixel is what tests need, because
equal motion then means equal images.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sim_policies import WIDTHS, contract

from harness.sim.env import BatchEnv
from harness.sim.episode import Change, EpisodeSpec
from harness.sim.runner import play
from harness.sim.scene import SceneConfig, build_scene
from harness.tasks.box_grasp import BOX_GRASP
from policies.contract import Contract
from policies.formats import native
from policies.loading import load_policy

CELL = (77,)
SIZE = (16, 12)
SHORT = dataclasses.replace(BOX_GRASP, horizon_s=0.4)
"""Box grasp that ends after 20 steps: motion, and no time to grasp anything."""


def camera_contract(
    cameras: Sequence[str] = ("front",),
    *,
    size: tuple[int, int] = SIZE,
    depth: bool = False,
    terms: Sequence[str] = ("joint_position", "joint_command"),
) -> Contract:
    """Box grasp by one right arm that sees images."""
    width, height = size
    pixels = width * height
    images = [{"name": f"image_{name}", "width": 3 * pixels} for name in cameras]
    depths = [{"name": f"depth_{name}", "width": pixels} for name in cameras if depth]
    states = [{"name": name, "width": WIDTHS[name]} for name in terms]
    return contract(
        robot_class="openarm-v2-right-vision",
        observation=[*states, *images, *depths],
        cameras=[{"name": name, "width": width, "height": height} for name in cameras],
    )


def write_camera_policy(folder: Path, made: Contract | None = None) -> Path:
    """A checkpoint of an untrained network with one hidden layer."""
    made = made or camera_contract()
    rng = np.random.Generator(np.random.PCG64(3))
    hidden, joints = 24, len(made.joints)
    spread = 1.0 / np.sqrt(made.width)
    network = native.Network(
        (
            (
                rng.normal(0.0, spread, (hidden, made.width)).astype(np.float32),
                np.zeros(hidden, dtype=np.float32),
            ),
            (
                rng.normal(0.0, 0.5, (joints, hidden)).astype(np.float32),
                np.zeros(joints, dtype=np.float32),
            ),
        ),
        np.full(made.width, 0.3, dtype=np.float32),
        np.full(made.width, 0.2, dtype=np.float32),
    )
    native.save(folder, made, network)
    return folder


def specs(count: int) -> list[EpisodeSpec]:
    """Episodes whose cameras, lights and images differ."""
    return [
        EpisodeSpec(
            CELL,
            i,
            (
                Change("camera", "x", "add", 0.01 * i),
                Change("light", "temperature", "set", 3000.0 + 500.0 * i),
                Change("image", "noise", "set", 0.02 * (i % 3)),
                Change("table", "texture", "set", i % 4),
                Change("box", "mass", "scale", 1.0 + 0.1 * i),
            ),
        )
        for i in range(count)
    ]


def played(folder: Path, size: int, threads: int, order: Sequence[int]) -> dict[int, str]:
    """Digests of episodes by number, through `play`."""
    policy = load_policy(folder)
    env = BatchEnv(
        policy.contract, size, threads=threads, scene=build_scene(SceneConfig()), task=SHORT
    )
    todo = specs(max(order) + 1)
    records = play(env, policy.act, [todo[i] for i in order])
    return {record.spec.episode: record.digest for record in records}


def seen(folder: Path, size: int, threads: int, numbers: Sequence[int]) -> dict[int, str]:
    """Digests of all that a policy saw in the first ten steps of episodes, by number."""
    policy, found = load_policy(folder), {}
    env = BatchEnv(policy.contract, size, threads=threads, scene=build_scene(SceneConfig()))
    todo = specs(max(numbers) + 1)
    for start in range(0, len(numbers), size):
        part = list(numbers[start : start + size])
        slots = list(range(len(part)))
        hashes = [hashlib.sha256() for _ in part]
        env.reset(slots, [todo[i] for i in part])
        for _ in range(10):
            observation = env.observe(slots)
            for slot, row in zip(slots, observation, strict=True):
                hashes[slot].update(row.tobytes())
            env.step(slots, policy.act(observation))
        found.update({i: each.hexdigest() for i, each in zip(part, hashes, strict=True)})
    return found
