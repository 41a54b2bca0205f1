"""Motors that are too warm to go on: held off at one temperature, let back at a lower one.

Coils stop themselves at 100 °C as they are set up, drivers at 120 °C, and drop the arm; so an
attempt ends before that, and the next begins only when all have cooled. 0 °C is "not measured yet".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

HOLD_C = (100, 85)
"""[°C] driver stage, coil: from here on no attempt goes on."""
RESUME_C = (85, 70)
"""[°C] driver stage, coil: from here down attempts begin again."""

Temperatures = npt.NDArray[np.uint8]


class HeatWatch:
    """Hysteresis over the motors of one arm."""

    def __init__(self) -> None:
        self.hot = ""
        """What is too warm, "" while nothing is."""
        self._seen: tuple[bytes, bytes] = (b"", b"")

    def see(self, driver: Temperatures, coil: Temperatures) -> None:
        """Newest temperatures (8,) [°C]; whole degrees, which seldom change between two ticks."""
        newest = driver.tobytes(), coil.tobytes()
        if newest == self._seen:
            return
        self._seen = newest
        peaks = int(driver.max()), int(coil.max())
        limits = RESUME_C if self.hot else HOLD_C
        over = [p >= c for p, c in zip(peaks, limits, strict=True)]
        self.hot = f"driver {peaks[0]} °C, coil {peaks[1]} °C" if any(over) else ""
