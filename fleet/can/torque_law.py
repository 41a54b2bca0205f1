"""Whether motors give the torque that what they report would make them give.

In MIT mode a motor gives `tau + kp (q - measured q) + kd (dq - measured dq)`, up to its peak. One
that reports a position far from its command and not that torque is not where it says: its encoder
slipped, or its feedback has another scale. Who moves an arm by that tears it.

`DOUBT` of the peak for `DOUBT_S` leaves no doubt: .12 is the most that grasps on the twin show. The
gripper is left out, since what holds it is not the motor alone. Arrays (8,): rad, rad/s, Nm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fleet.can.faults import ArmState
from fleet.can.frames import Array
from fleet.can.motors import MotorAddress

DOUBT = 0.5
DOUBT_S = 0.05
NEAR_RAD = 0.08
"""No joint so near to its command can lack so much torque: a pass looks no further."""
ARM = slice(0, 7)


class TorqueLaw:
    """The law of one arm's motors, and since when one of them has not kept it."""

    def __init__(self, motors: Sequence[MotorAddress]) -> None:
        self._peak = np.array([motor.type.peak_torque for motor in motors])[ARM]
        self._since: float | None = None

    def forget(self) -> None:
        """Motors begin anew."""
        self._since = None

    def broken(
        self, state: ArmState, q: Array, dq: Array, kp: Array, kd: Array, tau: Array
    ) -> tuple[tuple[int, ...], str]:
        """The joints that do not keep it, by index, after one has not for `DOUBT_S`, and in words.

        `state` is what all motors answered to this command.
        """
        away = (q - state.q)[ARM]
        if np.abs(away).max() < NEAR_RAD:
            self._since = None
            return (), ""
        asked = kp[ARM] * away + kd[ARM] * (dq - state.dq)[ARM] + tau[ARM]
        due = np.clip(asked, -self._peak, self._peak)
        lacking = np.abs(due - state.tau[ARM])
        broken = np.flatnonzero(lacking > DOUBT * self._peak)
        if not len(broken):
            self._since = None
            return (), ""
        self._since = state.time_s if self._since is None else self._since
        if state.time_s - self._since < DOUBT_S:
            return (), ""
        says = "; ".join(
            f"reads {state.q[i]:.2f} rad where {q[i]:.2f} is commanded, and gives "
            f"{state.tau[i]:.1f} Nm, not {due[i]:.1f}"
            for i in broken
        )
        return tuple(map(int, broken)), says
