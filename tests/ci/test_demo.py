"""The demo as its user runs it: real processes, real frames, the whole road, and stopped midway."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from ci.cli.demo import STEPS
from ci.demo.commands import Commands
from ci.demo.steps import ROAD
from registry.home import find_home
from registry.rollouts import Phase
from registry.service import Actor, Registry
from registry.stages import Stage

POLICYCTL = Path(sys.executable).with_name("policyctl")
BOX_GRASP = "box-grasp"


def demo(home: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [POLICYCTL, "demo", "--home", str(home), "--plain", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=home.parent,
    )


def left_running(home: Path) -> list[str]:
    """Command lines of processes that still work on this home."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(home) in line:
            found.append(line)
    return found


def test_the_choices_of_until_are_the_steps_of_the_road() -> None:
    assert list(STEPS) == [*(name for name, _, _ in ROAD), "report"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_four_policies_travel_the_whole_road(tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = demo(home)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert left_running(home) == []

    with Registry.open(find_home(home), Actor("test", "viewer")) as registry:
        stages = {record.number: record.stage for record in registry.list_versions(BOX_GRASP)}
        assert stages[1] is Stage.FLEET
        assert stages[2] is Stage.REJECTED
        assert stages[3] is Stage.ROLLED_BACK
        assert stages[4] is Stage.ROLLED_BACK
        rollouts = {r.rollout.candidate: r.rollout for r in registry.rollouts(BOX_GRASP)}
        assert rollouts[1].baseline is None
        assert {number: r.phase for number, r in rollouts.items()} == {
            1: Phase.DONE, 3: Phase.ROLLED_BACK, 4: Phase.DONE,
        }  # fmt: skip
        assert {robot.running for robot in registry.robots()} == {1}
        frames = [robot.status["frames"] for robot in registry.robots()]
        assert sum(seen["frames"] for seen in frames) > 100_000
        assert sum(seen["violations"] for seen in frames) == 0
        lost = registry.canary_evidence(rollouts[3].id)
        rate = lost.candidate_total.success / lost.candidate_total.n
        assert rate <= 0.65 or lost.class_a_events > 0, "a soft grip drops boxes, or lands on them"
        assert lost.baseline_total.success / lost.baseline_total.n >= 0.95
        registry.verify_audit()

    again = demo(home)
    said, _ = again.communicate(timeout=60)
    assert again.returncode == 0, said
    assert "$ policyctl promote" not in said.replace("promote v2", ""), "nothing is done twice"

    page = (home / "report.html").read_text()
    assert "v3 against v1" in page
    assert page.count("<svg") >= 8
    assert not re.search(r"(src|href)=\"(?!#|data:)", page), "the report needs no network"
    figures = json.loads((home / "demo.json").read_text())
    assert 0.0 < figures["rollback_seconds"] < 30.0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_stops_all_processes_and_the_next_run_goes_on(tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = demo(home, "--until", "v1-fleet", "--robots", "4")
    assert process.stdout is not None
    for line in process.stdout:
        if "candidate episodes" in line:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert left_running(home) == []

    again = demo(home, "--until", "v1-fleet", "--robots", "4")
    said, _ = again.communicate()
    assert again.returncode == 0, said
    assert left_running(home) == []
    with Registry.open(find_home(home), Actor("test", "viewer")) as registry:
        assert [record.number for record in registry.list_versions(BOX_GRASP)] == [1]
        assert len(registry.rollouts(BOX_GRASP)) == 1
        numbers: dict[str, list[int]] = {}
        for attempt in registry.attempts():
            numbers.setdefault(attempt.robot, []).append(attempt.number)
        for robot, found in numbers.items():
            assert sorted(found) == list(range(1, len(found) + 1)), robot


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_command_begins_leaves_no_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: signal.Signals
) -> None:
    begun: list[subprocess.Popen[str]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(["sleep", "600"], **options)
            begun.append(self)
            signal.raise_signal(told)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    old = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Commands(tmp_path, lambda line: None).policyctl("status")
    finally:
        signal.signal(signal.SIGTERM, old)
        left = [one.poll() for one in begun]
        for one in begun:
            one.kill()
    assert left == [-signal.SIGTERM]


@pytest.mark.slow
def test_sigterm_ends_the_command_that_is_under_way(tmp_path: Path) -> None:
    """Whoever sends it tells the demo alone; a terminal's ctrl-C would reach the command, too."""
    home = tmp_path / "home"
    process = demo(home, "--until", "v1-sim")
    while not any("gate run sim" in line for line in left_running(home)):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert left_running(home) == []
    with Registry.open(find_home(home), Actor("test", "viewer")) as registry:
        (version,) = registry.list_versions(BOX_GRASP)
        assert registry.verdicts(version.ref) == []


def test_too_few_robots_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    done = subprocess.run(
        [POLICYCTL, "demo", "--home", str(tmp_path / "home"), "--robots", "2"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "at least 4" in done.stderr
    assert not (tmp_path / "home").exists()
