"""`policyctl` typed in a repository of one's own, and the record that it made."""

from __future__ import annotations

from pathlib import Path

import pytest
from record import CANARY, HIL, SIM, SUITE, Record
from said import Run, Said

from ci.cli.main import main
from registry.home import Home

GATES = f"""
sim: {{task: box-grasp, axes: {{friction: [0.5, 1.0]}}, episodes_per_cell: {SIM.episodes_per_cell}}}
hil: {{suite: {HIL.suite}}}
canary: {{ratio: {CANARY.ratio}, waves: [50, 100], wave_baseline: 1/4, bake_episodes: 12}}
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's repository with a policy folder of their own."""
    folder = tmp_path / "repository" / "policies" / "box_grasp"
    folder.mkdir(parents=True)
    (folder / "gates.yaml").write_text(GATES)
    (folder / HIL.suite).parent.mkdir()
    (folder / HIL.suite).write_text(SUITE)
    (folder / "policy.yaml").write_text(
        "name: box-grasp\ntask: box-grasp\nrobot_class: openarm-v2-right\ncheckpoint: made\n"
    )
    monkeypatch.delenv("POLICYCTL_HOME", raising=False)
    monkeypatch.chdir(folder.parents[1])
    return folder.parents[1]


@pytest.fixture
def run(work: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def typed(*words: str) -> Said:
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    assert typed("init").status == 0
    return typed


@pytest.fixture
def record(run: Run, work: Path, tmp_path: Path) -> Record:
    """The home of `run`, with robots, for what is not typed here."""
    record = Record(tmp_path / "other", robots=0)
    record.registry.close()
    record.home = Home(work / ".policyctl")
    record.registry = record.as_role("admin")
    for n in range(1, 7):
        record.registry.enrol_robot(f"robot-{n:02d}", "openarm-v2-right", {"role": "robot"})
    return record
