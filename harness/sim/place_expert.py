"""The scripted expert for pick and place: grasp, carry in a low arc, put down, let go, step back.

Like the expert that lifts (harness/sim/expert.py) it is a function of the present moment, so it can
label any state another policy gets itself into; the phase follows from where the cube is.

- While it is held, the cube's place at the command is the command's grasp centre plus the cube's
  measured offset in the hand: the carrying loop runs on the command, as the approach does.
- The cube is carried sideways only as far as it is off the table, and lowered only over the goal;
  the last millimetres by a slow motion that the table ends, since a heavy cube hangs lower than the
  command says.
- At the goal and resting it opens, whatever brought the cube there, and rises once it is open.
- It closes slowly: a heavy cube that one finger knocks aside pushes back with more than 20 N.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fleet.kinematics import ArmKinematics
from harness.sim.reach import Reach, gripped, hover, nearest_face, outputs, shortened
from harness.tasks.pick_place import PICK_PLACE, PickPlace, off_square
from harness.tasks.task import Truth
from policies.observation import Measurement

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_SHUT = -0.10
"""Beyond this angle of the gripper there is nothing between the fingers [rad]."""


@dataclass(frozen=True)
class PlaceConfig:
    """What a recipe may choose about the expert."""

    close: float = 0.0
    """Gripper command that squeezes [rad]."""
    open: float = -0.5
    grasp_above: float = 0.011
    """Grasp centre above the cube's centre [m]."""
    carry_m: float = 0.05
    """Height above the table at which the cube is carried [m]."""
    speed: float = 0.02
    """Furthest the hand is asked to move in one step [m]."""
    squeeze: float = 0.025
    """How far the gripper is asked to close in one step [rad]."""
    lower: float = 0.001
    """How far it is lowered in one step when the table is near [m]."""
    over_m: float = 0.013
    """It is lowered where it is nearer to the goal than this, sideways [m]."""
    release_m: float = 0.009
    """It is let go of below this height: a cube that hangs tilted rests no lower [m]."""
    damping: float = 0.05
    posture_gain: float = 0.03


class PlaceExpert:
    """Commands for one right arm; `limit` is the contract's action limit (8,)."""

    def __init__(
        self,
        kinematics: ArmKinematics,
        limit: Floats,
        config: PlaceConfig | None = None,
        task: PickPlace = PICK_PLACE,
    ) -> None:
        self.config = config or PlaceConfig()
        self._kinematics, self._limit, self._task = kinematics, limit, task
        nominal = np.array(task.start_q[:7])
        self._reach = Reach(kinematics, nominal, self.config.damping, self.config.posture_gain)

    def act(self, m: Measurement, truth: Truth) -> npt.NDArray[np.float32]:
        """Outputs (n, 8) in units of the limit."""
        config = self.config
        q_command, grip = m.command[:, :7], m.command[:, 7]
        tcp, axes = self._kinematics.fk(q_command)
        seen = 0.9 * tcp + 0.1 * m.tcp[:, 0]
        held, placed = gripped(m, config.close, _SHUT), self._placed(truth)
        fetch, turn, shut = self._fetch(seen, axes[:, 3:], grip, truth)
        carry = self._carry(seen + truth.position - m.tcp[:, 0], truth)
        leave = np.zeros_like(fetch)
        leave[:, 2] = np.where(m.q[:, 7] < config.open + 0.15, 0.08, 0.0)
        step = np.where(held[:, None], carry, shortened(fetch, config.speed))
        step = np.where(placed[:, None], shortened(leave, config.speed), step)
        spin = np.where(held[:, None], self._turn(truth), turn)
        spin = np.where(placed[:, None], 0.0, spin)
        move = self._reach.solve(q_command, step, spin, axes)
        closed = (held | shut) & ~placed
        squeeze = np.where(closed, config.close, config.open) - grip
        return outputs(move, np.clip(squeeze, -0.1, config.squeeze), self._limit)

    def _placed(self, truth: Truth) -> Bools:
        """It lies well within what the task allows."""
        off = np.linalg.norm((truth.position - truth.goal[:, :3])[:, :2], axis=1)
        placed = (off < 0.75 * self._task.tolerance_m) & (truth.lift < self.config.release_m)
        if self._task.orientation_rad is not None:
            turned = np.abs(off_square(truth.goal[:, 3] - truth.yaw))
            placed &= turned < 0.7 * self._task.orientation_rad
        return np.asarray(placed)

    def _fetch(
        self, seen: Floats, finger: Floats, grip: Floats, truth: Truth
    ) -> tuple[Floats, Floats, Bools]:
        """Way to the grasp [m], turn to a face [rad], and whether to close."""
        config = self.config
        wanted = nearest_face(finger, truth.yaw)
        off = truth.position + np.array([0.0, 0.0, config.grasp_above]) - seen
        level = np.linalg.norm(off[:, :2], axis=1)
        spin = np.cross(finger, wanted)
        turn = np.linalg.norm(spin, axis=1)
        closing = (grip > config.open + 0.07) & (np.linalg.norm(off, axis=1) < 0.03)
        ready = (level < 0.006) & (np.abs(off[:, 2]) < 0.008) & (turn < 0.10)
        shut = np.asarray(closing | ready)
        above = hover(level, turn, grip, over=0.007, wide=config.open)
        slow = -(config.lower + 0.15 * np.maximum(-off[:, 2], 0.0))
        off[:, 2] = np.maximum(off[:, 2] + np.where(shut, 0.0, above), slow)
        return off, spin, shut

    def _carry(self, cube: Floats, truth: Truth) -> Floats:
        """Motion of the hand [m] for a cube that hangs at `cube` (n, 3) under the command."""
        config = self.config
        way = truth.goal[:, :3] - cube
        level = np.linalg.norm(way[:, :2], axis=1)
        over = level < config.over_m
        if self._task.orientation_rad is not None:
            turned = np.abs(off_square(truth.goal[:, 3] - truth.yaw))
            over &= turned < 0.5 * self._task.orientation_rad
        height = np.clip(0.02 + 1.0 * (level - config.over_m), 0.02, config.carry_m)
        way[:, 2] = truth.rest_z + height - cube[:, 2]
        free = np.clip((truth.lift - 0.003) / 0.012, 0.0, 1.0)
        way[:, :2] *= np.where(over, 1.0, free)[:, None]
        way = shortened(way, config.speed)
        near = truth.lift < 0.02
        way[:, 2] = np.where(over, np.where(near, -config.lower, -2.0 * config.lower), way[:, 2])
        return way

    def _turn(self, truth: Truth) -> Floats:
        """Turn of the held cube about the vertical [rad] (n, 3), once it is off the table."""
        spin = np.zeros_like(truth.position)
        if self._task.orientation_rad is not None:
            lifted = truth.lift > 0.01
            spin[:, 2] = np.where(lifted, off_square(truth.goal[:, 3] - truth.yaw), 0.0)
        return spin
