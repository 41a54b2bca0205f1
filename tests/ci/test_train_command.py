"""`policyctl train`: a checkpoint whole or not at all, and equal recipes give equal files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ci.cli.main import cli
from policies.loading import load_policy
from registry.errors import ConfigError, Refused, ServiceFailed

RECIPE = Path(__file__).parents[2] / "ci" / "demo" / "recipes" / "v1.yaml"


def write(folder: Path, **changes: object) -> Path:
    """A recipe of one tiny round, with changes."""
    data = yaml.safe_load(RECIPE.read_text())
    data["hidden"] = [16]
    data["rounds"] = [{"driver": "teacher", "episodes": 2, "iterations": 5}]
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**data, **changes}))
    return path


def run(*words: str | Path) -> str:
    done = CliRunner().invoke(cli, ["train", *map(str, words)], catch_exceptions=False)
    return done.stdout


@pytest.mark.slow
def test_it_trains_tries_and_says_what_is_next(tmp_path: Path) -> None:
    out = tmp_path / "made" / "v9"
    said = json.loads(run(write(tmp_path), "--out", out, "--episodes", "2", "--output", "json"))
    assert said["checkpoint"] == str(out)
    assert said["next"].startswith("policyctl register")
    assert 0.0 <= said["success"] <= 1.0
    assert load_policy(out).contract.task == "box-grasp"
    made = json.loads((out / "recipe.json").read_text())
    assert made["recipe"]["seed"] == 1
    assert made["rounds"][0]["episodes"] == 2
    assert [path.name for path in out.parent.iterdir()] == ["v9"]


@pytest.mark.slow
def test_equal_recipes_give_equal_files(tmp_path: Path) -> None:
    plan = write(tmp_path)
    for name in ("a", "b"):
        run(plan, "--out", tmp_path / name, "--episodes", "0")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["contract.json", "policy.safetensors", "recipe.json"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_checkpoint_is_never_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "v1"
    out.mkdir()
    (out / "keep").write_text("mine")
    with pytest.raises(Refused, match="not empty"):
        run(write(tmp_path), "--out", out)
    assert (out / "keep").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sed": 3}, "sed"),
        ({"rounds": []}, "rounds"),
        ({"observation": ["box_truth"]}, "box_truth"),
        ({"task": "juggling"}, "task"),
        ({"robot_class": "openarm-v9"}, "openarm-v9"),
    ],
)
def test_a_bad_recipe_is_named_and_leaves_nothing(
    tmp_path: Path, changes: dict[str, object], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        run(write(tmp_path, **changes), "--out", tmp_path / "out" / "v1")
    assert not list(tmp_path.glob("out/*"))


def test_an_output_folder_that_cannot_be_is_no_bug(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServiceFailed) as caught:
        run(write(tmp_path), "--out", tmp_path / "file" / "v1")
    assert str(tmp_path / "file" / "v1") in caught.value.evidence


def test_a_folder_that_cannot_give_way_is_told_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("ci.cli.train._train", pytest.fail)
    with pytest.raises(ServiceFailed):
        run(recipe, "--out", ".")
    assert [one.name for one in sorted(tmp_path.iterdir())] == ["here", "tiny.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_training_that_is_ended_leaves_nothing(tmp_path: Path, number: int) -> None:
    policyctl = Path(sys.executable).with_name("policyctl")
    out = tmp_path / "out" / "v1"
    process = subprocess.Popen(
        [policyctl, "train", RECIPE, "--out", out], stderr=subprocess.PIPE, text=True
    )
    with process:
        while not list(tmp_path.glob("out/.v1-*")):
            assert process.poll() is None, process.communicate()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    assert list(out.parent.iterdir()) == []
