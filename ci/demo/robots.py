"""The demo's lab station and fleet: twelve twins that differ by seed, as robot files.

The lab handles light boxes, as the simulation gate does. The fleet's robots handle boxes of
0.8 to 1.0 kg: their work, and the physical reason why a policy can be good in the lab and bad here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROBOT_CLASS = "openarm-v2-right"
LAB_BOX = {"mass": [0.15, 0.25], "friction": [0.5, 0.8]}
FLEET_BOX = {"mass": [0.8, 1.0], "friction": [0.5, 0.5]}


def robot_name(index: int) -> str:
    return f"robot-{index:02d}"


def _twin(seed: int, box: dict[str, list[float]]) -> dict[str, Any]:
    return {"seed": seed, "task": "box-grasp", "box": box}


def write_robot_files(folder: Path, robots: int) -> tuple[Path, list[Path]]:
    """Writes `lab.yaml` and one file per robot; returns their paths. Existing files stay."""
    folder.mkdir(parents=True, exist_ok=True)
    lab = _write(folder, "lab", "lab", _twin(1000, LAB_BOX))
    names = [robot_name(index) for index in range(1, robots + 1)]
    return lab, [
        _write(folder, name, "robot", _twin(seed, FLEET_BOX)) for seed, name in enumerate(names, 1)
    ]


def _write(folder: Path, name: str, role: str, twin: dict[str, Any]) -> Path:
    path = folder / f"{name}.yaml"
    if not path.exists():
        config = {
            "robot": name,
            "class": ROBOT_CLASS,
            "role": role,
            "on_host_loss": "hold",
            "work": "on_rollout",
            "arms": [{"name": "right", "bus": {"interface": "twin"}}],
            "twin": twin,
        }
        path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path
