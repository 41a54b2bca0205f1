"""What a policy observes and commands: the part of a version that robots check before they move.

Rules
- A contract names joints, observation terms, rates, limits and loading needs. Nothing in it is
  optional for a robot: what does not fit is refused by name before anything moves.
- Joint order is the order of `joints`: arm after arm, joint1..joint7 then gripper, each prefixed by
  its arm (`right_joint1`, `right_gripper`). Units: rad, rad per policy step, Hz, ms, MB.
- `action.space` "delta": the network's output 1.0 means one `limit` towards + from the last
  command; "absolute": -1..1 spans `low`..`high`. Both are limited to `limit` a step, then smoothed
  by an exponential moving average with `ema_alpha` (1 = none) and kept within `low`..`high`.
- Cameras are named with the size of their images. `image_NAME` observes one as 3 h w shares of
  white, rows from the top, pixel by pixel red, green, blue; `depth_NAME` as h w metres.
- With `chunk` an answer is `rows` outputs, one after the other, of which the first is for the step
  that the observation was made for; policies/chunks.py says how they are followed. All in policy
  steps. `every` leaves time for the answer (`latency_ms`) and for going over to it (`blend`), and
  `rows` reach until that is done, so that a policy in time is never waited for. Without `chunk`
  an answer is one output.
- The normalization of observations is stored with the weights; the contract fixes term order.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from registry.errors import ConfigError

SCHEMA = "policyctl.contract/1"
SPACE_SCHEMA = "policyctl.contract.space/1"
"""A policy for a Gymnasium task (policies/space.py), which is refused here by name."""
FILE_NAME = "contract.json"
JOINTS_PER_ARM = 8

ARM_TERMS = {
    "joint_position": 8,
    "joint_command": 8,
    "joint_velocity": 8,
    "tcp_position": 3,
    "tcp_command": 3,
    "hand_axes": 6,
    "object_offset": 3,
    "gripper_torque": 1,
}
"""Observation terms measured once per arm, with their width."""

SCENE_TERMS = {"object_position": 3, "object_yaw": 2, "goal_position": 3, "goal_yaw": 2}
"""Observation terms measured once per scene, with their width."""

IMAGE, DEPTH = "image_", "depth_"
"""What observation terms of a camera begin with; its name follows."""


@dataclass(frozen=True)
class ArmSpec:
    """One arm of a robot class: its name and its 8 joints in command order."""

    name: str

    @property
    def joints(self) -> tuple[str, ...]:
        return (*(f"{self.name}_joint{i}" for i in range(1, 8)), f"{self.name}_gripper")


@dataclass(frozen=True)
class RobotClass:
    """Robots that evidence may be shared between: arms, gripper and computer alike."""

    name: str
    arms: tuple[ArmSpec, ...]
    gripper: str
    rates_hz: tuple[int, ...] = (10, 25, 50)
    memory_mb: int = 4096
    cameras: tuple[str, ...] = ()

    @property
    def joints(self) -> tuple[str, ...]:
        return tuple(joint for arm in self.arms for joint in arm.joints)


ROBOT_CLASSES = {
    robot.name: robot
    for robot in (
        RobotClass("openarm-v2-right", (ArmSpec("right"),), "v2"),
        RobotClass(
            "openarm-v2-right-vision",
            (ArmSpec("right"),),
            "v2",
            cameras=("front", "scene", "right_wrist"),
        ),
        RobotClass("openarm-v2-left", (ArmSpec("left"),), "v2"),
        RobotClass("openarm-v2-bimanual", (ArmSpec("right"), ArmSpec("left")), "v2"),
    )
}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Term(_Model):
    """One observation term and how many numbers it has."""

    name: str
    width: Annotated[int, Field(gt=0)]


class CameraSpec(_Model):
    """One camera by name, and the size of the images a policy gets of it [pixels]."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    width: Annotated[int, Field(gt=0, le=1920)]
    height: Annotated[int, Field(gt=0, le=1080)]


class Action(_Model):
    """How the network's output becomes a joint command; arrays are in joint order."""

    space: Literal["delta", "absolute"]
    limit: tuple[Annotated[float, Field(gt=0)], ...]
    ema_alpha: Annotated[float, Field(gt=0, le=1)]
    low: tuple[float, ...]
    high: tuple[float, ...]


class Chunking(_Model):
    """How many outputs an answer has and how they are used [policy steps]."""

    rows: Annotated[int, Field(ge=2, le=200)]
    """Outputs in an answer."""
    every: Annotated[int, Field(ge=1)]
    """From one question to the next."""
    blend: Annotated[int, Field(ge=1)]
    """How long going over from one answer to the next takes."""


class Contract(_Model):
    """The contract stored in a checkpoint as contract.json."""

    schema_: Literal["policyctl.contract/1"] = Field(alias="schema")
    task: str
    robot_class: str
    arms: tuple[str, ...]
    joints: tuple[str, ...]
    rate_hz: Annotated[int, Field(ge=1, le=50)]
    observation: tuple[Term, ...]
    action: Action
    memory_mb: Annotated[int, Field(gt=0)]
    load_s: Annotated[float, Field(gt=0)]
    latency_ms: Annotated[float, Field(gt=0)]
    cameras: tuple[CameraSpec, ...] = ()
    chunk: Chunking | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        count = len(self.joints)
        if count != JOINTS_PER_ARM * len(self.arms):
            raise ValueError(f"joints: {count} names for {len(self.arms)} arm(s) of 8 joints")
        for name in ("limit", "low", "high"):
            if len(getattr(self.action, name)) != count:
                raise ValueError(f"action.{name}: needs {count} numbers, one per joint")
        if any(a >= b for a, b in zip(self.action.low, self.action.high, strict=True)):
            raise ValueError("action.low: has to be below action.high for every joint")
        sizes = _image_widths(self.cameras)
        for term in self.observation:
            width = sizes.get(term.name) or term_width(term.name, len(self.arms))
            if width is None:
                known = ", ".join(sorted({**ARM_TERMS, **SCENE_TERMS, **sizes}))
                raise ValueError(f"observation: unknown term '{term.name}' (known: {known})")
            if width != term.width:
                raise ValueError(f"observation.{term.name}: width {term.width}, should be {width}")
        if len({camera.name for camera in self.cameras}) < len(self.cameras):
            raise ValueError("cameras: a camera is named twice")
        observed = {term.name for term in self.observation}
        for camera in self.cameras:
            if not observed & {IMAGE + camera.name, DEPTH + camera.name}:
                raise ValueError(f"cameras: nothing observes '{camera.name}'")
        if self.chunk is not None:
            self._in_time(self.chunk)
        return self

    def _in_time(self, chunk: Chunking) -> None:
        """ValueError unless an answer in time is there, and gone over to, when it is needed."""
        late = self.latency_steps
        if late + chunk.blend > chunk.every:
            raise ValueError(
                f"chunk.every: {chunk.every} steps are less than {late} for an answer in "
                f"{self.latency_ms:g} ms and {chunk.blend} for going over to it"
            )
        reach = chunk.every + late + chunk.blend
        if chunk.rows < reach:
            raise ValueError(
                f"chunk.rows: {chunk.rows} end before the next answer is followed, at {reach}"
            )

    @property
    def latency_s(self) -> float:
        """The longest that an answer may take [s]."""
        return self.latency_ms * 1e-3

    @property
    def latency_steps(self) -> int:
        """Policy steps that have begun when an answer as late as that is there."""
        return math.ceil(self.latency_s * self.rate_hz - 1e-9)

    @property
    def width(self) -> int:
        """Numbers in one observation."""
        return sum(term.width for term in self.observation)

    @property
    def outputs(self) -> int:
        """Numbers in one answer: one for each joint, or as many rows of them as a chunk has."""
        return len(self.joints) * (self.chunk.rows if self.chunk is not None else 1)

    def check(self, robot: RobotClass, task: str | None = None, *, where: str = FILE_NAME) -> None:
        """Raise ConfigError naming the first field that does not fit the robot class or task."""
        wanted: tuple[tuple[str, object, object], ...] = (
            ("robot_class", self.robot_class, robot.name),
            ("arms", list(self.arms), [arm.name for arm in robot.arms]),
            ("joints", list(self.joints), list(robot.joints)),
        )
        if task is not None:
            wanted = (("task", self.task, task), *wanted)
        for field, found, expected in wanted:
            if found != expected:
                raise ConfigError(
                    f"the policy's contract does not fit: {field}",
                    where=where,
                    field=f"{field} is {found}, expected {expected}",
                    hint="choose the robot class and task that the policy was trained for",
                )
        for camera in self.cameras:
            if camera.name not in robot.cameras:
                raise ConfigError(
                    "the policy's contract does not fit: cameras",
                    where=where,
                    field=f"cameras: {robot.name} has no camera '{camera.name}'",
                    hint=f"its cameras: {', '.join(robot.cameras) or 'none'}",
                )
        if self.rate_hz not in robot.rates_hz:
            raise ConfigError(
                "the policy's contract does not fit: rate_hz",
                where=where,
                field=f"rate_hz is {self.rate_hz}, {robot.name} offers {list(robot.rates_hz)}",
                hint="export the policy at a rate that divides the servo's",
            )
        if self.memory_mb > robot.memory_mb:
            raise ConfigError(
                "the policy's contract does not fit: memory_mb",
                where=where,
                field=f"memory_mb is {self.memory_mb}, {robot.name} has {robot.memory_mb}",
                hint="use a smaller policy or a robot class with more memory",
            )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, the content of contract.json, without `cameras` or `chunk` where none are."""
        data = self.model_dump(mode="json", by_alias=True)
        if not self.cameras:
            del data["cameras"]
        if self.chunk is None:
            del data["chunk"]
        return data


def term_width(name: str, arms: int) -> int | None:
    """Width of an observation term for a number of arms; None where there is no such term."""
    if name in ARM_TERMS:
        return ARM_TERMS[name] * arms
    return SCENE_TERMS.get(name)


def _image_widths(cameras: tuple[CameraSpec, ...]) -> dict[str, int]:
    """Observation terms of these cameras, with their width."""
    pixels = {camera.name: camera.height * camera.width for camera in cameras}
    return {
        **{IMAGE + name: 3 * count for name, count in pixels.items()},
        **{DEPTH + name: count for name, count in pixels.items()},
    }


def parse_contract(data: object, *, where: str = FILE_NAME) -> Contract:
    """A contract from plain JSON; ConfigError names the field that is wrong."""
    if isinstance(data, dict) and data.get("schema") == SPACE_SCHEMA:
        raise ConfigError(
            f"no robot runs this policy: it is for the Gymnasium task {data.get('task')!r}",
            where=where,
            field=f"schema is {SPACE_SCHEMA}, a robot needs {SCHEMA}",
            hint="try it by a sim gate whose task is that environment",
        )
    try:
        return Contract.model_validate(data)
    except ValidationError as error:
        hint = f"docs/contract.md has the fields of {SCHEMA} and an example"
        raise not_valid(error, where, hint) from error


def not_valid(error: ValidationError, where: str, hint: str) -> ConfigError:
    """The first complaint about a contract, by field."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    return ConfigError(
        "the policy's contract is not valid",
        where=where,
        field=f"{path}: {message}" if path else message,
        hint=hint,
    )


def read_contract(folder: Path) -> Contract:
    """contract.json of a checkpoint folder that a robot may run."""
    return parse_contract(contract_data(folder), where=str(folder / FILE_NAME))


def contract_data(folder: Path) -> object:
    """contract.json of a checkpoint folder as it stands, of whichever kind."""
    path = folder / FILE_NAME
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            "the checkpoint has no contract",
            where=str(path),
            hint="a native checkpoint holds contract.json and policy.safetensors",
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the checkpoint's contract is not JSON", where=str(path), field=str(error)
        ) from error
