"""Frames in and out for the motors of one bus: what is sent, what is believed.

Rules
- A feedback is believed if it comes from a motor's MST_ID, carries that motor's own id, is no
  register reply and does not jump faster than a motor turns. Anything else is counted, not used:
  the axis keeps its last value and its age grows.
- A frame from any other id is kept as `stray`; whether that is a fault is the arm's decision.
- Feed-forward torque is clamped to each motor's peak torque and kp to 499, so that no command can
  look like a special frame (that takes full scale in every field).
- A frame that does not fit the queue is dropped and counted: silence decides, not one lost frame.
  An interface that is gone raises.
- Error frames are read (fleet/can/health.py), and never taken for feedback.

Units: rad, rad/s, Nm, s; arrays (N,) in motor order. `heard` values have bit i set for motor i.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import can
import numpy as np

from fleet.can import frames
from fleet.can.bus import clock_of
from fleet.can.commands import KP_CEILING, Command, encode
from fleet.can.faults import ArmState, Counters
from fleet.can.frames import PARAMETER_ID, ArmCodec, ArmFeedback, Array, Ranges, Status
from fleet.can.health import BUS_ERRORS, BusHealth, is_full_queue
from fleet.can.motors import MotorAddress

JUMP_RAD, JUMP_RAD_S = 0.3, 20.0
"""A position may differ from the last one by this plus this much per second of its age."""


class MotorLink:
    """The motors' mailbox; not for use from two threads."""

    def __init__(self, bus: can.BusABC, motors: Sequence[MotorAddress], *, fd: bool) -> None:
        n = len(motors)
        self.bus = bus
        self.motors = tuple(motors)
        self.now = clock_of(bus)
        self.counters = Counters()
        self.everyone = (1 << n) - 1
        self.health = BusHealth()
        self.quiet = 0
        """Passes in a row in which no motor at all has answered."""
        self.misplaced: dict[int, int] = {}
        """Feedback on an id not its sender's: low id bits of the sender, and the id it came on."""
        self.stray: can.Message | None = None
        self.doubted = False
        """True if the newest state kept an old value because a feedback was not believable."""
        self._n = n
        self._fd = fd
        self._slot = {motor.mst_id: i for i, motor in enumerate(motors)}
        self._commands = tuple((m.esc_id, 8 * i, 8 * i + 8) for i, m in enumerate(motors))
        self._low_id = tuple(motor.esc_id & 0xF for motor in motors)
        self._healthy = bytes(Status.ENABLED << 4 | low for low in self._low_id)
        self._replies = bytearray(8 * n)
        self._payload: bytearray | None = None
        self._heard_at = np.full(n, -np.inf)
        self._registers: dict[tuple[int, int], float] = {}
        self._last: ArmState | None = None
        self.set_ranges([motor.type.ranges for motor in motors])

    @property
    def ranges(self) -> tuple[Ranges, ...]:
        return self._codec.ranges

    @property
    def healthy(self) -> bool:
        """True if every motor's newest feedback says enabled and without fault."""
        return self._replies[0::8] == self._healthy

    def set_ranges(self, ranges: Sequence[Ranges]) -> None:
        """Use these full scales from now on."""
        peak = [motor.type.peak_torque for motor in self.motors]
        self._codec = ArmCodec(ranges, kp_most=KP_CEILING, tau_most=peak)

    def forget(self) -> None:
        """Start anew: what was heard before says nothing about what comes."""
        self._last = None
        self._heard_at.fill(-np.inf)
        self._registers.clear()
        self.misplaced.clear()
        self._payload = None
        self.health.reset()
        self.quiet = 0
        self.drain()
        self.stray = None

    # -- sending

    def send(self, identifier: int, data: bytes | bytearray) -> None:
        """Queue one frame. Raises BUS_ERRORS if the interface is gone."""
        frame = can.Message(
            arbitration_id=identifier,
            is_extended_id=False,
            data=data,
            is_fd=self._fd,
            bitrate_switch=self._fd,
            is_rx=False,
        )
        try:
            self.bus.send(frame)
            self.counters.sent += 1
        except BUS_ERRORS as error:
            self._not_sent(error)

    def send_mit(self, q: Array, dq: Array, kp: Array, kd: Array, tau: Array) -> None:
        """One MIT command to every motor; ValueError if a value is not finite."""
        payload = self._codec.encode_mit(q, dq, kp, kd, tau)
        self._payload = payload
        send, fd, message = self.bus.send, self._fd, can.Message
        lost = 0
        for identifier, start, end in self._commands:
            data = payload[start:end]
            frame = message(0.0, identifier, False, False, False, None, 8, data, fd, False, fd)
            try:
                send(frame)
            except BUS_ERRORS as error:
                lost += 1
                self._not_sent(error)
        self.counters.sent += self._n - lost

    def commanded(self) -> Array | None:
        """Positions (N,) of the last MIT commands as the motors read them; None before any."""
        if self._payload is None:
            return None
        positions: Array = self._codec.decode_mit(self._payload)[0]
        return positions

    def send_commands(self, commands: Sequence[Command]) -> None:
        """One command to every motor, each in its mode; ValueError before any is sent."""
        out = [
            encode(motor, ranges, command)
            for motor, ranges, command in zip(self.motors, self.ranges, commands, strict=True)
        ]
        for identifier, data in out:
            self.send(identifier, data)

    def probe(self, slot: int, window_s: float) -> int:
        """Ask one motor for one feedback and wait for any; who answered. Commands nothing."""
        self.send(PARAMETER_ID, frames.refresh(self.motors[slot].esc_id))
        deadline = self.now() + window_s
        while (left := deadline - self.now()) > 1e-9:
            msg = self.bus.recv(left)
            heard = 0 if msg is None else self._take(msg)
            if heard:
                self.quiet = 0
                for i in self.bits(heard):
                    self._heard_at[i] = self.now()
                return heard
        self.quiet += 1
        return 0

    def ask_all(self, window_s: float) -> int:
        """Ask every motor for one feedback, command none; who answered."""
        for motor in self.motors:
            self.send(PARAMETER_ID, frames.refresh(motor.esc_id))
        return self.collect(window_s)

    def parameter(
        self, motor: MotorAddress, register: int, data: bytes, window_s: float
    ) -> float | None:
        """Send a register frame; the value in the reply, or None within the window."""
        key = (motor.esc_id, register)
        self._registers.pop(key, None)
        self.send(PARAMETER_ID, data)
        deadline = self.now() + window_s
        while key not in self._registers and (left := deadline - self.now()) > 1e-9:
            msg = self.bus.recv(left)
            if msg is not None:
                self._take(msg)
        return self._registers.get(key)

    # -- receiving

    def drain(self) -> None:
        """Take what is queued already, without waiting."""
        for _ in range(8 * self._n):
            late = self.bus.recv(0.0)
            if late is None:
                return
            self._take(late)

    def collect(self, window_s: float) -> int:
        """Take frames until every motor has answered or the window ends; who answered."""
        recv, take, now, everyone = self.bus.recv, self._take, self.now, self.everyone
        heard = 0
        left = window_s
        deadline = now() + window_s
        while left > 0.0:
            msg = recv(left)
            if msg is None:
                break
            heard |= take(msg)
            if heard == everyone:
                self._heard_at.fill(now())
                self.quiet = 0
                return heard
            left = deadline - now()
        self.quiet = 0 if heard else self.quiet + 1
        self.counters.missed += (everyone & ~heard).bit_count()
        for i in self.bits(heard):
            self._heard_at[i] = now()
        return heard

    def wait(self, seconds: float) -> None:
        """Let bus time pass, taking in what arrives."""
        end = self.now() + seconds
        while (left := end - self.now()) > 1e-9:
            msg = self.bus.recv(left)
            if msg is not None:
                self._take(msg)

    def state(self) -> ArmState:
        """Decode the newest feedbacks, keeping the last value of an axis that jumps impossibly."""
        reply = self._codec.decode_feedback(bytes(self._replies))
        time_s = self.now()
        last = self._last
        self.doubted = False
        if last is not None:
            moved = reply.q - last.q
            if np.dot(moved, moved) > JUMP_RAD * JUMP_RAD:
                self._reject_jumps(reply, last, time_s)
        _, status, q, dq, tau, temp_mos, temp_rotor = reply
        age_s = time_s - self._heard_at
        self._last = ArmState(q, dq, tau, temp_mos, temp_rotor, status, age_s, time_s)
        return self._last

    def status(self, slot: int) -> int:
        """The status nibble of a motor's newest feedback."""
        return self._replies[8 * slot] >> 4

    def bits(self, mask: int) -> Iterator[int]:
        """The motors whose bit is set."""
        return (i for i in range(self._n) if mask >> i & 1)

    def _take(self, msg: can.Message) -> int:
        """Store one frame; the bit of the motor whose feedback it is, or 0."""
        slot = self._slot.get(msg.arbitration_id)
        if slot is None or msg.is_error_frame or msg.is_extended_id:
            if msg.is_error_frame:
                self.counters.error_frames += 1
                self.health.take(msg)
            else:
                self.counters.foreign += 1
                self.stray = msg
                if len(msg.data) == 8 and not msg.is_extended_id:
                    self.misplaced[msg.data[0] & 0xF] = msg.arbitration_id
            return 0
        data = msg.data
        self.counters.received += 1
        if len(data) == 8:
            if data[1] <= 0x0F and frames.is_register_reply(data, self.motors[slot].esc_id):
                reply = frames.decode_register(data)
                self._registers[reply.motor, reply.register] = reply.value
                return 0
            if data[0] & 0xF == self._low_id[slot]:
                self._replies[8 * slot : 8 * slot + 8] = data
                return 1 << slot
            self.misplaced[data[0] & 0xF] = msg.arbitration_id
        self.counters.rejected += 1
        return 0

    def _not_sent(self, error: Exception) -> None:
        self.counters.send_errors += 1
        if not is_full_queue(error):
            raise error

    def _reject_jumps(self, reply: ArmFeedback, last: ArmState, time_s: float) -> None:
        age = last.age_s + (time_s - last.time_s)
        for i in np.flatnonzero(np.abs(reply.q - last.q) > JUMP_RAD + JUMP_RAD_S * age):
            self.doubted = True
            self.counters.rejected += 1
            self._heard_at[i] = last.time_s - last.age_s[i]
            for now, before in zip(reply[2:5], last[:3], strict=True):
                now[i] = before[i]
