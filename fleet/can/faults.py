"""What can be wrong with an arm, what follows from each, and what an arm says about itself.

- An ArmFault is sticky: raised once, raised again by every pass until a person clears it.
- A condition stops nothing: it is counted, told, and goes on.
- `RULES` says for each what the arms do, what the attempt counts as, what a person is told. It is
  the one table: fleet/runtime.py asks it, docs/faults.md is held to it by a test.

Units: rad, rad/s, Nm, °C, s; arrays are (8,): joint1..joint7, gripper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from fleet.can.frames import Array
from registry.errors import ServiceFailed


class FaultKind(StrEnum):
    MOTOR = "motor"
    """A motor reports a fault; its torque is off."""
    UNDER_VOLTAGE = "under_voltage"
    """A motor reports that its supply is too low; its torque is off."""
    DISABLED = "disabled"
    """A motor left enabled mode by itself (power loss, somebody else's command)."""
    SILENT = "silent"
    """No believable feedback from a motor for 200 ms while others answer."""
    DEAD_BUS = "dead_bus"
    """No motor answers: the motors' power is off, or the cable to all of them is."""
    BUS_OFF = "bus_off"
    """The adapter left the bus after too many transmit errors."""
    ADAPTER_LOST = "adapter_lost"
    """The interface itself failed, vanished or is down."""
    MASTER_ID = "master_id"
    """A motor answers on an id that is not its own (MST_ID, register 7)."""
    FOREIGN = "foreign"
    """A frame on the bus that is none of this arm's: another program owns the bus too."""
    POSE = "pose"
    """A joint outside its limits before motion."""
    UNSETTLED = "unsettled"
    """Positions did not come to rest at connect."""
    SETUP = "setup"
    """A motor did not take or does not hold a setting that this arm needs."""


class Condition(StrEnum):
    QUEUE_FULL = "queue_full"
    """The kernel took a frame not (ENOBUFS), and the bus lives."""
    ERROR_PASSIVE = "error_passive"
    """The adapter counts many errors; frames still pass."""
    OTHER_ARM = "other_arm"
    """The other arm of this robot is in fault."""


@dataclass(frozen=True)
class Rule:
    """What follows. `outcome` is of the attempt under way; "" lets it go on."""

    arms: str
    outcome: Literal["failure", "void", ""]
    mode: str
    told: str

    @property
    def attempt(self) -> str:
        """The outcome and failure mode as one word or two, for people."""
        return f"{self.outcome} ({self.mode})" if self.outcome else "goes on"


_LIMP = "its torque is off; the other motors hold; both arms hold"
_HOLD = "motors hold their last command; both arms hold"
_NO_START = "nothing is switched on"


def _failure(arms: str, told: str) -> Rule:
    return Rule(arms, "failure", "arm_fault", told)


def _void(arms: str, told: str) -> Rule:
    return Rule(arms, "void", "rig_fault", told)


RULES: Final[Mapping[FaultKind | Condition, Rule]] = MappingProxyType(
    {
        FaultKind.MOTOR: _failure(_LIMP, "find the cause, then clear the fault"),
        FaultKind.UNDER_VOLTAGE: _failure(
            _LIMP, "check the supply and the stop button, then clear the fault"
        ),
        FaultKind.DISABLED: _void(
            _LIMP, "check the motor's power and that no other program uses this bus"
        ),
        FaultKind.SILENT: _void(_HOLD, "check the cable and connector before this joint"),
        FaultKind.DEAD_BUS: _void(
            "commands end after 2 passes, the queue is purged, nothing is replayed; "
            "the other arm holds",
            "check the motors' power, the stop button and the bus cable, then connect again",
        ),
        FaultKind.BUS_OFF: _void(
            _HOLD, "check termination, bit rate and wiring, restart the interface, connect again"
        ),
        FaultKind.ADAPTER_LOST: _void(
            _HOLD, "see that the adapter is there and the interface is up, then connect again"
        ),
        FaultKind.MASTER_ID: _void(
            _NO_START, "write the motor's MST_ID (register 7), save it, connect again"
        ),
        FaultKind.FOREIGN: _void(_HOLD, "one program owns a bus: stop the other"),
        FaultKind.POSE: _void(
            _NO_START,
            "move the joint into its range by hand, then switch its motor off and on",
        ),
        FaultKind.UNSETTLED: _void(_NO_START, "let the arm come to rest before connecting"),
        FaultKind.SETUP: _void(_NO_START, "check the motor's firmware, then connect again"),
        Condition.QUEUE_FULL: Rule(
            "the frame is dropped and counted; the next pass sends anew",
            "",
            "",
            "nothing; `policyctl arm monitor` shows the count",
        ),
        Condition.ERROR_PASSIVE: Rule(
            "they go on; the counters are kept",
            "",
            "",
            "check termination and cables before the adapter goes bus-off",
        ),
        Condition.OTHER_ARM: _void(
            "this arm is told to hold in the same pass and holds", "see the other arm's fault"
        ),
    }
)


class MotorTrouble(NamedTuple):
    """A motor in fault: its status nibble and temperatures [°C] when it was seen."""

    joint: str
    status: int
    temp_mos: int
    temp_rotor: int


class ArmFault(ServiceFailed):
    """An arm that must not move until somebody has looked. `joints` are those concerned."""

    code = "arm_fault"

    def __init__(
        self,
        kind: FaultKind,
        arm: str,
        joints: tuple[str, ...],
        evidence: str,
        hint: str = "",
        motors: tuple[MotorTrouble, ...] = (),
    ) -> None:
        """`hint` is the table's, unless something better is known here."""
        where = f" ({', '.join(joints)})" if joints else ""
        super().__init__(
            f"{arm} arm: {kind.replace('_', ' ')} fault{where}",
            evidence=evidence,
            hint=hint or RULES[kind].told,
        )
        self.kind = kind
        self.arm = arm
        self.joints = joints
        self.motors = motors

    @property
    def rule(self) -> Rule:
        """What follows from it."""
        return RULES[self.kind]


class ArmState(NamedTuple):
    """What the motors last said, each (8,). `age_s` is how long ago; `time_s` is bus time."""

    q: Array
    dq: Array
    tau: Array
    temp_mos: npt.NDArray[np.uint8]
    temp_rotor: npt.NDArray[np.uint8]
    status: npt.NDArray[np.uint8]
    age_s: Array
    time_s: float


@dataclass
class Counters:
    """Frames since construction. `rejected`: on a motor's id, but no believable feedback.

    `send_errors`: frames the interface did not take (a full queue), dropped and never sent again.
    """

    sent: int = 0
    received: int = 0
    missed: int = 0
    rejected: int = 0
    foreign: int = 0
    error_frames: int = 0
    send_errors: int = 0
