"""`policyctl gate run sim` as a process: its exit statuses, and ctrl-C in the middle of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import psutil
import pytest
from sim_policies import write_overflowing, write_still

COMMAND = Path(sys.executable).with_name("policyctl")
ROOT = Path(__file__).parents[2]


def policyctl(home: Path, *words: str | Path) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [COMMAND, *words, "--home", home, "--output", "json"], capture_output=True, text=True
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, told


def registered(home: Path, checkpoint: Path) -> None:
    status, _ = policyctl(home, "register", checkpoint, "--policy", "box-grasp")
    assert status == 0


@pytest.mark.slow
def test_a_failed_gate_exits_3_and_the_same_gate_again_is_a_look_up(tmp_path: Path) -> None:
    registered(tmp_path / "home", write_overflowing(tmp_path / "checkpoint"))
    status, first = policyctl(tmp_path / "home", "gate", "run", "sim", "v1")
    assert (status, first["outcome"], first["cached"]) == (3, "fail", False)
    assert first["failure_modes"] == {"policy_nan": first["numbers"]["drawn"]}
    status, again = policyctl(tmp_path / "home", "gate", "run", "sim", "v1")
    assert (status, again["outcome"], again["cached"]) == (3, "fail", True)
    assert again["evidence"] == first["evidence"]


@pytest.mark.slow
def test_an_unknown_axis_exits_2_and_names_file_and_field(tmp_path: Path) -> None:
    registered(tmp_path / "home", write_overflowing(tmp_path / "checkpoint"))
    gates = tmp_path / "gates.yaml"
    text = (ROOT / "policies/box_grasp/gates.yaml").read_text()
    gates.write_text(text.replace("friction:", "fricton:"))
    copytree(ROOT / "policies/box_grasp/hil", tmp_path / "hil")
    status, told = policyctl(tmp_path / "home", "gate", "run", "sim", "v1", "--gates", gates)
    assert status == 2
    assert "fricton" in told["error"]["what"]
    assert str(gates) in told["error"]["evidence"]
    assert "friction" in told["error"]["hint"]


def loads_mujoco(process: psutil.Process) -> bool:
    return any("mujoco" in mapped.path for mapped in process.memory_maps())


def simulates(process: psutil.Process) -> bool:
    return process.cpu_times().user > 2.0


@pytest.mark.slow
@pytest.mark.parametrize("moment", [loads_mujoco, simulates])
def test_ctrl_c_in_the_simulation_exits_130_and_records_nothing(
    tmp_path: Path, moment: Callable[[psutil.Process], bool]
) -> None:
    home = tmp_path / "home"
    registered(home, write_still(tmp_path / "checkpoint"))
    process = subprocess.Popen(
        [COMMAND, "gate", "run", "sim", "v1", "--home", home, "--workers", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not moment(psutil.Process(process.pid)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted" in said
    status, shown = policyctl(home, "show", "v1")
    assert (status, shown["stage"], shown["verdicts"]) == (0, "registered", [])
