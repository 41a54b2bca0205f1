"""A servo in another process, as the runtime uses it: what `fleet.servo.Servo` offers, from afar.

Rules
- `start` starts a guardian for each bus and the servo, and waits until the arms stand. `close` ends
  all, a move under way first: the motors hold. Each is a session of its own: ctrl-C in the terminal
  reaches none of them.
- A move that nobody waits for any more (ctrl-C, an error) is ended: it brakes at once.
- `follow` gives the next order and returns when that order has so little time left as the caller
  lately took between two orders (`lead`): the next comes before the servo has to brake.
- What the servo measures is read from shared memory, newest at each access. A state older than
  `STALE_S` or a closed line is an ArmFault: the guardian has the arm then.
- A move may take as long as its way and the limits ask for, however slow the station is: what is
  counted are the servo's ticks. A servo that ticks and does not answer is ServiceFailed: it has
  the arm.
- A guardian that has ended or does not answer is an ArmFault before the next motion, and before the
  next step of one: the servo brakes and holds then.
- Faults of the arm are raised here as the ArmFault they are there.

Arrays are (1, J) and (J,) as in Servo; rad, rad/s, Nm, s.
"""

from __future__ import annotations

import json
import math
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from fleet.can.arm import LOWER_MOST_S
from fleet.can.faults import ArmFault, FaultKind
from fleet.guardians import Guardians, spawn
from fleet.limits import JOINTS
from fleet.safety import INTERVENTIONS
from fleet.servo import COMMAND_AGE_S, PEAK_OF_MIN_JERK
from fleet.servo_setup import ServoSetup
from fleet.servo_wire import (
    ORDER,
    Array,
    State,
    error_from_json,
    order_length,
    receive,
    state_length,
)
from fleet.shared_memory import Newest, Reading, memory_folder
from registry.errors import PolicyctlError, ServiceFailed

START_S = 60.0
ANSWER_S = 60.0
"""What an answer may take; a move's, beyond twice the move's own time: while motors are unheard it
does not go on."""
STALE_S = 0.5
POLL_S = 0.0005
END_S = 5.0


@dataclass(frozen=True)
class RemoteState:
    """What is known here of an arm: `fleet.can.faults.ArmState` has the same names."""

    q: Array
    dq: Array
    tau: Array
    temp_mos: Array
    temp_rotor: Array


@dataclass(frozen=True)
class RemoteArm:
    """One arm of the servo; its bus is the servo's alone."""

    name: str
    _servo: ServoClient
    _part: slice

    @property
    def state(self) -> RemoteState:
        state, part = self._servo.state(), self._part
        return RemoteState(
            *(state.row(name)[part] for name in ("q", "dq", "tau", "temp_mos", "temp_rotor"))
        )

    def close(self) -> None:
        """Its bus is closed by the servo."""


class ServoClient:
    """One robot's servo; not for use from two threads."""

    def __init__(self, setup: ServoSetup) -> None:
        """Starts nothing yet."""
        kinematics = setup.kinematics()
        self.setup = setup
        self.limits = setup.limits.safety(kinematics)
        self.period_s = setup.period_s
        self.command_age_s = COMMAND_AGE_S
        self.kinematics = kinematics
        self.events: list[str] = []
        """What stopped or held the arms since `begin`, as the servo told it."""
        self.stop_reason = self.hot = ""
        self.granted: tuple[tuple[str, bool, str], ...] = ()
        """What the system allowed the servo: name, granted, what was found."""
        self.arms = tuple(
            RemoteArm(one.arm, self, slice(JOINTS * i, JOINTS * i + JOINTS))
            for i, one in enumerate(setup.buses)
        )
        self.on_stop: Callable[[bool], None] = lambda stopped: None
        self._line: socket.socket | None = None
        self._guardians = Guardians(setup)
        self._servo: subprocess.Popen[bytes] | None = None
        self._orders: Newest | None = None
        self._states: Newest | None = None
        self._state = State.blank(setup.joints)
        self._closed = False
        self._number = 0
        self._asked = 0
        self._told = 0
        self._lead = 1
        self._returned: float | None = None
        self.now: Callable[[], float] = time.monotonic

    # -- the processes

    def start(self) -> None:
        """Guardians, servo, arms; once. Raises ArmFault, Refused, ServiceFailed: none runs then."""
        try:
            if self.setup.guarded:
                self._guardians.start()
            self._start_servo()
        except BaseException:
            self.close()
            raise

    def _start_servo(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line = ours
        self._orders = Newest.create(self.setup.orders, order_length(self.setup.joints))
        with theirs:
            self._servo = spawn("fleet.servo_process", str(theirs.fileno()), keep=theirs.fileno())
        ours.send(self.setup.to_json().encode())
        granted = self._answer(0, START_S)
        self.granted = tuple((name, bool(yes), found) for name, yes, found in granted)
        try:
            self._states = Newest.attach(self.setup.states, state_length(self.setup.joints))
        except ServiceFailed:
            self._answer(0, END_S)  # it ended at once, and says why
            raise

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The servo's; only after `start`."""
        assert self._servo is not None
        return self._servo

    @property
    def guardians(self) -> list[subprocess.Popen[bytes]]:
        """Those that run, also one that has taken over."""
        return self._guardians.processes

    @property
    def pid(self) -> int:
        """Of the servo's process."""
        return self.process.pid

    def close(self) -> None:
        """The servo says farewell and ends, then the guardians. Nothing falls: the motors hold, or,
        with `on_host_loss: fall`, the servo lowers the arms first.

        A guardian that has taken over goes on, a person ends it. It has its memory, so that no name
        stays behind, not even a killed servo's. Safe any number of times.
        """
        if self._closed:
            return
        self._closed = True
        if self._line is not None:
            if self._states is not None:
                with suppress(PolicyctlError):
                    self._send("cancel")
                    self._ask("end", END_S)
            self._line.close()
            self._line = None
        taken_over = False
        if self._servo is not None:
            try:
                lowering_s = LOWER_MOST_S if self.setup.on_host_loss == "fall" else 0.0
                taken_over = self._servo.wait(END_S + lowering_s) != 0 and self._states is not None
            except subprocess.TimeoutExpired:
                taken_over = True
                self._servo.kill()
                self._servo.wait()
        if not taken_over:
            self._guardians.end()
        for block in (self._orders, self._states):
            if block is not None:
                block.close()
        self._orders = self._states = None
        for path in memory_folder().glob(f"{self.setup.name}-*"):
            path.unlink(missing_ok=True)

    # -- what is known

    def state(self) -> State:
        """The servo's newest state. Raises ServiceFailed where the servo is gone."""
        reading = self._states.read(STALE_S) if self._states is not None else None
        if not isinstance(reading, Reading):
            raise self._gone(f"its newest state is {reading.value if reading else 'not there'}")
        self._state = State(reading.values, self.setup.joints)
        return self._state

    @property
    def q(self) -> Array:
        """Measured positions (1, J)."""
        return self.state().row("q")[None]

    @property
    def dq(self) -> Array:
        """Measured speeds (1, J)."""
        return self.state().row("dq")[None]

    @property
    def tau(self) -> Array:
        """Measured motor torques (1, J)."""
        return self.state().row("tau")[None]

    @property
    def command(self) -> Array:
        """What the motors were last told (J,)."""
        return self.state().row("command")

    @property
    def ticks(self) -> int:
        return int(self.state().scalar("ticks"))

    @property
    def overruns(self) -> int:
        return int(self.state().scalar("overruns"))

    @property
    def stopped(self) -> bool:
        """True from a protective stop to `resume`."""
        return bool(self.state().scalar("stopped"))

    def interventions(self) -> dict[str, int]:
        """Protection's interventions by name since `begin`."""
        counts = self.state().counts
        return {name: int(n) for name, n in zip(INTERVENTIONS, counts, strict=True) if n}

    # -- control

    def wake(self) -> None:
        """Before motion: the measure of our own lateness begins anew. The servo never sleeps."""
        self._returned = None

    def begin(self) -> None:
        """Count interventions and events anew. Stops stay."""
        self._returned = None
        self._ask("begin")
        self.events.clear()
        self._told = 0

    def tick(self, target: Array) -> Array:
        """One period towards target (J,); returns `command`."""
        self._order(target, 1)
        self._await(1)
        return self.command

    def follow(self, command: Array, ticks: int, *, age_s: float = 0.0) -> None:
        """One policy step: from the last command to this one (J,) in `ticks` ticks."""
        if age_s > self.command_age_s:
            self.events.append("late")
            self.hold(ticks)
            return
        if self._returned is not None:
            took = math.ceil((self.now() - self._returned) / self.period_s)
            self._lead = min(max(took, 1), max(ticks - 1, 0))
        self._order(command, ticks)
        self._await(max(ticks - self._lead, 1))
        self._returned = self.now()

    def hold(self, ticks: int) -> None:
        """Stay at the present command."""
        self._ask("hold", ticks=ticks)

    def move_to(
        self, goal: Array, speed: float = 0.5, *, keep_going: Callable[[], bool] | None = None
    ) -> bool:
        """Minimum-jerk joint move; True when the command has arrived, False when something said
        no."""
        self._guardians.check()
        fastest = float(np.max(np.abs(goal - self.command) / self.limits.dq_max)) / speed
        most_s = 2.0 * PEAK_OF_MIN_JERK * fastest + ANSWER_S
        number = self._send("move_to", goal=goal.tolist(), speed=speed)
        try:
            arrived = self._moved(number, most_s, keep_going)
        except BaseException:
            with suppress(PolicyctlError):
                self._send("cancel")
            raise
        self._hear()
        return arrived

    def _moved(self, number: int, most_s: float, keep_going: Callable[[], bool] | None) -> bool:
        """What a move's request is answered within `most_s` of the servo's ticks.

        Raises the ArmFault that a guardian's end or a silent servo is, ServiceFailed.
        """
        asked = True
        until = self.ticks + most_s / self.period_s
        while self.ticks < until:
            try:
                return bool(self._answer(number, 0.02))
            except TimeoutError:
                if asked and keep_going is not None and not keep_going():
                    asked = False
                    self._send("cancel")
                self._guardians.check()
        raise self._unanswered("a move", most_s)

    def protective_stop(self, reason: str) -> None:
        """Brake within the limits and hold until `resume`; raises what an arm's fault is."""
        self._ask("stop", reason=reason)

    def resume(self) -> None:
        """Let the robot move again from where it is now; a person at the arm decides this."""
        self._ask("resume")
        self.stop_reason = ""

    # -- the line

    def _order(self, goal: Array, ticks: int) -> None:
        if self._orders is None:
            raise self._gone("it was not started")
        self._guardians.check()
        self._number += 1
        values = np.empty(ORDER + self.setup.joints)
        values[0], values[1], values[ORDER:] = self._number, ticks, goal
        self._orders.write(values)

    def _await(self, ticks: int) -> None:
        """Until the newest order has made so many ticks. Raises the arm's fault, ServiceFailed."""
        while True:
            state = self.state()
            if state.scalar("faulted"):
                self._ask("hold", ticks=0)  # it answers with the fault
            if state.scalar("order") == self._number:
                left = ticks - state.scalar("done")
                if left <= 0:
                    break
                time.sleep(max(POLL_S, (left - 1) * self.period_s))
            else:
                time.sleep(POLL_S)
        self._hear(state)

    def _hear(self, state: State | None = None) -> None:
        """Ask for words where the numbers say that there are new ones."""
        state = state or self.state()
        news = int(state.scalar("told"))
        stopped, hot = bool(state.scalar("stopped")), bool(state.scalar("hot"))
        if news != self._told or stopped != bool(self.stop_reason) or hot != bool(self.hot):
            told = self._ask("tell", hear=False)
            self.events += told["events"][self._told :]
            self._told = len(told["events"])
            if told["stop_reason"] and not self.stop_reason:
                self.on_stop(True)
            self.stop_reason, self.hot = told["stop_reason"], told["hot"]

    def _ask(self, do: str, within_s: float = ANSWER_S, *, hear: bool = True, **more: Any) -> Any:
        number = self._send(do, **more)
        try:
            result = self._answer(number, within_s)
        except TimeoutError:
            self.state()  # raises where the servo is gone
            raise self._unanswered(do, within_s) from None
        if hear and do != "end":
            self._hear()
        return result

    def _send(self, do: str, **more: Any) -> int:
        self._asked += 1
        packet = json.dumps({"n": self._asked, "do": do, **more}).encode()
        try:
            if self._line is None:
                raise OSError("it was closed")
            self._line.send(packet)
        except OSError as error:
            raise self._gone(str(error)) from None
        return self._asked

    def _answer(self, number: int, within_s: float) -> Any:
        """The answer to a request. Raises TimeoutError, what the servo raised, ServiceFailed."""
        until = self.now() + within_s
        while True:
            if self._line is None:
                raise self._gone("it was closed")
            packet = receive(self._line, max(0.0, until - self.now()))
            if not packet:
                raise self._gone("it ended")
            told: Mapping[str, Any] = json.loads(packet)
            if "error" in told and told["n"] in (0, number):
                raise error_from_json(told["error"])
            if told["n"] == number:
                return told["result"]

    def _unanswered(self, what: str, within_s: float) -> ServiceFailed:
        """It still ticks, and brakes and holds where nothing more is asked of it."""
        return ServiceFailed(
            "the servo goes on, but does not answer",
            evidence=f"{what} was to be over within {within_s:.0f} s",
            hint="look at the arm, end the program, then start it again",
        )

    def _gone(self, why: str) -> ArmFault:
        """Communication with all arms is lost, which is what it means to an attempt."""
        code = self._servo.poll() if self._servo is not None else None
        ended = f", status {code}" if code is not None else ""
        return ArmFault(
            FaultKind.ADAPTER_LOST,
            " and ".join(one.arm for one in self.setup.buses),
            (),
            f"the servo does not answer: {why}{ended}",
            "the guardian holds and lowers the arms: look at them, then start again",
        )
