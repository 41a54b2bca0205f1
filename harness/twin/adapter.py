"""One arm's CAN adapter and cable: trouble on request.

Rules
- It outlives buses and programs as a kernel's interface does: what it has queued is sent when it
  can be, whoever queued it. A program's handle on it is `harness.twin.faulty_bus`.
- Nobody acknowledges (no motor has power, the cable is cut) or the controller is off: frames pile
  up in the queue, then ENOBUFS. They go out when that ends (`replayed`), unless they were purged.
- All is well at first; each switch may be flipped at any time.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from typing import Protocol

import can

Send = Callable[[can.Message], None]

CONTROLLER, ACK, BUS_OFF, RESTARTED = 0x004, 0x020, 0x040, 0x100
TX_PASSIVE, ACTIVE = 0x20, 0x40
QUEUE_LENGTH = 512
"""Frames a kernel keeps for one interface: its queue and the sockets' buffers."""


def error_frame(kind: int, detail: int = 0) -> can.Message:
    """An error frame as SocketCAN tells it."""
    data = bytes((0, detail, 0, 0, 0, 0, 128, 0))
    return can.Message(arbitration_id=kind | 0x200, is_error_frame=True, data=data)


class Wire(Protocol):
    """A bus on which frames wait until it is free."""

    @property
    def waiting(self) -> int: ...

    def flush_tx_buffer(self) -> None: ...


class Adapter:
    """What may go wrong between a program and the motors."""

    def __init__(
        self,
        acknowledged: Callable[[], bool] = lambda: True,
        *,
        can_purge: bool = True,
    ) -> None:
        """`acknowledged`: whether a node with power is there to hear."""
        self.dead = False
        """The cable to all motors is cut: nobody acknowledges."""
        self.off = False
        """The controller left the bus."""
        self.gone = False
        """The interface was unplugged."""
        self.full = 0
        """So many sends fail with ENOBUFS, then it is well again; below 0: until told otherwise."""
        self.silent: set[int] = set()
        """Ids whose frames are lost on the way to the program."""
        self.reply: Callable[[can.Message], can.Message] = lambda msg: msg
        """What becomes of each frame that the program hears."""
        self.extra: deque[can.Message] = deque()
        """What the program hears next: error frames, other programs' frames."""
        self.queue: deque[tuple[Send, can.Message]] = deque()
        """Frames nobody has heard yet, and the way each would take."""
        self.wire: Wire | None = None
        """Holds frames of the same queue, where the bus takes time."""
        self.replayed: list[can.Message] = []
        """Frames that were sent only when the bus came back."""
        self.can_purge = can_purge
        self.handles = 0
        """Buses that ever went through here."""
        self.plugged = 0
        """How often the interface came back: an older handle stays dead."""
        self._acknowledged = acknowledged
        self._told_dead = False

    @property
    def passes(self) -> bool:
        """Whether frames go through."""
        return not self.dead and not self.off and self._acknowledged()

    @property
    def room(self) -> int:
        """Frames that still fit the queue, `full` aside."""
        return QUEUE_LENGTH - len(self.queue) - (self.wire.waiting if self.wire else 0)

    def refuse(self) -> bool:
        """Count one more frame against `full`; whether it does not fit."""
        refused = self.full != 0
        self.full -= self.full > 0
        return refused

    def unplug(self) -> None:
        """The interface vanishes, with what it had queued."""
        self.gone = True
        self._empty()
        self.extra.clear()

    def plug_in(self) -> None:
        """It comes back, as a new interface."""
        self.gone = self.off = False
        self.extra.clear()
        self.plugged += 1

    def purge(self) -> bool:
        """Throw away what is queued; False if this adapter's program may not."""
        if self.can_purge:
            self._empty()
        return self.can_purge

    def _empty(self) -> None:
        self.queue.clear()
        if self.wire:
            self.wire.flush_tx_buffer()

    def release(self) -> None:
        """Send what is queued, if somebody hears it now."""
        if self._told_dead and self.passes:
            self._told_dead = False
        while self.queue and self.passes and not self.gone:
            send, msg = self.queue.popleft()
            self.replayed.append(msg)
            send(msg)

    def keep(self, send: Send, msg: can.Message) -> None:
        """Queue a frame that nobody hears. Raises CanOperationError: ENOBUFS."""
        if self.room <= 0:
            raise can.CanOperationError("no buffer space available", errno.ENOBUFS)
        if not self._told_dead and not self.off:
            self._told_dead = True
            self.extra.append(error_frame(ACK | CONTROLLER, TX_PASSIVE))
        self.queue.append((send, msg))
