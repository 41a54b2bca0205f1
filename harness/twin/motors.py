"""Damiao motors as their bus sees them: one frame in, at most one frame out.

Rules
- Every accepted frame is answered with one feedback on MST_ID (a register frame with its echo),
  also while disabled; a motor never speaks unasked. Registers it lacks are not answered.
- A MIT command is obeyed in mode 1 while enabled, and held until it is replaced or the motor is
  disabled, faults, loses power or its TIMEOUT (register 9, in units of 50 us, 0 = never) ends.
  Frames of the other modes are answered and not executed.
- Any fault (nibble 8..E) takes the torque off and stays until FB; FC then enables again.
- FE makes the present position zero and survives power loss; registers survive only if saved,
  which a motor does only while disabled. The turn count does not survive: after power-up a motor
  reads within half a turn of its zero.
- Feedback carries the quantisation and truncation of the real fields, in the scale of the motor's
  own PMAX, VMAX, TMAX registers. Temperatures follow I2R losses through one thermal mass, with the
  resistance that makes rated torque end at 100 °C from 25 °C; the driver stage warms half as much.

Units: rad, rad/s, Nm, s, °C. Motor position = joint position - zero. Time is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fleet.can import frames
from fleet.can.frames import (
    PARAMETER_ID,
    POS_FORCE_OFFSET,
    POS_VEL_OFFSET,
    READ,
    REFRESH,
    SAVE,
    VEL_OFFSET,
    WRITE,
    ArmCodec,
    Array,
    Ranges,
    Special,
    Status,
)
from fleet.can.motors import (
    MODE_MIT,
    OPENARM_MOTORS,
    TIMEOUT_UNIT_S,
    WRITABLE,
    MotorAddress,
    Register,
)

Sense = Callable[[], tuple[Array, Array, Array]]
"""Joint positions [rad], speeds [rad/s] and motor torques [Nm] now, each (N,)."""

Reply = tuple[int, bytearray]

AMBIENT, RATED_RISE, MOS_SHARE, MOS_LIMIT = 25.0, 75.0, 0.5, 120.0
HEAT_CAPACITY = 450.0
"""J/(kg K), between copper's and aluminium's."""

_OTHER_MODES = (POS_VEL_OFFSET, VEL_OFFSET, POS_FORCE_OFFSET)
_NO_REPLY = -1
_SPECIAL = int(Special.CLEAR_ERROR)
_EIGHT = np.uint64(8)


class MotorBank:
    """The motors of one bus. Motors are named by index, in the order of `addresses`."""

    def __init__(self, sense: Sense, addresses: Sequence[MotorAddress] = OPENARM_MOTORS) -> None:
        n = len(addresses)
        self.addresses = tuple(addresses)
        self.zero = np.zeros(n)
        """Joint position at which each motor reads 0 [rad]; the only thing FE changes."""
        self.coil = np.full(n, AMBIENT)
        self.saves = 0
        """Flash writes so far; a real motor bears about 10 000."""
        self.touched = True
        """Set when what the motors do may have changed; whoever drives physics clears it."""
        self._sense = sense
        self._n = n
        self._status = [int(Status.DISABLED)] * n
        self._muted = [False] * n
        self._obeys = [False] * n
        self._all_obey = False
        self._fed_at = [0.0] * n
        self.watched: tuple[int, ...] = ()
        """Motors with a TIMEOUT set, for which `watch` has to be called."""
        self._parts = tuple(slice(8 * i, 8 * i + 8) for i in range(n))
        self._obedient: dict[int, tuple[int, slice]] = {}
        """By the id they listen on: motors that hear and obey MIT commands."""
        self._commands = bytearray(8 * n)
        self._feedback = bytearray(8 * n)
        self._labels = np.zeros(n, np.uint64)
        self._stale = True
        self._flash = [self._factory(address) for address in addresses]
        self._ram = [dict(registers) for registers in self._flash]
        kinds = [address.type for address in addresses]
        constant = np.array([kind.torque_constant for kind in kinds])
        self._loss = np.array([kind.phase_resistance for kind in kinds]) / constant**2
        rated = self._loss * np.array([kind.rated_torque for kind in kinds]) ** 2
        self._thermal = RATED_RISE / rated
        self._lag = self._thermal * np.array([kind.mass for kind in kinds]) * HEAT_CAPACITY
        self._load_registers()

    # -- the bus side

    def receive(self, identifier: int, data: bytes | bytearray, now: float) -> Reply | None:
        """One frame from the bus at time `now` [s]; the answer as (id, data), if there is one."""
        obedient = self._obedient.get(identifier)
        if obedient is not None and len(data) == 8 and data[7] < _SPECIAL:
            slot, part = obedient
            self._commands[part] = data
            self.touched = True
            self._fed_at[slot] = now
            return self._answer(slot)
        return self._receive_any(identifier, data, now)

    # -- the physics side

    def moved(self) -> None:
        """Physics has advanced: the next feedback must be sensed anew."""
        self._stale = True

    def drive(self) -> tuple[Array, Array, Array]:
        """kp, kd, and kp q_des + kd dq_des + tau_ff in joint positions; zeros where torque is off.

        Clears `touched`. Each (N,).
        """
        self.touched = False
        q, dq, kp, kd, tau = self._codec.decode_mit(self._commands)
        if self._all_obey:
            return kp, kd, kp * (q + self.zero) + kd * dq + tau
        on = np.array(self._obeys)
        kp *= on
        kd *= on
        return kp, kd, (kp * (q + self.zero) + kd * dq + tau) * on

    def watch(self, now: float) -> None:
        """Trip the watchdog of each motor that has heard nothing for its TIMEOUT."""
        for slot in self.watched:
            limit = self._ram[slot][Register.TIMEOUT] * TIMEOUT_UNIT_S
            if self._status[slot] == Status.ENABLED and now - self._fed_at[slot] > limit:
                self.fail(slot, Status.COMMUNICATION_LOST)

    def heat(self, tau: Array, seconds: float) -> None:
        """Warm and cool over `seconds` at torque `tau` (N,); motors that get too hot fault."""
        final = AMBIENT + self._loss * tau**2 * self._thermal
        self.coil += (final - self.coil) * -np.expm1(-seconds / self._lag)
        too_hot = self.coil >= self._coil_limit
        for slot in np.flatnonzero(too_hot | (self.mos >= MOS_LIMIT)):
            if self._status[slot] == Status.ENABLED:
                coil = Status.COIL_OVER_TEMPERATURE
                self.fail(int(slot), coil if too_hot[slot] else Status.MOS_OVER_TEMPERATURE)
        self._relabel()

    @property
    def mos(self) -> Array:
        """Driver stage temperatures (N,) [°C]."""
        return AMBIENT + MOS_SHARE * (self.coil - AMBIENT)

    @property
    def any_enabled(self) -> bool:
        return Status.ENABLED in self._status

    # -- what happens to motors

    def fail(self, slot: int, status: Status) -> None:
        """The motor faults: torque off, nibble set until cleared."""
        self._set_status(slot, status)

    def mute(self, slot: int, muted: bool = True) -> None:
        """Break the motor's data line: it hears and says nothing, and goes on as it was."""
        self._muted[slot] = muted
        self._list_obedient()

    def power_cycle(self) -> None:
        """Supply off and on: torque off, unsaved registers and turn counts lost, faults gone."""
        q = self._sense()[0]
        self.zero += 2.0 * np.pi * np.round((q - self.zero) / (2.0 * np.pi))
        self._ram = [dict(registers) for registers in self._flash]
        for slot in range(self._n):
            self._set_status(slot, Status.DISABLED)
        self._load_registers()

    # -- inside

    def _receive_any(self, identifier: int, data: bytes | bytearray, now: float) -> Reply | None:
        """`receive`, for frames that are not a command to a motor that obeys."""
        slot = self._by_id.get(identifier)
        if slot is None:
            if identifier == PARAMETER_ID and len(data) == 8:
                return self._parameter(data, now)
            return None
        if self._muted[slot]:
            return None
        if len(data) != 8:
            if identifier < POS_VEL_OFFSET:
                return None
        elif identifier < POS_VEL_OFFSET:
            code = frames.special_code(data)
            if code is not None:
                self._special(slot, code)
            elif self._obeys[slot]:
                self._commands[self._parts[slot]] = data
                self.touched = True
        self._fed_at[slot] = now
        return self._answer(slot)

    def _answer(self, slot: int) -> Reply:
        if self._stale:
            q, dq, tau = self._sense()
            self._feedback = self._codec.encode_feedback(self._header, q - self.zero, dq, tau)
            self._stale = False
        return self._reply_id[slot], self._feedback[self._parts[slot]]

    def _special(self, slot: int, code: Special) -> None:
        status = self._status[slot]
        if code is Special.SET_ZERO:
            self.zero[slot] = self._sense()[0][slot]
        elif code is Special.CLEAR_ERROR:
            if status > Status.ENABLED:
                self._set_status(slot, Status.DISABLED)
        elif status <= Status.ENABLED:
            on = code is Special.ENABLE
            self._set_status(slot, Status.ENABLED if on else Status.DISABLED)
        self._stale = True

    def _set_status(self, slot: int, status: Status) -> None:
        if not (status == Status.ENABLED == self._status[slot]):
            part = self._parts[slot]
            self._commands[part] = self._idle[part]
        self._status[slot] = int(status)
        self._obeys[slot] = (
            status == Status.ENABLED and self._ram[slot][Register.CTRL_MODE] == MODE_MIT
        )
        self._list_obedient()
        esc_id = int(self._ram[slot][Register.ESC_ID])
        self._labels[slot] = frames.feedback_header(esc_id, status, 0.0, 0.0)
        self.touched = True
        self._relabel()

    def _list_obedient(self) -> None:
        self._all_obey = all(self._obeys)
        self._obedient = {
            identifier: (slot, self._parts[slot])
            for identifier, slot in self._by_id.items()
            if identifier < POS_VEL_OFFSET and self._obeys[slot] and not self._muted[slot]
        }

    def _relabel(self) -> None:
        celsius = np.minimum(np.maximum((self.mos, self.coil), 0.0), 255.0).astype(np.uint64)
        self._header = self._labels | celsius[0] << _EIGHT | celsius[1]
        self._stale = True

    def _parameter(self, data: bytes | bytearray, now: float) -> Reply | None:
        slot = self._by_id.get(data[0] | data[1] << 8, _NO_REPLY)
        if slot == _NO_REPLY or self._muted[slot]:
            return None
        command, register, ram = data[2], data[3], self._ram[slot]
        self._fed_at[slot] = now
        if command == REFRESH:
            return self._answer(slot)
        reply_id, echo = self._reply_id[slot], bytearray(data)
        if command == READ and register in ram:
            echo[4:8] = frames.pack_value(register, ram[register])
        elif command == WRITE and register in ram and register in WRITABLE:
            ram[register] = frames.unpack_value(register, data[4:8])
            self._load_registers()
        elif command == SAVE and self._status[slot] != Status.ENABLED:
            self._flash[slot] = dict(ram)
            self.saves += 1
        else:
            return None
        return reply_id, echo

    def _load_registers(self) -> None:
        """Take over what the registers in RAM say: ids, mode, watchdogs, full scales."""
        self._by_id: dict[int, int] = {}
        for slot, ram in enumerate(self._ram):
            esc_id = int(ram[Register.ESC_ID])
            for offset in (0, *_OTHER_MODES):
                self._by_id[esc_id + offset] = slot
        self._reply_id = [int(ram[Register.MST_ID]) for ram in self._ram]
        self._coil_limit = np.array([ram[Register.OT_VALUE] for ram in self._ram])
        self.watched = tuple(i for i, ram in enumerate(self._ram) if ram[Register.TIMEOUT] > 0)
        self._codec = ArmCodec(
            [
                Ranges(ram[Register.PMAX], ram[Register.VMAX], ram[Register.TMAX])
                for ram in self._ram
            ]
        )
        none = np.zeros(self._n)
        self._idle = self._codec.encode_mit(none, none, none, none, none)
        for slot in range(self._n):
            self._set_status(slot, Status(self._status[slot]))

    @staticmethod
    def _factory(address: MotorAddress) -> dict[int, float]:
        scale = address.type.ranges
        return {
            Register.UV_VALUE: 15.0,
            Register.OT_VALUE: 100.0,
            Register.OC_VALUE: 0.8,
            Register.MST_ID: address.mst_id,
            Register.ESC_ID: address.esc_id,
            Register.TIMEOUT: 0,
            Register.CTRL_MODE: MODE_MIT,
            Register.GEAR: float(address.type.gear),
            Register.PMAX: scale.pmax,
            Register.VMAX: scale.vmax,
            Register.TMAX: scale.tmax,
            Register.OV_VALUE: 32.0,
            Register.CAN_BAUD: 9,
        }
