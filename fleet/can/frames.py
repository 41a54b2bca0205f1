"""Damiao frames: what goes over the bus, bit for bit.

Rules
- 11-bit identifiers, 8 bytes of data. A motor listens on its ESC_ID and answers on its MST_ID with
  one feedback frame for each frame it accepts; it never speaks unasked.
- Encode: u = trunc((clamp(x, lo, hi) - lo) / (hi - lo) * (2^n - 1)) in double precision; it
  truncates, never rounds. Decode: x = u / (2^n - 1) * (hi - lo) + lo. So 0 comes back as half a
  step below zero, as real motors at rest show it.
- MIT ranges: p ±PMAX (16 bits), v ±VMAX, kp 0..500, kd 0..5, t ±TMAX (12 bits each).
- A register reply has the id and length of a feedback. Taken for one it reads about -12.4 rad;
  `is_register_reply` tells them apart and must be asked before any decoding.
- A MIT frame whose first seven bytes are FF is a special frame (enable, disable, zero, clear) if
  the eighth is FB..FE: a command near full scale in every field must never be sent.
  `collides_with_special` says so; the arm's limits keep away from it.

Units: rad, rad/s, Nm, Nm/rad, Nm s/rad, °C. Source: openarm_can 98666042, Damiao's manuals.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

PARAMETER_ID = 0x7FF
"""Every register and refresh frame goes to this id and names its motor in D0, D1."""

POS_VEL_OFFSET, VEL_OFFSET, POS_FORCE_OFFSET = 0x100, 0x200, 0x300
KP_MAX, KD_MAX = 500.0, 5.0

READ, WRITE, SAVE, REFRESH = 0x33, 0x55, 0xAA, 0xCC
_PARAMETER_COMMANDS = frozenset((READ, WRITE, SAVE, REFRESH))
_HIGHEST_REGISTER = 81
_WIRE = np.dtype(">u8")
_LOW_NIBBLE, _FOUR = np.uint8(0xF), np.uint8(4)

UINT_REGISTERS = frozenset((7, 8, 9, 10, 13, 14, 15, 16, 35, 36))
"""Registers that hold an unsigned integer; all others hold a float32."""


class Special(IntEnum):
    """The last byte of a special frame (seven FF before it)."""

    CLEAR_ERROR = 0xFB
    ENABLE = 0xFC
    DISABLE = 0xFD
    SET_ZERO = 0xFE


class Status(IntEnum):
    """The status nibble of a feedback. 8 and above: a fault, and the motor's torque is off."""

    DISABLED = 0x0
    ENABLED = 0x1
    OVER_VOLTAGE = 0x8
    UNDER_VOLTAGE = 0x9
    OVER_CURRENT = 0xA
    MOS_OVER_TEMPERATURE = 0xB
    COIL_OVER_TEMPERATURE = 0xC
    COMMUNICATION_LOST = 0xD
    OVERLOAD = 0xE


def status_name(code: int) -> str:
    """The status in words; codes the maker never assigned are shown in hex."""
    try:
        return Status(code).name.lower().replace("_", " ")
    except ValueError:
        return f"unassigned status {code:X}"


@dataclass(frozen=True)
class Ranges:
    """Full scale of one motor's fields: PMAX [rad], VMAX [rad/s], TMAX [Nm] (registers 21..23)."""

    pmax: float
    vmax: float
    tmax: float


class Feedback(NamedTuple):
    """One decoded feedback: q [rad], dq [rad/s], tau [Nm], temperatures [°C], low id bits."""

    motor: int
    status: int
    q: float
    dq: float
    tau: float
    temp_mos: int
    temp_rotor: int


class RegisterReply(NamedTuple):
    """A decoded register frame: the command echoed (READ, WRITE, SAVE), register and value."""

    motor: int
    command: int
    register: int
    value: float


def _to_uint(x: float, low: float, high: float, bits: int) -> int:
    x = min(max(x, low), high)
    return int((x - low) / (high - low) * ((1 << bits) - 1))


def _to_float(u: int, low: float, high: float, bits: int) -> float:
    return u / ((1 << bits) - 1) * (high - low) + low


def encode_mit(ranges: Ranges, *, q: float, dq: float, kp: float, kd: float, tau: float) -> bytes:
    """The 8 bytes of one MIT command; out-of-range values clamp to full scale, NaN is refused."""
    if not all(math.isfinite(value) for value in (q, dq, kp, kd, tau)):
        raise ValueError(f"MIT command is not finite: {q=} {dq=} {kp=} {kd=} {tau=}")
    word = _to_uint(q, -ranges.pmax, ranges.pmax, 16) << 48
    word |= _to_uint(dq, -ranges.vmax, ranges.vmax, 12) << 36
    word |= _to_uint(kp, 0.0, KP_MAX, 12) << 24
    word |= _to_uint(kd, 0.0, KD_MAX, 12) << 12
    word |= _to_uint(tau, -ranges.tmax, ranges.tmax, 12)
    return word.to_bytes(8, "big")


def decode_feedback(ranges: Ranges, data: bytes | bytearray) -> Feedback:
    """One feedback frame. Ask `is_register_reply` first."""
    word = int.from_bytes(data, "big")
    return Feedback(
        motor=(word >> 56) & 0xF,
        status=word >> 60,
        q=_to_float((word >> 40) & 0xFFFF, -ranges.pmax, ranges.pmax, 16),
        dq=_to_float((word >> 28) & 0xFFF, -ranges.vmax, ranges.vmax, 12),
        tau=_to_float((word >> 16) & 0xFFF, -ranges.tmax, ranges.tmax, 12),
        temp_mos=(word >> 8) & 0xFF,
        temp_rotor=word & 0xFF,
    )


def special(code: Special) -> bytes:
    """Enable, disable, set zero or clear error; sent to ESC_ID."""
    return b"\xff" * 7 + bytes((code,))


def special_code(data: bytes | bytearray) -> Special | None:
    """Which special frame this is, or None for an ordinary command."""
    if data[:7] == b"\xff\xff\xff\xff\xff\xff\xff" and 0xFB <= data[7] <= 0xFE:
        return Special(data[7])
    return None


def collides_with_special(data: bytes | bytearray) -> bool:
    """True if a motor could read this MIT command as a special frame."""
    return bytes(data[:7]) == b"\xff" * 7 and data[7] >= Special.CLEAR_ERROR


def refresh(esc_id: int) -> bytes:
    """Asks for one feedback without commanding anything; sent to PARAMETER_ID."""
    return struct.pack("<HBxxxxx", esc_id, REFRESH)


def read_register(esc_id: int, register: int) -> bytes:
    """Asks for a register's value; sent to PARAMETER_ID."""
    return struct.pack("<HBBxxxx", esc_id, READ, register)


def write_register(esc_id: int, register: int, value: float) -> bytes:
    """Sets a register in RAM; the motor echoes it. Sent to PARAMETER_ID."""
    return struct.pack("<HBB", esc_id, WRITE, register) + pack_value(register, value)


def save_registers(esc_id: int) -> bytes:
    """Writes all registers to flash (about 10 000 times in a life); only while disabled."""
    return struct.pack("<HBxxxxx", esc_id, SAVE)


def pack_value(register: int, value: float) -> bytes:
    """A register's four bytes, little endian."""
    if register in UINT_REGISTERS:
        return struct.pack("<I", int(value))
    return struct.pack("<f", value)


def unpack_value(register: int, data: bytes | bytearray) -> float:
    """A register's value from its four bytes."""
    layout = "<I" if register in UINT_REGISTERS else "<f"
    return float(struct.unpack(layout, bytes(data))[0])


def is_register_reply(data: bytes | bytearray, esc_id: int) -> bool:
    """True for a register reply or ack of this motor, which must not be taken for feedback.

    A feedback passes for one only at a position within .1 rad of -PMAX, outside any arm's limits.
    """
    return (
        len(data) == 8
        and data[1] <= 0x0F
        and data[2] in _PARAMETER_COMMANDS
        and data[3] <= _HIGHEST_REGISTER
        and (data[0] | data[1] << 8) == esc_id
    )


def decode_register(data: bytes | bytearray) -> RegisterReply:
    """A register frame's fields (commands and replies share the layout)."""
    return RegisterReply(
        motor=data[0] | data[1] << 8,
        command=data[2],
        register=data[3],
        value=unpack_value(data[3], data[4:8]),
    )


def encode_pos_vel(q: float, dq_limit: float) -> bytes:
    """Position [rad] with a speed limit [rad/s]; sent to ESC_ID + POS_VEL_OFFSET."""
    return struct.pack("<ff", q, dq_limit)


def encode_vel(dq: float) -> bytes:
    """Speed [rad/s], 4 bytes; sent to ESC_ID + VEL_OFFSET."""
    return struct.pack("<f", dq)


def encode_pos_force(q: float, dq_limit: float, current: float) -> bytes:
    """Position [rad], speed limit 0..100 rad/s, current 0..1 of the drive's maximum.

    Sent to ESC_ID + POS_FORCE_OFFSET. How current maps to torque is not calibrated.
    """
    speed = int(min(max(dq_limit, 0.0), 100.0) * 100.0)
    return struct.pack("<fHH", q, speed, int(min(max(current, 0.0), 1.0) * 10_000.0))


class ArmFeedback(NamedTuple):
    """Feedback of all motors of an arm, each (N,): units as `Feedback`; motor, status uint8."""

    motor: npt.NDArray[np.uint8]
    status: npt.NDArray[np.uint8]
    q: Array
    dq: Array
    tau: Array
    temp_mos: npt.NDArray[np.uint8]
    temp_rotor: npt.NDArray[np.uint8]


class ArmCodec:
    """The same bits as the functions above for N motors at once, in about 5 µs.

    Not safe for two threads: it writes into buffers of its own. What it returns is new each time.
    """

    def __init__(
        self,
        ranges: Sequence[Ranges],
        *,
        kp_most: float = KP_MAX,
        tau_most: Sequence[float] | None = None,
    ) -> None:
        """`kp_most` and `tau_most` (N,) [Nm] clamp MIT commands below full scale."""
        n = len(ranges)
        pmax = np.array([r.pmax for r in ranges])
        vmax = np.array([r.vmax for r in ranges])
        tmax = np.array([r.tmax for r in ranges])
        self.ranges = tuple(ranges)
        self._n = n
        self._low = np.stack([-pmax, -vmax, np.zeros(n), np.zeros(n), -tmax])
        self._high = np.stack([pmax, vmax, np.full(n, KP_MAX), np.full(n, KD_MAX), tmax])
        self._span = self._high - self._low
        most = np.minimum(tmax, tmax if tau_most is None else tau_most)
        self._floor = np.stack([-pmax, -vmax, np.zeros(n), np.zeros(n), -most])
        self._ceiling = np.stack([pmax, vmax, np.full(n, kp_most), np.full(n, KD_MAX), most])
        self._top = np.repeat([[65535.0], [4095.0], [4095.0], [4095.0], [4095.0]], n, axis=1)
        shift = _words((48, 36, 24, 12, 0), n)
        self._place = np.left_shift(np.uint64(1), shift[:, 0])
        """What a field is multiplied by to stand at its bits: fields do not overlap, so adding them
        is or-ing them."""
        mask = _words((0xFFFF, 0xFFF, 0xFFF, 0xFFF, 0xFFF), n)
        self._mask = np.left_shift(mask, shift)
        self._scale = self._top * np.exp2(shift.astype(float))
        """Decoding divides a field where it stands by this: a power of two costs no bit, so the
        quotient is that of the shifted field."""
        self._x = np.empty((5, n))
        self._rows = tuple(self._x)
        self._u = np.empty((5, n), np.uint64)
        self._fields = (0, 1, 4)
        self._feedback_low = np.ascontiguousarray(self._low[self._fields, :])
        self._feedback_high = np.ascontiguousarray(self._high[self._fields, :])
        self._feedback_span = np.ascontiguousarray(self._span[self._fields, :])
        self._feedback_top = np.ascontiguousarray(self._top[self._fields, :])
        shift = _words((40, 28, 16), n)
        self._feedback_place = np.left_shift(np.uint64(1), shift[:, 0])
        self._feedback_mask = np.left_shift(_words((0xFFFF, 0xFFF, 0xFFF), n), shift)
        self._feedback_scale = self._feedback_top * np.exp2(shift.astype(float))
        self._y = np.empty((3, n))
        self._said = tuple(self._y)
        self._v = np.empty((3, n), np.uint64)

    def encode_mit(self, q: Array, dq: Array, kp: Array, kd: Array, tau: Array) -> bytearray:
        """8 N bytes, one MIT command after the other; inputs (N,). NaN and inf are refused."""
        x, u = self._x, self._u
        q_row, dq_row, kp_row, kd_row, tau_row = self._rows
        q_row[...] = q
        dq_row[...] = dq
        kp_row[...] = kp
        kd_row[...] = kd
        tau_row[...] = tau
        if not math.isfinite(np.add.reduce(x, axis=None)):
            raise ValueError(f"MIT command is not finite: {x.tolist()}")
        np.maximum(x, self._floor, out=x)
        np.minimum(x, self._ceiling, out=x)
        np.subtract(x, self._low, out=x)
        np.divide(x, self._span, out=x)
        np.multiply(x, self._top, out=x)
        u[...] = x
        return bytearray(self._place.dot(u).astype(_WIRE))

    def decode_mit(self, data: bytes | bytearray) -> Array:
        """(5, N): q, dq, kp, kd, tau of N commands, as a motor understands them."""
        u, x = self._u, np.empty((5, self._n))
        np.bitwise_and(np.frombuffer(data, _WIRE).astype(np.uint64), self._mask, out=u)
        x[...] = u
        np.divide(x, self._scale, out=x)
        np.multiply(x, self._span, out=x)
        np.add(x, self._low, out=x)
        return x

    def encode_feedback(
        self, header: npt.NDArray[np.uint64], q: Array, dq: Array, tau: Array
    ) -> bytearray:
        """8 N bytes, one feedback after the other; `header` (N,) from `feedback_header`."""
        y, v = self._y, self._v
        q_row, dq_row, tau_row = self._said
        q_row[...] = q
        dq_row[...] = dq
        tau_row[...] = tau
        np.maximum(y, self._feedback_low, out=y)
        np.minimum(y, self._feedback_high, out=y)
        np.subtract(y, self._feedback_low, out=y)
        np.divide(y, self._feedback_span, out=y)
        np.multiply(y, self._feedback_top, out=y)
        v[...] = y
        words = self._feedback_place.dot(v)
        return bytearray((words + header).astype(_WIRE))

    def decode_feedback(self, data: bytes | bytearray) -> ArmFeedback:
        """Feedback of N motors from their frames, 8 N bytes in motor order."""
        octets = np.frombuffer(data, np.uint8).reshape(self._n, 8)
        v, y = self._v, np.empty((3, self._n))
        np.bitwise_and(np.frombuffer(data, _WIRE).astype(np.uint64), self._feedback_mask, out=v)
        y[...] = v
        np.divide(y, self._feedback_scale, out=y)
        np.multiply(y, self._feedback_span, out=y)
        np.add(y, self._feedback_low, out=y)
        head = octets[:, 0]
        return ArmFeedback(
            head & _LOW_NIBBLE, head >> _FOUR, y[0], y[1], y[2], octets[:, 6], octets[:, 7]
        )


def feedback_header(motor: int, status: int, temp_mos: float, temp_rotor: float) -> int:
    """The bits of a feedback that change rarely: status, low id bits, temperatures [°C]."""
    mos, rotor = (int(min(max(t, 0.0), 255.0)) for t in (temp_mos, temp_rotor))
    return (status << 4 | motor & 0xF) << 56 | mos << 8 | rotor


def _words(values: Sequence[int], n: int) -> npt.NDArray[np.uint64]:
    return np.repeat(np.array(values, np.uint64)[:, None], n, axis=1)
