"""The course of each slot's episode: what happened so far, whether it is over, and its record.

- Success is the task's condition at every policy step through its hold. It latches and ends the
  episode; so do an object that falls off the table, an output that is not finite, a broken rule of
  the task, physics that blow up, protection's stop and the horizon.
- A failure is named by its first cause: what was blamed (a policy's fault, a rule of the task),
  then outputs, physics, protection, an arm that stood still, and only then the task's own words.
- Rows are slots; what one slot does leaves no trace in another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
import numpy.typing as npt

from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.tasks.task import Course, Task, Truth

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.float32]

_GRASPED_LIFT = 0.02
_FALLEN = -0.1
"""Below this height above its rest the object is off the table [m]."""
_STILL = 1e-4
"""Less motion of the command than this in a policy step is none [rad]."""
_FROZEN_S = 2.0
_FLAGS = ("grasped", "held", "lost", "success", "fault", "fell", "unstable", "stopped")


class Courses:
    """Courses of `size` slots of a task played at `rate_hz` by `joints` joints."""

    def __init__(self, task: Task, rate_hz: float, joints: int, size: int) -> None:
        self._task, self._size = task, size
        self.horizon = round(task.horizon_s * rate_hz)
        self._hold = max(1, ceil(task.hold_s * rate_hz - 1e-9))
        self._frozen = _FROZEN_S * rate_hz
        self.step = np.zeros(size, dtype=np.intp)
        """Policy steps so far."""
        self._specs: list[EpisodeSpec | None] = [None] * size
        self._blame: list[tuple[str, str]] = [("", "")] * size
        self._raw = np.zeros((size, self.horizon, joints), dtype=np.float32)
        self._held, self._idle = np.zeros(size, dtype=np.intp), np.zeros(size, dtype=np.intp)
        self._lift, self._distance = np.zeros(size), np.zeros(size)
        self._speed, self._force = np.zeros(size), np.zeros(size)
        self._flags = {name: np.zeros(size, dtype=bool) for name in _FLAGS}
        self._interventions: dict[str, npt.NDArray[np.int64]] = {}

    def begin(self, rows: Ints, specs: Sequence[EpisodeSpec]) -> None:
        """Episodes start: nothing has happened."""
        for slot, spec in zip(rows, specs, strict=True):
            self._specs[slot], self._blame[slot] = spec, ("", "")
        for counts in (self.step, self._held, self._idle):
            counts[rows] = 0
        for values in (self._lift, self._distance, self._speed, self._force):
            values[rows] = 0.0
        for flag in self._flags.values():
            flag[rows] = False
        for interventions in self._interventions.values():
            interventions[rows] = 0

    def acted(self, rows: Ints, raw: Rows, moved: Floats, faults: Bools) -> None:
        """The policy gave `raw` (n, J), which moves the commands by `moved` (n, J) [rad]; `faults`
        (n,) are outputs that are not finite."""
        self._raw[rows, self.step[rows]] = raw
        still = np.abs(moved).max(axis=1) < _STILL
        self._idle[rows] = np.where(still, self._idle[rows] + 1, 0)
        self._flags["fault"][rows] = faults

    def count(self, rows: Ints, counts: Mapping[str, npt.NDArray[np.int64]]) -> None:
        """Interventions (n,) by name."""
        for name, count in counts.items():
            if name not in self._interventions:
                self._interventions[name] = np.zeros(self._size, dtype=np.int64)
            self._interventions[name][rows] += count

    def blame(self, slot: int, mode: str, detail: str) -> None:
        """Name what the episode fails by, should it fail."""
        self._blame[slot] = (mode, detail)

    def look(self, rows: Ints, truth: Truth, *, unstable: Bools, stopped: Bools) -> Bools:
        """One policy step has passed; which episodes ended (n,)."""
        flags, lift = self._flags, truth.lift
        self._lift[rows] = np.maximum(self._lift[rows], lift)
        self._speed[rows] = np.maximum(self._speed[rows], truth.joint_speed)
        way = truth.position - truth.goal[:, :3]
        self._distance[rows] = np.sqrt(np.add.reduce(way * way, axis=1))
        self._force[rows] = np.maximum(self._force[rows], truth.hand_force)
        flags["grasped"][rows] |= truth.touch & (lift > _GRASPED_LIFT)
        flags["lost"][rows] |= truth.released & (lift > _GRASPED_LIFT)
        flags["held"][rows] = ~truth.released
        flags["unstable"][rows], flags["stopped"][rows] = unstable, stopped
        held = np.where(self._task.achieved(truth), self._held[rows] + 1, 0)
        self._held[rows] = held
        broken = flags["fault"][rows] | unstable | stopped
        for mode, which in self._task.violated(truth).items():
            for slot in rows[which & ~broken]:
                self._blame[slot] = (mode, "")
            broken = broken | which
        flags["success"][rows] = (held >= self._hold) & ~broken
        flags["fell"][rows] = lift < _FALLEN
        late = self.step[rows] >= self.horizon
        return np.asarray(flags["success"][rows] | broken | flags["fell"][rows] | late)

    def record(self, slot: int, digest: str, *, watched: bool) -> EpisodeRecord:
        """The record of the episode in a slot, as it stands; `digest` covers its state. Distance
        and force are measured where the scene is `watched`."""
        spec = self._specs[slot]
        if spec is None:
            raise ValueError(f"slot {slot} has no episode")
        success = bool(self._flags["success"][slot])
        mode, detail = ("", "") if success else self._mode(slot)
        return EpisodeRecord(
            spec=spec,
            success=success,
            failure_mode=mode,
            steps=int(self.step[slot]),
            metrics=self._metrics(slot, watched),
            interventions={
                k: int(v[slot]) for k, v in sorted(self._interventions.items()) if v[slot]
            },
            digest=digest,
            actions=self._raw[slot, : self.step[slot]].tobytes(),
            detail=detail,
        )

    def _metrics(self, slot: int, watched: bool) -> dict[str, float]:
        found = {"lift_m": self._lift[slot], "speed_rad_s": self._speed[slot]}
        if watched:
            found |= {"distance_m": self._distance[slot], "force_n": self._force[slot]}
        return {name: float(value) for name, value in found.items()}

    def _mode(self, slot: int) -> tuple[str, str]:
        """Failure mode, and what there is to say about it."""
        mode, detail = self._blame[slot]
        flags = {name: bool(values[slot]) for name, values in self._flags.items()}
        if mode:
            return mode, detail
        if flags["fault"]:
            return "policy_nan", "an output was not finite"
        if flags["unstable"]:
            return "unstable", ""
        if flags["stopped"]:
            return "collision", "protection stopped the arm"
        if self._idle[slot] >= self._frozen and not flags["grasped"]:
            return "frozen", ""
        course = Course(
            lift=float(self._lift[slot]),
            grasped=flags["grasped"],
            holding=bool(self._held[slot]),
            fell=flags["fell"],
            distance=float(self._distance[slot]),
            held=flags["held"],
            lost=flags["lost"],
        )
        return self._task.failure_mode(course), ""
