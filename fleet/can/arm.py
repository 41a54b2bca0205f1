"""One arm: eight Damiao motors on one CAN bus. A robot with two arms has two buses, two of these.

Rules
- `connect` moves nothing. To a bus not yet proven goes a refresh (0xCC) alone, one at a time, until
  a motor answers; if none does, the queue is purged. Then it reads what each motor is (full scales,
  mode, firmware, bit rate), waits for 20 samples that agree, and refuses a pose outside the joint
  limits (after power-up a joint parked beyond half a turn reads 360° off). It never sets zero.
- `exchange` is one pass: eight commands out, eight feedbacks in. Between passes each motor goes on
  obeying its last command; what it does when they end for good is `on_host_loss`.
- The first command after `enable` or `connect` must hold the measured pose.
- After two passes that nobody answered, passes send one refresh and no commands: nothing that could
  be replayed when power returns.
- What is believed of the frames is fleet/can/link.py, of a position fleet/can/torque_law.py; where
  to go is the caller's (fleet/safety).
- Faults are sticky. The first is raised, and raised again by every `exchange` until `clear_faults`
  or a new `connect`, which are a person's decision. After a fault nothing is sent by itself:
  healthy motors hold their last command, faulted ones are limp. `disable` works in any state.

Units: rad, rad/s, Nm, °C, s. Arrays are (8,): joint1..joint7, gripper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import can
import numpy as np

from fleet.can import frames, procedures
from fleet.can.checks import Checks
from fleet.can.commands import Command, mode_of
from fleet.can.faults import ArmFault, ArmState, Counters, FaultKind
from fleet.can.frames import Array, Ranges, Special, Status
from fleet.can.health import BUS_ERRORS, BusHealth
from fleet.can.host_loss import HostLoss, timeout_of
from fleet.can.link import MotorLink
from fleet.can.lowering import lower
from fleet.can.motors import OPENARM_MOTORS, Mode, MotorAddress, Register, joint_limits
from fleet.can.registers import MotorInfo, Registers
from fleet.can.torque_law import TorqueLaw
from registry.errors import Refused

__all__ = ["Arm", "ArmFault", "ArmState", "Counters", "FaultKind"]

SILENT_AFTER_S = 0.2
REPLY_WINDOW_S = 0.002
QUIET_PASSES = 2
FIRST_STEP_RAD = 0.35
LOWER_MOST_S = 15.0
ASK_S = 0.01


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
        on_host_loss: HostLoss | None = None,
        reply_window_s: float = REPLY_WINDOW_S,
        silent_after_s: float = SILENT_AFTER_S,
    ) -> None:
        """`limits`: (low, high) of each joint [rad]; by default the OpenArm v2 arm `name`.

        `on_host_loss` None leaves the motors' TIMEOUT as it is: for twins and tools.
        """
        self.bus = bus
        self.name = name
        self.motors = tuple(motors)
        self.q_min, self.q_max = limits if limits is not None else joint_limits(name)
        self.fault: ArmFault | None = None
        self.connected = False
        self.enabled = False
        self.info: tuple[MotorInfo, ...] = ()
        """What each motor said it is, at connect."""
        self.modes: tuple[Mode, ...] = (Mode.MIT,) * len(self.motors)
        """The modes that `enable` puts the motors in."""
        self._fd = fd
        self._checks = Checks(name, self.motors, (self.q_min, self.q_max))
        self._law = TorqueLaw(self.motors)
        self._use(bus)
        self._timeout = timeout_of(on_host_loss)
        self._window = reply_window_s
        self._silent_after = silent_after_s
        self._held: tuple[int, ...] = ()
        self._fresh = False
        self._complete = False
        """Whether the last pass was answered by all, and believably."""
        self._all_mit = True
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

    @property
    def link(self) -> MotorLink:
        """The motors' mailbox, for tools that only look."""
        return self._link

    @property
    def health(self) -> BusHealth:
        """The adapter's own troubles."""
        return self._link.health

    def connect(self) -> ArmState:
        """Prove the bus, find all motors, see them at rest inside their limits. Moves nothing.

        An arm whose motors are all enabled already is taken over as it stands.
        Raises ArmFault: dead_bus, silent, master_id, motor, unsettled, pose, foreign, setup, ...
        """
        self.fault = None
        self.connected = self.enabled = False
        with self._sticking():
            self._link.forget()
            procedures.prove(self._link, self._checks)
            procedures.answer_all(self._link, self._checks)
            self.info = tuple(self._registers.info(motor) for motor in self.motors)
            self._link.set_ranges([info.ranges for info in self.info])
            self._held = tuple(info.mode for info in self.info)
            self._link.forget()
            procedures.answer_all(self._link, self._checks)
            state = self._keep(procedures.settle(self._link, self._checks))
            self._raise(self._checks.motors(state))
            self._raise(self._checks.pose(state))
            self._raise(self._checks.stray(self._link.stray))
        self.connected = self._fresh = True
        self.enabled = bool((state.status == Status.ENABLED).all())
        self._all_mit = self._held == (Mode.MIT,) * len(self.motors)
        return state

    def find(self) -> ArmState:
        """Prove the bus and hear every motor once, wherever the arm stands: for tools that look.

        Moves nothing, checks no pose and no motor's fault. Raises ArmFault: dead_bus, silent, ...
        """
        with self._sticking():
            self._link.forget()
            procedures.prove(self._link, self._checks)
            procedures.answer_all(self._link, self._checks)
            self._link.set_ranges([self._registers.scales(motor) for motor in self.motors])
            self._link.forget()
            procedures.answer_all(self._link, self._checks)
            return self._keep(self._link.state())

    def enable(self) -> ArmState:
        """Switch all motors on in `modes`; they are limp until the first `exchange`.

        Motors that are on already are not switched again. Sets and reads back what host loss does.
        The caller's first command should hold `state.q`. Raises ArmFault, Refused.
        """
        if self.fault is not None:
            raise self.fault
        with self._sticking():
            self._raise(self._checks.pose(self.state))
            self._set_modes()
            if self._timeout is not None:
                for motor in self.motors:
                    self._registers.write_and_check(motor, Register.TIMEOUT, self._timeout)
            state = self._keep(procedures.switch(self._link, self._checks, Special.ENABLE))
        self.enabled = self._fresh = True
        return state

    def disable(self, *, drop: bool = False, lower_s: float = LOWER_MOST_S) -> ArmState:
        """Lower the arm until it rests, at most `lower_s`, then switch all motors off.

        `drop` switches off at once, and a raised arm falls. To keep an arm where it is, call
        neither: the motors hold their last command. Works with a fault standing; on a bus that is
        dead it only asks. Raises ArmFault if a motor does not confirm.
        """
        self.enabled = False
        with self._sticking():
            if self._link.quiet or self.fault is not None:
                procedures.prove(self._link, self._checks)
            if not drop and lower_s > 0.0 and self._ask(ASK_S)[1]:
                lower(self._link, self._window, lower_s)
            return self._keep(procedures.switch(self._link, self._checks, Special.DISABLE))

    def disconnect(self, *, drop: bool = False) -> None:
        """`disable`, then let go of the bus, which happens also if disabling fails."""
        try:
            self.disable(drop=drop)
        finally:
            self.connected = False
            self.close()

    def exchange(self, q: Array, dq: Array, kp: Array, kd: Array, tau: Array) -> ArmState:
        """Send one MIT command to each motor and read one feedback from each; all (8,).

        Raises ArmFault (sticky), Refused if not enabled or if a first command is away from the
        measured pose, ValueError if a value is not finite.
        """
        self._may_command()
        if not self._all_mit:
            raise Refused(f"{self.name} arm is not in MIT mode", hint="use exchange_commands()")
        if self._fresh:
            self._first(q)
            self._law.forget()
        state = self._pass(self._link.send_mit, q, dq, kp, kd, tau)
        if self._complete:
            joints, says = self._law.broken(state, q, dq, kp, kd, tau)
            if joints:
                self._raise(self._checks.fault(FaultKind.SILENT, joints, says))
        return state

    def exchange_commands(self, commands: Sequence[Command]) -> ArmState:
        """`exchange` with one command a motor, each of the mode its motor was enabled in."""
        self._may_command()
        wanted = tuple(mode_of(command) for command in commands)
        if wanted != self._held:
            raise Refused(
                f"{self.name} arm's motors are in modes {[int(mode) for mode in self._held]}",
                evidence=f"the commands are for modes {[int(mode) for mode in wanted]}",
                hint="set arm.modes before enable()",
            )
        if self._fresh:
            here = self.state.q
            self._first(np.array([getattr(c, "q", here[i]) for i, c in enumerate(commands)]))
        return self._pass(self._link.send_commands, commands)

    def refresh(self) -> ArmState:
        """Ask for feedback without commanding anything. Raises no standing faults, only: bus."""
        with self._sticking():
            return self._ask(self._window)[0]

    def clear_faults(self) -> ArmState:
        """A person's decision: clear the motors' faults and ours. The arm is disabled after it.

        Raises ArmFault if the cause persists.
        """
        self.enabled = False
        with self._sticking():
            procedures.prove(self._link, self._checks)
            self.fault = None
            self._link.stray = None
            self._link.health.reset()
            for motor in self.motors:
                self._link.send(motor.esc_id, frames.special(Special.CLEAR_ERROR))
            self._link.collect(ASK_S)
            state = self._keep(procedures.switch(self._link, self._checks, Special.DISABLE))
            self._raise(self._checks.motors(state))
        return state

    def set_zero(self, joints: Sequence[str]) -> ArmState:
        """Make the present position of these joints their zero, in the motors' flash, for ever.

        For commissioning, with a person at the arm; nothing else calls it. Raises Refused while a
        motor is enabled or was written less than a minute ago, ArmFault if it reads not zero after.
        """
        chosen = [motor for motor in self.motors if motor.joint in joints]
        with self._sticking():
            return self._keep(
                procedures.set_zero(self._link, self._checks, self._registers, chosen)
            )

    def save_registers(self, motor: MotorAddress) -> None:
        """Write a motor's registers to flash. Raises Refused while enabled, or sooner than 60 s."""
        with self._sticking():
            self._registers.save(motor)

    def read_register(self, motor: MotorAddress, register: Register) -> float:
        """A register's value from the motor. Raises ArmFault if it does not answer."""
        with self._sticking():
            return self._registers.read(motor, register)

    def write_register(self, motor: MotorAddress, register: Register, value: float) -> None:
        """Set a register in RAM; lost at power-off. Raises ArmFault if not acknowledged."""
        with self._sticking():
            self._registers.write(motor, register, value)

    def wait(self, seconds: float) -> None:
        """Let bus time pass, taking in what arrives. Raises ArmFault: adapter_lost, or the fault
        that stood before."""
        try:
            self._link.wait(seconds)
        except BUS_ERRORS as error:
            raise self.fault or self._lost(error) from error

    def rebind(self, bus: can.BusABC) -> None:
        """Go on with a new bus object where the adapter came back; `connect` has to follow.

        The standing fault stays until then; nothing is sent.
        """
        with suppress(*BUS_ERRORS):
            self.bus.shutdown()
        self.enabled = self.connected = False
        self._use(bus)

    def close(self) -> None:
        """Let go of the bus. Does not disable: motors hold their last command."""
        self.bus.shutdown()

    # -- inside

    def _use(self, bus: can.BusABC) -> None:
        self.bus = bus
        self._link = MotorLink(bus, self.motors, fd=self._fd)
        self._registers = Registers(self._link, self.name)
        self.now = self._link.now

    def _ask(self, window_s: float) -> tuple[ArmState, int]:
        heard = self._link.ask_all(window_s)
        return self._keep(self._link.state()), heard

    def _keep(self, state: ArmState) -> ArmState:
        self._state = state
        return state

    def _may_command(self) -> None:
        if self.fault is not None:
            raise self.fault
        if not self.enabled:
            raise Refused(f"{self.name} arm is not enabled", hint="call enable() first")

    def _first(self, q: Array) -> None:
        """The first command holds the pose: a motor obeys at once and at full strength."""
        away = np.abs(q - self.state.q)
        if away.max() > FIRST_STEP_RAD:
            i = int(away.argmax())
            raise Refused(
                f"{self.name} arm: the first command is {away[i]:.2f} rad away at "
                f"{self.motors[i].joint}",
                evidence=f"asked {q[i]:.3f} rad, measured {self.state.q[i]:.3f} rad",
                hint="begin at the measured pose and ramp from there",
            )
        self._fresh = False

    def _set_modes(self) -> None:
        for i, (motor, mode) in enumerate(zip(self.motors, self.modes, strict=True)):
            if self._held[i] == mode:
                continue
            if self.state.status[i] == Status.ENABLED:
                raise Refused(
                    f"{self.name} {motor.joint} is enabled in mode {int(self._held[i])}",
                    evidence=f"mode {int(mode)} is asked for, and switching it could jerk",
                    hint="disable the arm first",
                )
            self._registers.write_and_check(motor, Register.CTRL_MODE, mode)
        self._held = self.modes
        self._all_mit = self._held == (Mode.MIT,) * len(self.motors)

    def _pass(self, send: Callable[..., None], *values: object) -> ArmState:
        """One pass with `send(*values)`; a refresh alone where nobody answered lately."""
        link = self._link
        try:
            link.drain()
            if link.quiet < QUIET_PASSES:
                send(*values)
                heard = link.collect(self._window)
            else:
                heard = link.probe(link.quiet % len(self.motors), self._window)
        except BUS_ERRORS as error:
            raise self._lost(error) from error
        return self._after(heard)

    def _after(self, heard: int) -> ArmState:
        """The state after a pass, or the fault it shows."""
        link = self._link
        self._state = state = link.state()
        if link.health.off:
            self._raise(procedures.dead_bus(link, self._checks, "the adapter went bus-off"))
        if not link.healthy:
            self._raise(self._checks.motors(state))
            self._raise(self._checks.still_enabled(state))
        self._complete = heard == link.everyone and not link.doubted
        if not self._complete:
            if (state.age_s > self._silent_after).all():
                says = f"nobody answered for {1e3 * state.age_s.min():.0f} ms"
                self._raise(procedures.dead_bus(link, self._checks, says))
            self._raise(self._checks.silence(state, self._silent_after))
        if link.stray is not None:
            self._raise(self._checks.stray(link.stray))
        return state

    def _raise(self, fault: ArmFault | None) -> None:
        if fault is not None:
            raise self._stick(fault)

    def _stick(self, fault: ArmFault) -> ArmFault:
        self.fault = fault
        self.enabled = False
        return fault

    def _lost(self, error: Exception) -> ArmFault:
        return self._stick(self._checks.fault(FaultKind.ADAPTER_LOST, (), str(error)))

    @contextmanager
    def _sticking(self) -> Iterator[None]:
        """What goes wrong inside becomes this arm's standing fault."""
        try:
            yield
        except ArmFault as fault:
            self._stick(fault)
            raise
        except BUS_ERRORS as error:
            raise self._lost(error) from error
