"""What a task is to whoever plays it: where it starts, when it is done, what it must not do.

A task is one file in this folder: a frozen dataclass of its numbers with the methods of `Task`,
named in the table of `harness/tasks/__init__.py`, and YAML (a recipe, gates) beside its policy.
Methods are vectorised over n episodes and see `Truth`; robots and twins judge by a `Judge` of the
same numbers. Frame "base", SI units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Placement:
    """Where one episode starts."""

    x: float
    y: float
    yaw: float
    start_q: Floats
    """(8,) right arm and gripper [rad]; a left arm starts mirrored."""
    goal: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """x, y, z, yaw where the object shall go; not used by tasks without a goal."""


@dataclass(frozen=True)
class Truth:
    """Simulator state of n episodes for experts and scoring, never for policies."""

    position: Floats
    """(n, 3) the object's centre."""
    yaw: Floats
    touch: Bools
    """(n,) both fingers of one hand touch the object."""
    rest_z: Floats
    """(n,) height of the object's centre where it lies on the table."""
    goal: Floats
    """(n, 4) as in Placement."""
    joint_speed: Floats
    """(n,) fastest arm joint now, grippers left out [rad/s]; of a watched task, the fastest since
    the last policy step."""
    released: Bools
    """(n,) no finger touches the object."""
    speed: Floats
    """(n,) the object's [m/s]."""
    hand_force: Floats
    """(n,) largest net force of object and table on one hand since the last policy step [N]; zero
    where the task is not watched."""

    @property
    def lift(self) -> Floats:
        """(n,) height above rest [m]."""
        return np.asarray(self.position[:, 2] - self.rest_z)


@dataclass(frozen=True)
class Course:
    """What one episode came to, for naming its failure."""

    lift: float
    """Highest rise of the object [m]."""
    grasped: bool
    """It was held above the table at some time."""
    holding: bool
    """The task's condition was met at the end, though not for long enough."""
    fell: bool
    """It ended below the table."""
    distance: float
    """From the object's last position to the goal [m]."""
    held: bool
    """Fingers still touched it at the end."""
    lost: bool
    """At some time it was in the air with no finger on it."""


class Task(Protocol):
    """See the module's docstring."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def horizon_s(self) -> float: ...
    @property
    def hold_s(self) -> float: ...
    @property
    def table_z(self) -> float: ...
    @property
    def box_half(self) -> float: ...
    @property
    def box_mass(self) -> float: ...
    @property
    def start_q(self) -> tuple[float, ...]: ...
    @property
    def watched(self) -> bool:
        """Whether joint speeds and hand forces count between policy steps too."""
        ...

    def place(self, rng: np.random.Generator) -> Placement:
        """Draw where the object lies and where the arm starts, by a fixed number of draws."""
        ...

    def achieved(self, truth: Truth) -> Bools:
        """(n,) the condition that must hold for `hold_s` without a break."""
        ...

    def violated(self, truth: Truth) -> Mapping[str, Bools]:
        """Rows (n,) that broke a rule of the task, by failure mode; they have failed."""
        ...

    def failure_mode(self, course: Course) -> str:
        """Why an episode failed that nothing else explains."""
        ...


def between(bounds: tuple[float, float], u: float) -> float:
    """The value `u` of the way, 0..1, from the lower bound to the upper one."""
    return float(bounds[0] + (bounds[1] - bounds[0]) * u)
