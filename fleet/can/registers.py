"""Reading, writing and saving the motors' registers, and what they say about the motors.

Rules
- A write goes to RAM, is acknowledged by its echo, and is lost at power-off.
- `save` writes a motor's RAM to flash, which bears about 10 000 of it: only while the motor is
  disabled, and once per `SAVE_INTERVAL_S`; sooner is refused, since only a loop asks so often.
  Setting zero writes flash too and counts the same.
- Full scales come from the motors (registers 21..23), never from a table.

Units: rad, rad/s, Nm, s, bit/s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fleet.can import frames
from fleet.can.faults import ArmFault, FaultKind
from fleet.can.frames import Ranges, Status
from fleet.can.link import MotorLink
from fleet.can.motors import BIT_RATES, TIMEOUT_UNIT_S, MotorAddress, Register
from registry.errors import Refused

SAVE_INTERVAL_S = 60.0
WINDOW_S = 0.01
TRIES, OPTIONAL_TRIES = 10, 2


@dataclass(frozen=True)
class MotorInfo:
    """What one motor says it is. None where its firmware does not answer that register."""

    joint: str
    ranges: Ranges
    mode: int
    timeout_s: float | None
    gear: float | None
    bit_rate: int | None
    firmware: str | None
    hardware: str | None


class Registers:
    """The registers of the motors behind one link."""

    def __init__(self, link: MotorLink, arm: str) -> None:
        self._link = link
        self._arm = arm
        self._flashed: dict[int, float] = {}

    def ask(
        self, motor: MotorAddress, register: Register, tries: int = OPTIONAL_TRIES
    ) -> float | None:
        """The register's value, or None if the motor does not answer."""
        data = frames.read_register(motor.esc_id, register)
        for _ in range(tries):
            value = self._link.parameter(motor, register, data, WINDOW_S)
            if value is not None:
                return value
        return None

    def read(self, motor: MotorAddress, register: Register) -> float:
        """The register's value. Raises ArmFault: silent."""
        value = self.ask(motor, register, TRIES)
        if value is None:
            raise self._unanswered(motor, register.name)
        return value

    def write(self, motor: MotorAddress, register: Register, value: float) -> None:
        """Set a register in RAM. Raises ArmFault: silent, or setup if it answers another value."""
        data = frames.write_register(motor.esc_id, register, value)
        for _ in range(TRIES):
            echoed = self._link.parameter(motor, register, data, WINDOW_S)
            if echoed is not None:
                break
        else:
            raise self._unanswered(motor, register.name)
        self._agrees(motor, register, data[4:8], value, echoed)

    def write_and_check(self, motor: MotorAddress, register: Register, value: float) -> None:
        """Write, then read back: an echo is not yet a value held. Raises ArmFault."""
        self.write(motor, register, value)
        held = self.read(motor, register)
        self._agrees(motor, register, frames.pack_value(register, value), value, held)

    def save(self, motor: MotorAddress) -> None:
        """Write the motor's registers to flash. Raises Refused while enabled or too soon."""
        self.may_flash(motor)
        data = frames.save_registers(motor.esc_id)
        # no retry: a lost acknowledgement must not cost a second write
        done = self._link.parameter(motor, data[3], data, 0.2)
        if done is None:
            raise self._unanswered(motor, "save")

    def may_flash(self, motor: MotorAddress) -> None:
        """Take the right to one flash write. Raises Refused while enabled or too soon."""
        slot = self._link.motors.index(motor)
        if not self._link.probe(slot, 10 * WINDOW_S) >> slot & 1:
            raise self._unanswered(motor, "refresh")
        if self._link.status(slot) == Status.ENABLED:
            raise Refused(
                f"{self._arm} {motor.joint} is enabled",
                evidence="a motor writes its flash only while disabled",
                hint="disable the arm first",
            )
        now = self._link.now()
        last = self._flashed.get(motor.esc_id, -math.inf)
        if now - last < SAVE_INTERVAL_S:
            raise Refused(
                f"{self._arm} {motor.joint} wrote its flash {now - last:.0f} s ago",
                evidence="flash bears about 10 000 writes",
                hint=f"wait {SAVE_INTERVAL_S:g} s; never save in a loop",
            )
        self._flashed[motor.esc_id] = now

    def scales(self, motor: MotorAddress) -> Ranges:
        """The motor's own full scales. Raises ArmFault: silent, or setup if senseless."""
        scales = [self.read(motor, r) for r in (Register.PMAX, Register.VMAX, Register.TMAX)]
        if not all(math.isfinite(scale) and scale > 0.0 for scale in scales):
            raise ArmFault(
                FaultKind.SETUP,
                self._arm,
                (motor.joint,),
                f"the motor says PMAX, VMAX, TMAX are {scales}",
                "set its full scales with the maker's tool",
            )
        return Ranges(*scales)

    def info(self, motor: MotorAddress) -> MotorInfo:
        """What the motor says it is. Raises ArmFault: silent, or setup for senseless scales."""
        ranges = self.scales(motor)
        mode = int(self.read(motor, Register.CTRL_MODE))
        timeout = self.ask(motor, Register.TIMEOUT)
        code = self.ask(motor, Register.CAN_BAUD)
        return MotorInfo(
            joint=motor.joint,
            ranges=ranges,
            mode=mode,
            timeout_s=None if timeout is None else timeout * TIMEOUT_UNIT_S,
            gear=self.ask(motor, Register.GEAR),
            bit_rate=None if code is None else BIT_RATES.get(int(code)),
            firmware=_text(self.ask(motor, Register.SW_VERSION)),
            hardware=_text(self.ask(motor, Register.HW_VERSION)),
        )

    def _agrees(
        self, motor: MotorAddress, register: Register, sent: bytes, value: float, got: float
    ) -> None:
        if frames.pack_value(register, got) != sent:
            raise ArmFault(
                FaultKind.SETUP,
                self._arm,
                (motor.joint,),
                f"register {register.name} was set to {value:g}, the motor says {got:g}",
            )

    def _unanswered(self, motor: MotorAddress, what: str) -> ArmFault:
        return ArmFault(
            FaultKind.SILENT,
            self._arm,
            (motor.joint,),
            f"{what} was asked for and not answered",
            "check the motor's firmware and the bus",
        )


def _text(value: float | None) -> str | None:
    """Versions are four characters in one integer, first one highest: 0x35313135 is V5115."""
    if value is None or not value:
        return None
    letters = int(value).to_bytes(4, "big").decode("ascii", "replace").strip("\0 ")
    return letters if letters.startswith("V") else f"V{letters}"
