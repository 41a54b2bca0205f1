"""Run by LeRobot's interpreter: its own follower connects, reads, moves each joint, disconnects.

    follow.py ROBOT JOB      (ROBOT: openarm_follower or bi_openarm_follower)

JOB is JSON: {"arms": [{"side", "port"}], "interface", "fd", "step_deg": [8 numbers]}; what
python-can needs beyond that is in $CAN_CONFIG. Prints one JSON line: the observation after
connecting, and by joint where it went. Degrees throughout, as LeRobot has them. Imports nothing of
ours.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from typing import Any

JOINTS = (*(f"joint_{i}" for i in range(1, 8)), "gripper")
RATE_HZ = 100.0
MOVE_S, REST_S = 0.5, 0.5


def build(kind: str, job: dict[str, Any]) -> Any:
    """The follower of one arm, or of two."""
    single = import_module("lerobot.robots.openarm_follower.config_openarm_follower")

    def options(arm: dict[str, str]) -> dict[str, Any]:
        known = single.OpenArmFollowerConfig.__dataclass_fields__
        wanted = {
            "side": arm["side"],
            "port": arm["port"],
            "can_interface": job["interface"],
            "use_can_fd": job["fd"],
            "use_velocity_and_torque": True,
        }
        return {name: value for name, value in wanted.items() if name in known}

    if kind == "openarm_follower":
        robot = import_module("lerobot.robots.openarm_follower.openarm_follower")
        return robot.OpenArmFollower(
            single.OpenArmFollowerConfig(id="policyctl_peer", **options(job["arms"][0]))
        )
    config = import_module("lerobot.robots.bi_openarm_follower.config_bi_openarm_follower")
    robot = import_module("lerobot.robots.bi_openarm_follower.bi_openarm_follower")
    one_arm = getattr(single, "OpenArmFollowerConfigBase", single.OpenArmFollowerConfig)
    arms = {f"{arm['side']}_arm_config": one_arm(**options(arm)) for arm in job["arms"]}
    return robot.BiOpenArmFollower(config.BiOpenArmFollowerConfig(id="policyctl_peer", **arms))


def move(robot: Any, start: dict[str, float], goal: dict[str, float]) -> dict[str, float]:
    """A straight way from start to goal, then rest; the observation at its end."""
    ticks = round(MOVE_S * RATE_HZ)
    due = time.monotonic()
    seen: dict[str, float] = {}
    for k in range(1, ticks + round(REST_S * RATE_HZ) + 1):
        part = min(k / ticks, 1.0)
        robot.send_action({key: start[key] + part * (goal[key] - start[key]) for key in start})
        seen = robot.get_observation()
        due += 1.0 / RATE_HZ
        time.sleep(max(due - time.monotonic(), 0.0))
    return {key: float(value) for key, value in seen.items()}


def main() -> None:
    kind, job = sys.argv[1], json.loads(sys.argv[2])
    if find_spec("torchvision_ops"):
        import_module("torchvision_ops")
    robot = build(kind, job)
    robot.connect(calibrate=False)
    first = {key: float(value) for key, value in robot.get_observation().items()}
    home = {key: value for key, value in first.items() if key.endswith(".pos")}
    rest = move(robot, home, home)
    moved = {}
    for key in home:
        joint = key.removesuffix(".pos").split("_", 1)[1] if kind.startswith("bi_") else key[:-4]
        goal = home | {key: home[key] + job["step_deg"][JOINTS.index(joint)]}
        there = move(robot, home, goal)
        back = move(robot, goal, home)
        moved[key] = {"from": rest[key], "to": there[key], "back": back[key]}
    robot.disconnect()
    sys.stdout.write(json.dumps({"first": first, "moved": moved}) + "\n")


if __name__ == "__main__":
    main()
