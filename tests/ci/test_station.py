"""The station from the command line: fit or not, who holds it, tried, stopped and taken up."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

CHECKPOINT = Path(__file__).parents[2] / "ci" / "demo" / "checkpoints" / "v1"
STATION = """\
robot: lab-1
class: openarm-v2-right
role: lab
arms: [{name: right, bus: {interface: twin}}]
twin: {seed: 100, box: {mass: [0.2, 0.2], friction: [0.5, 0.8]}}
"""


class Shell:
    """Commands as a user types them, in a folder with a home and a station file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "lab.yaml"
        self.file.write_text(STATION)

    def start(self, *words: str) -> subprocess.Popen[str]:
        code = "import sys; from ci.cli.main import main; main(sys.argv[1:])"
        return subprocess.Popen(
            [sys.executable, "-c", code, *words],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def __call__(self, *words: str, expect: int = 0) -> dict[str, Any]:
        process = self.start(*words, "--output", "json")
        out, err = process.communicate(timeout=240)
        assert process.returncode == expect, (words, out, err)
        answer: dict[str, Any] = json.loads(out)
        return answer


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path)
    shell("init")
    return shell


def test_a_healthy_twin_is_fit_and_a_robot_of_the_fleet_is_no_station(shell: Shell) -> None:
    found = shell("station", "check", "lab.yaml")
    assert found["fit"] is True
    shell.file.write_text(STATION.replace("role: lab", "role: robot"))
    found = shell("station", "check", "lab.yaml", expect=9)
    assert [row["what"] for row in found["checks"] if not row["ok"]] == ["role"]


def test_a_lease_is_taken_told_and_given_back(shell: Shell) -> None:
    assert shell("station", "lease", "lab.yaml")["holder"] is None
    taken = shell("station", "lease", "lab.yaml", "--take", "60")
    assert shell("station", "lease", "lab.yaml")["token"] == taken["token"]
    assert shell("station", "lease", "lab.yaml", "--give")["holder"] is None


def test_stock_is_counted_at_the_station(shell: Shell) -> None:
    shell("station", "stock", "lab.yaml", "bag-a5", expect=6)
    assert shell("station", "stock", "lab.yaml", "bag-a5", "--set", "8")["count"] == 8
    assert shell("station", "stock", "lab.yaml", "bag-a5")["count"] == 8


def test_a_gate_run_without_a_terminal_a_lease_or_a_station_is_refused(shell: Shell) -> None:
    shell("register", str(CHECKPOINT), "--policy", "box-grasp")
    run = ("gate", "run", "hil", "v1", "--policy", "box-grasp", "--station", "lab.yaml")
    told = shell(*run, expect=2)["error"]
    assert "nobody can answer" in told["what"]
    shell("station", "lease", "lab.yaml", "--take", "600")
    shell(*run, "--prompts", "scripted", expect=5)
    shell.file.write_text(STATION.replace("role: lab", "role: robot"))
    told = shell(*run, "--prompts", "scripted", expect=5)["error"]
    assert "no station" in told["what"]


def test_a_version_is_tried_once_on_a_twin_or_a_station(shell: Shell) -> None:
    shell("register", str(CHECKPOINT), "--policy", "box-grasp")
    told = shell("arm", "run", "v1", "--task", "box_grasp", "--seed", "3")
    assert (told["outcome"], told["robot"], told["run"]) == ("success", "twin", 1)
    assert told["frames"]["violations"] == 0
    told = shell("arm", "run", "v1", "--station", "lab.yaml")
    assert (told["outcome"], told["robot"]) == ("success", "lab-1")
    assert shell("arm", "run", "v1", "--task", "pick_place", expect=2)["error"]["code"] == "usage"
    assert shell("show", "v1")["stage"] == "registered"


def test_ctrl_c_in_the_middle_ends_130_and_the_next_run_goes_on_to_a_recorded_pass(
    shell: Shell,
) -> None:
    shell("register", str(CHECKPOINT), "--policy", "box-grasp")
    run = ("gate", "run", "hil", "v1", "--policy", "box-grasp", "--station", "lab.yaml",
           "--prompts", "scripted")  # fmt: skip
    process = shell.start(*run)
    journals = shell.folder / ".policyctl" / "hil" / "lab-1"
    until = time.monotonic() + 120
    while not _recorded(journals) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    before = _recorded(journals)
    assert 1 <= before < 11
    done = shell(*run)
    assert done["outcome"] == "pass"
    assert done["cached"] is False
    again = shell(*run)
    assert again["cached"] is True
    assert again["evidence"] == done["evidence"]
    shown = shell("show", "v1", "--policy", "box-grasp")
    assert "hil" in json.dumps(shown)


def _recorded(journals: Path) -> int:
    return sum(
        line.count('"state":"record"')
        for path in journals.glob("*.jsonl")
        for line in path.read_text().splitlines()
    )


def test_a_station_is_not_enrolled_as_a_robot_of_the_fleet(shell: Shell) -> None:
    refused = shell("robot", "enrol", "lab.yaml", expect=5)["error"]
    assert "gate run hil" in refused["hint"]
    assert shell("fleet", "list")["robots"] == []
