"""A policy that sees images on the whole way of a sim gate, from registration to replay."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from said import Said
from vision_policies import write_camera_policy

from ci.cli.main import main
from harness.sim.env import Ints
from harness.sim.render import Cameras
from harness.sim.simulation import Contestant, RobotSimulation

pytestmark = pytest.mark.slow

GATES = """
sim:
  task: box-grasp
  axes: {light_intensity: [0.4, 1.6], friction: [0.5, 1.0]}
  episodes_per_cell: 50
  rendered_per_cell: 1
hil: {not_applicable: no lab here}
"""
POLICY = (
    "name: sees\ntask: box-grasp\nrobot_class: openarm-v2-right-vision\ncheckpoint: checkpoint\n"
)
Run = Callable[..., Said]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def typed(*words: str | Path) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words), "--home", str(tmp_path / "home"), "--output", "json"])
        said = capsys.readouterr()
        code = ended.value.code
        return Said(code if isinstance(code, int) else 1, said.out, said.err)

    return typed


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many observations were rendered since the self-test of axes, one number a call."""
    counts: list[int] = []
    images, try_axes = Cameras.images, RobotSimulation.try_axes

    def counted(self: Cameras, slots: Ints) -> object:
        counts.append(len(slots))
        return images(self, slots)

    def tried(self: RobotSimulation, who: Contestant) -> object:
        found = try_axes(self, who)
        counts.clear()
        return found

    monkeypatch.setattr(Cameras, "images", counted)
    monkeypatch.setattr(RobotSimulation, "try_axes", tried)
    return counts


def test_a_camera_policy_is_judged_on_the_rendered_tier_and_replayed(
    tmp_path: Path, run: Run, rendered: list[int]
) -> None:
    write_camera_policy(tmp_path / "checkpoint")
    (tmp_path / "policy.yaml").write_text(POLICY)
    gates, out = tmp_path / "gates.yaml", tmp_path / "report"
    gates.write_text(GATES)
    made = run("register", tmp_path)
    assert (made.status, made.data["ref"]) == (0, "sees v1"), made.err
    assert made.data["robot_class"] == "openarm-v2-right-vision"

    plan = run("gate", "plan", "sim", "v1", "--gates", gates)
    assert (plan.status, plan.data["population"]) == (0, 4), plan.err
    light = next(axis for axis in plan.data["axes"] if axis["axis"] == "light_intensity")
    assert light["changed"] == ["observation"], "light moves nothing, it is only seen"
    assert sum(rendered) == 0

    judged = run(
        "gate", "run", "sim", "v1", "--gates", gates, "--full", "--report", out, "--clips", "0"
    )  # fmt: skip
    assert (judged.status, judged.data["outcome"]) == (3, "fail"), judged.err
    assert judged.data["numbers"]["drawn"] == 4
    lines = list(csv.DictReader((out / "episodes.csv").read_text().splitlines()))
    assert len(lines) == 4
    assert sum(rendered) == sum(int(line["steps"]) for line in lines), "a picture a policy step"
    told = json.loads((out / "report.json").read_text())
    assert told["rules"]["episodes_per_cell"] == 1
    assert told["rules"]["population"] == 4

    dark, bright = (
        next(line for line in lines if line["key"] == f"box-grasp:{light}.0:0") for light in (0, 1)
    )
    assert dark["digest"] != bright["digest"], "the policy's motion follows what it sees"
    for line in (dark, bright):
        again = run("replay", line["key"], "--version", "v1")
        assert again.status == 0, again.err
        assert (again.data["identical"], again.data["log_identical"]) == (True, True)
        assert again.data["digest"] == line["digest"]
