"""The slow procedures of an arm: prove the bus, find all motors, see them at rest, switch them.

Rules
- Nothing but a refresh (0xCC) goes to a bus on which no motor has answered, and one at a time: a
  refresh that is replayed when power returns moves nothing.
- First replies may be lost after a link comes up, so requests are repeated; enabling is confirmed
  by every motor's own status, and so is disabling.

Units: rad, s. Each raises ArmFault, or BUS_ERRORS if the interface is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import can
import numpy as np

from fleet.can import frames
from fleet.can.checks import Checks
from fleet.can.faults import ArmFault, ArmState, FaultKind
from fleet.can.frames import Array, Special, Status
from fleet.can.health import AT_REST_S, IN_A_TICK_S, purge
from fleet.can.link import MotorLink
from fleet.can.motors import MotorAddress
from fleet.can.registers import Registers

SETTLED_SAMPLES, SAMPLE_PERIOD_S, SETTLED_WITHIN_RAD = 20, 0.01, 0.01
SETTLES_IN_S = 5.0
ANSWERS_IN_S = 0.05  # a motor takes less than 1 ms; adapters, networks and busy hosts add theirs
ZERO_WITHIN_RAD = 0.02
TRIES = 10
QUEUE: Final[dict[bool | None, tuple[str, str]]] = {
    True: ("the transmit queue is purged", ""),
    False: (
        "the transmit queue could not be purged",
        "set the interface down and up before the motors' power returns",
    ),
    None: (
        "the transmit queue is being purged",
        "see that the interface has come up again before the motors' power returns",
    ),
}
"""What is said of it, and a hint, by what `purge` answers."""


def prove(link: MotorLink, checks: Checks) -> None:
    """Hear one motor, by one refresh; only where it is not answered, by one to the next motor."""
    for slot in range(len(link.motors)):
        if link.probe(slot, ANSWERS_IN_S):
            return
    if link.misplaced:
        raise checks.unanswered(range(len(link.motors)), link.misplaced, "")
    raise dead_bus(link, checks, "no motor answers a refresh", AT_REST_S)


def dead_bus(link: MotorLink, checks: Checks, says: str, within_s: float = IN_A_TICK_S) -> ArmFault:
    """The fault of a bus on which nobody answers; what waits to be sent is thrown away first."""
    off = link.health.off or link.bus.state is can.BusState.ERROR
    kind = FaultKind.BUS_OFF if off else FaultKind.DEAD_BUS
    queue, hint = QUEUE[purge(link.bus, within_s)]
    evidence = "; ".join(part for part in (says, queue, link.health.summary()) if part)
    return checks.fault(kind, (), evidence, hint)


def answer_all(link: MotorLink, checks: Checks) -> None:
    """Hear every motor at least once."""
    answered = 0
    for _ in range(TRIES):
        answered |= link.ask_all(ANSWERS_IN_S)
        if answered == link.everyone:
            return
        link.wait(SAMPLE_PERIOD_S)
    stray = link.stray
    also = f"; a stranger answered on {stray.arbitration_id:#05x}" if stray else ""
    missing = list(link.bits(link.everyone & ~answered))
    raise checks.unanswered(missing, link.misplaced, f"no answer to {TRIES} requests{also}")


def settle(link: MotorLink, checks: Checks) -> ArmState:
    """The state once 20 samples in a row, at least 10 ms apart, agree within 0.01 rad."""
    history: list[Array] = []
    spread = np.full(len(link.motors), np.inf)
    deadline = link.now() + SETTLES_IN_S
    while (started := link.now()) < deadline:
        heard = link.ask_all(ANSWERS_IN_S)
        state = link.state()
        history = [*history, state.q][-SETTLED_SAMPLES:] if heard == link.everyone else []
        if len(history) == SETTLED_SAMPLES:
            spread = np.ptp(np.array(history), axis=0)
            if (spread < SETTLED_WITHIN_RAD).all():
                return state
        link.wait(started + SAMPLE_PERIOD_S - link.now())
    says = f"spread over {SETTLED_SAMPLES} samples: {np.round(spread, 3).tolist()} rad"
    if not np.isfinite(spread).all():
        says = f"never were {SETTLED_SAMPLES} samples in a row answered by every motor"
    raise checks.fault(FaultKind.UNSETTLED, np.flatnonzero(spread >= SETTLED_WITHIN_RAD), says)


def switch(link: MotorLink, checks: Checks, code: Special) -> ArmState:
    """Enable or disable, until every motor confirms. A motor in fault is off already.

    A motor that is on already is not enabled again: that could cost it its command.
    """
    for _ in range(TRIES):
        _tell(link, code)
        link.collect(SAMPLE_PERIOD_S)
        heard = link.ask_all(SAMPLE_PERIOD_S)
        late = link.now() + ANSWERS_IN_S - SAMPLE_PERIOD_S
        while heard != link.everyone and link.now() < late:
            if code is Special.DISABLE:  # one silent motor keeps no other on that lost its frame
                _tell(link, code)
            heard |= link.collect(SAMPLE_PERIOD_S)
        state = link.state()
        on = state.status == Status.ENABLED
        done = on if code is Special.ENABLE else ~on
        if heard == link.everyone and done.all():
            return state
        link.wait(SAMPLE_PERIOD_S)
    fault = checks.motors(state) if code is Special.ENABLE else None
    raise fault or checks.fault(
        FaultKind.SILENT,
        sorted({*np.flatnonzero(~done), *link.bits(link.everyone & ~heard)}),
        f"{code.name.lower()} was sent {TRIES} times and not confirmed",
        "keep clear of the arm and switch its power off by hand",
    )


def _tell(link: MotorLink, code: Special) -> None:
    for i, motor in enumerate(link.motors):
        if code is not Special.ENABLE or link.status(i) != Status.ENABLED:
            link.send(motor.esc_id, frames.special(code))


def set_zero(
    link: MotorLink, checks: Checks, registers: Registers, motors: Sequence[MotorAddress]
) -> ArmState:
    """Make the present position of `motors` their zero; raises Refused where that may not be."""
    for motor in motors:
        registers.may_flash(motor)
    for code in (Special.DISABLE, Special.SET_ZERO, Special.DISABLE):
        for motor in motors:
            link.send(motor.esc_id, frames.special(code))
        link.wait(0.1)
    link.forget()
    answer_all(link, checks)
    link.ask_all(ANSWERS_IN_S)
    state = link.state()
    off = [
        i for i, m in enumerate(link.motors) if m in motors and abs(state.q[i]) > ZERO_WITHIN_RAD
    ]
    if off:
        says = ", ".join(f"{link.motors[i].joint} reads {state.q[i]:.3f} rad" for i in off)
        raise checks.fault(FaultKind.SETUP, off, f"after set zero {says}")
    return state
