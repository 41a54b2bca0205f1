"""What a policy for a Gymnasium task observes and commands: the contract of a kind no robot runs.

Rules
- It is told from a robot's contract by its `schema` alone. Whatever loads a policy for a robot
  (`policies.contract.read_contract`, `policies.loading.load_policy`) refuses it by name.
- `observation` lists the numbers that the policy wants, in the order of their names. A plain
  observation space is one term without a name; of a Dict space each term is one key, and keys that
  are not listed are not seen. A term's numbers are its array row by row; one of n counted things
  is one-hot (shape (), `width` n).
- `action` "discrete": `n` outputs, the largest wins (the first of equals), counted from `start`.
  "box": one output for each number of `shape`, cut to `low`..`high` (null: no bound).
- `rate_hz` fixes the control period [1/s]: what answers later than that is late. `latency_ms`, what
  the policy promises, lies within it.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from policies.contract import FILE_NAME, SPACE_SCHEMA, contract_data, not_valid
from registry.errors import ConfigError

ROBOT_CLASS = "gymnasium"
"""The robot class of evidence from Gymnasium tasks; no robot has it."""

Shape = tuple[Annotated[int, Field(gt=0)], ...]
Bounds = tuple[float | None, ...]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SpaceTerm(_Model):
    """One array of an observation; `name` is its key, empty where the space is no Dict."""

    name: str = ""
    shape: Shape
    dtype: str
    width: Annotated[int, Field(gt=0)]


class Discrete(_Model):
    """One of `n` actions, the first of which is `start`."""

    kind: Literal["discrete"]
    n: Annotated[int, Field(gt=0)]
    start: int = 0

    @property
    def outputs(self) -> int:
        return self.n


class Box(_Model):
    """An array of numbers, each within its bounds."""

    kind: Literal["box"]
    shape: Shape
    low: Bounds
    high: Bounds

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("low", "high"):
            if len(getattr(self, name)) != self.outputs:
                raise ValueError(f"{name}: needs {self.outputs} numbers, one for each output")
        for low, high in zip(self.low, self.high, strict=True):
            if low is not None and high is not None and low >= high:
                raise ValueError("low: has to be below high for every output")
        return self

    @property
    def outputs(self) -> int:
        return prod(self.shape)


class SpaceContract(_Model):
    """The contract stored in a checkpoint as contract.json; `task` is the environment's id."""

    schema_: Literal["policyctl.contract.space/1"] = Field(alias="schema")
    task: Annotated[str, Field(min_length=1)]
    robot_class: Literal["gymnasium"] = "gymnasium"
    rate_hz: Annotated[float, Field(gt=0, le=1000)]
    observation: Annotated[tuple[SpaceTerm, ...], Field(min_length=1)]
    action: Annotated[Discrete | Box, Field(discriminator="kind")]
    memory_mb: Annotated[int, Field(gt=0)]
    load_s: Annotated[float, Field(gt=0)]
    latency_ms: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [term.name for term in self.observation]
        if names != sorted(set(names)):
            raise ValueError("observation: each term once, in the order of their names")
        if "" in names and len(names) > 1:
            raise ValueError("observation: a term without a name stands alone")
        if self.latency_ms > 1000.0 / self.rate_hz:
            period = 1000.0 / self.rate_hz
            raise ValueError(f"latency_ms: longer than the control period of {period:g} ms")
        return self

    @property
    def width(self) -> int:
        """Numbers in one observation."""
        return sum(term.width for term in self.observation)

    @property
    def outputs(self) -> int:
        """Numbers in one answer of the network."""
        return self.action.outputs

    def check(self, robot_class: str, task: str | None = None, *, where: str = FILE_NAME) -> None:
        """Raise ConfigError naming the first field that is not that of the release."""
        wanted = (("task", self.task, task or self.task), ("robot_class", ROBOT_CLASS, robot_class))
        for field, found, expected in wanted:
            if found != expected:
                raise ConfigError(
                    f"the policy's contract does not fit: {field}",
                    where=where,
                    field=f"{field} is {found}, expected {expected}",
                    hint="name in policy.yaml the task and robot class that the policy is for",
                )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, the content of contract.json."""
        return self.model_dump(mode="json", by_alias=True)


def parse_space_contract(data: object, *, where: str = FILE_NAME) -> SpaceContract:
    """A contract from plain JSON; ConfigError names the field that is wrong."""
    try:
        return SpaceContract.model_validate(data)
    except ValidationError as error:
        hint = f"see policies/space.py for the fields of {SPACE_SCHEMA}"
        raise not_valid(error, where, hint) from error


def read_space_contract(folder: Path) -> SpaceContract:
    """contract.json of a checkpoint for a Gymnasium task."""
    return parse_space_contract(contract_data(folder), where=str(folder / FILE_NAME))


def is_space_checkpoint(folder: Path) -> bool:
    """Whether the contract in `folder` says that it is for a Gymnasium task."""
    if not (folder / FILE_NAME).is_file():
        return False
    data = contract_data(folder)
    return isinstance(data, dict) and data.get("schema") == SPACE_SCHEMA
