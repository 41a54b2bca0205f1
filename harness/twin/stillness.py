"""What a stopped arm may be sent: the witness's rule for the time from a stop to a resume.

Rules
- For `BRAKE_S` after the stop a command may run out, by no more than full speed for that long.
- Then the desired position stays where it is, to a step of the field; desired speed is zero.
- Torque without stiffness, commands of another mode (position, speed, force) and an enable are
  refused from the first moment on. Disable, clear-error, refresh and registers move nothing.

It decodes by itself, like the monitor, and shares nothing with what it watches. rad, s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import can

BRAKE_S = 0.05
"""Full speed takes 16 ms to brake; three periods at 200 Hz, and as much again."""
_OTHER_MODES = (0x100, 0x200, 0x300)


class Motion(NamedTuple):
    """A frame that a stopped motor must not get: motor number 0..7, rule, value, bound."""

    motor: int
    what: str
    value: float
    bound: float


class Stillness:
    """One stop. `start` are the last commanded (else measured) positions, None where unknown."""

    def __init__(
        self,
        time_s: float,
        start: Sequence[float | None],
        pmax: Sequence[float],
        speed: Sequence[float],
    ) -> None:
        self._until = time_s + BRAKE_S
        self._start = list(start)
        self._rest = list(start)
        self._pmax = tuple(pmax)
        self._speed = tuple(speed)

    def see(self, time_s: float, frame: can.Message) -> Motion | None:
        """Judge one frame; None where it may be sent to a stopped arm."""
        identifier = frame.arbitration_id
        if frame.is_rx or identifier == 0x7FF:
            return None
        motor = (identifier & 0xFF) - 1
        if not 0 <= motor < 8:
            return None
        if identifier & 0xF00 in _OTHER_MODES:
            return Motion(motor, "commanded_while_stopped", 1.0, 0.5)
        data = bytes(frame.data)
        if identifier > 0xFF or len(data) != 8:
            return None
        if data[:7] == b"\xff" * 7 and 0xFB <= data[7] <= 0xFE:
            enables = data[7] == 0xFC
            return Motion(motor, "enabled_while_stopped", 1.0, 0.5) if enables else None
        return self._mit(motor, time_s, int.from_bytes(data, "big"))

    def _mit(self, motor: int, time_s: float, word: int) -> Motion | None:
        v, kp, kd, tau = (word >> shift & 0xFFF for shift in (36, 24, 12, 0))
        if kd and abs(v - 2047) > 1:
            return Motion(motor, "speed_while_stopped", abs(v - 2047) / 2047, 1 / 2047)
        if kp == 0:
            if abs(tau - 2047) > 2:
                return Motion(motor, "torque_while_stopped", abs(tau - 2047) / 2047, 2 / 2047)
            return None
        step = 2.0 * self._pmax[motor] / 65535
        q = (word >> 48) * step - self._pmax[motor]
        braking = time_s <= self._until
        start = self._start[motor] if braking else self._rest[motor]
        if start is None:
            start = self._start[motor] = q
        if braking or self._rest[motor] is None:
            self._rest[motor] = q
        bound = 2 * step + (self._speed[motor] * BRAKE_S if braking else 0.0)
        moved = abs(q - start)
        return Motion(motor, "moved_while_stopped", moved, bound) if moved > bound else None
