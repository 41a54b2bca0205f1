"""Checkpoints whose policy commands nothing and succeeds with the rate written in its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from policies.contract import ROBOT_CLASSES, Contract, read_contract

POLICY = "box-grasp"
TASK = "box-grasp"
ROBOT_CLASS = ROBOT_CLASSES["openarm-v2-right"]


def contract_json(**changes: Any) -> dict[str, Any]:
    joints = list(ROBOT_CLASS.joints)
    contract = {
        "schema": "policyctl.contract/1",
        "task": TASK,
        "robot_class": ROBOT_CLASS.name,
        "arms": ["right"],
        "joints": joints,
        "rate_hz": 50,
        "observation": [{"name": "joint_position", "width": 8}],
        "action": {
            "space": "delta",
            "limit": [0.05] * 8,
            "ema_alpha": 0.7,
            "low": [-1.0] * 8,
            "high": [1.0] * 8,
        },
        "memory_mb": 10,
        "load_s": 1.0,
        "latency_ms": 20.0,
    }
    return contract | changes


def write_checkpoint(folder: Path, rate: float, **contract: Any) -> Path:
    """A checkpoint whose policy succeeds with `rate`, written in its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "contract.json").write_text(json.dumps(contract_json(**contract)))
    save_file({"rate": np.array([rate])}, folder / "policy.safetensors")
    return folder


class ScriptedPolicy:
    """A policy that commands nothing and succeeds with its rate."""

    def __init__(self, contract: Contract, rate: float) -> None:
        self.contract = contract
        self.rate = rate

    def reset(self) -> None:
        """It remembers nothing."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        answer = np.zeros((len(observation), len(self.contract.joints)), dtype=np.float32)
        return answer if np.isfinite(self.rate) else answer + np.float32(self.rate)


def load_scripted(folder: Path) -> ScriptedPolicy:
    rate = float(load_file(folder / "policy.safetensors")["rate"][0])
    return ScriptedPolicy(read_contract(folder), rate)
