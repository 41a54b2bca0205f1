"""The adapter's own troubles: its error frames, what it cannot send, and emptying its queue.

Rules
- SocketCAN tells of trouble in error frames; without reading them a bus that went off looks idle,
  and writes to it succeed. The bits are the kernel's (linux/can/error.h).
- A frame that does not fit the queue (ENOBUFS) is dropped: the next pass sends a newer one. An
  interface that is gone or down is another matter, and raises.
- Frames queued on a dead bus outlive the program and are sent when power returns. So `purge`
  empties the queue: by python-can's own way, else by setting a SocketCAN interface down and up,
  which takes CAP_NET_ADMIN. It says whether it could. That may take seconds, in a tick whose
  guardians take all arms over after 60 ms: it is waited for no longer than the caller can, and
  goes on.
"""

from __future__ import annotations

import errno
import subprocess
import threading
from dataclasses import dataclass
from typing import Final

import can

BUS_ERRORS: Final = (can.CanError, OSError)
"""What a bus raises; serial lines and TCP sockets let their own errors through."""

IN_A_TICK_S: Final = 0.01
"""What a tick can spare; two arms may need it in the same."""
AT_REST_S: Final = 5.0
"""Longer than `purge` takes."""

_FULL: Final = frozenset((errno.ENOBUFS, errno.EAGAIN, errno.ETIMEDOUT))

_TX_TIMEOUT, _CONTROLLER, _ACK, _OFF, _RESTARTED = 0x001, 0x004, 0x020, 0x040, 0x100
_RX_OVERFLOW, _TX_OVERFLOW, _WARNING, _PASSIVE, _ACTIVE = 0x01, 0x02, 0x0C, 0x30, 0x40
_COUNTED = 0x200
"""The frame carries the transmit and receive error counters in bytes 6 and 7."""


def is_full_queue(error: Exception) -> bool:
    """True if the frame just did not fit; False if the interface is gone, down or broken."""
    if isinstance(error, can.CanError):
        return error.error_code is None or error.error_code in _FULL
    return isinstance(error, OSError) and error.errno in _FULL


@dataclass
class BusHealth:
    """What error frames said since construction."""

    off: bool = False
    """The adapter has left the bus; sticky until `reset`, also if it came back by itself."""
    passive: bool = False
    warning: bool = False
    bus_off: int = 0
    error_passive: int = 0
    error_warning: int = 0
    ack_errors: int = 0
    tx_timeouts: int = 0
    tx_overflows: int = 0
    rx_overflows: int = 0
    restarts: int = 0
    tx_errors: int = 0
    """The controller's own counter as last told; 128 is error-passive, 256 is off."""
    rx_errors: int = 0

    def reset(self) -> None:
        """A person looked: what comes now counts."""
        self.off = self.passive = self.warning = False

    def take(self, msg: can.Message) -> None:
        """One error frame."""
        kind, data = msg.arbitration_id, bytes(msg.data).ljust(8, b"\0")
        self.tx_timeouts += bool(kind & _TX_TIMEOUT)
        self.ack_errors += bool(kind & _ACK)
        self.restarts += bool(kind & _RESTARTED)
        if kind & _OFF:
            self.off = True
            self.bus_off += 1
        if kind & _CONTROLLER:
            self._controller(data[1])
        if kind & _COUNTED:
            self.tx_errors, self.rx_errors = data[6], data[7]

    def _controller(self, bits: int) -> None:
        self.rx_overflows += bool(bits & _RX_OVERFLOW)
        self.tx_overflows += bool(bits & _TX_OVERFLOW)
        if bits & _PASSIVE:
            self.passive = True
            self.error_passive += 1
        elif bits & _WARNING:
            self.warning, self.passive = True, False
            self.error_warning += 1
        elif bits & _ACTIVE:
            self.warning = self.passive = False

    def summary(self) -> str:
        """In a few words, for evidence; "" if nothing was ever wrong."""
        counts = {
            "bus-off": self.bus_off,
            "error-passive": self.error_passive,
            "unacknowledged": self.ack_errors,
            "transmit timeouts": self.tx_timeouts,
            "restarts": self.restarts,
        }
        return ", ".join(f"{name} {count}" for name, count in counts.items() if count)


def purge(bus: can.BusABC, within_s: float) -> bool | None:
    """Throw away what waits to be sent; False if this bus offers no way that is allowed here.

    None if that is not done `within_s`; it goes on.
    """
    try:
        bus.flush_tx_buffer()
    except NotImplementedError:
        pass
    except BUS_ERRORS:
        return False
    else:
        return True
    channel = getattr(bus, "channel", None)
    if "socketcan" not in type(bus).__module__ or not isinstance(channel, str):
        return False
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(_set_down_and_up(channel)), name="purge")
    thread.start()
    thread.join(within_s)
    return done[0] if done else None


def _set_down_and_up(channel: str) -> bool:
    for state in ("down", "up"):
        try:
            done = subprocess.run(
                ["ip", "link", "set", channel, state], capture_output=True, timeout=2.0, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        if done.returncode:
            return False
    return True
