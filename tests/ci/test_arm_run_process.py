"""`policyctl arm run` as its own process on a twin in another: its servo, guardian and boxes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import real_time
from twin_process import COMMAND, TwinProcess, Witness, end_guardians, state_of

from fleet.shared_memory import memory_folder
from registry.home import Home
from registry.service import Actor, Registry

pytestmark = [pytest.mark.slow, real_time]
ROOT = Path(__file__).parents[2]
ROBOT = f"run-{os.getpid()}"


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[TwinProcess]:
    with TwinProcess(tmp_path) as made:
        yield made
    end_guardians(ROBOT)


def test_one_attempt_over_the_twins_control_socket(twin: TwinProcess, tmp_path: Path) -> None:
    home = tmp_path / "home"
    registry = Registry.open(Home(home), Actor("ada"))
    registry.register(ROOT / "ci" / "demo" / "checkpoints" / "v1", "box-grasp")
    registry.close()
    file = tmp_path / "cell.yaml"
    file.write_text(
        f"robot: {ROBOT}\nclass: openarm-v2-right\nrole: lab\non_host_loss: hold\n"
        f"twin_control: {twin.control}\n"
        "arms:\n"
        f"- {{name: right, bus: {{interface: policyctl, channel: {twin.channel}, fd: true}}}}\n"
    )
    words = ["arm", "run", "v1", "--policy", "box-grasp", "--station", str(file), "--yes"]
    with Witness(twin) as witness:
        done = subprocess.run(
            [*COMMAND, *words, "--output", "json"],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"POLICYCTL_HOME": str(home), "PYTHONPATH": str(ROOT)},
        )
        seen = witness.report()
    told = json.loads(done.stdout)
    assert told["opened"], done.stderr
    assert done.returncode == (0 if told["outcome"] == "success" else 3), done.stderr
    assert told["outcome"] in ("success", "failure"), told
    assert told["failure_mode"] != "policy_fault", told
    assert told["steps"] > 5, "a busy machine ends it early, not before it began"
    assert told["scene"]["scene"] >= 1, "the box is the twin's"
    assert seen.kept, seen.examples
    assert seen.commands > 8 * 200
    assert {joint["status"] for joint in state_of(twin)["joints"]} == {"enabled"}, "it is held"
    left = [p for p in memory_folder().glob(f"policyctl-{ROBOT}-*") if p.suffix != ".lock"]
    assert left == []
    opened, closed = (
        json.loads(line) for line in (home / "runs" / f"{ROBOT}.jsonl").read_text().splitlines()
    )
    assert (opened["event"], closed["event"], closed["steps"]) == (
        "opened",
        "closed",
        told["steps"],
    )
