"""A small valid contract as plain JSON, for tests to bend."""

from __future__ import annotations

from typing import Any

from policies.contract import ROBOT_CLASSES


def contract_json(robot: str = "openarm-v2-right") -> dict[str, Any]:
    arms = ROBOT_CLASSES[robot].arms
    count = 8 * len(arms)
    return {
        "schema": "policyctl.contract/1",
        "task": "box-grasp",
        "robot_class": robot,
        "arms": [arm.name for arm in arms],
        "joints": list(ROBOT_CLASSES[robot].joints),
        "rate_hz": 50,
        "observation": [
            {"name": "joint_position", "width": count},
            {"name": "object_position", "width": 3},
        ],
        "action": {
            "space": "delta",
            "limit": [0.05] * count,
            "ema_alpha": 0.7,
            "low": [-1.0] * count,
            "high": [1.0] * count,
        },
        "memory_mb": 64,
        "load_s": 5.0,
        "latency_ms": 10.0,
    }
