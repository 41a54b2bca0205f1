"""What a servo process and its client tell each other: two blocks of memory and one line.

- Order block (client writes): number, ticks, then the policy's command (J,) [rad]. The servo goes
  there from the previous command in so many ticks. A newer order waits for the one under way.
- State block (servo writes, every tick): `State`, what the joints measure and how far the order is.
- The line is a Unix socket pair of JSON packets for everything that is not every few ticks:
  requests `{"n", "do", ...}` answered in their order by `{"n", "result"}` or `{"n", "error"}`, and
  three that are obeyed at the next tick whatever is under way: `stop`, `cancel` and `tell`. Numbers
  `n` rise; a cancel or stop ends the moves of lower numbers, also one that has not begun.
  Whoever sees the other's end closed knows that the other process is gone.

Units: rad, rad/s, Nm, °C, s; J = 8 joints an arm, arms concatenated.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import registry.errors
from fleet.can.faults import ArmFault, FaultKind, MotorTrouble
from fleet.safety import INTERVENTIONS
from registry.errors import PolicyctlError, ServiceFailed

Array = NDArray[np.float64]

PACKET = 1 << 16
"""[bytes] the longest packet of the line."""
URGENT = ("stop", "cancel", "tell")
ORDER = 2
"""Numbers of an order before the joints'."""
SCALARS = ("order", "done", "ticks", "overruns", "told", "stopped", "faulted", "hot")
PER_JOINT = ("q", "dq", "tau", "command", "temp_mos", "temp_rotor")


def order_length(joints: int) -> int:
    return ORDER + joints


def state_length(joints: int) -> int:
    return len(SCALARS) + len(INTERVENTIONS) + len(PER_JOINT) * joints


@dataclass
class State:
    """Views into one row of numbers: what is written here is in `values`."""

    values: Array
    joints: int

    @classmethod
    def blank(cls, joints: int) -> State:
        return cls(np.zeros(state_length(joints)), joints)

    def scalar(self, name: str) -> float:
        return float(self.values[SCALARS.index(name)])

    @property
    def counts(self) -> Array:
        """Interventions since `begin`, in the order of `INTERVENTIONS`."""
        return self.values[len(SCALARS) : len(SCALARS) + len(INTERVENTIONS)]

    def row(self, name: str) -> Array:
        """One of `PER_JOINT`, (J,)."""
        at = len(SCALARS) + len(INTERVENTIONS) + PER_JOINT.index(name) * self.joints
        return self.values[at : at + self.joints]


def error_to_json(error: PolicyctlError) -> dict[str, Any]:
    told: dict[str, Any] = {
        "type": type(error).__name__,
        "what": error.what,
        "evidence": error.evidence,
        "hint": error.hint,
    }
    if isinstance(error, ArmFault):
        told |= {
            "kind": str(error.kind),
            "arm": error.arm,
            "joints": list(error.joints),
            "motors": [list(map(int, motor[1:])) for motor in error.motors],
            "motor_joints": [motor.joint for motor in error.motors],
        }
    return told


def error_from_json(told: Mapping[str, Any]) -> PolicyctlError:
    """The same error on this side; one whose type is not known here is a ServiceFailed."""
    if told["type"] == ArmFault.__name__:
        motors = zip(told["motor_joints"], told["motors"], strict=True)
        return ArmFault(
            FaultKind(told["kind"]),
            told["arm"],
            tuple(told["joints"]),
            told["evidence"],
            told["hint"],
            tuple(MotorTrouble(joint, *numbers) for joint, numbers in motors),
        )
    kind = getattr(registry.errors, told["type"], ServiceFailed)
    if not (isinstance(kind, type) and issubclass(kind, PolicyctlError)) or kind in (
        registry.errors.ConfigError,
        PolicyctlError,
    ):
        kind = ServiceFailed
    return kind(told["what"], evidence=told["evidence"], hint=told["hint"])


def receive(line: socket.socket, timeout_s: float) -> bytes:
    """The next packet, b"" if the other end is closed. Raises TimeoutError."""
    if not select.select([line], [], [], timeout_s)[0]:
        raise TimeoutError
    return line.recv(PACKET)
