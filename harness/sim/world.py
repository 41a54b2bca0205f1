"""The physics of many scenes at once: one compiled model, and what each scene changes in it.

- A model field becomes per-scene the first time something changes it (`expand`), and is the model's
  own again in every scene that is reset: what ran in a slot before leaves no trace.
- `harness/sim/fields.py` knows what may be changed and how; `settle` derives what follows from
  changed fields (MuJoCo's mj_setConst).
- What is changed but no field of the model (gains as the motors have them, the table's height, what
  cameras do to images) are arrays here, read by whoever steps the scenes or looks at them.
- A row is a scene; rows do not see each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt
from mujoco.batch import Batch, SimulationError

from harness.sim.pictures import IMAGE_NOMINAL
from harness.sim.scene import BASE_HEIGHT, Scene
from harness.sim.signals import Signals

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

_BLOWN_UP = [
    int(warning)
    for warning in (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
    )
]


class World:
    """`size` scenes of one compiled model, physics on `threads` native threads."""

    def __init__(self, scene: Scene, size: int, signals: Signals, *, threads: int = 1) -> None:
        self.scene, self.size, self.signals = scene, size, signals
        self.batch = Batch(scene.model, size, nthread=threads)
        self.qpos, self.qvel = self.batch.bind("qpos"), self.batch.bind("qvel")
        self.ctrl = self.batch.bind("ctrl")
        self.force, self.sensors = self.batch.bind("actuator_force"), self.batch.bind("sensordata")
        self._fields: dict[str, tuple[Floats, Floats]] = {}
        self.kp, self.kd = np.tile(scene.kp, (size, 1)), np.tile(scene.kd, (size, 1))
        self.table_z = np.full(size, scene.config.table_z)
        self.box_half = np.full(size, scene.config.box_half)
        """Half the object's height [m]: where it rests above the table."""
        self.box_scale = np.ones(size)
        self.box_shape = np.zeros(size, dtype=np.intp)
        self.placed = np.zeros((size, 3))
        """What is added to the object's drawn x, y [m] and yaw [rad]."""
        self.unstable = np.zeros(size, dtype=bool)
        self.camera_moved = np.zeros(size, dtype=bool)
        self.calibration = np.zeros((size, 4))
        """Error of the detector's camera pose: x, y, z [m], yaw [rad]."""
        self.image = {name: np.full(size, value) for name, value in IMAGE_NOMINAL.items()}

    def expand(self, name: str) -> Any:
        """A model field as (size, …), per scene from now on."""
        if name not in self._fields:
            values = self.batch.expand(name)
            self._fields[name] = (values, np.array(values[0]))
        return self._fields[name][0]

    def nominal(self, name: str) -> Any:
        """A model field as it was compiled."""
        self.expand(name)
        return self._fields[name][1]

    def reset(self, rows: Ints) -> None:
        """These scenes are the compiled model again, at its defaults and at rest."""
        self.batch.reset(ids=rows, stage=mujoco.mjtStage.mjSTAGE_NONE)
        for values, own in self._fields.values():
            values[rows] = own
        scene = self.scene
        self.kp[rows], self.kd[rows] = scene.kp, scene.kd
        self.table_z[rows], self.box_half[rows] = scene.config.table_z, scene.config.box_half
        self.box_scale[rows], self.box_shape[rows] = 1.0, 0
        self.placed[rows] = 0.0
        self.unstable[rows] = self.camera_moved[rows] = False
        self.calibration[rows] = 0.0
        for name, values in self.image.items():
            values[rows] = IMAGE_NOMINAL[name]

    def settle(self, rows: Ints) -> None:
        """Derive what follows from the fields of these scenes."""
        self.batch.set_const(ids=rows)

    def place_box(self, slot: int, x: float, y: float, yaw: float) -> None:
        """Lay the object on the table, frame "base" [m, rad]."""
        dx, dy, turn = self.placed[slot]
        adr, half = self.scene.box_qpos, 0.5 * (yaw + turn)
        rest = self.rest_z[slot]
        self.qpos[slot, adr : adr + 3] = (x + dx, y + dy, BASE_HEIGHT + rest)
        self.qpos[slot, adr + 3 : adr + 7] = (np.cos(half), 0.0, 0.0, np.sin(half))

    @property
    def rest_z(self) -> Floats:
        """(size,) height of the object's centre where it lies on the table, frame "base" [m]."""
        return np.asarray(self.table_z + self.box_half)

    def mit_ctrl(self, rows: Ints, q: Floats) -> Floats:
        """ctrl (n, J) of desired positions q (n, J) [rad] at rest, at the motors' own gains."""
        return np.asarray(self.kp[rows] * q)

    def step(self, rows: Ints, steps: int) -> None:
        """Physics steps of these scenes; those that blow up are marked `unstable`."""
        try:
            self.batch.step(ids=self._ids(rows), nstep=steps)
        except SimulationError:
            self.unstable[rows] |= self.batch.status[rows] != 0

    def roll(self, rows: Ints, ctrl: Floats, fields: Sequence[str]) -> dict[str, Any] | None:
        """Physics steps of these scenes with ctrl (n, steps, nu): the fields as they were after
        each, (n, steps, …), as `step` one by one would have left them.

        None where physics fail or warn in any of them: `step` goes on after a warning, this does
        not, so the scenes have to be restored and stepped.
        """
        warned = self.batch.warning.tobytes()
        try:
            found: dict[str, Any] = self.batch.rollout(
                ctrl.shape[1], ctrl, record=fields, ids=self._ids(rows)
            )
        except SimulationError:
            return None
        return found if self.batch.warning.tobytes() == warned else None

    def snapshot(self, rows: Ints) -> tuple[Floats, Any]:
        """What `restore` needs to bring these scenes back."""
        return self.batch.state[rows], self.batch.warning[rows]

    def restore(self, rows: Ints, snapshot: tuple[Floats, Any]) -> None:
        """State and warnings as they were; derived fields follow with the next step."""
        self.batch.state[rows], self.batch.warning[rows] = snapshot

    def _ids(self, rows: Ints) -> Ints | None:
        """All of them need no check of ids."""
        return None if len(rows) == self.size else rows

    def check(self, rows: Ints) -> None:
        """MuJoCo resets a state that is not finite and goes on; its warning counter tells."""
        self.unstable[rows] |= self.batch.warning[rows[:, None], _BLOWN_UP, 1].any(axis=1)
