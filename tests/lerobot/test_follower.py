"""LeRobot's OpenArm follower, as its users install it, drives our twin over UDP multicast.

The twin plays in real time in this process; the client is LeRobot's own interpreter. What LeRobot
says of the arm is held against what the twin's physics did.
"""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import can
import numpy as np
import peers
import pytest

from harness.tasks.box_grasp import BOX_GRASP
from harness.twin.bus import TwinBridge
from harness.twin.physics import TwinConfig, TwinWorld

GROUP = "239.74.163.91"
STEP_DEG = [12.0, 12.0, 12.0, 20.0, 12.0, 12.0, 12.0, -20.0]
SAG_DEG = 2.0
"""LeRobot sends no gravity torque: its gains hold a joint within this of its goal."""
READ_DEG = 2.0
FLOOR_Z = -0.65
"""The arm hangs free, as LeRobot's users start it; the table is far below [m]."""


class LiveTwin:
    """A twin of one arm in real time on a bus of its own port; hangs straight down at first."""

    def __init__(self, port: int) -> None:
        self.world = TwinWorld(TwinConfig(), replace(BOX_GRASP, table_z=FLOOR_Z))
        self.world.park("right", np.zeros(8))
        self.zero = self.world.bank().zero.copy()
        self.low = self.world.joints()
        self.high = self.world.joints()
        self.frames = 0
        options: dict[str, Any] = {"port": port, "hop_limit": 0, "fd": True}
        self._bus = can.Bus(GROUP, "udp_multicast", ignore_config=True, **options)
        self._going = True
        self._thread = threading.Thread(target=self._play)
        self._thread.start()

    def close(self) -> None:
        self._going = False
        self._thread.join()
        self._bus.shutdown()

    def _play(self) -> None:
        bridge = TwinBridge(self.world, self._bus)
        last = time.monotonic()
        while self._going:
            self.frames += bridge.serve(0.0005)
            now = time.monotonic()
            if now - last >= 0.001:
                self.world.advance(now - last)
                last = now
                joints = self.world.joints()
                self.low = np.minimum(self.low, joints)
                self.high = np.maximum(self.high, joints)


@pytest.fixture(scope="module")
def lerobot() -> Path:
    return peers.lerobot_python()


@pytest.fixture
def port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def twin(port: int) -> Iterator[LiveTwin]:
    live = LiveTwin(port)
    yield live
    live.close()


@pytest.mark.slow
@pytest.mark.timeout(1200)  # the first run builds LeRobot's environment
def test_the_follower_connects_reads_moves_every_joint_and_disconnects(
    lerobot: Path, twin: LiveTwin, port: int, tmp_path: Path
) -> None:
    job = {
        "arms": [{"side": "right", "port": GROUP}],
        "interface": "udp_multicast",
        "fd": True,
        "step_deg": STEP_DEG,
    }
    done = subprocess.run(
        [lerobot, Path(__file__).with_name("follow.py"), "openarm_follower", json.dumps(job)],
        env=peers.clean_environment(
            CAN_CONFIG=json.dumps({"port": port, "hop_limit": 0}),
            HF_LEROBOT_HOME=str(tmp_path),
        ),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])

    assert len(told["first"]) == 24  # position, speed and torque of eight motors
    assert all(abs(told["first"][f"{joint}.pos"]) < READ_DEG for joint in _joints(told))
    reached = np.degrees(np.where(np.array(STEP_DEG) > 0, twin.high, twin.low))
    for joint, step, truth in zip(_joints(told), STEP_DEG, reached, strict=True):
        way = told["moved"][f"{joint}.pos"]
        assert way["to"] - way["from"] == pytest.approx(step, abs=SAG_DEG), joint
        assert way["back"] == pytest.approx(way["from"], abs=SAG_DEG), joint
        assert truth == pytest.approx(step, abs=SAG_DEG), f"{joint}: LeRobot moved it, physics no"
    assert not twin.world.bank().any_enabled, "disconnect left a motor on"
    assert (twin.world.bank().zero == twin.zero).all(), "zero was set without a calibration"
    assert twin.world.bank().saves == 0


def test_an_environment_that_cannot_be_built_says_what_pip_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "NEEDED", (str(tmp_path / "lerobot-none.whl"),))
    with pytest.raises(peers.PeerError, match=r"lerobot-none\.whl"):
        peers.lerobot_python(tmp_path)
    assert not list(tmp_path.rglob("ready"))


def _joints(told: dict[str, Any]) -> list[str]:
    return [name.removesuffix(".pos") for name in told["moved"]]
