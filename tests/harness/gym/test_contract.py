"""Contracts of policies for Gymnasium tasks: registered like others, and never run by a robot."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gym_policies import write_constant, write_linear

from ci.cli.main import main
from fleet.agent.updater import Updater
from policies.contract import ROBOT_CLASSES, parse_contract, read_contract
from policies.formats.space import action_of
from policies.loading import load_policy, load_space_policy
from policies.process import host
from policies.space import SpaceContract, is_space_checkpoint, parse_space_contract
from registry.errors import ConfigError
from registry.versions import FileEntry, Manifest, digest_bytes

CONTRACT: dict[str, Any] = {
    "schema": "policyctl.contract.space/1",
    "task": "CartPole-v1",
    "robot_class": "gymnasium",
    "rate_hz": 50.0,
    "observation": [{"name": "", "shape": [4], "dtype": "float32", "width": 4}],
    "action": {"kind": "discrete", "n": 2, "start": 0},
    "memory_mb": 64,
    "load_s": 5.0,
    "latency_ms": 20.0,
}
BOX = {"kind": "box", "shape": [2, 1], "low": [-1.0, None], "high": [1.0, 0.5]}
TERMS = [
    {"name": "goal", "shape": [2], "dtype": "float64", "width": 2},
    {"name": "side", "shape": [], "dtype": "int64", "width": 3},
]


def contract(**changes: Any) -> SpaceContract:
    return parse_space_contract(CONTRACT | changes)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_constant(tmp_path / "checkpoint", contract(), [0.0, 1.0])


@pytest.mark.parametrize("changes", [{}, {"action": BOX}, {"observation": TERMS}])
def test_it_survives_json(changes: dict[str, Any]) -> None:
    made = contract(**changes)
    assert parse_space_contract(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"task": ""}, "task"),
        ({"robot_class": "openarm-v2-right"}, "robot_class"),
        ({"rate_hz": 0}, "rate_hz"),
        ({"latency_ms": 21.0}, "latency_ms: longer than the control period of 20 ms"),
        ({"observation": []}, "observation"),
        ({"observation": TERMS[::-1]}, "observation: each term once"),
        ({"observation": [*CONTRACT["observation"], *TERMS]}, "a term without a name stands alone"),
        ({"action": {"kind": "discrete", "n": 0}}, "action.discrete.n"),
        ({"action": BOX | {"low": [-1.0]}}, "low: needs 2 numbers"),
        ({"action": BOX | {"low": [1.0, None]}}, "low: has to be below high"),
        ({"joints": ["right_joint1"]}, "joints"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match="not valid") as error:
        contract(**change)
    assert field in error.value.field


def test_the_largest_output_is_the_action_and_the_first_of_equals() -> None:
    counted = contract(action={"kind": "discrete", "n": 3, "start": 5})
    assert action_of(counted, np.array([0.0, 2.0, 1.0], dtype=np.float32)) == 6
    assert action_of(counted, np.array([1.0, 1.0, 1.0], dtype=np.float32)) == 5


def test_outputs_are_cut_to_the_bounds_there_are() -> None:
    action = action_of(contract(action=BOX), np.array([-7.0, -7.0], dtype=np.float32))
    np.testing.assert_array_equal(action, [[-1.0], [-7.0]])
    action = action_of(contract(action=BOX), np.array([0.25, 7.0], dtype=np.float32))
    np.testing.assert_array_equal(action, [[0.25], [0.5]])


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = write_linear(tmp_path, contract(), [[0.0] * 4] * 3, [0.0] * 3)
    with pytest.raises(ConfigError, match="does not fit the contract"):
        load_space_policy(folder)


def test_a_row_is_the_same_bits_in_any_batch(tmp_path: Path) -> None:
    weights = np.random.default_rng(3).normal(size=(2, 4)).tolist()
    policy = load_space_policy(write_linear(tmp_path, contract(), weights, [0.1, 0.2]))
    rows = np.random.default_rng(4).normal(size=(9, 4)).astype(np.float32)
    alone = np.concatenate([policy.act(row[None]) for row in rows])
    np.testing.assert_array_equal(policy.act(rows), alone)


@pytest.mark.parametrize("load", [read_contract, load_policy, host])
def test_whatever_loads_for_a_robot_refuses_it_by_name(
    checkpoint: Path, load: Callable[[Path], object]
) -> None:
    assert is_space_checkpoint(checkpoint)
    with pytest.raises(ConfigError, match="no robot runs this policy") as error:
        load(checkpoint)
    assert "'CartPole-v1'" in error.value.what
    assert error.value.where == str(checkpoint / "contract.json")


class Shelf:
    """A link that holds blobs, and nothing else."""

    def __init__(self, *contents: bytes) -> None:
        self._blobs = {digest_bytes(content): content for content in contents}

    def fetch(self, digest: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        yield self._blobs[digest][start:][:length]


def test_a_robot_that_is_told_to_run_it_refuses_before_anything_is_loaded(
    checkpoint: Path, tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in sorted(checkpoint.iterdir())}
    entries = tuple(FileEntry(n, digest_bytes(b), len(b)) for n, b in files.items())
    manifest = Manifest("cart-pole", entries, json.loads(files["contract.json"]), "")
    link: Any = Shelf(manifest.canonical(), *files.values())
    updater = Updater(tmp_path / "robot", link, ROBOT_CLASSES["openarm-v2-right"])
    with pytest.raises(ConfigError, match="no robot runs this policy"):
        updater.prepare("cart-pole", 1, manifest.digest, "CartPole-v1")


def test_a_robots_contract_is_none_of_these() -> None:
    with pytest.raises(ConfigError, match="not valid"):
        parse_space_contract(CONTRACT | {"schema": "policyctl.contract/1"})
    with pytest.raises(ConfigError, match="not valid"):
        parse_contract(CONTRACT | {"schema": "policyctl.contract/1"})


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("POLICYCTL_HOME", str(tmp_path / "home"))
    return folder


def typed(*words: str) -> object:
    """The exit status of a policyctl command."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code


@pytest.mark.slow
def test_register_gives_it_a_version(
    work: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed("register", str(checkpoint), "--policy", "cart-pole", "--output", "json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["ref"], said["created"]) == ("cart-pole v1", True)
    assert (said["robot_class"], said["task"]) == ("gymnasium", "CartPole-v1")


@pytest.mark.parametrize(
    ("task", "robot_class", "status", "found"),
    [
        ("CartPole-v1", "gymnasium", 0, ""),
        ("Acrobot-v1", "gymnasium", 2, "task is CartPole-v1, expected Acrobot-v1"),
        ("CartPole-v1", "openarm-v2-right", 2, "robot_class is gymnasium, expected openarm"),
    ],
)
def test_register_holds_it_to_its_policy_yaml(
    work: Path,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    task: str,
    robot_class: str,
    status: int,
    found: str,
) -> None:
    text = f"name: cart-pole\ntask: {task}\nrobot_class: {robot_class}\ncheckpoint: {checkpoint}\n"
    (work / "policy.yaml").write_text(text)
    assert typed("register", ".") == status
    assert found in capsys.readouterr().err
