"""Eight motors that answer at once: the same other end for whoever drives them.

One thread on a python-can bus. A MIT command is answered by the position, speed and torque it
asked for, a register read by a value, everything else by the last position. No physics, no delay.
Imports python-can only, so that any client's own interpreter can run it.
"""

from __future__ import annotations

import struct
import threading

import can

REGISTERS = {
    0: struct.pack("<f", 15.0),
    2: struct.pack("<f", 100.0),
    3: struct.pack("<f", 0.8),
    10: struct.pack("<I", 1),
    14: b"5017",
    21: struct.pack("<f", 12.5),
    29: struct.pack("<f", 32.0),
    35: struct.pack("<I", 9),
}
"""What all motors say: limits of voltage, heat and current, CTRL_MODE, firmware, PMAX, bit rate.
Ids, VMAX and TMAX are each motor's own; any other register is 0."""
VMAX = (45.0, 45.0, 8.0, 8.0, 30.0, 30.0, 30.0, 30.0)
TMAX = (54.0, 54.0, 28.0, 28.0, 10.0, 10.0, 10.0, 10.0)


class Responder:
    """Serves `bus` until `stop`; `rest` are the eight positions before any command [rad]."""

    def __init__(self, bus: can.BusABC, rest: list[float]) -> None:
        self._bus = bus
        self._state = {i + 1: self._at(i + 1, q) for i, q in enumerate(rest)}
        self._on = dict.fromkeys(self._state, 0)
        self._going = True
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and lets go of the bus."""
        self._going = False
        self._thread.join()
        self._bus.shutdown()

    @staticmethod
    def _at(motor: int, q: float) -> bytes:
        u = int((q + 12.5) / 25.0 * 65535)
        return bytes((motor, u >> 8, u & 0xFF, 0x7F, 0xF7, 0xFF, 30, 30))

    def _serve(self) -> None:
        recv, send, answer, message = self._bus.recv, self._bus.send, self._answer, can.Message
        while self._going:
            msg = recv(0.05)
            if msg is None:
                continue
            motor, data = answer(msg.arbitration_id, msg.data)
            fd = msg.is_fd
            send(message(0.0, 0x10 + motor, False, False, False, None, 8, data, fd, True, fd))

    def _answer(self, identifier: int, data: bytearray) -> tuple[int, bytes]:
        if identifier == 0x7FF:
            motor, command, register = data[0], data[2], data[3]
            if command == 0x33:
                value = REGISTERS.get(register, bytes(4))
                if register in (22, 23):
                    value = struct.pack("<f", (VMAX if register == 22 else TMAX)[motor - 1])
                elif register in (7, 8):
                    value = struct.pack("<I", motor + (0x10 if register == 7 else 0))
                return motor, bytes(data[:4]) + value
            if command == 0x55:
                return motor, bytes(data)
            return motor, self._state[motor]
        motor = identifier
        if data[:7] == b"\xff\xff\xff\xff\xff\xff\xff":
            self._on[motor] = 0x10 if data[7] == 0xFC else 0
            state = bytes((self._on[motor] | motor,)) + self._state[motor][1:]
        else:
            head = self._on[motor] | motor
            low = data[3] & 0xF0 | data[6] & 0x0F
            state = bytes((head, data[0], data[1], data[2], low, data[7], 30, 30))
        self._state[motor] = state
        return motor, state
