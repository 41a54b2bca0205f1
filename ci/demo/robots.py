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
    return {"seed": seed, "task": "box_grasp", "box": box}


def write_robot_files(folder: Path, robots: int) -> tuple[Path, list[Path]]:
    """Writes `lab.yaml` and one file per robot; returns their paths. Existing files stay."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"lab": {"robot": "lab", "role": "lab", "twin": _twin(1000, LAB_BOX)}}
    for index in range(1, robots + 1):
        name = robot_name(index)
        files[name] = {"robot": name, "role": "robot", "twin": _twin(index, FLEET_BOX)}
    paths = []
    for name, config in files.items():
        path = folder / f"{name}.yaml"
        if not path.exists():
            config = {
                "robot": config["robot"],
                "class": ROBOT_CLASS,
                "role": config["role"],
                "on_host_loss": "hold",
                "work": "on_rollout",
                "arms": [{"name": "right", "bus": {"interface": "twin"}}],
                "twin": config["twin"],
            }
            path.write_text(yaml.safe_dump(config, sort_keys=False))
        paths.append(path)
    return paths[0], paths[1:]
