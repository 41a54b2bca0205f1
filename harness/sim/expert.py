"""The scripted expert: reactive inverse kinematics that grasps and lifts the box.

It is a function of the present moment (measurement, true box pose) without memory, so it can label
any state another policy gets itself into (DAgger). It knows the true pose; policies never do.

- IK and the approach funnel run on the *command's* kinematics with 10 % of the measured error: the
  wrist lags 80 ms, and a loop closed on the measured hand alone cycles for ever.
- The hand stays above the box until it is over it, turned square to a face and open: descending
  earlier pins the box under a finger.
- The grip: the gripper's command goes to `close` [rad]; 0 closes with full torque, a more negative
  value squeezes less. Outputs are in units of the contract's limit, batch first (n, 8).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fleet.kinematics import ArmKinematics
from harness.sim.reach import Reach, gripped, hover, nearest_face, outputs, shortened
from harness.tasks.box_grasp import BOX_GRASP, BoxGrasp
from harness.tasks.task import Truth
from policies.observation import Measurement

Floats = npt.NDArray[np.float64]

_SHUT = -0.20
"""Beyond this angle of the gripper there is nothing between the fingers [rad]."""


@dataclass(frozen=True)
class ExpertConfig:
    """What a recipe may choose about the expert."""

    close: float = 0.0
    """Gripper command that squeezes [rad]."""
    open: float = -0.5
    grasp_above: float = 0.009
    """Grasp centre above the box's centre [m]."""
    lift_m: float = 0.145
    speed: float = 0.02
    """Furthest the hand is asked to move in one step [m]."""
    lift_speed: float = 0.010
    damping: float = 0.05
    posture_gain: float = 0.03


class Expert:
    """Commands for one right arm; `limit` is the contract's action limit (8,)."""

    def __init__(
        self,
        kinematics: ArmKinematics,
        limit: Floats,
        config: ExpertConfig | None = None,
        task: BoxGrasp = BOX_GRASP,
    ) -> None:
        self.config = config or ExpertConfig()
        self._kinematics, self._limit, self._task = kinematics, limit, task
        nominal = np.array(task.start_q[:7])
        self._reach = Reach(kinematics, nominal, self.config.damping, self.config.posture_gain)

    def act(self, m: Measurement, truth: Truth) -> npt.NDArray[np.float32]:
        """Outputs (n, 8) in units of the limit."""
        config = self.config
        q_command, grip = m.command[:, :7], m.command[:, 7]
        tcp, axes = self._kinematics.fk(q_command)
        seen = 0.9 * tcp + 0.1 * m.tcp[:, 0]
        finger = axes[:, 3:]
        wanted = nearest_face(finger, truth.yaw)
        grasp = truth.position + np.array([0.0, 0.0, config.grasp_above])
        off = grasp - seen
        level = np.linalg.norm(off[:, :2], axis=1)
        turn = np.linalg.norm(np.cross(finger, wanted), axis=1)
        held = gripped(m, config.close, _SHUT)
        closing = (grip > config.open + 0.07) & (np.linalg.norm(off, axis=1) < 0.03)
        ready = (level < 0.007) & (np.abs(off[:, 2]) < 0.008) & (turn < 0.10)
        shut = held | closing | ready

        above = hover(level, turn, grip, over=0.008, wide=config.open)
        step = off.copy()
        step[:, 2] += np.where(shut, 0.0, above)
        top = self._task.rest_z + config.grasp_above + config.lift_m - seen[:, 2]
        up = np.stack([np.zeros_like(top), np.zeros_like(top), top], axis=1)
        step = np.where(held[:, None], up, step)
        speed = np.where(held, config.lift_speed, config.speed)
        step = shortened(step, speed)
        spin = np.where(held[:, None], 0.0, np.cross(finger, wanted))
        move = self._reach.solve(q_command, step, spin, axes)
        squeeze = np.where(shut, config.close, config.open) - grip
        return outputs(move, squeeze, self._limit)
