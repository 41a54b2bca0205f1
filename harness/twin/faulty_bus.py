"""A program's handle on an arm's adapter, around any other bus.

An interface that went away and came back needs a new handle. On a lock-step twin time passes by
`recv` as ever.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import can

from fleet.can.bus import FrameTap, clock_of
from harness.twin.adapter import Adapter
from harness.twin.wire import WireBus

if TYPE_CHECKING:
    from harness.twin.physics import TwinWorld


class FaultyBus(can.BusABC):
    """A program's handle on an adapter: passes frames through, except where told otherwise."""

    def __init__(
        self,
        inner: can.BusABC,
        adapter: Adapter | None = None,
        *,
        sent: list[can.Message] | None = None,
    ) -> None:
        """`inner` leads to the motors; `sent` receives every frame that goes out to it.

        By default the adapter is that of the twin's arm behind `inner`, or a new one.
        """
        behind = inner
        while isinstance(behind, FrameTap):
            behind = behind.inner
        world, arm = getattr(behind, "world", None), getattr(behind, "arm", "")
        if adapter is None:
            adapter = Adapter() if world is None else world.adapter(arm)
        if isinstance(behind, WireBus):
            adapter.wire = behind
            behind.carries = lambda: adapter.passes
        self.inner = inner
        self.adapter = adapter
        self.world: TwinWorld | None = world
        self.arm: str = arm
        """The twin behind it, and which of its arms; None and "" if there is none."""
        self.now = clock_of(inner)
        self.sent = sent
        self._plugged = adapter.plugged
        adapter.handles += 1
        super().__init__(channel=inner.channel_info)
        self.channel_info = f"adapter to {inner.channel_info}"
        self._is_shutdown = True  # it holds nothing itself

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        if self._present().refuse():
            raise can.CanOperationError("no buffer space available", errno.ENOBUFS)
        self.send_fitted(msg)

    def send_fitted(self, msg: can.Message) -> None:
        """`send`, for a frame that the adapter took before its queue was full."""
        adapter = self._present()
        adapter.release()
        if not adapter.passes:
            adapter.keep(self._send_out, msg)
            return
        self._send_out(msg)

    def recv(self, timeout: float | None = None) -> can.Message | None:
        adapter = self._present()
        adapter.release()
        if adapter.extra:
            return adapter.extra.popleft()
        while (msg := self.inner.recv(timeout)) is not None:
            if not adapter.off and not adapter.dead and msg.arbitration_id not in adapter.silent:
                return adapter.reply(msg)
        return None

    def flush_tx_buffer(self) -> None:
        if not self.adapter.purge():
            raise NotImplementedError

    def shutdown(self) -> None:
        self.inner.shutdown()

    def _send_out(self, msg: can.Message) -> None:
        if self.sent is not None:
            self.sent.append(msg)
        self.inner.send(msg)

    def _present(self) -> Adapter:
        if self.adapter.gone or self._plugged != self.adapter.plugged:
            raise can.CanOperationError("no such device", errno.ENODEV)
        return self.adapter
