"""How motors warm with the square of their current, and cool.

Coil and driver stage are one thermal mass each, with losses proportional to torque squared. Rated
torque, for ever, ends at 100 °C in a room of 25 °C; the driver stage warms half as much, as fast.
Units: Nm, s, °C, W, J/K; arrays (N,).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fleet.can.frames import Array
from fleet.can.motors import MotorType

AMBIENT, RATED_RISE, MOS_SHARE, MOS_LIMIT = 25.0, 75.0, 0.5, 120.0
HEAT_CAPACITY = 450.0
"""J/(kg K), between copper's and aluminium's."""


class Heat:
    """Temperatures of the motors of one bus."""

    def __init__(self, kinds: Sequence[MotorType]) -> None:
        n = len(kinds)
        self.coil = np.full(n, AMBIENT)
        self.mos = np.full(n, AMBIENT)
        constant = np.array([kind.torque_constant for kind in kinds])
        self._loss = np.array([kind.phase_resistance for kind in kinds]) / constant**2
        rated = self._loss * np.array([kind.rated_torque for kind in kinds]) ** 2
        self._thermal = RATED_RISE / rated
        self._lag = self._thermal * np.array([kind.mass for kind in kinds]) * HEAT_CAPACITY

    def pass_time(self, tau: Array, seconds: float) -> None:
        """Warm and cool over `seconds` at torque `tau`."""
        rise = self._loss * tau**2 * self._thermal
        share = -np.expm1(-seconds / self._lag)
        self.coil += (AMBIENT + rise - self.coil) * share
        self.mos += (AMBIENT + MOS_SHARE * rise - self.mos) * share
