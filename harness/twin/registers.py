"""A motor's registers: RAM, flash, what may be written, and what is measured when it is read.

Rules
- A write goes to RAM; RAM survives power only if saved. `boot` is what a power cycle does.
- The bit rate (register 35) acts from the next boot on: `data_rate` is that of the last one.
- Registers that measure (80 and 81 position, 60 supply, 61 and 62 temperature) are read live.
- What is not known of a motor (flux, serial number, calibration, loop gains) is answered with a
  plausible constant: a reader finds every register there, and nothing of ours depends on these.

Units: V, °C, rad, rad/s², ohm, A; the rest as Damiao's manuals have it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from fleet.can.motors import BIT_RATES, MODE_MIT, WRITABLE, MotorAddress, Register

OC_SHARE: Final = 0.8
"""A drive faults at this share of its maximum; the peak current is that."""
IMAX, VBUS, TPCB, TMTR, P_M, XOUT = 59, 60, 61, 62, 80, 81
CLASSIC_CODE, FD_CODE = 4, 9
"""can_br of a motor on classic CAN at 1 Mbit/s, and of one on CAN FD at 1 and 5 Mbit/s."""

_SOFTWARE = {"DM8009": "6417", "DM4340": "5117", "DM4310": "5017"}
"""Firmware that the arm's makers have tested, four characters in one integer."""
_ROTOR_INERTIA = {"DM8009": 1.0e-4, "DM4340": 1.970401e-5, "DM4310": 1.8e-5}
_POLE_PAIRS = {"DM8009": 21, "DM4340": 14, "DM4310": 14}
_INDUCTANCE = {"DM8009": 6.1e-5, "DM4340": 3.17e-4, "DM4310": 3.4e-4}

Measured = Mapping[int, Callable[[], float]]


class Registers:
    """One motor's registers by number."""

    def __init__(self, address: MotorAddress, measured: Measured, can_br: int = FD_CODE) -> None:
        self._measured = measured
        self._flash = factory(address, can_br)
        self.ram = dict(self._flash)
        self.stuck = False
        """A write is acknowledged and not held: broken firmware."""
        self.data_rate = BIT_RATES[can_br]
        """Of the last boot [bit/s]."""

    @property
    def is_fd(self) -> bool:
        """Whether the motor answers in CAN FD frames."""
        return self.data_rate > BIT_RATES[CLASSIC_CODE]

    def read(self, register: int) -> float | None:
        """The value, or None where there is no such register."""
        live = self._measured.get(register)
        return self.ram.get(register) if live is None else live()

    def write(self, register: int, value: float) -> bool:
        """True if the register is there and may be written."""
        if register not in self.ram or register not in WRITABLE:
            return False
        if not self.stuck:
            self.ram[register] = value
        return True

    def save(self) -> None:
        """RAM to flash."""
        self._flash = dict(self.ram)

    def boot(self) -> None:
        """Power comes back: what was not saved is lost."""
        self.ram = dict(self._flash)
        rate = BIT_RATES.get(int(self.ram[Register.CAN_BAUD]))
        if rate is not None:
            self.data_rate = rate


def factory(address: MotorAddress, can_br: int = FD_CODE) -> dict[int, float]:
    """A motor as OpenArm's makers deliver it."""
    kind, scale = address.type, address.type.ranges
    return {
        Register.UV_VALUE: 15.0,
        1: 0.0,
        Register.OT_VALUE: 100.0,
        Register.OC_VALUE: OC_SHARE,
        Register.ACC: 2.0,
        Register.DEC: -2.0,
        6: 600.0,
        Register.MST_ID: address.mst_id,
        Register.ESC_ID: address.esc_id,
        Register.TIMEOUT: 0,
        Register.CTRL_MODE: MODE_MIT,
        11: 1.96e-4,
        12: _ROTOR_INERTIA.get(kind.name, 2e-5),
        Register.HW_VERSION: text("V003"),
        Register.SW_VERSION: text(_SOFTWARE.get(kind.name, "5017")),
        15: 0x0A000000 + address.esc_id,
        16: _POLE_PAIRS.get(kind.name, 14),
        17: kind.phase_resistance,
        18: _INDUCTANCE.get(kind.name, 3e-4),
        19: 5.16e-3,
        Register.GEAR: float(kind.gear),
        Register.PMAX: scale.pmax,
        Register.VMAX: scale.vmax,
        Register.TMAX: scale.tmax,
        24: 1000.0,
        25: 3.7e-3,
        26: 2.0e-3,
        27: 50.0,
        28: 0.0,
        Register.OV_VALUE: 32.0,
        30: 1.0,
        31: 4.0,
        32: 10.0,
        33: 1000.0,
        34: 100.0,
        Register.CAN_BAUD: can_br,
        36: 1,
        **dict.fromkeys((50, 51, 54, 56), 0.0),
        52: 1.0,
        53: 1.0,
        55: 1.0,
        IMAX: kind.peak_current / OC_SHARE,
    }


def text(letters: str) -> int:
    """Four characters as one integer, first one highest."""
    return int.from_bytes(letters.encode("ascii"), "big")
