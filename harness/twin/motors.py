"""Damiao motors as their bus sees them: one frame in, at most one frame out.

Rules
- Every accepted frame is answered with one feedback on MST_ID (a register frame with its echo),
  also while disabled; a motor never speaks unasked. Registers it lacks are not answered.
- Answers are CAN FD frames if the motor booted with a bit rate (can_br) above 1 Mbit/s, else
  classic, whatever the command was.
- A command is obeyed in its own mode (CTRL_MODE) while enabled, and held until it is replaced or
  the motor is disabled, faults, loses power or its TIMEOUT (register 9, in units of 50 us, 0 =
  never) ends. Frames of the other modes are answered and not executed.
- Any fault (nibble 8..E) takes the torque off and stays until FB; FC then enables again. A motor
  whose supply is outside UV_VALUE..OV_VALUE faults again at once, one that is too hot soon.
- FE makes the present position zero and survives power loss; registers survive only if saved,
  which a motor does only while disabled. Flash writes are counted for ever. The turn count does
  not survive: after power-up a motor reads within half a turn of its zero.
- What a motor makes of a command is in harness/twin/drive.py, what it says in feedback.py.

Units: rad, rad/s, Nm, s, V, °C. Motor position = joint position - zero. Time is handed in.
"""

from __future__ import annotations

from collections.abc import Sequence

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
from fleet.can.motors import OPENARM_MOTORS, TIMEOUT_UNIT_S, Mode, MotorAddress, Register
from harness.twin import modes, registers
from harness.twin.drive import Commands, Drive
from harness.twin.feedback import Feedback, Sense
from harness.twin.heat import AMBIENT, MOS_LIMIT, Heat
from harness.twin.registers import Registers

__all__ = ["AMBIENT", "Drive", "MotorBank", "Reply"]

Reply = tuple[int, bytearray, bool]
"""Identifier, data, and whether it is a CAN FD frame."""

SUPPLY_V = 24.0

_OFFSETS = {
    0: Mode.MIT,
    POS_VEL_OFFSET: Mode.POS_VEL,
    VEL_OFFSET: Mode.VEL,
    POS_FORCE_OFFSET: Mode.POS_FORCE,
}
_NOBODY = (-1, Mode.MIT)
_SPECIAL = int(Special.CLEAR_ERROR)


class MotorBank:
    """The motors of one bus. Motors are named by index, in the order of `addresses`."""

    def __init__(
        self,
        sense: Sense,
        addresses: Sequence[MotorAddress] = OPENARM_MOTORS,
        *,
        can_br: int = registers.FD_CODE,
        any_frame_feeds: bool = True,
    ) -> None:
        """`any_frame_feeds`: whether reads and refreshes feed the watchdog as commands do."""
        n = len(addresses)
        self.addresses = tuple(addresses)
        self.zero = np.zeros(n)
        """Joint position at which each motor reads 0 [rad]; the only thing FE changes."""
        self.saves = 0
        """Times that registers were written to flash; a real motor bears about 10 000."""
        self.zeroings = 0
        """Times that FE wrote a zero to flash."""
        self.supply = np.full(n, SUPPLY_V)
        self.touched = True
        """Set when what the motors do may have changed; whoever drives physics clears it."""
        self.watched: tuple[int, ...] = ()
        """Motors with a TIMEOUT set, for which `watch` has to be called."""
        self._sense = sense
        self._any_frame_feeds = any_frame_feeds
        self._status = [int(Status.DISABLED)] * n
        self._muted = [False] * n
        self._powered = [True] * n
        self._fed_at = [0.0] * n
        self._obedient: dict[int, tuple[int, slice, int, bool]] = {}
        """By the id they listen on, motors that hear and obey MIT commands: which, its part of all
        frames, the id it answers on and whether in CAN FD frames."""
        self._heat = Heat([address.type for address in addresses])
        self._peak = np.array([address.type.peak_torque for address in addresses])
        codec = ArmCodec([address.type.ranges for address in addresses])
        self._commands = Commands(codec)
        self._feedback = Feedback(sense, self.zero, self._heat, codec)
        self._registers = [
            Registers(address, self._measured(slot), can_br)
            for slot, address in enumerate(addresses)
        ]
        self._load_registers()

    # -- the bus side

    def receive(self, identifier: int, data: bytes | bytearray, now: float) -> Reply | None:
        """One frame from the bus at time `now` [s]; the answer, if there is one."""
        obedient = self._obedient.get(identifier)
        if obedient is not None and len(data) == 8 and data[7] < _SPECIAL:
            slot, part, reply_id, fd = obedient
            self._commands.frames[part] = data
            self._fed_at[slot] = now
            self.touched = True
            feedback = self._feedback
            if feedback.stale:
                feedback.renew()
            return reply_id, feedback.data[part], fd
        return self._receive_any(identifier, data, now)

    @property
    def acknowledges(self) -> bool:
        """Whether any motor is there to acknowledge a frame."""
        return any(on and not mute for on, mute in zip(self._powered, self._muted, strict=True))

    # -- the physics side

    def moved(self) -> None:
        """Physics has advanced: the next feedback must be sensed anew."""
        self._feedback.stale = True

    def drive(self) -> Drive:
        """What the motors do now. Clears `touched`."""
        self.touched = False
        return self._commands.drive(self.zero)

    def watch(self, now: float) -> None:
        """Trip the watchdog of each motor that has heard nothing for its TIMEOUT."""
        for slot in self.watched:
            limit = self._registers[slot].ram[Register.TIMEOUT] * TIMEOUT_UNIT_S
            if self._status[slot] == Status.ENABLED and now - self._fed_at[slot] > limit:
                self.fail(slot, Status.COMMUNICATION_LOST)

    def heat(self, tau: Array, seconds: float) -> None:
        """Warm and cool over `seconds` at torque `tau` (N,); motors that get too hot fault."""
        self._heat.pass_time(tau, seconds)
        too_hot = self.coil >= self._coil_limit
        for slot in np.flatnonzero(too_hot | (self.mos >= MOS_LIMIT)):
            if self._status[slot] == Status.ENABLED:
                coil = Status.COIL_OVER_TEMPERATURE
                self.fail(int(slot), coil if too_hot[slot] else Status.MOS_OVER_TEMPERATURE)
        self._feedback.warmed()

    @property
    def coil(self) -> Array:
        """Coil temperatures (N,) [°C]."""
        return self._heat.coil

    @property
    def mos(self) -> Array:
        """Driver stage temperatures (N,) [°C]."""
        return self._heat.mos

    @property
    def any_enabled(self) -> bool:
        return Status.ENABLED in self._status

    @property
    def status(self) -> tuple[int, ...]:
        """The status nibble of each motor; a motor without power keeps `disabled`."""
        return tuple(self._status)

    @property
    def powered(self) -> tuple[bool, ...]:
        """Which motors have a supply."""
        return tuple(self._powered)

    def mode(self, slot: int) -> int:
        """Register CTRL_MODE."""
        return int(self._registers[slot].ram[Register.CTRL_MODE])

    # -- what happens to motors

    def fail(self, slot: int, status: Status) -> None:
        """The motor faults (or, with DISABLED, leaves enabled mode): torque off."""
        if self._powered[slot]:
            self._set_status(slot, status)

    def mute(self, slot: int, muted: bool = True) -> None:
        """Break the motor's data line: it hears and says nothing, and goes on as it was."""
        self._muted[slot] = muted
        self._list_obedient()

    def power(self, slot: int, on: bool) -> None:
        """Take a motor's supply away, or give it back: then it boots."""
        if on == self._powered[slot]:
            return
        self._powered[slot] = on
        self._set_status(slot, Status.DISABLED)
        if on:
            off_by = self._sense()[0][slot] - self.zero[slot]
            self.zero[slot] += 2.0 * np.pi * np.round(off_by / (2.0 * np.pi))
            self._registers[slot].boot()
            self._load_registers()

    def power_cycle(self) -> None:
        """Supply off and on: torque off, unsaved registers and turn counts lost, faults gone."""
        for on in (False, True):
            for slot in range(len(self.addresses)):
                self.power(slot, on)

    def warm(self, slot: int, *, coil: float | None = None, mos: float | None = None) -> None:
        """Set a motor's temperatures [°C]."""
        if coil is not None:
            self._heat.coil[slot] = coil
        if mos is not None:
            self._heat.mos[slot] = mos
        self._feedback.warmed()

    def misread(self, slot: int, offset: float = 0.0, noise: float = 0.0) -> None:
        """The reported position is wrong by `offset`, and by ±`noise` in turn [rad]; 0, 0 ends it.

        What the motor itself works with stays right.
        """
        self._feedback.misread(slot, offset, noise)

    def registers_of(self, slot: int) -> Registers:
        """A motor's registers, as an engineer's tool reaches them; then call `reload`."""
        return self._registers[slot]

    def reload(self) -> None:
        """Take over what somebody changed in a motor's registers."""
        self._load_registers()

    # -- inside

    def _receive_any(self, identifier: int, data: bytes | bytearray, now: float) -> Reply | None:
        """`receive`, for frames that are not a command to a motor that obeys."""
        slot, mode = self._by_id.get(identifier, _NOBODY)
        if slot == _NOBODY[0]:
            if identifier == PARAMETER_ID and len(data) == 8:
                return self._parameter(data, now)
            return None
        if self._deaf(slot):
            return None
        if mode is not Mode.MIT:
            if not self._other_mode(slot, mode, data):
                return None
        elif len(data) != 8:
            return None
        else:
            code = frames.special_code(data)
            if code is not None:
                self._special(slot, code)
            elif self._commands.obeys[slot]:
                self._commands.frames[self._commands.parts[slot]] = data
                self.touched = True
        self._fed_at[slot] = now
        return self._answer(slot)

    def _other_mode(self, slot: int, mode: Mode, data: bytes | bytearray) -> bool:
        """Take a POS_VEL, VEL or POS_FORCE command; False if the frame is too short for it."""
        if len(data) < (4 if mode is Mode.VEL else 8):
            return False
        ram = self._registers[slot].ram
        if self._status[slot] == Status.ENABLED and ram[Register.CTRL_MODE] == mode:
            goal = modes.decode(mode, data, ram, float(self._peak[slot]))
            if goal is not None:
                self._commands.goals[slot] = goal
                self.touched = True
        return True

    def _answer(self, slot: int) -> Reply:
        feedback = self._feedback
        if feedback.stale:
            feedback.renew()
        return self._reply_id[slot], feedback.data[self._commands.parts[slot]], self._fd[slot]

    def _special(self, slot: int, code: Special) -> None:
        status = self._status[slot]
        if code is Special.SET_ZERO:
            self.zero[slot] = self._sense()[0][slot]
            self.zeroings += 1
            self.touched = True
        elif code is Special.CLEAR_ERROR:
            if status > Status.ENABLED:
                self._set_status(slot, Status.DISABLED)
        elif status <= Status.ENABLED:
            on = code is Special.ENABLE
            self._set_status(slot, self._enabled(slot) if on else Status.DISABLED)
        self._feedback.stale = True

    def _enabled(self, slot: int) -> Status:
        """What an enable leads to: a supply out of range is a fault at once."""
        ram, volts = self._registers[slot].ram, self.supply[slot]
        if volts < ram[Register.UV_VALUE]:
            return Status.UNDER_VOLTAGE
        return Status.OVER_VOLTAGE if volts > ram[Register.OV_VALUE] else Status.ENABLED

    def _set_status(self, slot: int, status: Status) -> None:
        ram, commands = self._registers[slot].ram, self._commands
        mode = ram[Register.CTRL_MODE]
        if not (status == Status.ENABLED == self._status[slot]):
            commands.rest(slot)
        elif slot in commands.goals and commands.goals[slot].mode != mode:
            del commands.goals[slot]
        self._status[slot] = int(status)
        commands.obeys[slot] = status == Status.ENABLED and mode == Mode.MIT
        self._list_obedient()
        self._feedback.label(slot, int(ram[Register.ESC_ID]), status)
        self.touched = True

    def _deaf(self, slot: int) -> bool:
        return self._muted[slot] or not self._powered[slot]

    def _list_obedient(self) -> None:
        commands = self._commands
        self._obedient = {
            identifier: (slot, commands.parts[slot], self._reply_id[slot], self._fd[slot])
            for identifier, (slot, mode) in self._by_id.items()
            if mode is Mode.MIT and commands.obeys[slot] and not self._deaf(slot)
        }

    def _parameter(self, data: bytes | bytearray, now: float) -> Reply | None:
        slot, mode = self._by_id.get(data[0] | data[1] << 8, _NOBODY)
        if slot == _NOBODY[0] or mode is not Mode.MIT or self._deaf(slot):
            return None
        command, number, held = data[2], data[3], self._registers[slot]
        reply_id, fd, echo = self._reply_id[slot], self._fd[slot], bytearray(data)
        if self._any_frame_feeds:
            self._fed_at[slot] = now
        if command == REFRESH:
            return self._answer(slot)
        if command == READ:
            value = held.read(number)
            if value is None:
                return None
            echo[4:8] = frames.pack_value(number, value)
        elif command == WRITE:
            if not held.write(number, frames.unpack_value(number, data[4:8])):
                return None
            self._load_registers()
        elif command == SAVE and self._status[slot] != Status.ENABLED:
            held.save()
            self.saves += 1
        else:
            return None
        return reply_id, echo, fd

    def _measured(self, slot: int) -> registers.Measured:
        def position() -> float:
            return float(self._sense()[0][slot] - self.zero[slot])

        return {
            registers.VBUS: lambda: float(self.supply[slot]),
            registers.TPCB: lambda: float(self.mos[slot]),
            registers.TMTR: lambda: float(self.coil[slot]),
            registers.P_M: position,
            registers.XOUT: position,
        }

    def _load_registers(self) -> None:
        """Take over what the registers in RAM say: ids, mode, watchdogs, full scales."""
        rams = [held.ram for held in self._registers]
        self._by_id: dict[int, tuple[int, Mode]] = {}
        for slot, ram in enumerate(rams):
            for offset, mode in _OFFSETS.items():
                self._by_id[int(ram[Register.ESC_ID]) + offset] = (slot, mode)
        self._reply_id = [int(ram[Register.MST_ID]) for ram in rams]
        self._fd = [held.is_fd for held in self._registers]
        self._coil_limit = np.array([ram[Register.OT_VALUE] for ram in rams])
        self.watched = tuple(i for i, ram in enumerate(rams) if ram[Register.TIMEOUT] > 0)
        codec = ArmCodec(
            [Ranges(ram[Register.PMAX], ram[Register.VMAX], ram[Register.TMAX]) for ram in rams]
        )
        self._commands.scale(codec)
        self._feedback.scale(codec)
        for slot in range(len(self.addresses)):
            self._set_status(slot, Status(self._status[slot]))
