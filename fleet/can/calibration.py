"""Joint calibration of one arm: the range each joint was moved through by hand, kept as JSON.

    {"schema": "policyctl.calibration/1", "side": "right", "gripper": "v2",
     "joints": {"joint1": {"esc_id": 1, "low": -1.39, "high": 3.49}, ...}}

Rules
- Zero itself lives in the motors (set with the arm hanging straight down, gripper closed); the file
  holds ranges [rad] about it. A range can only narrow what the arm's own model allows.
- LeRobot's file is read too: degrees, joint_1..joint_7 and gripper. OpenArm's motor angle is the
  joint angle, so a homing offset or a drive mode other than 0 is refused, not guessed at.
- LeRobot gives the gripper -65..0 on either side, which is the wrong sign for a v2 left gripper: a
  range that misses the arm's own is replaced by it, and named in `notes`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fleet.can.frames import Array
from fleet.can.motors import OPENARM_MOTORS, joint_limits
from registry.errors import ConfigError
from registry.storage import write_whole

SCHEMA = "policyctl.calibration/1"


@dataclass(frozen=True)
class Calibration:
    """Ranges (8,) [rad] of one arm."""

    side: str
    gripper: str
    low: Array
    high: Array
    notes: tuple[str, ...] = ()

    def narrowed(self) -> tuple[Array, Array]:
        """The arm's own limits, narrowed by these ranges."""
        low, high = joint_limits(self.side, self.gripper)
        return np.maximum(low, self.low), np.minimum(high, self.high)

    def to_json(self) -> dict[str, Any]:
        joints = {
            motor.joint: {
                "esc_id": motor.esc_id,
                "low": round(float(self.low[i]), 5),
                "high": round(float(self.high[i]), 5),
            }
            for i, motor in enumerate(OPENARM_MOTORS)
        }
        return {
            "schema": SCHEMA,
            "side": self.side,
            "gripper": self.gripper,
            "joints": joints,
            "notes": list(self.notes),
        }

    def save(self, path: Path) -> None:
        """Write the file whole, or leave what was there. Raises OSError, UsageError."""
        write_whole(path, (json.dumps(self.to_json(), indent=2) + "\n").encode())


def load_calibration(path: Path) -> Calibration:
    """Our file. Raises ConfigError that names file and field."""
    found = _json(path)
    if found.get("schema") != SCHEMA:
        raise ConfigError(
            "not a calibration of policyctl",
            where=str(path),
            field="schema",
            hint="LeRobot's file: policyctl arm limits --import FILE",
        )
    side, gripper = str(found.get("side")), str(found.get("gripper"))
    pairs = _joints(path, found.get("joints"), [m.joint for m in OPENARM_MOTORS])
    ranges = [
        _range(path, motor.joint, pair, ("esc_id", motor.esc_id), ("low", "high"))
        for motor, pair in zip(OPENARM_MOTORS, pairs, strict=True)
    ]
    own = _own(path, side, gripper)
    calibration = _narrow(side, gripper, ranges, own)
    if len(calibration.notes):
        raise ConfigError(calibration.notes[0], where=str(path), field="joints")
    notes = found.get("notes", [])
    return Calibration(side, gripper, *_columns(ranges), tuple(str(note) for note in notes))


def import_lerobot(path: Path, side: str, gripper: str = "v2") -> Calibration:
    """LeRobot's file of an OpenArm follower. Raises ConfigError that names file and field."""
    own = _own(path, side, gripper)
    names = [m.joint.replace("joint", "joint_") for m in OPENARM_MOTORS]
    ranges = []
    for motor, name, entry in zip(
        OPENARM_MOTORS, names, _joints(path, _json(path), names), strict=True
    ):
        for field in ("drive_mode", "homing_offset"):
            if entry.get(field, 0) != 0:
                raise ConfigError(
                    f"{field} {entry[field]!r}: an OpenArm's motor angle is its joint angle",
                    where=str(path),
                    field=f"{name}.{field}",
                    hint="set zero in the motors instead: policyctl arm zero",
                )
        low, high = _range(path, name, entry, ("id", motor.esc_id), ("range_min", "range_max"))
        ranges.append((math.radians(low), math.radians(high)))
    return _narrow(side, gripper, ranges, own)


def _narrow(
    side: str, gripper: str, ranges: list[tuple[float, float]], own: tuple[Array, Array]
) -> Calibration:
    kept, notes = [], []
    for motor, (low, high), own_low, own_high in zip(OPENARM_MOTORS, ranges, *own, strict=True):
        if min(high, own_high) - max(low, own_low) <= 1e-6:
            kept.append((float(own_low), float(own_high)))
            notes.append(
                f"{motor.joint}: {low:.3f}..{high:.3f} rad misses this arm's own "
                f"{own_low:.3f}..{own_high:.3f} rad, which is used"
            )
        else:
            kept.append((max(low, float(own_low)), min(high, float(own_high))))
    return Calibration(side, gripper, *_columns(kept), tuple(notes))


def _columns(ranges: list[tuple[float, float]]) -> tuple[Array, Array]:
    both = np.array(ranges, dtype=float)
    return both[:, 0].copy(), both[:, 1].copy()


def _own(path: Path, side: str, gripper: str) -> tuple[Array, Array]:
    try:
        return joint_limits(side, gripper)
    except ValueError as error:
        raise ConfigError(str(error), where=str(path)) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise ConfigError(f"not JSON: {error}", where=str(path)) from error
    if not isinstance(found, dict):
        raise ConfigError("a calibration is a JSON object", where=str(path))
    return found


def _joints(path: Path, found: object, names: list[str]) -> list[Mapping[str, Any]]:
    if not isinstance(found, dict) or set(found) != set(names):
        has = sorted(found) if isinstance(found, dict) else found
        raise ConfigError(f"joints are {names}, not {has}", where=str(path), field="joints")
    entries = [found[name] for name in names]
    for name, entry in zip(names, entries, strict=True):
        if not isinstance(entry, dict):
            raise ConfigError("a joint is an object", where=str(path), field=name)
    return entries


def _range(
    path: Path,
    name: str,
    entry: Mapping[str, Any],
    identity: tuple[str, int],
    keys: tuple[str, str],
) -> tuple[float, float]:
    key, value = identity
    if entry.get(key) != value:
        raise ConfigError(
            f"{key} {entry.get(key)!r}, not {value}", where=str(path), field=f"{name}.{key}"
        )
    pair = []
    for key in keys:
        number = entry.get(key)
        if not isinstance(number, int | float) or not math.isfinite(number):
            raise ConfigError(f"{number!r} is no number", where=str(path), field=f"{name}.{key}")
        pair.append(float(number))
    if not pair[0] < pair[1]:
        raise ConfigError(f"{pair[0]} to {pair[1]} is no range", where=str(path), field=name)
    return pair[0], pair[1]
