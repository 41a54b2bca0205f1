"""docs/contract.md is true to the contract that robots check."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ci.cli.register import check_checkpoint
from policies.contract import (
    ARM_TERMS,
    ROBOT_CLASSES,
    SCENE_TERMS,
    Action,
    Contract,
    parse_contract,
)
from policies.formats.native import Network, save
from registry.errors import ConfigError

PAGE = (Path(__file__).parents[2] / "docs" / "contract.md").read_text(encoding="utf-8")


def example() -> dict[str, Any]:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    found: dict[str, Any] = json.loads(block)
    return found


def table(head: str) -> list[list[str]]:
    """The rows of the table whose first column is called so."""
    _, _, rest = PAGE.partition(f"\n| {head} |")
    body = rest.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in body]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_example_is_registered_as_it_stands(tmp_path: Path) -> None:
    contract = parse_contract(example())
    layer = (
        np.zeros((contract.outputs, contract.width), np.float32),
        np.zeros(contract.outputs, np.float32),
    )
    norm = np.zeros(contract.width, np.float32), np.ones(contract.width, np.float32)
    save(tmp_path, contract, Network((layer,), *norm))
    (tmp_path / "contract.json").write_text(json.dumps(example()))
    check_checkpoint(tmp_path, None)


@pytest.mark.parametrize("field", sorted(example()))
def test_the_example_holds_nothing_that_can_be_left_out(field: str) -> None:
    left = {name: value for name, value in example().items() if name != field}
    with pytest.raises(ConfigError, match=field):
        parse_contract(left)


def test_every_field_is_told() -> None:
    told = {name for row in table("field") for name in names(row[0])}
    fields = {field.alias or name for name, field in Contract.model_fields.items()}
    assert told == (fields - {"action"}) | {f"action.{name}" for name in Action.model_fields}


def test_every_term_is_told_with_its_width() -> None:
    told = {names(row[0])[0]: row[1] for row in table("term")}
    each = {name: f"{width} A" for name, width in ARM_TERMS.items()}
    each |= {name: str(width) for name, width in SCENE_TERMS.items()}
    each |= {"image_NAME": "3 × height × width", "depth_NAME": "height × width"}
    assert told == each


def test_every_robot_class_is_told() -> None:
    told = {names(row[0])[0]: (row[1], row[2]) for row in table("robot class")}
    assert told == {
        name: (", ".join(arm.name for arm in robot.arms), ", ".join(robot.cameras))
        for name, robot in ROBOT_CLASSES.items()
    }
    assert {robot.rates_hz for robot in ROBOT_CLASSES.values()} == {(10, 25, 50)}
    assert {robot.memory_mb for robot in ROBOT_CLASSES.values()} == {4096}
