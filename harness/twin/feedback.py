"""What motors say of themselves: eight bytes each, made for all of them when the first is asked.

Rules
- Until physics moves (or a status, a zero, a temperature changes) the same is said again.
- Values carry the quantisation and truncation of the real fields, in the scale of the motor's own
  registers; temperatures are those of harness/twin/heat.py, in whole °C.

Units: rad, rad/s, Nm, °C; arrays (N,) in motor order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fleet.can import frames
from fleet.can.frames import ArmCodec, Array
from harness.twin.heat import Heat

Sense = Callable[[], tuple[Array, Array, Array]]
"""Joint positions [rad], speeds [rad/s] and motor torques [Nm] now, each (N,)."""

_EIGHT = np.uint64(8)


class Feedback:
    """The feedback of the motors of one bus."""

    def __init__(self, sense: Sense, zero: Array, heat: Heat, codec: ArmCodec) -> None:
        """`zero` and `heat` are looked at whenever there is something to say."""
        n = len(zero)
        self.data = bytearray(8 * n)
        """Eight bytes a motor; true unless `stale`."""
        self.stale = True
        self._sense, self._zero, self._heat, self._codec = sense, zero, heat, codec
        self._labels = np.zeros(n, np.uint64)
        self._header = self._labels
        self._misread: dict[int, tuple[float, float]] = {}
        self._readings = 0

    def scale(self, codec: ArmCodec) -> None:
        """Use these full scales from now on."""
        self._codec = codec
        self.stale = True

    def label(self, slot: int, esc_id: int, status: int) -> None:
        """The motor's id and status nibble from now on."""
        self._labels[slot] = frames.feedback_header(esc_id, status, 0.0, 0.0)
        self.warmed()

    def warmed(self) -> None:
        """Temperatures have changed."""
        heat = self._heat
        celsius = np.minimum(np.maximum((heat.mos, heat.coil), 0.0), 255.0).astype(np.uint64)
        self._header = self._labels | celsius[0] << _EIGHT | celsius[1]
        self.stale = True

    def misread(self, slot: int, offset: float, noise: float) -> None:
        """The reported position is off by `offset` and, in turn, ±`noise` [rad]; 0, 0 ends it."""
        self._misread.pop(slot, None)
        if offset or noise:
            self._misread[slot] = (offset, noise)
        self.stale = True

    def renew(self) -> None:
        """Sense what there is to say."""
        q, dq, tau = self._sense()
        q = q - self._zero
        if self._misread:
            self._readings += 1
            for slot, (offset, noise) in self._misread.items():
                q[slot] += offset + (noise if self._readings % 2 else -noise)
        self.data = self._codec.encode_feedback(self._header, q, dq, tau)
        self.stale = False
