"""The tag detector's noise: what a camera says about a box, against where it is.

30 frames a second with a random phase; a frame is lost with 2 %; its pose carries Gaussian noise
(2 mm, .02 rad) and arrives 30..60 ms after it was taken. A reader gets the newest frame that has
arrived, with its age. Every draw of an episode comes from one generator at reset, so two detectors
of different batch size say the same. Vectorised over slots; a twin is a detector of size 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

_FRAMES = 512
"""Frames drawn per episode; a longer episode sees the sequence again."""
_IN_FLIGHT = 4


@dataclass(frozen=True)
class DetectorModel:
    """The noise of one camera set-up."""

    position_sigma: float = 0.002
    yaw_sigma: float = 0.02
    rate_hz: float = 30.0
    delay_s: tuple[float, float] = (0.030, 0.060)
    dropout: float = 0.02


class Detector:
    """Detectors of `size` independent scenes."""

    def __init__(self, size: int, model: DetectorModel | None = None) -> None:
        self.model = model or DetectorModel()
        self._frames = np.zeros((size, _FRAMES, 6))
        """Of each frame: noise of x, y, z [m] and yaw [rad], delay [s], 1 if it is lost."""
        self._next = np.zeros(size)
        self._frame = np.zeros(size, dtype=np.intp)
        self._flying = np.zeros((size, _IN_FLIGHT, 6))
        """Frames on their way: x, y, z, yaw as they show them, when taken, when they arrive [s]."""
        self._cursor = np.zeros(size, dtype=np.intp)
        self._seen = np.zeros((size, 5))
        """The newest that has arrived: x, y, z, yaw, when it was taken."""

    def reset(
        self,
        slots: Sequence[int],
        rngs: Sequence[np.random.Generator],
        position: Floats,
        yaw: Floats,
    ) -> None:
        """Start episodes; the camera has been running, so a first pose is there at time 0."""
        model = self.model
        for row, (slot, rng) in enumerate(zip(slots, rngs, strict=True)):
            sigma = np.array([model.position_sigma] * 3 + [model.yaw_sigma])
            frames = self._frames[slot]
            frames[:, :4] = rng.standard_normal((_FRAMES, 4)) * sigma
            uniform = rng.random((_FRAMES, 2))
            low, high = model.delay_s
            frames[:, 4] = low + (high - low) * uniform[:, 0]
            frames[:, 5] = uniform[:, 1] < model.dropout
            self._next[slot] = uniform[0, 1] / model.rate_hz
            self._frame[slot] = 1
            self._cursor[slot] = 0
            self._flying[slot] = (0.0, 0.0, 0.0, 0.0, -np.inf, np.inf)
            self._seen[slot, :3] = position[row] + frames[0, :3]
            self._seen[slot, 3] = yaw[row] + frames[0, 3]
            self._seen[slot, 4] = -frames[0, 4]

    def read(
        self, slots: Ints, time_s: Floats, position: Floats, yaw: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Newest arrived pose at `time_s` (n,) given the truth now: position, yaw, age [s]."""
        due = self._next[slots] <= time_s + 1e-9
        if due.any():
            self._take(slots[due], time_s[due], position[due], yaw[due])
        flying = self._flying[slots]
        taken = np.where(flying[:, :, 5] <= time_s[:, None], flying[:, :, 4], -np.inf)
        newest = flying[np.arange(len(slots)), taken.argmax(axis=1)]
        seen = self._seen[slots]
        fresh = taken.max(axis=1) > seen[:, 4]
        seen = np.where(fresh[:, None], newest[:, :5], seen)
        self._seen[slots] = seen
        return seen[:, :3], seen[:, 3], time_s - seen[:, 4]

    def _take(self, slots: Ints, now: Floats, position: Floats, yaw: Floats) -> None:
        """Take the frames that are due: the pose is that of the first read after the shutter."""
        frames = self._frames[slots, self._frame[slots] % _FRAMES]
        kept = frames[:, 5] == 0.0
        row = slots[kept]
        cursor = self._cursor[row]
        shown = frames[kept]
        shown[:, :3] += position[kept]
        shown[:, 3] += yaw[kept]
        shown[:, 5] = now[kept] + shown[:, 4]
        shown[:, 4] = now[kept]
        self._flying[row, cursor] = shown
        self._cursor[row] = (cursor + 1) % _IN_FLIGHT
        period = 1.0 / self.model.rate_hz
        self._frame[slots] += 1
        behind = np.maximum(np.floor((now - self._next[slots]) / period), 0.0)
        self._next[slots] += (behind + 1.0) * period
