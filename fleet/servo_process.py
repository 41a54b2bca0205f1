"""The servo in a process of its own: it owns the buses, protection and the tick, and nothing else.

Started by `fleet/servo_client.py`; what both say is in `fleet/servo_wire.py`.

Rules
- It ticks from `start` to its end, whatever the client does: between two orders it brakes and holds
  where it is. An order that is due and not there within a further period of its kind is `late`.
- The collector is frozen, memory locked, priority and core taken where the system allows. No torch,
  database or network is imported here.
- A stop is obeyed at the next tick, whatever motion is under way. SIGTERM is none: a supervisor
  sends it to client, servo and guardian at once, and somebody has to hold the arm until its end.
- A client that is gone is a protective stop; then this process ends without a farewell, and the
  guardian lowers the arms. Without a guardian the motors do what `on_host_loss` says.
- A fault does not end it: it goes on beating for the guardian, so that healthy motors hold, it goes
  on commanding the arm that is in none, and every motion answers with that fault.
- Its orderly end leaves the motors holding; with `on_host_loss: fall` it lowers the arms first.
- One servo drives a robot at a time: a lock on the robot's name is held to the end. Under it, what
  a killed one left in memory is removed.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np

from fleet.can.arm import Arm
from fleet.can.faults import ArmFault
from fleet.cycle_log import Ring
from fleet.guardian import BEAT, WORD, Heartbeat
from fleet.limits import JOINTS
from fleet.realtime import claim
from fleet.servo import Servo
from fleet.servo_setup import ServoSetup
from fleet.servo_wire import (
    ORDER,
    PACKET,
    URGENT,
    State,
    error_to_json,
    order_length,
    receive,
    state_length,
)
from fleet.shared_memory import Newest, Reading, attached, take_lock
from registry.errors import PolicyctlError, Refused, ServiceFailed

ATTACH_S = 20.0
"""How long the guardian may take to be there."""


class ClientGone(Exception):  # noqa: N818
    """The other end of the line is closed."""


class ServoProcess:
    """The loop. `run` returns when the client said `end`, raises what ended it otherwise."""

    def __init__(self, setup: ServoSetup, line: socket.socket) -> None:
        self._setup, self._line = setup, line
        self._requests: deque[Mapping[str, Any]] = deque()
        self._ended = self._alone = False
        self._cancelled = 0
        """Number of the newest cancel or stop. Numbers rise along the line, so it is for what was
        asked before it, begun or not, and for nothing that is asked after it."""
        self._order = self._order_ticks = self._order_began = 0.0
        self._idle_ticks = 0
        self._expecting = False
        self._fault: ArmFault | None = None
        self._hearts: list[Heartbeat] = []
        self._state = State.blank(setup.joints)
        self._states = Newest.create(setup.states, state_length(setup.joints))
        self._orders: Newest | None = None
        self._ring = Ring.create(setup.ring, setup.joints) if setup.log else None
        self._kinematics = setup.kinematics()
        self._arms = setup.arms()
        self.servo = Servo(
            self._arms,
            self._kinematics,
            setup.limits.safety(self._kinematics),
            period_s=setup.period_s,
        )
        self.servo.before_tick = self._before_tick

    def connect(self) -> list[list[object]]:
        """Take the arms over where they stand; what the system allowed. Raises ArmFault."""
        for arm in self._arms:
            arm.connect()
        self._orders = attached(self._setup.orders, order_length(self._setup.joints), ATTACH_S)
        if self._setup.guarded:
            for arm in self._arms:
                block = Newest.create(self._setup.beat(arm.name), BEAT)
                word = attached(self._setup.word(arm.name), WORD, ATTACH_S)
                self._hearts.append(Heartbeat(block, word, arm.ranges))
        granted = [[one.name, one.granted, one.found] for one in claim(self._setup.core)]
        # nothing slow from here on: motors that may fall wait 200 ms for their first command, and
        # the guardian for the first beat
        for arm in self._arms:
            arm.enable()
        self.servo.start()
        self.servo.hold(1)  # motors are limp from being switched on to their first command
        return granted

    def run(self) -> None:
        try:
            while not self._ended:
                self._listen()
                if self._requests:
                    self._answer(self._requests.popleft())
                elif self._fault is not None:
                    self._wait_faulted()
                elif (order := self._next_order()) is not None:
                    self._follow(order)
                else:
                    self._idle()
        except ClientGone:
            self._alone = True  # the ticks that brake have nobody to listen to
            with suppress(ArmFault):
                self.servo.protective_stop("client_lost")
            raise ServiceFailed(
                "the servo's client is gone", hint="look at the arm, then start again"
            ) from None
        for heart in self._hearts:
            heart.farewell()
        if self._setup.on_host_loss == "fall":
            self._let_down()

    def _let_down(self) -> None:
        """All arms at once: motors that hear nothing for 200 ms would drop them."""

        def lower(arm: Arm) -> None:
            try:
                arm.disable()
            except ArmFault as fault:  # it falls, as its station chose
                with suppress(ClientGone):
                    self._say({"n": 0, "error": error_to_json(fault)})

        with ThreadPoolExecutor(len(self._arms), "lower") as pool:
            list(pool.map(lower, (arm for arm in self._arms if arm.fault is None)))

    def close(self) -> None:
        """Let go of buses and memory. Disables nothing."""
        for arm in self._arms:
            arm.close()
        for block in (self._states, self._orders, self._ring):
            if block is not None:
                block.close()
        for heart in self._hearts:
            heart.close()

    # -- motion

    def _next_order(self) -> Reading | None:
        assert self._orders is not None
        found = self._orders.read()
        if isinstance(found, Reading) and found.values[0] > self._order:
            return found
        return None

    def _follow(self, order: Reading) -> None:
        self._order, self._order_ticks = float(order.values[0]), float(order.values[1])
        self._order_began = self.servo.ticks
        self._expecting = True
        try:
            self.servo.follow(order.values[ORDER:], int(self._order_ticks), age_s=order.age_s)
        except ArmFault as fault:
            self._fault = fault
        self._idle_ticks = 0
        self._publish()

    def _idle(self) -> None:
        if self._expecting:
            self._idle_ticks += 1
            if self._idle_ticks > self._order_ticks:
                self.servo.events.append("late")
                self._expecting = False
        try:
            self.servo.hold(1)
        except ArmFault as fault:
            self._fault = fault

    def _wait_faulted(self) -> None:
        """The arm in fault sends nothing; the other brakes, holds and goes on being commanded."""
        with suppress(ArmFault):
            self.servo.tick(self.servo.command.copy())
        time.sleep(self._setup.period_s)

    def _before_tick(self, servo: Servo) -> None:
        self._listen()
        self._publish()
        self._beat()
        if self._ring is not None:
            self._ring.append(
                servo.now(),
                servo.stopped,
                self._state.counts,
                (servo.command, servo.q[0], servo.dq[0], servo.tau[0]),
            )

    def _beat(self) -> None:
        for i, heart in enumerate(self._hearts):
            heart.beat(*self.servo.told(i))

    def _publish(self) -> None:
        servo, state = self.servo, self._state
        done = min(servo.ticks - self._order_began, self._order_ticks)
        state.values[:8] = (
            self._order, done, servo.ticks, servo.overruns, len(servo.events),
            servo.stopped, self._fault is not None, bool(servo.hot),
        )  # fmt: skip
        state.counts[:] = servo.counts
        state.row("q")[:], state.row("dq")[:] = servo.q[0], servo.dq[0]
        state.row("tau")[:], state.row("command")[:] = servo.tau[0], servo.command
        for i, arm in enumerate(self._arms):
            part = slice(JOINTS * i, JOINTS * i + JOINTS)
            state.row("temp_mos")[part] = arm.state.temp_mos
            state.row("temp_rotor")[part] = arm.state.temp_rotor
        self._states.write(state.values)

    # -- the line

    def _listen(self) -> None:
        """Take what has arrived, without waiting; obey what is urgent."""
        while not self._alone:
            try:
                packet = self._line.recv(PACKET, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                raise ClientGone from None
            if not packet:
                raise ClientGone
            request = json.loads(packet)
            if request["do"] == "stop":
                self.servo.halt(request["reason"])
                self._cancelled = request["n"]
            elif request["do"] == "cancel":
                self._cancelled = request["n"]
            elif request["do"] == "tell":
                self._reply(request, self._tell())
            if request["do"] not in URGENT or request["do"] == "stop":
                self._requests.append(request)

    def _tell(self) -> dict[str, Any]:
        servo = self.servo
        return {"events": servo.events, "stop_reason": servo.stop_reason, "hot": servo.hot}

    def _answer(self, request: Mapping[str, Any]) -> None:
        self._expecting = False
        try:
            result = self._do(request)
        except ArmFault as fault:
            self._fault = fault
            self._say({"n": request["n"], "error": error_to_json(fault)})
        except PolicyctlError as error:
            self._say({"n": request["n"], "error": error_to_json(error)})
        else:
            self._reply(request, result)

    def _do(self, request: Mapping[str, Any]) -> object:
        servo, do = self.servo, request["do"]
        if self._fault is not None and do in ("hold", "move_to", "stop"):
            raise self._fault
        match do:
            case "begin":
                servo.begin()
            case "hold":
                servo.hold(int(request["ticks"]))
            case "move_to":
                goal = np.array(request["goal"], dtype=float)
                return servo.move_to(
                    goal,
                    float(request["speed"]),
                    keep_going=lambda: self._cancelled < request["n"],
                )
            case "stop":
                servo.protective_stop(request["reason"])
            case "resume":
                servo.resume()
            case "end":
                self._ended = True
                if self._fault is None:
                    servo.rest()  # a move that was cancelled for this has still to brake
            case _:
                raise Refused(f"a servo does not know {do!r}")
        return None

    def _reply(self, request: Mapping[str, Any], result: object) -> None:
        self._publish()
        self._say({"n": request["n"], "result": result})

    def _say(self, told: Mapping[str, Any]) -> None:
        say(self._line, told)


def say(line: socket.socket, told: Mapping[str, Any]) -> None:
    """One packet. Raises ClientGone."""
    try:
        line.send(json.dumps(told).encode())
    except OSError:
        raise ClientGone from None


def main() -> None:
    """The process: its line is the file descriptor in argv[1]; the setup comes over it."""
    for told in (signal.SIGINT, signal.SIGTERM):
        signal.signal(told, signal.SIG_IGN)  # they are the client's; it stops the arm orderly
    line = socket.socket(fileno=int(sys.argv[1]))
    setup = ServoSetup.from_json(receive(line, ATTACH_S).decode())
    try:
        lock = take_lock(f"{setup.robot}-servo")
        setup.remove_leftovers()
        process = ServoProcess(setup, line)
    except PolicyctlError as error:
        say(line, {"n": 0, "error": error_to_json(error)})
        sys.exit(error.exit_status)
    try:
        say(line, {"n": 0, "result": process.connect()})
        process.run()
        with suppress(ClientGone):  # it asked for the end, and need not wait for it
            say(line, {"n": -1, "result": None})
    except (PolicyctlError, ClientGone) as error:
        if isinstance(error, PolicyctlError):
            with suppress(ClientGone):
                say(line, {"n": 0, "error": error_to_json(error)})
        sys.exit(9)
    finally:
        process.close()
        lock.close()
