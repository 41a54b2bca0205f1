"""What each python-can interface needs, and what of it would be dangerous.

Rules
- `udp_multicast` needs a port of its own (the group does not isolate two twins, the port does), and
  hop limit 0 is enforced: python-can's default puts commands on the LAN, where another robot's
  motors would obey them. A bus there hears its own frames; they are taken out by `without_echo`.
- `socketcand` carries classic frames only; `slcan` needs the bit rate, else the adapter keeps its
  last one. Options that python-can would silently ignore are refused.
- `policyctl` is the twin process's own plug-in; its options are passed on as they are. It is an
  entry point of this distribution; `make_known` names it to python-can where that has not read it.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import can
from can.bus import CanProtocol
from can.interfaces import BACKENDS

from registry.errors import ServiceFailed, UsageError

BIT_RATE: Final = 1_000_000
ECHO_WITHIN_S: Final = 1.0
PLUG_INS: Final = {"policyctl": ("harness.twin.socket_bus", "PolicyctlBus")}
"""By name, module and class as strings: what drives an arm imports no twin."""


def options_of(interface: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments that open `interface`; UsageError where they are missing or unsafe."""
    found = dict(options)
    fd = bool(found.pop("fd", False))
    match interface:
        case "socketcan":
            _need(interface, found, "channel", "can0")
            return {**found, "fd": fd, "ignore_rx_error_frames": False}
        case "slcan":
            _need(interface, found, "channel", "/dev/ttyACM0")
            _no_fd(interface, fd)
            _installed("serial", "slcan", "pyserial")
            return {"bitrate": BIT_RATE, **found}
        case "socketcand":
            for name, example in (("channel", "can0"), ("host", "10.0.0.5"), ("port", "29536")):
                _need(interface, found, name, example)
            _no_fd(interface, fd)
            return {"tcp_tune": True, **found}
        case "udp_multicast":
            _need(interface, found, "channel", "239.74.163.91")
            _need(interface, found, "port", "43311")
            _multicast(interface, str(found["channel"]))
            _installed("msgpack", "udp_multicast", "msgpack")
            if found.setdefault("hop_limit", 0) != 0:
                raise UsageError(
                    "udp_multicast with a hop limit puts commands on the network",
                    evidence=f"hop_limit: {found['hop_limit']}",
                    hint="leave hop_limit out: it is 0, and frames stay on this machine",
                )
            return {**found, "fd": fd}
        case "virtual":
            _need(interface, found, "channel", "twin-1")
            protocol = CanProtocol.CAN_FD if fd else CanProtocol.CAN_20
            return {"protocol": protocol, **found}
        case _:
            return {**found, "fd": fd} if fd else found


def make_known(interface: str) -> None:
    """Tell python-can where the twin's plug-in is, if it does not know."""
    if interface in PLUG_INS:
        BACKENDS.setdefault(interface, PLUG_INS[interface])


def without_echo(interface: str, bus: can.BusABC) -> can.BusABC:
    """The bus as it is, or one that takes out our own frames where the interface returns them."""
    return EchoFreeBus(bus) if interface == "udp_multicast" else bus


class EchoFreeBus(can.BusABC):
    """A bus that hears its own frames, and takes each out once.

    The same frame from somebody else arrives a second time and is passed on.
    """

    def __init__(self, bus: can.BusABC) -> None:
        self.inner = bus
        self._pending: deque[tuple[float, int, bytes]] = deque()
        super().__init__(channel=bus.channel_info)
        self.channel_info = bus.channel_info
        self._is_shutdown = True  # it holds nothing itself

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        self._pending.append((time.monotonic(), msg.arbitration_id, bytes(msg.data)))
        try:
            self.inner.send(msg, timeout)
        except (can.CanError, OSError):
            self._pending.pop()
            raise

    def recv(self, timeout: float | None = None) -> can.Message | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        left = timeout
        while True:
            msg = self.inner.recv(left)
            if msg is None or not self._is_ours(msg):
                return msg
            if deadline is not None:
                left = max(0.0, deadline - time.monotonic())

    def shutdown(self) -> None:
        self.inner.shutdown()

    def _is_ours(self, msg: can.Message) -> bool:
        pending = self._pending
        oldest = time.monotonic() - ECHO_WITHIN_S
        while pending and pending[0][0] < oldest:
            pending.popleft()
        key = msg.arbitration_id, bytes(msg.data)
        for i, (_, *sent) in enumerate(pending):
            if tuple(sent) == key:
                del pending[i]
                return True
        return False


def _need(interface: str, options: Mapping[str, Any], name: str, example: str) -> None:
    if options.get(name) in (None, ""):
        raise UsageError(
            f"{interface} needs a {name}",
            evidence=f"given: {', '.join(sorted(options)) or 'nothing'}",
            hint=f"for example {name}: {example}",
        )


def _multicast(interface: str, group: str) -> None:
    try:
        if ipaddress.ip_address(group).is_multicast:
            return
    except ValueError:
        pass
    raise UsageError(
        f"{interface} needs a multicast group, and {group} is none",
        hint="for example channel: 239.74.163.91, or ff11::7079:6367",
    )


def _no_fd(interface: str, fd: bool) -> None:
    if fd:
        raise UsageError(
            f"{interface} carries classic frames only",
            evidence="fd: true",
            hint="leave fd out: the motors answer classic frames at 1 Mbit/s",
        )


def _installed(module: str, interface: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ServiceFailed(
            f"CAN interface {interface} needs the package {package}",
            evidence=f"no module {module!r} in this environment",
            hint=f"install it beside policyctl: pip install {package}",
        )
