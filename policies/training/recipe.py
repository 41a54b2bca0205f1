"""A training recipe: everything a checkpoint follows from, as one YAML file.

A recipe names seed, expert, data and rounds; training adds nothing of its own. It is written into
the checkpoint as recipe.json, so that a version says how it was made. Ranges are drawn per episode
from the recipe's seed. Units: kg, rad, policy steps; friction is the sliding coefficient.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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

    @model_validator(mode="after")
    def _ordered(self) -> Randomization:
        for name in type(self).model_fields:
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: [{low}, {high}] is not a range")
        if self.friction[0] <= 0 or self.mass[0] <= 0:
            raise ValueError("friction and mass have to be above 0")
        return self


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
    rounds: Annotated[tuple[Round, ...], Field(min_length=1)]
