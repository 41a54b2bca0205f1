"""The verbs of simulation as a person types them, on real versions and real physics."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

import av
import numpy as np
import pytest
from gym_policies import write_linear
from said import Said

from ci.cli.main import main
from harness.episodes.log import read_log
from harness.gym.tasks import GymTask
from policies.formats.native import NativePolicy
from registry.home import Home

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("policyctl")
GATES = """
sim:
  task: box-grasp
  axes: {friction: [0.5, 1.0], delay: [0, 3]}
  episodes_per_cell: 10
  suites:
    held-out: {axes: {shape: [1, 2]}, episodes_per_cell: 4}
hil: {not_applicable: no lab here}
"""
CARTPOLE = """
sim:
  task: {gymnasium: CartPole-v1, success: {return: 195}}
  axes: {low: [-0.05, -0.01], high: [0.01, 0.05]}
  episodes_per_cell: 10
hil: {not_applicable: no robot}
"""


Run = Callable[..., Said]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the demo's good v1, its weak v2, v3 that no test plays, and gates for them."""
    folder = tmp_path_factory.mktemp("sim")
    (folder / "gates.yaml").write_text(GATES)
    for version in ("v1", "v2", "v3"):
        checkpoint = ROOT / "ci/demo/checkpoints" / version
        words = ["register", str(checkpoint), "--policy", "box-grasp", "--home", str(folder)]
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
    return folder


@pytest.fixture
def run(place: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def typed(*words: str | Path, home: Path = place, output: str = "json") -> Said:
        capsys.readouterr()
        line = [str(word) for word in words]
        with pytest.raises(SystemExit) as ended:
            main([*line, "--home", str(home), "--output", output])
        said = capsys.readouterr()
        code = ended.value.code
        return Said(code if isinstance(code, int) else 1, said.out, said.err)

    return typed


def test_a_plan_proves_the_axes_and_refuses_a_dead_one(place: Path, run: Run) -> None:
    plan = run("gate", "plan", "sim", "v1", "--gates", place / "gates.yaml")
    assert (plan.status, plan.data["alive"], plan.data["population"]) == (0, True, 40)
    assert {axis["axis"] for axis in plan.data["axes"]} == {"friction", "delay"}
    dead = place / "dead.yaml"
    dead.write_text(GATES.replace("delay: [0, 3]", "light_intensity: [0.5, 2.0]"))
    for verb in ("plan", "run"):
        refused = run("gate", verb, "sim", "v1", "--gates", dead)
        assert refused.status == 2
        assert "light_intensity" in refused.data["error"]["what"]
        assert str(dead) in refused.data["error"]["evidence"]


def test_a_run_does_not_prove_again_what_its_plan_has_proven(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = place / "planned.yaml"
    planned.write_text(GATES.replace("delay: [0, 3]", "delay: [0, 2]"))
    assert run("gate", "plan", "sim", "v1", "--gates", planned).data["alive"]

    def again(*_: object) -> NoReturn:
        raise AssertionError("the axes are tried again")

    monkeypatch.setattr("harness.sim.simulation.try_axes", again)
    ran = run("gate", "run", "sim", "v1", "--gates", planned)
    assert ran.data["outcome"] in ("pass", "fail", "inconclusive")


def test_a_failure_is_reported_and_replayed_to_the_bit(
    place: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report"
    gates = place / "gates.yaml"
    failed = run(
        "gate", "run", "sim", "v2", "--gates", gates, "--full", "--report", out, "--clips", "1"
    )  # fmt: skip
    assert (failed.status, failed.data["outcome"]) == (3, "fail")
    written = {path.name for path in out.iterdir()}
    assert written == {"report.html", "report.json", "episodes.csv", "junit.xml", "summary.md"}
    lines = list(csv.DictReader((out / "episodes.csv").read_text().splitlines()))
    assert len(lines) == 40
    lost = [line for line in lines if line["outcome"] == "failure"]
    assert len(lost) == 40 - failed.data["numbers"]["successes"]
    tests = ElementTree.parse(out / "junit.xml").getroot()
    assert int(tests.get("failures", "0")) >= 1
    page = (out / "report.html").read_text()
    assert "data:image/webp;base64," in page
    assert any(line["key"] in page for line in lost)

    log = tmp_path / "one.mcap"
    for line in lost[:3]:
        again = run("replay", line["key"], "--version", "v2", "--mcap", log)
        assert again.status == 0, again.err
        told = again.data
        assert (told["identical"], told["log_identical"]) == (True, True)
        assert (told["failure_mode"], told["digest"]) == (line["failure_mode"], line["digest"])
    kept = read_log(log)
    assert kept.metadata["key"] == lost[2]["key"]
    assert kept.actions.shape == (int(lost[2]["steps"]), 8)

    def never(self: NativePolicy, observation: object) -> None:
        raise AssertionError("the policy was asked")

    monkeypatch.setattr("harness.sim.simulation.fingerprint", lambda images: "another engine")
    monkeypatch.setattr(NativePolicy, "act", never)
    video = tmp_path / "one.mp4"
    again = run("replay", lost[2]["key"], "--version", "v2", "--mcap", log, "--video", video)
    assert (again.data["by"], again.data["digest"]) == ("actions", lost[2]["digest"])
    np.testing.assert_array_equal(read_log(log).actions, kept.actions)
    assert video.read_bytes()[4:8] == b"ftyp"
    with av.open(str(video)) as film:
        frames = sum(1 for _ in film.decode(video=0))
    assert frames == (len(kept.actions) + 1) // 2 + 1


def test_what_was_not_played_cannot_be_replayed(run: Run) -> None:
    for key, status in (("box-grasp:0.0:0", 6), ("box-grasp:9.9:0", 6), ("nonsense", 6)):
        missing = run("replay", key, "--version", "v3")
        assert missing.status == status
        assert "verdict" in missing.data["error"]["what"]


def test_a_comparison_tells_versions_apart_on_the_same_scenes(place: Path, run: Run) -> None:
    compared = run(
        "compare", "v1", "v2", "--gates", place / "gates.yaml", "--episodes", "40",
    )  # fmt: skip
    assert compared.status == 0
    (pair,) = compared.data["pairs"]
    assert pair["different"]
    assert pair["first_wins"] > 10 > pair["second_wins"]
    assert compared.data["alpha"] == 0.05
    alone = run("compare", "v1", "v1", "--gates", place / "gates.yaml")
    assert alone.status == 2


def test_a_suite_reports_its_drop_and_moves_no_stage(place: Path, run: Run) -> None:
    gates = place / "gates.yaml"
    judged = run("gate", "run", "sim", "v1", "--gates", gates)
    assert (judged.status, judged.data["stage"]) == (0, "sim")
    assert f"--gates {gates}" in judged.data["next"], "judged by others, it could not go on"
    suite = run("gate", "run", "sim", "v1", "--gates", gates, "--suite", "held-out")
    assert (suite.status, suite.data["gate"], suite.data["stage"]) == (0, "sim:held-out", "sim")
    assert suite.data["numbers"]["drawn"] == 8
    assert -100 <= suite.data["drop_points"] <= 100
    unknown = run("gate", "run", "sim", "v1", "--gates", gates, "--suite", "moon")
    assert unknown.status == 2
    assert "held-out" in unknown.data["error"]["hint"]


def test_a_killed_run_goes_on_where_it_was(place: Path, tmp_path: Path) -> None:
    """kill -9 in the middle: what was played stays, the verdict is that of an unbroken run."""
    gates = tmp_path / "gates.yaml"
    gates.write_text(GATES.replace("episodes_per_cell: 10", "episodes_per_cell: 80"))
    home = tmp_path / "home"
    register = [COMMAND, "register", ROOT / "ci/demo/checkpoints/v1", "--policy", "box-grasp"]
    subprocess.run([*register, "--home", home], check=True, capture_output=True)
    line = [COMMAND, "gate", "run", "sim", "v1", "--gates", gates, "--full", "--home", home]
    first = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not 64 <= kept_episodes(home) < 320:
        assert first.poll() is None
        assert time.monotonic() < deadline
        os.sched_yield()
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = kept_episodes(home)
    second = subprocess.run([*line, "--output", "json"], capture_output=True, text=True, check=True)
    told = json.loads(second.stdout)
    assert told["numbers"]["drawn"] == 320
    assert told["played"] == 320 - before
    assert kept_episodes(home) == 320


def kept_episodes(home: Path) -> int:
    path = Home(home).database
    if not path.exists():
        return 0
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        return int(connection.execute("select count(*) from episodes").fetchone()[0])


def test_a_gymnasium_environment_is_gated_and_replayed(tmp_path: Path, run: Run) -> None:
    gates = tmp_path / "gates.yaml"
    gates.write_text(CARTPOLE)
    task = GymTask.of("CartPole-v1", {"return": 195}, {}, where="test")
    balance = np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 0.5, 3.0, 1.0]])
    home = tmp_path / "home"
    for name, weights in (("good", balance), ("bad", -balance)):
        checkpoint = write_linear(tmp_path / name, task.contract(), weights.tolist(), [0.0, 0.0])
        registered = run("register", checkpoint, "--policy", "cart-pole", home=home)
        assert registered.status == 0, registered.out + registered.err
    one = tmp_path / "one.yaml"
    one.write_text(CARTPOLE.replace("[0.01, 0.05]", "[0.03]"))
    plan = run("gate", "plan", "sim", "v1", "--gates", one, home=home, output="text")
    rows = [line.split() for line in plan.out.splitlines()]
    assert ["low", "-0.05", "-0.01", "observation", "–"] in rows
    assert ["high", "nominal", "0.03", "observation", "–"] in rows
    good = run("gate", "run", "sim", "v1", "--gates", gates, home=home)
    assert (good.status, good.data["outcome"]) == (0, "pass")
    bad = run("gate", "run", "sim", "v2", "--gates", gates, home=home)
    assert (bad.status, bad.data["outcome"]) == (3, "fail")
    key = "CartPole-v1:0.0:0"
    full = run("gate", "run", "sim", "v2", "--gates", gates, "--full", home=home)
    assert full.status == 3
    again = run("replay", key, "--version", "v2", home=home)
    assert (again.status, again.data["identical"]) == (0, True)
