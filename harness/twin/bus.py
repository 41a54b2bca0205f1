"""The twin's bus: python-can's interface in front, motors and physics behind, in one thread.

Rules
- `send` hands the frame to its motor at once; the motor's answer is queued.
- `recv(timeout)` returns a queued frame; if there is none, it lets physics advance by `timeout` and
  returns None. So whoever waits for a tick by `recv` makes the time pass, and nobody else does.
- `now()` and all timestamps are simulated time [s]. recv(None) on an empty queue would wait for
  ever, and is refused.
- With two arms each has its bus; both share one world, and time passes on both when it does on one.
- `TwinBridge` serves the same motors on any real python-can bus, for programs that need one; to a
  classic command it answers in a classic frame, since that bus may carry no other.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import can

if TYPE_CHECKING:
    from harness.twin.physics import TwinWorld


def for_motors(msg: can.Message) -> bool:
    """Whether motors listen to such a frame: data frames with an 11-bit id, nothing else."""
    return not (msg.is_extended_id or msg.is_remote_frame or msg.is_error_frame)


class TwinBus(can.BusABC):
    """The bus of one arm of a world, in lock-step."""

    def __init__(self, world: TwinWorld, arm: str = "right") -> None:
        self.world = world
        self.arm = arm
        self.channel_info = f"twin {arm}"
        self.now = world.now
        self._receive = world.bank(arm).receive
        self._advance = world.advance
        self._queue: deque[can.Message] = deque()
        super().__init__(channel=arm)
        self._is_shutdown = True  # there is nothing to release, and nothing to warn about

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        if not for_motors(msg):
            return
        now = self.now()
        reply = self._receive(msg.arbitration_id, msg.data, now)
        if reply is None:
            return
        identifier, data, fd = reply
        # by position: this is the twin's most frequent call
        self._queue.append(
            can.Message(now, identifier, False, False, False, None, 8, data, fd, True, fd)
        )

    def recv(self, timeout: float | None = None) -> can.Message | None:
        if self._queue:
            return self._queue.popleft()
        if timeout is None:
            raise can.CanOperationError("nothing is on its way: a twin never speaks unasked")
        if timeout > 0.0:
            self._advance(timeout)
        return None


class TwinBridge:
    """The motors of one arm on a real python-can bus: answers what it receives."""

    def __init__(self, world: TwinWorld, bus: can.BusABC, arm: str = "right") -> None:
        self._world = world
        self._bus = bus
        self._receive = world.bank(arm).receive

    def serve(self, timeout: float = 0.0) -> int:
        """Answer all frames that have arrived, waiting up to `timeout` [s] for the first; count."""
        served = 0
        while (msg := self._bus.recv(timeout if served == 0 else 0.0)) is not None:
            served += 1
            if not for_motors(msg):
                continue
            reply = self._receive(msg.arbitration_id, msg.data, self._world.now())
            if reply is not None:
                self._bus.send(
                    can.Message(
                        timestamp=self._world.now(),
                        arbitration_id=reply[0],
                        is_extended_id=False,
                        data=reply[1],
                        is_fd=reply[2] and msg.is_fd,
                        bitrate_switch=reply[2] and msg.is_fd,
                    )
                )
        return served
