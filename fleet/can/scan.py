"""Who is on a bus and what each motor says it is, without commanding anything.

Only refreshes (0xCC) and register reads are sent. A motor that does not answer, or answers under a
strange id, is a line of the result and no error.
"""

from __future__ import annotations

from dataclasses import dataclass

import can

from fleet.can.faults import ArmFault, ArmState
from fleet.can.link import MotorLink
from fleet.can.motors import OPENARM_MOTORS, MotorAddress
from fleet.can.registers import MotorInfo, Registers

WINDOW_S = 0.02
TRIES = 5


@dataclass(frozen=True)
class Found:
    """One motor as found. `answers_on`: the id its reply came on, None if none came."""

    motor: MotorAddress
    answers_on: int | None
    info: MotorInfo | None

    @property
    def ok(self) -> bool:
        return self.info is not None


@dataclass(frozen=True)
class Scan:
    """All motors of a bus, their state, and whether a stranger was heard."""

    motors: tuple[Found, ...]
    state: ArmState
    stray: int | None


def scan(bus: can.BusABC, *, arm: str, fd: bool = False) -> Scan:
    """Look for the eight motors of an arm. Raises BUS_ERRORS if the interface is gone."""
    link = MotorLink(bus, OPENARM_MOTORS, fd=fd)
    link.forget()
    registers = Registers(link, arm)
    found = [_find(link, registers, i, motor) for i, motor in enumerate(link.motors)]
    ranges = [f.info.ranges if f.info else f.motor.type.ranges for f in found]
    link.set_ranges(ranges)
    link.forget()
    for i, motor in enumerate(found):
        if motor.ok:
            link.probe(i, WINDOW_S)
    stray = None if link.stray is None else link.stray.arbitration_id
    return Scan(tuple(found), link.state(), stray)


def _find(link: MotorLink, registers: Registers, slot: int, motor: MotorAddress) -> Found:
    for _ in range(TRIES):
        if link.probe(slot, WINDOW_S) >> slot & 1:
            try:
                return Found(motor, motor.mst_id, registers.info(motor))
            except ArmFault:
                return Found(motor, motor.mst_id, None)
        strange = link.misplaced.pop(motor.esc_id & 0xF, None)
        if strange is not None:
            return Found(motor, strange, None)
    return Found(motor, None, None)
