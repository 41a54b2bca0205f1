"""What a task watches between policy steps: joint speed and the hands' forces, at every servo tick.

Only scenes of a task that asks for it are watched; others pay nothing. A robot would measure both
at this rate: the speed from its motors, the force at its wrist.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harness.sim.scene import Scene
from harness.sim.world import World

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]


def joint_speed(world: World, rows: Ints) -> Floats:
    """(n,) fastest arm joint now, grippers left out [rad/s]."""
    return np.asarray(np.abs(world.qvel[rows[:, None], world.scene.arm_dof]).max(axis=1))


def hand_force(world: World, rows: Ints) -> Floats:
    """(n,) largest net force of object and table on one hand now [N]."""
    on_others = world.sensors[rows[:, None, None, None], world.scene.force].sum(axis=2)
    return np.asarray(np.linalg.norm(on_others, axis=2).max(axis=1))


class Peaks:
    """Largest values in each of `size` scenes since `begin`."""

    def __init__(self, scene: Scene, size: int) -> None:
        self.watched = bool(scene.force.size)
        self.speed, self.force = np.zeros(size), np.zeros(size)

    def begin(self, rows: Ints) -> None:
        self.speed[rows] = self.force[rows] = 0.0

    def look(self, world: World, rows: Ints) -> None:
        """One servo tick has passed."""
        if self.watched:
            self.speed[rows] = np.maximum(self.speed[rows], joint_speed(world, rows))
            self.force[rows] = np.maximum(self.force[rows], hand_force(world, rows))
