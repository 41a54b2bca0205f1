"""A training recipe: everything a checkpoint follows from, as one YAML file.

A recipe names seed, expert, data and rounds; training adds nothing of its own. It is written into
the checkpoint as recipe.json, so that a version says how it was made. Ranges are drawn per episode
from the recipe's seed. Units: kg, rad, policy steps; friction is the sliding coefficient. What is
left at its default is left out of recipe.json where older recipes do not have it, so that equal
recipes stay equal.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from policies.contract import Action

Range = tuple[float, float]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Teacher(_Model):
    """The scripted expert that is cloned."""

    close: float = 0.0
    """Gripper command that squeezes [rad]: 0 closes fully, below it grips softer."""
    lift_m: float = 0.145
    speed: float = 0.02
    lift_speed: float = 0.010


class Randomization(_Model):
    """Physics drawn per training episode: uniform, friction and mass log-uniform."""

    friction: Range = (0.8, 0.8)
    mass: Range = (0.2, 0.2)
    delay: tuple[int, int] = (0, 0)
    joint_friction: Range = (1.0, 1.0)
    joint_damping: Range = (1.0, 1.0)
    axes: dict[str, Range] = {}
    """Further axes of the simulator by name, uniform in their units; see harness.sim."""

    @model_validator(mode="after")
    def _ordered(self) -> Randomization:
        own = {name: getattr(self, name) for name in type(self).model_fields if name != "axes"}
        if twice := sorted(own.keys() & self.axes.keys()):
            raise ValueError(f"axes: {twice[0]} stands beside axes, not in it")
        for name, (low, high) in {**own, **self.axes}.items():
            if low > high:
                raise ValueError(f"{name}: [{low}, {high}] is not a range")
        if self.friction[0] <= 0 or self.mass[0] <= 0:
            raise ValueError("friction and mass have to be above 0")
        return self

    @model_serializer(mode="wrap")
    def _short(self, full: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without(full(self), "axes")


class Curriculum(_Model):
    """Ranges that grow from the nominal world to their final width while training goes on.

    They are nominal until iteration `start` and final from `start + over` on, linear between; a
    round's episodes are as wide as the iterations of the rounds before it say.
    """

    start: Annotated[int, Field(ge=0)] = 500
    over: Annotated[int, Field(gt=0)] = 1500

    def share(self, iteration: int) -> float:
        """How much of the final width counts after so many iterations: 0..1."""
        return min(max((iteration - self.start) / self.over, 0.0), 1.0)


class Round(_Model):
    """One round: collect episodes, add them to the data, train on all of it."""

    driver: Literal["teacher", "student"]
    """Who moves the arm: the teacher (cloning) or the student (DAgger). The teacher labels."""
    episodes: Annotated[int, Field(gt=0)]
    action_noise: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of what is added to the driver's outputs, in units of the limit."""
    iterations: Annotated[int, Field(gt=0)]
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3


class Recipe(_Model):
    """What `policyctl train` makes a checkpoint from."""

    policy: str
    task: str
    robot_class: str
    note: str = ""
    seed: Annotated[int, Field(ge=0)]
    rate_hz: Annotated[int, Field(ge=1, le=50)] = 50
    observation: tuple[str, ...]
    action: Action
    hidden: tuple[Annotated[int, Field(gt=0)], ...] = (256, 256, 128)
    batch: Annotated[int, Field(gt=0)] = 512
    teacher: Teacher = Teacher()
    randomization: Randomization = Randomization()
    curriculum: Curriculum | None = None
    """None: every round sees the full ranges."""
    rounds: Annotated[tuple[Round, ...], Field(min_length=1)]

    def width(self, number: int) -> float:
        """How much of the ranges the episodes of a round see: 0 the nominal world, 1 all."""
        if self.curriculum is None:
            return 1.0
        return self.curriculum.share(sum(before.iterations for before in self.rounds[:number]))

    @model_serializer(mode="wrap")
    def _short(self, full: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without(full(self), "curriculum")


def _without(data: dict[str, Any], name: str) -> dict[str, Any]:
    """The data, less a field that says nothing."""
    return {key: value for key, value in data.items() if key != name or value}
