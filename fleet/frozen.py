"""A camera that goes on delivering but sees nothing new: equal content, new shutter times.

Live images carry sensor noise, so what is seen of a scene at rest differs in its last bits. A stamp
that stands still is another fault: its age grows, and the age limit finds it.
"""

from __future__ import annotations

FRAMES = 5
"""New frames of equal content, in a row, after which a source counts as frozen."""
SAME_SHUTTER_S = 1e-3
"""Readings of one frame differ in their shutter time by rounding alone."""


class FrozenWatch:
    """One source. `saw` is called with every reading, also of a frame that was read before."""

    def __init__(self) -> None:
        self._content = b""
        self._shutter_s = float("-inf")
        self._repeats = 0

    @property
    def frozen(self) -> bool:
        return self._repeats >= FRAMES

    def saw(self, content: bytes, shutter_s: float) -> None:
        """What was read, and when it was taken [s]."""
        if content != self._content:
            self._repeats = 0
        elif shutter_s - self._shutter_s > SAME_SHUTTER_S:
            self._repeats += 1
        else:
            return
        self._content, self._shutter_s = content, shutter_s
