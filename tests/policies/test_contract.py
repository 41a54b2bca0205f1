"""A contract that does not fit is refused by the field's name, before anything moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from contract_data import contract_json

from policies.contract import ROBOT_CLASSES, parse_contract, read_contract
from registry.errors import ConfigError

RIGHT = ROBOT_CLASSES["openarm-v2-right"]


def test_it_survives_json() -> None:
    contract = parse_contract(contract_json())
    assert parse_contract(json.loads(json.dumps(contract.to_json()))) == contract
    assert contract.width == 11


def test_two_arms_have_sixteen_joints_by_name() -> None:
    contract = parse_contract(contract_json("openarm-v2-bimanual"))
    contract.check(ROBOT_CLASSES["openarm-v2-bimanual"], "box-grasp")
    assert contract.joints[7:9] == ("right_gripper", "left_joint1")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rate_hz": 0}, "rate_hz"),
        ({"speed": 1}, "speed"),
        ({"joints": ["a"]}, "joints"),
        ({"observation": [{"name": "box_truth", "width": 3}]}, "box_truth"),
        ({"observation": [{"name": "tcp_position", "width": 4}]}, "observation.tcp_position"),
        ({"schema": "policyctl.contract/9"}, "schema"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_contract({**contract_json(), **change})
    assert field in caught.value.field


IMAGE = [{"name": "image_front", "width": 3 * 16 * 12}]
CAMERA = [{"name": "front", "width": 16, "height": 12}]


def test_cameras_are_observed_by_name_and_size() -> None:
    contract = parse_contract({**contract_json(), "observation": IMAGE, "cameras": CAMERA})
    assert contract.width == 576
    assert parse_contract(json.loads(json.dumps(contract.to_json()))) == contract
    depth = [{"name": "depth_front", "width": 16 * 12}]
    parse_contract({**contract_json(), "observation": IMAGE + depth, "cameras": CAMERA})


def test_a_contract_without_cameras_reads_as_it_always_did() -> None:
    assert parse_contract(contract_json()).to_json() == contract_json()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"observation": IMAGE}, "image_front"),
        (
            {"observation": [{"name": "image_front", "width": 3}], "cameras": CAMERA},
            "should be 576",
        ),
        ({"cameras": CAMERA}, "nothing observes 'front'"),
        ({"observation": IMAGE, "cameras": CAMERA * 2}, "twice"),
        ({"observation": IMAGE, "cameras": [{**CAMERA[0], "width": 0}]}, "cameras.0.width"),
        ({"observation": IMAGE, "cameras": [{**CAMERA[0], "name": "../x"}]}, "cameras.0.name"),
    ],
)
def test_wrong_cameras_are_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_contract({**contract_json(), **change})
    assert field in caught.value.field


def test_a_robot_without_the_camera_refuses_it_by_name() -> None:
    contract = parse_contract({**contract_json(), "observation": IMAGE, "cameras": CAMERA})
    with pytest.raises(ConfigError) as caught:
        contract.check(RIGHT)
    assert "no camera 'front'" in caught.value.field
    seeing = ROBOT_CLASSES["openarm-v2-right-vision"]
    parse_contract({**contract.to_json(), "robot_class": seeing.name}).check(seeing, "box-grasp")


def test_action_arrays_have_one_number_per_joint() -> None:
    data = contract_json()
    data["action"]["limit"] = [0.05] * 7
    with pytest.raises(ConfigError) as caught:
        parse_contract(data)
    assert "action.limit" in caught.value.field


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -0.1])
def test_limits_are_positive_numbers(number: float) -> None:
    data = contract_json()
    data["action"]["limit"][3] = number
    with pytest.raises(ConfigError) as caught:
        parse_contract(data)
    assert "action.limit.3" in caught.value.field


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"task": "pick-place"}, "task"),
        ({"robot_class": "openarm-v2-left"}, "robot_class"),
        ({"joints": list(reversed(RIGHT.joints))}, "joints"),
        ({"rate_hz": 40}, "rate_hz"),
        ({"memory_mb": 99_999}, "memory_mb"),
    ],
)
def test_a_misfit_with_robot_or_task_is_named(change: dict[str, Any], field: str) -> None:
    contract = parse_contract({**contract_json(), **change})
    with pytest.raises(ConfigError) as caught:
        contract.check(RIGHT, "box-grasp", where="v7/contract.json")
    assert caught.value.field.startswith(field)
    assert caught.value.where == "v7/contract.json"


def test_a_missing_or_broken_file_names_itself(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no contract"):
        read_contract(tmp_path)
    (tmp_path / "contract.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        read_contract(tmp_path)


def chunked(**change: int) -> dict[str, Any]:
    """10 ms at 50 Hz are one step."""
    return {**contract_json(), "chunk": {"rows": 12, "every": 6, "blend": 5, **change}}


@pytest.mark.parametrize(
    ("latency_ms", "rate_hz", "steps"),
    [(10.0, 50, 1), (20.0, 50, 1), (20.1, 50, 2), (300.0, 10, 3)],
)
def test_a_latency_in_steps_is_the_first_step_that_begins_after_it(
    latency_ms: float, rate_hz: int, steps: int
) -> None:
    contract = parse_contract(contract_json() | {"latency_ms": latency_ms, "rate_hz": rate_hz})
    assert contract.latency_steps == steps
    assert contract.latency_s == pytest.approx(1e-3 * latency_ms)


def test_a_contract_may_name_chunks_and_one_without_says_nothing_of_them() -> None:
    contract = parse_contract(chunked())
    assert contract.outputs == 12 * 8
    assert contract.to_json() == chunked()
    assert parse_contract(json.loads(json.dumps(contract.to_json()))) == contract
    plain = parse_contract(contract_json())
    assert plain.chunk is None
    assert plain.outputs == 8
    assert "chunk" not in plain.to_json()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rows": 1}, "chunk.rows"),
        ({"every": 0}, "chunk.every"),
        ({"blend": 0}, "chunk.blend"),
        ({"blend": 6}, "6 steps are less than 1 for an answer in 10 ms and 6"),
        ({"rows": 11}, "11 end before the next answer is followed, at 12"),
        ({"steps": 3}, "chunk.steps"),
    ],
)
def test_chunks_that_a_policy_in_time_would_leave_the_arm_without_are_refused(
    change: dict[str, int], field: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_contract(chunked(**change))
    assert field in caught.value.field
