"""Opening a CAN bus, its clock, and a tap that sees every frame.

Rules
- Any interface of python-can will do; fleet/can/interfaces.py says what each needs. Options come
  from the configuration alone, never from the user's python-can files. A lock-step twin is a bus
  object that somebody built; `open_bus` passes objects through.
- Time on a bus is `clock_of(bus)`: the simulated time of a twin, else the monotonic clock [s].
- A tap stands between the arm and the bus and shows each frame of both directions to one observer,
  in order, before the bus (sending) or the arm (receiving) acts on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import can

from fleet.can.interfaces import make_known, options_of, without_echo
from registry.errors import ServiceFailed, UsageError

Observer = Callable[[float, can.Message], None]
"""Called with the bus time [s] and the frame; `frame.is_rx` tells replies from commands."""


def open_bus(config: Mapping[str, object] | can.BusABC) -> can.BusABC:
    """The bus that `config` names, for example {"interface": "socketcan", "channel": "can0"}.

    Raises UsageError if no interface is named or its options are missing or unsafe, ServiceFailed
    if it does not open.
    """
    if isinstance(config, can.BusABC):
        return config
    options: dict[str, Any] = dict(config)
    interface = options.pop("interface", None)
    if not isinstance(interface, str) or interface == "twin":
        raise UsageError(
            "a CAN bus needs the name of an interface",
            evidence=f"interface: {interface!r}",
            hint="for example socketcan, udp_multicast or virtual; a twin brings its own bus",
        )
    keywords = options_of(interface, options)
    channel = cast("str | None", keywords.pop("channel", None))
    make_known(interface)
    try:
        bus = can.Bus(channel, interface, ignore_config=True, **keywords)
        return without_echo(interface, bus)
    except (can.CanError, NotImplementedError, OSError, ValueError, TypeError) as error:
        raise ServiceFailed(
            f"CAN bus {interface} {channel or ''} does not open".replace("  ", " "),
            evidence=str(error),
            hint="see that the interface is up and the adapter is plugged in",
        ) from error


def clock_of(bus: can.BusABC) -> Callable[[], float]:
    """The clock that deadlines on this bus are measured with [s]."""
    return cast("Callable[[], float]", getattr(bus, "now", time.monotonic))


class FrameTap(can.BusABC):
    """A bus that shows every frame to `observer` and changes none."""

    def __init__(self, bus: can.BusABC, observer: Observer) -> None:
        self._inner_send = bus.send
        self._inner_recv = bus.recv
        self.inner = bus
        self._observer = observer
        self.now = clock_of(bus)
        self.flush_tx_buffer = bus.flush_tx_buffer  # type: ignore[method-assign]
        self.channel_info = f"tap on {bus.channel_info}"
        super().__init__(channel=bus.channel_info)
        self._is_shutdown = True  # the tap itself holds nothing; the bus behind it does

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        self._observer(self.now(), msg)
        self._inner_send(msg, timeout)

    def recv(self, timeout: float | None = None) -> can.Message | None:
        msg = self._inner_recv(timeout)
        if msg is not None:
            self._observer(self.now(), msg)
        return msg

    @property
    def state(self) -> can.BusState:
        return self.inner.state

    @state.setter
    def state(self, new_state: can.BusState) -> None:
        self.inner.state = new_state

    def shutdown(self) -> None:
        self.inner.shutdown()
