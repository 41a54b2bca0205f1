"""`policyctl sysid`: from a log of the twin's bus to an overlay, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from overlays import overlay_of

import harness.sim.sysid
from ci.cli.main import ROOT, cli, main
from ci.cli.sysid import GROUPS
from ci.rig import build_rig
from fleet.robot import RobotConfig
from harness.episodes.log import MotionLog, write_log
from harness.sim.motion import JOINTS, excitation, record

ROBOT = {
    "robot": "robot-01",
    "class": "openarm-v2-right",
    "arms": [{"name": "right", "bus": {"interface": "twin"}}],
    "twin": {"seed": 1, "joint_friction_scale": [1.5, 1.5], "joint_damping_scale": [0.7, 0.7],
             "latency_s": [0.003, 0.003]},
}  # fmt: skip


def run(*words: str | Path) -> str:
    done = CliRunner().invoke(cli, ["sysid", *map(str, words)], catch_exceptions=False)
    return done.stdout


def still(samples: int) -> MotionLog:
    zero = np.zeros((samples, 8))
    return MotionLog(JOINTS, np.arange(samples) * 0.005, zero, zero, zero, zero)


@pytest.mark.slow
def test_a_robots_motion_becomes_an_overlay(tmp_path: Path) -> None:
    log, out = tmp_path / "arm.mcap", tmp_path / "overlay.yaml"
    with build_rig(RobotConfig.model_validate(ROBOT)) as robot:
        (kinematics,) = robot.kinematics
        path = excitation(kinematics, 3.0, limits=robot.servo.limits)
        write_log(log, record(robot.servo, kinematics, path))
        assert robot.monitors[0].report().kept
    words = (log, "--out", out, "--fit", "damping,latency,friction", "--threads", "2")
    said = json.loads(run(*words, "--output", "json"))
    found = {row["parameter"]: row for row in said["estimates"]}
    assert found["joint3.damping"]["value"] == pytest.approx(0.7, abs=0.07)
    assert found["joint1.friction"]["value"] == pytest.approx(0.3, abs=0.03)
    assert found["command.latency_s"]["value"] == pytest.approx(0.003, abs=0.0003)
    assert all(row["standard_error"] > 0 for row in found.values())
    assert (said["arm"], said["overlay"], said["schema"]) == ("right", str(out), "policyctl/1")
    changes = overlay_of(out)
    assert len(changes) == len(found)
    assert {(c.target, c.field) for c in changes} >= {("joint3", "damping"),
                                                     ("command", "latency_s")}  # fmt: skip
    assert "±" in out.read_text()
    with pytest.raises(SystemExit) as ended:
        main(["sysid", str(log), "--out", str(out)])
    assert ended.value.code == 5


def test_the_groups_of_the_command_are_those_of_the_fit() -> None:
    assert tuple(harness.sim.sysid.GROUPS) == GROUPS
    assert "sysid" in ROOT


def test_bad_input_is_told_with_exit_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short, foreign = tmp_path / "short.mcap", tmp_path / "foreign.mcap"
    write_log(short, still(50))
    foreign.write_bytes(b"not a log")
    out = tmp_path / "overlay.yaml"
    for words, complaint in (
        ([str(short)], "the log is too short: 0.24 s"),
        ([str(foreign)], "not a whole MCAP file"),
        ([str(tmp_path / "none.mcap")], "cannot read none.mcap"),
        ([str(short), "--fit", "friction,mass"], "--fit knows no 'mass'"),
        ([str(short), "--fit", ","], "--fit names nothing"),
        ([str(short), "--threads", "0"], "--threads"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["sysid", *words, "--out", str(out)])
        assert ended.value.code == 2
        assert complaint in capsys.readouterr().err
    assert not out.exists()
