"""LeRobot's OpenArm follower, as its users install it, drives our twin over UDP multicast.

The twin is `policyctl twin run`, a process; the client is LeRobot's own interpreter. What LeRobot
says of the arm is held against what the twin's physics did.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
from machine import real_time
from twin_process import TwinProcess, column, free_port

pytestmark = [pytest.mark.slow, real_time]

GROUP = "239.74.163.91"
STEP_DEG = [12.0, 12.0, 12.0, 20.0, 12.0, 12.0, 12.0, -20.0]
SAG_DEG = 2.0
"""LeRobot sends no gravity torque: its gains hold a joint within this of its goal."""
READ_DEG = 2.0


@pytest.fixture(scope="module")
def lerobot() -> Path:
    return peers.lerobot_python()


@pytest.mark.timeout(1200)  # the first run builds LeRobot's environment
def test_the_follower_connects_reads_moves_every_joint_and_disconnects(
    lerobot: Path, tmp_path: Path
) -> None:
    """The arm hangs free at first, as LeRobot's users start it."""
    port = free_port()
    job = {
        "arms": [{"side": "right", "port": GROUP}],
        "interface": "udp_multicast",
        "fd": True,
        "step_deg": STEP_DEG,
    }
    bus = ("--interface", "udp_multicast", "--channel", GROUP, "--port", str(port))
    with TwinProcess(tmp_path, "--pose", "hang", interface=bus) as twin:
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
        (state,) = twin.end()["arms"]
    told = json.loads(done.stdout.splitlines()[-1])

    assert len(told["first"]) == 24  # position, speed and torque of eight motors
    assert all(abs(told["first"][f"{joint}.pos"]) < READ_DEG for joint in _joints(told))
    steps = np.array(STEP_DEG)
    reached = np.degrees(np.where(steps > 0, column(state, "high"), column(state, "low")))
    for joint, step, truth in zip(_joints(told), STEP_DEG, reached, strict=True):
        way = told["moved"][f"{joint}.pos"]
        assert way["to"] - way["from"] == pytest.approx(step, abs=SAG_DEG), joint
        assert way["back"] == pytest.approx(way["from"], abs=SAG_DEG), joint
        assert truth == pytest.approx(step, abs=SAG_DEG), f"{joint}: LeRobot moved it, physics no"
    assert set(column(state, "status")) == {"disabled"}, "disconnect left a motor on"
    assert not column(state, "zero").any(), "zero was set without a calibration"
    assert (state["zeroings"], state["saves"], state["refused"]) == (0, 0, 0)


def test_an_environment_that_cannot_be_built_says_what_pip_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "NEEDED", (str(tmp_path / "lerobot-none.whl"),))
    with pytest.raises(peers.PeerError, match=r"lerobot-none\.whl"):
        peers.lerobot_python(tmp_path)
    assert not list(tmp_path.rglob("ready"))


def _joints(told: dict[str, Any]) -> list[str]:
    return [name.removesuffix(".pos") for name in told["moved"]]
