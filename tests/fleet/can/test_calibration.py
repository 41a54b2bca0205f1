"""Calibration files: ours there and back, LeRobot's read, what is wrong named; grippers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleet.can.calibration import Calibration, import_lerobot, load_calibration
from fleet.can.gripper import gripper
from fleet.can.motors import joint_limits
from registry.errors import ConfigError


def lerobot(path: Path, **changes: dict[str, Any]) -> Path:
    """The file LeRobot 0.4.4 writes for an OpenArm follower."""
    names = [*(f"joint_{i}" for i in range(1, 8)), "gripper"]
    found = {
        name: {
            "id": i + 1,
            "drive_mode": 0,
            "homing_offset": 0,
            "range_min": -65 if name == "gripper" else -90,
            "range_max": 0 if name == "gripper" else 90,
        }
        for i, name in enumerate(names)
    }
    for name, change in changes.items():
        found[name] |= change
    path.write_text(json.dumps(found))
    return path


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_calibration_is_saved_and_loaded(tmp_path: Path, side: str, version: str) -> None:
    low, high = joint_limits(side, version)
    made = Calibration(side, version, low + 0.01, high - 0.01, ("by hand",))
    made.save(tmp_path / "arm.json")
    found = load_calibration(tmp_path / "arm.json")
    assert (found.side, found.gripper, found.notes) == (side, version, ("by hand",))
    np.testing.assert_allclose(found.low, made.low, atol=1e-5)
    np.testing.assert_allclose(found.narrowed()[1], made.high, atol=1e-5)
    assert list(tmp_path.iterdir()) == [tmp_path / "arm.json"]


def test_a_range_only_narrows(tmp_path: Path) -> None:
    low, high = joint_limits("right")
    wide = Calibration("right", "v2", low - 1.0, high + 1.0)
    np.testing.assert_array_equal(wide.narrowed()[0], low)
    np.testing.assert_array_equal(wide.narrowed()[1], high)


def test_lerobots_file_is_imported_in_radians_and_within_the_arm(tmp_path: Path) -> None:
    found = import_lerobot(lerobot(tmp_path / "a.json"), "right", "v1")
    assert found.low[2] == pytest.approx(-math.pi / 2)
    assert found.low[3] == 0.0, "the elbow does not bend backwards, whatever the file says"
    assert math.degrees(found.low[7]) == pytest.approx(-60.0)
    assert found.notes == ()


def test_lerobots_gripper_sign_is_wrong_on_a_v2_left_arm(tmp_path: Path) -> None:
    found = import_lerobot(lerobot(tmp_path / "a.json"), "left", "v2")
    assert math.degrees(found.high[7]) == pytest.approx(45.0)
    assert len(found.notes) == 1
    assert found.notes[0].startswith("gripper:")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"homing_offset": 3}, "homing_offset"),
        ({"drive_mode": 1}, "drive_mode"),
        ({"id": 7}, "id 7, not 3"),
        ({"range_min": "x"}, "no number"),
        ({"range_min": 95}, "no range"),
    ],
)
def test_what_is_wrong_in_it_is_named(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = lerobot(tmp_path / "a.json", joint_3=change)
    with pytest.raises(ConfigError, match=says) as caught:
        import_lerobot(path, "right")
    assert "joint_3" in caught.value.evidence
    assert str(path) in caught.value.evidence


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "other"}'])
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    for read in (load_calibration, lambda path: import_lerobot(path, "right")):
        with pytest.raises(ConfigError):
            read(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("side", "version", "open_degrees"),
    [("right", "v1", -60), ("left", "v1", -60), ("right", "v2", -45), ("left", "v2", 45)],
)
def test_grippers_open_by_their_own_sign(side: str, version: str, open_degrees: float) -> None:
    hand = gripper(side, version)
    assert math.degrees(hand.open_rad) == pytest.approx(open_degrees)
    assert hand.opening(0.0) == 0.0
    assert hand.opening(hand.angle(0.25)) == pytest.approx(0.25)
    assert hand.opening(2 * hand.open_rad) == 1.0
    assert hand.finger_m(hand.open_rad) == (0.044 if version == "v1" else None)
