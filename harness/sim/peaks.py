"""What a task watches between policy steps: joint speed and the hands' forces, at every servo tick.

Only scenes of a task that asks for it are watched; others pay nothing. A robot would measure both
at this rate: the speed from its motors, the force at its wrist.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.sim.scene import Scene
from harness.sim.world import World

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]


def joint_speed(world: World, rows: Ints) -> Floats:
    """(n,) fastest arm joint now, grippers left out [rad/s]."""
    return _fastest(world.scene, world.qvel[rows])


def hand_force(world: World, rows: Ints) -> Floats:
    """(n,) largest net force of object and table on one hand now [N]."""
    return _strongest(world.scene, world.sensors[rows])


def _fastest(scene: Scene, qvel: Floats) -> Floats:
    return np.asarray(np.abs(qvel[..., scene.arm_dof]).max(axis=-1))


def _strongest(scene: Scene, sensors: Floats) -> Floats:
    on_others = sensors[..., scene.force].sum(axis=-2)
    return np.asarray(np.linalg.norm(on_others, axis=-1).max(axis=-1))


class Peaks:
    """Largest values in each of `size` scenes since `begin`."""

    def __init__(self, scene: Scene, size: int) -> None:
        self._scene, self.watched = scene, bool(scene.force.size)
        self.fields = ("qvel", "sensordata") if self.watched else ()
        """What physics has to record of each step."""
        self.speed, self.force = np.zeros(size), np.zeros(size)

    def begin(self, rows: Ints) -> None:
        self.speed[rows] = self.force[rows] = 0.0

    def look(self, world: World, rows: Ints) -> None:
        """One servo tick has passed."""
        if self.watched:
            self._see(rows, _fastest(self._scene, world.qvel[rows]), world.sensors[rows])

    def saw(self, rows: Ints, ticks: Mapping[str, Any]) -> None:
        """Servo ticks have passed, with `fields` (n, ticks, …) after each."""
        if self.watched:
            for tick in range(ticks["qvel"].shape[1]):
                speed = _fastest(self._scene, ticks["qvel"][:, tick])
                self._see(rows, speed, ticks["sensordata"][:, tick])

    def _see(self, rows: Ints, speed: Floats, sensors: Floats) -> None:
        self.speed[rows] = np.maximum(self.speed[rows], speed)
        self.force[rows] = np.maximum(self.force[rows], _strongest(self._scene, sensors))
