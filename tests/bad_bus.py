"""A bus that misbehaves on request, around any other: the one wrapper that driver tests use.

Each switch is one class of trouble seen in the field; all are off at first and may be flipped at
any time. Frames that the wrapper is asked to queue while nobody acknowledges are kept like a kernel
keeps them, and replayed when the power returns: `replayed` lists them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import can

from fleet.can.bus import clock_of

BUS_OFF, CONTROLLER, ACK = 0x40, 0x04, 0x20
TX_PASSIVE = 0x20


def error_frame(kind: int, detail: int = 0) -> can.Message:
    """An error frame as SocketCAN tells it."""
    data = bytes((0, detail, 0, 0, 0, 0, 128, 0))
    return can.Message(arbitration_id=kind | 0x200, is_error_frame=True, data=data)


class BadBus(can.BusABC):
    """Passes frames through, except where told otherwise."""

    def __init__(self, inner: can.BusABC, *, queue: int = 512, can_purge: bool = True) -> None:
        self.inner = inner
        self.now = clock_of(inner)
        self.sent: list[can.Message] = []
        self.extra: list[can.Message] = []
        self.replayed: list[can.Message] = []
        self.dead = False
        """Nobody acknowledges: frames pile up in the queue."""
        self.full = 0
        """So many sends fail with ENOBUFS, then it is well again."""
        self.gone = False
        """The adapter was unplugged."""
        self.silent: set[int] = set()
        """Ids whose replies are lost."""
        self.reply: Callable[[can.Message], can.Message] = lambda msg: msg
        self.queue: list[can.Message] = []
        self._most = queue
        self._can_purge = can_purge
        super().__init__(channel="bad")
        self._is_shutdown = True

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        self._must_be_there()
        if self.full:
            self.full -= 1
            raise can.CanOperationError("no buffer space available", errno.ENOBUFS)
        if self.dead:
            if len(self.queue) >= self._most:
                raise can.CanOperationError("no buffer space available", errno.ENOBUFS)
            self.queue.append(msg)
            return
        self.sent.append(msg)
        self.inner.send(msg)

    def recv(self, timeout: float | None = None) -> can.Message | None:
        self._must_be_there()
        if self.extra:
            return self.extra.pop(0)
        while (msg := self.inner.recv(timeout)) is not None:
            if msg.arbitration_id not in self.silent:
                return self.reply(msg)
        return None

    def power_returns(self) -> None:
        """The motors acknowledge again: what is queued goes out, as a kernel sends it."""
        self.dead = False
        self.replayed, self.queue = self.queue, []
        for msg in self.replayed:
            self.send(msg)

    def flush_tx_buffer(self) -> None:
        if not self._can_purge:
            raise NotImplementedError
        self.queue.clear()

    def _must_be_there(self) -> None:
        if self.gone:
            raise can.CanOperationError("no such device", errno.ENODEV)
