"""One arm: eight Damiao motors on one CAN bus. A robot with two arms has two buses, two of these.

Rules
- `connect` moves nothing: it asks each motor for one feedback (0xCC), reads PMAX, VMAX, TMAX and
  CTRL_MODE from the motors themselves, waits for 20 samples that agree, and refuses a pose outside
  the joint limits (after power-up a joint parked beyond half a turn reads 360° off).
- `exchange` is one pass: eight MIT commands out, eight feedbacks in. Between passes each motor goes
  on obeying its last command, for ever if nobody stops it (register TIMEOUT is 0 as shipped).
- What is believed of the frames is fleet/can/link.py; positions are the caller's (fleet/safety).
- Faults are sticky. The first is raised, and raised again by every `exchange` until `clear_faults`
  or a new `connect`, which are a person's decision. After a fault nothing is sent by itself:
  healthy motors hold their last command, faulted ones are limp. `disable` works in any state.

Units: rad, rad/s, Nm, °C, s. Arrays are (8,): joint1..joint7, gripper.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import can
import numpy as np
import numpy.typing as npt

from fleet.can import frames
from fleet.can.faults import ArmFault, ArmState, Counters, FaultKind
from fleet.can.frames import Array, Ranges, Special, Status
from fleet.can.link import MotorLink
from fleet.can.motors import MODE_MIT, OPENARM_MOTORS, MotorAddress, Register, joint_limits
from registry.errors import Refused, ServiceFailed

__all__ = ["Arm", "ArmFault", "ArmState", "Counters", "FaultKind"]

SILENT_AFTER_S = 0.2
REPLY_WINDOW_S = 0.002
SETTLED_SAMPLES, SAMPLE_PERIOD_S, SETTLED_WITHIN_RAD = 20, 0.01, 0.01
POSE_MARGIN_RAD = 0.1
LOWERING_KD = 2.0
TRIES = 10


class Arm:
    """Drives one arm over one bus; not for use from two threads."""

    def __init__(
        self,
        bus: can.BusABC,
        *,
        name: str = "right",
        motors: Sequence[MotorAddress] = OPENARM_MOTORS,
        limits: tuple[Array, Array] | None = None,
        fd: bool = False,
        reply_window_s: float = REPLY_WINDOW_S,
        silent_after_s: float = SILENT_AFTER_S,
    ) -> None:
        """`limits`: (low, high) of each joint [rad]; by default the OpenArm v2 arm `name`."""
        self.bus = bus
        self.name = name
        self.motors = tuple(motors)
        self.q_min, self.q_max = limits if limits is not None else joint_limits(name)
        self.fault: ArmFault | None = None
        self.connected = False
        self.enabled = False
        self._link = MotorLink(bus, motors, fd=fd)
        self.now = self._link.now
        self._window = reply_window_s
        self._silent_after = silent_after_s
        self._modes: tuple[float, ...] = ()
        self._state: ArmState | None = None

    @property
    def state(self) -> ArmState:
        """The newest state; only after `connect`."""
        if self._state is None:
            raise Refused(f"{self.name} arm is not connected", hint="call connect() first")
        return self._state

    @property
    def ranges(self) -> tuple[Ranges, ...]:
        """Full scale of each motor, as the motors said at connect."""
        return self._link.ranges

    @property
    def counters(self) -> Counters:
        """Frames sent, received, missed, rejected."""
        return self._link.counters

    def connect(self) -> ArmState:
        """Find all motors, read their scales, see them at rest inside their limits. Moves nothing.

        An arm whose motors are all enabled already is taken over as it stands.
        Raises ArmFault: silent, motor, unsettled, pose, foreign, bus.
        """
        self.fault = None
        self.connected = self.enabled = False
        try:
            self._link.forget()
            self._answer_all()
            self._link.set_ranges([self._read_ranges(motor) for motor in self.motors])
            self._modes = tuple(self.read_register(m, Register.CTRL_MODE) for m in self.motors)
            self._link.forget()
            self._answer_all()
            state = self._settle()
        except can.CanError as error:
            raise self._bus_fault(error) from error
        self._check_motors(state)
        self._check_pose(state)
        self._check_stray()
        self.connected = True
        self.enabled = bool((state.status == Status.ENABLED).all())
        return state

    def enable(self) -> ArmState:
        """Switch all motors on, in MIT mode; they are limp until the first `exchange`.

        The caller's first command should hold `state.q`. Raises ArmFault, Refused.
        """
        if self.fault is not None:
            raise self.fault
        self._check_pose(self.state)
        for motor, mode in zip(self.motors, self._modes, strict=True):
            if mode != MODE_MIT:
                self.write_register(motor, Register.CTRL_MODE, MODE_MIT)
        self._modes = (MODE_MIT,) * len(self.motors)
        state = self._switch(Special.ENABLE)
        self.enabled = True
        return state

    def disable(self, lower_s: float = 0.0) -> ArmState:
        """Switch all motors off: from here the arm hangs on friction alone, and a raised arm falls.

        `lower_s` first gives it that long to sink against damping (kp 0, kd 2 Nm s/rad). To keep an
        arm where it is, do not call this: the motors hold their last command.
        Works with a fault standing. Raises ArmFault if a motor does not confirm.
        """
        self.enabled = False
        zero, kd = np.zeros(len(self.motors)), np.full(len(self.motors), LOWERING_KD)
        until = self.now() + lower_s
        while until - self.now() > 1e-9:
            self._link.send_mit(zero, zero, zero, kd, zero)
            self._link.collect(self._window)
            self._link.wait(SAMPLE_PERIOD_S / 2)
        return self._switch(Special.DISABLE)

    def exchange(self, q: Array, dq: Array, kp: Array, kd: Array, tau: Array) -> ArmState:
        """Send one MIT command to each motor and read one feedback from each; all (8,).

        Raises ArmFault (sticky), Refused if not enabled, ValueError if a value is not finite.
        """
        if self.fault is not None:
            raise self.fault
        if not self.enabled:
            raise Refused(f"{self.name} arm is not enabled", hint="call enable() first")
        link = self._link
        try:
            link.drain()
            link.send_mit(q, dq, kp, kd, tau)
            heard = link.collect(self._window)
        except can.CanError as error:
            raise self._bus_fault(error) from error
        self._state = state = link.state()
        if not link.healthy:
            self._check_motors(state)
            self._check_still_enabled(state)
        if heard != link.everyone or link.doubted:
            self._check_silence(state)
        if link.stray is not None:
            self._check_stray()
        return state

    def refresh(self) -> ArmState:
        """Ask for feedback without commanding anything. Raises no standing faults, only: bus."""
        try:
            return self._ask(self._window)[0]
        except can.CanError as error:
            raise self._bus_fault(error) from error

    def clear_faults(self) -> ArmState:
        """A person's decision: clear the motors' faults and ours. The arm is disabled after it.

        Raises ArmFault if the cause persists.
        """
        self.enabled = False
        self.fault = None
        self._link.stray = None
        for motor in self.motors:
            self._link.send(motor.esc_id, frames.special(Special.CLEAR_ERROR))
        self._link.collect(SAMPLE_PERIOD_S)
        state = self._switch(Special.DISABLE)
        self._check_motors(state)
        return state

    def read_register(self, motor: MotorAddress, register: Register) -> float:
        """A register's value from the motor. Raises ArmFault if it does not answer."""
        return self._parameter(motor, register, frames.read_register(motor.esc_id, register))

    def write_register(self, motor: MotorAddress, register: Register, value: float) -> None:
        """Set a register in RAM; lost at power-off. Raises ArmFault if not acknowledged."""
        data = frames.write_register(motor.esc_id, register, value)
        echoed = self._parameter(motor, register, data)
        if frames.pack_value(register, echoed) != data[4:8]:
            raise ServiceFailed(
                f"{self.name} {motor.joint} did not take register {register.name}",
                evidence=f"sent {value}, it answered {echoed}",
            )

    def wait(self, seconds: float) -> None:
        """Let bus time pass, taking in what arrives. Raises ArmFault: bus."""
        try:
            self._link.wait(seconds)
        except can.CanError as error:
            raise self._bus_fault(error) from error

    def close(self) -> None:
        """Let go of the bus. Does not disable: motors hold their last command."""
        self.bus.shutdown()

    # -- slow paths

    def _ask(self, window_s: float) -> tuple[ArmState, int]:
        heard = self._link.ask_all(window_s)
        self._state = self._link.state()
        return self._state, heard

    def _answer_all(self) -> None:
        answered = 0
        for _ in range(TRIES):
            answered |= self._link.ask_all(SAMPLE_PERIOD_S)
            if answered == self._link.everyone:
                return
            self._link.wait(SAMPLE_PERIOD_S)
        stray = self._link.stray
        also = f"; a stranger answered on {stray.arbitration_id:#05x}" if stray else ""
        raise self._stick(
            FaultKind.SILENT,
            self._link.bits(self._link.everyone & ~answered),
            f"no answer to {TRIES} requests{also}",
            "check power, the cable before the first silent joint, and the motor's MST_ID",
        )

    def _settle(self) -> ArmState:
        history: list[Array] = []
        spread = np.full(len(self.motors), np.inf)
        for _ in range(10 * SETTLED_SAMPLES):
            started = self.now()
            state, heard = self._ask(SAMPLE_PERIOD_S)
            history = [*history, state.q][-SETTLED_SAMPLES:] if heard == self._link.everyone else []
            if len(history) == SETTLED_SAMPLES:
                spread = np.ptp(np.array(history), axis=0)
                if (spread < SETTLED_WITHIN_RAD).all():
                    return state
            self._link.wait(started + SAMPLE_PERIOD_S - self.now())
        raise self._stick(
            FaultKind.UNSETTLED,
            np.flatnonzero(spread >= SETTLED_WITHIN_RAD),
            f"spread over {SETTLED_SAMPLES} samples: {np.round(spread, 3).tolist()} rad",
            "let the arm come to rest before connecting",
        )

    def _read_ranges(self, motor: MotorAddress) -> Ranges:
        return Ranges(
            self.read_register(motor, Register.PMAX),
            self.read_register(motor, Register.VMAX),
            self.read_register(motor, Register.TMAX),
        )

    def _parameter(self, motor: MotorAddress, register: Register, data: bytes) -> float:
        for _ in range(TRIES):
            value = self._link.parameter(motor, register, data, SAMPLE_PERIOD_S)
            if value is not None:
                return value
        raise self._stick(
            FaultKind.SILENT,
            [self.motors.index(motor)],
            f"register {register.name} was asked {TRIES} times and not answered",
            "check the motor's firmware and the bus",
        )

    def _switch(self, code: Special) -> ArmState:
        """Send enable or disable until every motor confirms. A motor in fault is off already."""
        for _ in range(TRIES):
            for motor in self.motors:
                self._link.send(motor.esc_id, frames.special(code))
            self._link.collect(SAMPLE_PERIOD_S)
            state, heard = self._ask(SAMPLE_PERIOD_S)
            on = state.status == Status.ENABLED
            done = on if code is Special.ENABLE else ~on
            if heard == self._link.everyone and done.all():
                return state
            self._link.wait(SAMPLE_PERIOD_S)
        if code is Special.ENABLE:
            self._check_motors(state)
        raise self._stick(
            FaultKind.SILENT,
            np.flatnonzero(~done | (state.age_s > 2 * SAMPLE_PERIOD_S)),
            f"{code.name.lower()} was sent {TRIES} times and not confirmed",
            "keep clear of the arm and switch its power off by hand",
        )

    # -- faults

    def _check_motors(self, state: ArmState) -> None:
        faulted = np.flatnonzero(state.status > Status.ENABLED)
        if len(faulted):
            says = [
                f"{self.motors[i].joint}: {frames.status_name(int(state.status[i]))}, "
                f"MOS {state.temp_mos[i]} °C, coil {state.temp_rotor[i]} °C"
                for i in faulted
            ]
            raise self._stick(
                FaultKind.MOTOR, faulted, "; ".join(says), "find the cause, then clear the fault"
            )

    def _check_still_enabled(self, state: ArmState) -> None:
        raise self._stick(
            FaultKind.DISABLED,
            np.flatnonzero(state.status != Status.ENABLED),
            "the motor reports disabled although it was enabled",
            "check its power and that no other program uses this bus",
        )

    def _check_pose(self, state: ArmState) -> None:
        low, high = self.q_min - POSE_MARGIN_RAD, self.q_max + POSE_MARGIN_RAD
        outside = np.flatnonzero((state.q < low) | (state.q > high))
        if len(outside):
            says = [f"{self.motors[i].joint} at {state.q[i]:.3f} rad" for i in outside]
            raise self._stick(
                FaultKind.POSE,
                outside,
                "; ".join(says),
                "move the joint into its range by hand, then switch its motor off and on",
            )

    def _check_silence(self, state: ArmState) -> None:
        silent = np.flatnonzero(state.age_s > self._silent_after)
        if len(silent):
            ages = ", ".join(f"{1e3 * state.age_s[i]:.0f} ms" for i in silent)
            raise self._stick(
                FaultKind.SILENT,
                silent,
                f"last believable feedback {ages} ago",
                "check the cable and connector before this joint",
            )

    def _check_stray(self) -> None:
        stray = self._link.stray
        if stray is not None:
            raise self._stick(
                FaultKind.FOREIGN,
                (),
                f"frame {stray.arbitration_id:#05x} {stray.data.hex()} is none of this arm's",
                "one program owns a bus: stop the other, or correct the motor's MST_ID",
            )

    def _bus_fault(self, error: can.CanError) -> ArmFault:
        return self._stick(
            FaultKind.BUS, (), str(error), "see that the adapter is there and the interface is up"
        )

    def _stick(
        self,
        kind: FaultKind,
        joints: Iterable[int] | npt.NDArray[np.intp],
        evidence: str,
        hint: str,
    ) -> ArmFault:
        names = tuple(self.motors[int(i)].joint for i in joints)
        self.fault = ArmFault(kind, self.name, names, evidence, hint)
        self.enabled = False
        return self.fault
