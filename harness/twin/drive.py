"""What motors were told last, and what they do about it: the MIT law's terms for the physics.

A command is kept as its frame has it, in the motor's own full scales, until it is replaced or taken
back (`rest`). Motors in other modes than MIT have goals instead (harness/twin/modes.py).

Units: rad, rad/s, Nm; arrays (N,) in motor order. Motor position = joint position - zero.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fleet.can.frames import ArmCodec, Array
from harness.twin import modes
from harness.twin.modes import Goal, Goals


class Drive(NamedTuple):
    """What the motors do: kp, kd, kp q_des + kd dq_des + tau_ff in joint positions, each (N,).

    Zeros where torque is off; `goals` of motors in other modes than MIT, None if there are none.
    """

    kp: Array
    kd: Array
    ctrl: Array
    goals: Goals | None


class Commands:
    """The last command of each motor of a bus."""

    def __init__(self, codec: ArmCodec) -> None:
        n = len(codec.ranges)
        self.frames = bytearray(8 * n)
        """Eight bytes a motor: its last MIT command, or one that asks for nothing."""
        self.parts = tuple(slice(8 * i, 8 * i + 8) for i in range(n))
        self.goals: dict[int, Goal] = {}
        """Of motors that obey in another mode than MIT."""
        self.obeys = [False] * n
        """Whose MIT command counts."""
        self.scale(codec)
        self.frames[:] = self._nothing

    def scale(self, codec: ArmCodec) -> None:
        """Use these full scales from now on."""
        none = np.zeros(len(codec.ranges))
        self._codec = codec
        self._nothing = codec.encode_mit(none, none, none, none, none)

    def rest(self, slot: int) -> None:
        """Take back what the motor was told."""
        self.frames[self.parts[slot]] = self._nothing[self.parts[slot]]
        self.goals.pop(slot, None)

    def drive(self, zero: Array) -> Drive:
        """What the motors do now, where motors read 0 at `zero`."""
        q, dq, kp, kd, tau = self._codec.decode_mit(self.frames)
        on = None
        if not all(self.obeys):
            on = np.array(self.obeys)
            kp *= on
            kd *= on
        # kp (q + zero) + kd dq + tau, in this order, without a new array a term
        q += zero
        q *= kp
        dq *= kd
        q += dq
        q += tau
        if on is None:
            return Drive(kp, kd, q, None)
        q *= on
        return Drive(kp, kd, q, modes.joined(self.goals, zero) if self.goals else None)
