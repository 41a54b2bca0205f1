"""Policies that tests of simulation play: the scripted expert behind a policy's eyes, and others.

The expert sees only its observation (measured joints, the detector's pose), so it is a policy like
any other. It answers row by row, so that its bits do not depend on the batch it is asked in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.kinematics import load_arms
from harness.sim.episode import Change, EpisodeSpec
from harness.sim.expert import Expert
from harness.sim.randomization import changes
from harness.tasks.task import Truth
from policies.contract import ARM_TERMS, ROBOT_CLASSES, SCENE_TERMS, Contract, parse_contract
from policies.formats import native
from policies.observation import Measurement

WIDTHS = {k: v for k, v in {**ARM_TERMS, **SCENE_TERMS}.items() if not k.startswith("goal_")}
ROBOT = ROBOT_CLASSES["openarm-v2-right"]
Rows = npt.NDArray[np.float32]


def contract(**changes: Any) -> Contract:
    """Box grasp by one right arm, every observation term but a goal, delta actions."""
    return parse_contract(
        {
            "schema": "policyctl.contract/1",
            "task": "box-grasp",
            "robot_class": ROBOT.name,
            "arms": ["right"],
            "joints": list(ROBOT.joints),
            "rate_hz": 50,
            "observation": [{"name": name, "width": width} for name, width in WIDTHS.items()],
            "action": {
                "space": "delta",
                "limit": [0.04, 0.04, 0.06, 0.06, 0.06, 0.06, 0.06, 0.10],
                "ema_alpha": 1.0,
                "low": [-1.39, -0.17, -1.57, 0.0, -1.57, -0.785, -1.57, -0.785],
                "high": [3.49, 3.31, 1.57, 2.44, 1.57, 0.785, 1.57, 0.0],
            },
            "memory_mb": 10,
            "load_s": 1.0,
            "latency_ms": 20.0,
        }
        | changes
    )


def world(**values: float) -> tuple[Change, ...]:
    """Changes of named axes, but that `mass` is in kg."""
    kilograms = [Change("box", "mass", "set", values.pop("mass"))] if "mass" in values else []
    return (*kilograms, *changes(values))


def value(spec: EpisodeSpec, target: str, field: str) -> float:
    """What a specification changes a field with."""
    found = [c.value for c in spec.changes if (c.target, c.field) == (target, field)]
    assert len(found) == 1
    return found[0]


def detected(position: npt.NDArray[np.float64], yaw: npt.NDArray[np.float64]) -> Truth:
    """What the expert needs of the truth, from a detection."""
    n = len(position)
    nothing = np.zeros(n)
    return Truth(
        position=position,
        yaw=yaw,
        touch=nothing.astype(bool),
        rest_z=nothing,
        goal=np.zeros((n, 4)),
        joint_speed=nothing,
        released=nothing.astype(bool),
        speed=nothing,
        hand_force=nothing,
    )


class ExpertPolicy:
    """Grasps and lifts most boxes."""

    def __init__(self) -> None:
        self.contract = contract()
        limit = np.array(self.contract.action.limit)
        self._expert = Expert(load_arms(["right"])[0], limit)

    def reset(self) -> None:
        """It remembers nothing."""

    def act(self, observation: Rows) -> Rows:
        return np.concatenate([self._one(row) for row in observation[:, None, :]])

    def _one(self, row: Rows) -> Rows:
        numbers, parts, start = row.astype(np.float64), {}, 0
        for name, width in WIDTHS.items():
            parts[name] = numbers[:, start : start + width]
            start += width
        yaw = np.arctan2(parts["object_yaw"][:, 1], parts["object_yaw"][:, 0]) / 4
        measured = Measurement(
            q=parts["joint_position"],
            dq=parts["joint_velocity"],
            tau=np.zeros((1, 8)),
            command=parts["joint_command"],
            tcp=parts["tcp_position"][:, None],
            tcp_command=parts["tcp_command"][:, None],
            hand_axes=parts["hand_axes"][:, None],
            object_position=parts["object_position"],
            object_yaw=yaw,
            object_age=np.zeros(1),
        )
        truth = detected(parts["object_position"], yaw)
        return np.asarray(self._expert.act(measured, truth), dtype=np.float32)


def write_overflowing(folder: Path) -> Path:
    """A sound checkpoint whose outputs overflow: every episode fails at its first step."""
    made = contract()
    weight = np.zeros((8, made.width), dtype=np.float32)
    bias = np.full(8, 3e38, dtype=np.float32)
    second = np.full((8, 8), 3e38, dtype=np.float32)
    network = native.Network(
        ((weight, bias), (second, bias)),
        np.zeros(made.width, dtype=np.float32),
        np.ones(made.width, dtype=np.float32),
    )
    native.save(folder, made, network)
    return folder


def write_still(folder: Path, **changes: Any) -> Path:
    """A sound checkpoint that commands nothing: every episode lasts to its horizon."""
    made = contract(**changes)
    weight = np.zeros((8, made.width), dtype=np.float32)
    network = native.Network(
        ((weight, np.zeros(8, dtype=np.float32)),),
        np.zeros(made.width, dtype=np.float32),
        np.ones(made.width, dtype=np.float32),
    )
    native.save(folder, made, network)
    return folder
