"""What a robot sees: object poses and images, as ports.

A `PoseSource` says where the task's object is, in the base frame, from what a camera saw: tags on
a station, a detector with noise, rate, delay and dropout on a twin. It never knows the simulator's
truth. Ages are seconds between the shutter and the reading, by the bus clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Pose:
    """An object on the table: centre (3,) [m], yaw [rad], age [s]; base frame."""

    position: NDArray[np.float64]
    yaw: float
    age_s: float


class PoseSource(Protocol):
    """Where the task's object is."""

    def read(self) -> Pose | None:
        """The newest pose that has arrived; None before the first."""
        ...


@dataclass(frozen=True)
class Image:
    """One frame: (H, W, 3) uint8 RGB, taken age_s ago, its number since the camera opened."""

    pixels: NDArray[np.uint8]
    age_s: float
    sequence: int


class Camera(Protocol):
    """A camera of a robot, by the name that contracts use."""

    @property
    def name(self) -> str: ...

    def read(self) -> Image | None:
        """The newest frame that has arrived; None before the first."""
        ...
