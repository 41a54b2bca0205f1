"""What an arm's state and frames say about its faults: values in, a fault or None out.

Units: rad, s, °C; arrays (N,) in motor order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import can
import numpy as np
import numpy.typing as npt

from fleet.can import frames
from fleet.can.faults import ArmFault, ArmState, FaultKind, MotorTrouble
from fleet.can.frames import Array, Status
from fleet.can.motors import MotorAddress

POSE_MARGIN_RAD = 0.1

Joints = Iterable[int] | npt.NDArray[np.intp]


class Checks:
    """The checks of one arm, which know its motors and its name."""

    def __init__(self, arm: str, motors: Sequence[MotorAddress], limits: tuple[Array, Array]):
        self._arm = arm
        self._motors = tuple(motors)
        self._low, self._high = limits[0] - POSE_MARGIN_RAD, limits[1] + POSE_MARGIN_RAD

    def fault(self, kind: FaultKind, joints: Joints, evidence: str, hint: str = "") -> ArmFault:
        """A fault of this arm, joints by index."""
        names = tuple(self._motors[int(i)].joint for i in joints)
        return ArmFault(kind, self._arm, names, evidence, hint)

    def motors(self, state: ArmState) -> ArmFault | None:
        """Motors that report a fault: all named, with temperatures."""
        faulted = np.flatnonzero(state.status > Status.ENABLED)
        if not len(faulted):
            return None
        found = tuple(
            MotorTrouble(
                self._motors[i].joint,
                int(state.status[i]),
                int(state.temp_mos[i]),
                int(state.temp_rotor[i]),
            )
            for i in faulted
        )
        evidence = "; ".join(
            f"{m.joint}: {frames.status_name(m.status)}, "
            f"MOS {m.temp_mos} °C, coil {m.temp_rotor} °C"
            for m in found
        )
        weak = all(m.status == Status.UNDER_VOLTAGE for m in found)
        return ArmFault(
            FaultKind.UNDER_VOLTAGE if weak else FaultKind.MOTOR,
            self._arm,
            tuple(m.joint for m in found),
            evidence,
            motors=found,
        )

    def still_enabled(self, state: ArmState) -> ArmFault | None:
        """Motors that are off although they were switched on."""
        off = np.flatnonzero(state.status != Status.ENABLED)
        if not len(off):
            return None
        return self.fault(
            FaultKind.DISABLED, off, "the motor reports disabled although it was enabled"
        )

    def pose(self, state: ArmState) -> ArmFault | None:
        """Joints outside their limits: also what a joint parked beyond half a turn reads."""
        outside = np.flatnonzero((state.q < self._low) | (state.q > self._high))
        if not len(outside):
            return None
        evidence = "; ".join(f"{self._motors[i].joint} at {state.q[i]:.3f} rad" for i in outside)
        return self.fault(FaultKind.POSE, outside, evidence)

    def silence(self, state: ArmState, after_s: float) -> ArmFault | None:
        """Motors not believably heard for longer than `after_s`."""
        silent = np.flatnonzero(state.age_s > after_s)
        if not len(silent):
            return None
        ages = ", ".join(f"{1e3 * state.age_s[i]:.0f} ms" for i in silent)
        return self.fault(FaultKind.SILENT, silent, f"last believable feedback {ages} ago")

    def stray(self, msg: can.Message | None) -> ArmFault | None:
        """A frame that is none of this arm's."""
        if msg is None:
            return None
        says = f"frame {msg.arbitration_id:#05x} {msg.data.hex()} is none of this arm's"
        return self.fault(FaultKind.FOREIGN, (), says)

    def unanswered(
        self, joints: Sequence[int], misplaced: dict[int, int], evidence: str
    ) -> ArmFault:
        """Motors that did not answer at connect: silent, or answering on an id not theirs."""
        at = {i: misplaced.get(self._motors[i].esc_id & 0xF) for i in joints}
        elsewhere = [i for i in joints if at[i] is not None]
        if not elsewhere:
            return self.fault(
                FaultKind.SILENT,
                joints,
                evidence,
                "check power, the cable before the first silent joint, and the motor's MST_ID",
            )
        says = "; ".join(
            f"{self._motors[i].joint} answers on {at[i]:#05x}, not {self._motors[i].mst_id:#05x}"
            for i in elsewhere
        )
        return self.fault(FaultKind.MASTER_ID, elsewhere, says)
