"""The bus itself: who speaks when, for how long, what is lost; and a recorder that only listens.

Rules
- One frame at a time. When the bus is free, the lowest id of those that wait speaks: the program's
  adapter offers its frames in order, each motor its answer, `reply_latency_s` after it was asked.
- What a program sends waits in its adapter's queue of `QUEUE_LENGTH` frames; what does not fit
  raises ENOBUFS at once, as of a kernel's interface.
- A frame takes its bits: classic ones with their stuff bits, exactly; CAN FD ones without dynamic
  stuffing, arbitration at the nominal rate and the rest at the data rate if the rate switches.
- `loss` is the share of frames that nobody hears, drawn from `seed`. A real bus would repeat most.
- On a lock-step twin time passes while frames are on the wire, in `recv`; on a live one the clock
  runs by itself and `recv(0)` gives what has arrived.

Units: s, bit/s.
"""

from __future__ import annotations

import errno
import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import can
from can.io.canutils import CanutilsLogWriter

from fleet.can.bus import Observer
from harness.twin.adapter import QUEUE_LENGTH
from harness.twin.bus import for_motors
from registry.errors import ServiceFailed

if TYPE_CHECKING:
    from harness.twin.physics import TwinWorld

FD_NOMINAL_BITS, FD_OVERHEAD_BITS = 30, 32
"""Of a CAN FD frame up to 16 bytes: at the nominal rate, and at the data rate beside its data."""


@dataclass(frozen=True)
class WireModel:
    """How fast and how reliable."""

    nominal_bps: float = 1e6
    data_bps: float = 5e6
    reply_latency_s: float = 5e-5
    loss: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.nominal_bps <= 0 or self.data_bps <= 0 or self.reply_latency_s < 0:
            raise ValueError(f"rates are above 0 and latency is not below: {self}")
        if not 0.0 <= self.loss < 1.0:
            raise ValueError(f"loss is a share from 0 to below 1, not {self.loss}")


def frame_time(msg: can.Message, model: WireModel) -> float:
    """How long the frame keeps the bus, the gap after it included [s]."""
    if not msg.is_fd:
        return classic_bits(msg.arbitration_id, bytes(msg.data)) / model.nominal_bps
    rest = model.data_bps if msg.bitrate_switch else model.nominal_bps
    return FD_NOMINAL_BITS / model.nominal_bps + (FD_OVERHEAD_BITS + 8 * len(msg.data)) / rest


@lru_cache(maxsize=4096)
def classic_bits(identifier: int, data: bytes) -> int:
    """Bits of a classic data frame with an 11-bit id, stuff bits and the gap after it included."""
    length = 19 + 8 * len(data)
    word = (identifier << 7 | len(data)) << 8 * len(data) | int.from_bytes(data, "big")
    crc = 0
    for i in reversed(range(length)):
        crc = (crc << 1) ^ (0x4599 if (crc >> 14 & 1) ^ (word >> i & 1) else 0)
        crc &= 0x7FFF
    word, length = word << 15 | crc, length + 15
    stuffed, run, last = 0, 0, -1
    for i in reversed(range(length)):
        bit = word >> i & 1
        run = run + 1 if bit == last else 1
        last = bit
        if run == 5:  # the sender puts in the opposite bit, which begins the next run
            stuffed, run, last = stuffed + 1, 1, 1 - bit
    return length + stuffed + 13


class _Reply(NamedTuple):
    """A motor's answer that waits to be sent; the order breaks ties of time."""

    ready: float
    order: int
    msg: can.Message


class WireBus(can.BusABC):
    """The bus of one arm of a world with the time its frames take."""

    def __init__(
        self,
        world: TwinWorld,
        arm: str = "right",
        model: WireModel | None = None,
        observer: Observer | None = None,
    ) -> None:
        """`observer` is shown every frame that is heard, when it ends."""
        self.world = world
        self.arm = arm
        self.model = model or WireModel()
        self.now = world.now
        self.lost = 0
        self.carries: Callable[[], bool] = lambda: True
        """Whether anybody hears what is sent: else frames wait, and motors' answers are lost."""
        self.busy_s = 0.0
        """Time that frames have kept the bus, since construction."""
        self._observer = observer
        self._motors = world.bank(arm)
        self._random = random.Random(self.model.seed)
        self._out: deque[tuple[float, can.Message]] = deque()
        self._replies: list[_Reply] = []
        self._flying: tuple[float, can.Message, bool] | None = None
        """When it ends, the frame, and whether a motor sends it."""
        self._free_at = 0.0
        self._order = 0
        self._arrived: deque[can.Message] = deque()
        super().__init__(channel=arm)
        self.channel_info = f"twin {arm}, {self.model.nominal_bps / 1e6:g} Mbit/s"
        self._is_shutdown = True  # there is nothing to release

    @property
    def next_event(self) -> float | None:
        """When the frame under way ends, or the next one may begin [s]; None if none waits."""
        self._run(self.now())
        if self._flying is not None:
            return self._flying[0]
        return self._starts() if self._waiting() and self.carries() else None

    @property
    def waiting(self) -> int:
        """Frames in the adapter's queue."""
        self._run(self.now())
        return len(self._out)

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        if self.waiting >= QUEUE_LENGTH:
            raise can.CanOperationError("no buffer space available", errno.ENOBUFS)
        self._out.append((self.now(), msg))

    def recv(self, timeout: float | None = None) -> can.Message | None:
        if timeout is None:
            raise can.CanOperationError("nothing is on its way: a twin never speaks unasked")
        deadline = self.now() + timeout
        while True:
            self._run(self.now())
            if self._arrived:
                return self._arrived.popleft()
            left = deadline - self.now()
            if left < 1e-9:
                return None
            event = self.next_event
            wait = left if event is None else max(event - self.now(), 0.0) + 1e-9
            self.world.advance(min(wait, left))  # a nanosecond more: the world counts whole ones

    def flush_tx_buffer(self) -> None:
        self._out.clear()

    # -- inside

    def _waiting(self) -> bool:
        return bool(self._out or self._replies)

    def _starts(self) -> float:
        """When the next frame may begin."""
        first = min(
            self._out[0][0] if self._out else float("inf"),
            self._replies[0].ready if self._replies else float("inf"),
        )
        return max(first, self._free_at)

    def _run(self, until: float) -> None:
        """Let pass what has ended by `until`; what has begun is under way."""
        if not self.carries():
            self._replies.clear()
            self._free_at = max(self._free_at, until)
        while True:
            if self._flying is None:
                if not self.carries():
                    return
                if not self._waiting() or (start := self._starts()) > until:
                    return
                self._begin(start)
            assert self._flying is not None
            if self._flying[0] > until:
                return
            self._end()

    def _begin(self, start: float) -> None:
        """Arbitration among those that are ready at `start`: the lowest id wins."""
        ready = [reply for reply in self._replies if reply.ready <= start]
        reply = min(ready, key=lambda one: (one.msg.arbitration_id, one.order), default=None)
        ours = self._out[0][1] if self._out and self._out[0][0] <= start else None
        if ours is not None and (reply is None or ours.arbitration_id <= reply.msg.arbitration_id):
            self._out.popleft()
            msg, from_motor = ours, False
        else:
            assert reply is not None
            self._replies.remove(reply)
            heapq.heapify(self._replies)
            msg, from_motor = reply.msg, True
        takes = frame_time(msg, self.model)
        self.busy_s += takes
        self._free_at = start + takes
        self._flying = (self._free_at, msg, from_motor)

    def _end(self) -> None:
        assert self._flying is not None
        at, msg, from_motor = self._flying
        self._flying = None
        if self.model.loss and self._random.random() < self.model.loss:
            self.lost += 1
            return
        if self._observer is not None:
            self._observer(at, msg)
        if from_motor:
            msg.timestamp = at
            self._arrived.append(msg)
            return
        if not for_motors(msg):
            return
        answer = self._motors.receive(msg.arbitration_id, msg.data, at)
        if answer is not None:
            identifier, data, fd = answer
            self._order += 1
            reply = can.Message(
                at, identifier, False, False, False, None, len(data), data, fd, True, fd
            )
            heapq.heappush(
                self._replies, _Reply(at + self.model.reply_latency_s, self._order, reply)
            )


class Recorder:
    """Writes what it is shown as candump's log; changes nothing and answers nothing."""

    def __init__(self, path: Path, epoch_s: float = 0.0) -> None:
        """`epoch_s` is the epoch time of bus time 0. Raises ServiceFailed."""
        self.path = path
        self.frames = 0
        self._epoch_s = epoch_s
        try:
            self._file = path.open("w", encoding="ascii")
        except OSError as error:
            raise ServiceFailed(
                f"cannot record to {path}", evidence=str(error), hint="name a file to write"
            ) from error
        self._writer = CanutilsLogWriter(self._file)

    def of(self, channel: str) -> Callable[[float, can.Message], None]:
        """An observer of one bus, which the log calls `channel`."""

        def record(time_s: float, msg: can.Message) -> None:
            self.frames += 1
            self._writer.on_message_received(
                can.Message(
                    timestamp=self._epoch_s + time_s,
                    arbitration_id=msg.arbitration_id,
                    is_extended_id=msg.is_extended_id,
                    is_error_frame=msg.is_error_frame,
                    is_remote_frame=msg.is_remote_frame,
                    channel=channel,
                    dlc=msg.dlc,
                    data=msg.data,
                    is_fd=msg.is_fd,
                    is_rx=msg.is_rx,
                    bitrate_switch=msg.bitrate_switch,
                )
            )

        return record

    def flush(self) -> None:
        """What was seen so far is in the file."""
        self._file.flush()

    def close(self) -> None:
        self._writer.stop()
