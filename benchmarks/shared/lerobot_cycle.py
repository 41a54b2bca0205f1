"""Run by LeRobot's interpreter: its follower's send_action + get_observation against the responder.

For each line on stdin, a number of cycles, prints their times as one JSON list [µs].
"""

from __future__ import annotations

import json
import math
import sys
import time

import can
import torchvision_ops  # noqa: F401  (before LeRobot: see tests/peers.py)
from lerobot.robots.openarm_follower.config_openarm_follower import OpenArmFollowerConfig
from lerobot.robots.openarm_follower.openarm_follower import OpenArmFollower
from responder import Responder

REST = json.loads(sys.argv[1])


def main() -> None:
    responder = Responder(can.Bus("lerobot", "virtual", ignore_config=True), REST)
    robot = OpenArmFollower(
        OpenArmFollowerConfig(id="bench", port="lerobot", can_interface="virtual", side="right")
    )
    robot.connect(calibrate=False)
    names = list(robot.bus.motors)
    rest = [math.degrees(q) for q in REST]
    print("ready", flush=True)
    tick = 0
    for line in sys.stdin:
        taken = []
        for _ in range(int(line)):
            tick += 1
            sway = math.degrees(0.05 * math.sin(tick * 2 * math.pi / 400))
            action = {f"{name}.pos": q + sway for name, q in zip(names, rest, strict=True)}
            before = time.perf_counter()
            robot.send_action(action)
            seen = robot.get_observation()
            taken.append(1e6 * (time.perf_counter() - before))
        if abs(seen["joint_4.pos"] - action["joint_4.pos"]) > 0.1:
            raise SystemExit(f"LeRobot reads {seen['joint_4.pos']}, sent {action['joint_4.pos']}")
        print(json.dumps(taken), flush=True)
    robot.disconnect()
    responder.stop()


if __name__ == "__main__":
    main()
