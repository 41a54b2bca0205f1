"""The ways by which programs reach a live twin's motors; a python-can bus as one of them.

Rules
- Where motors answer already, no twin is served beside them: two would answer every frame.
- Nothing here leaves this machine unless its owner names another address: Unix sockets are for
  their owner, multicast has hop limit 0, TCP listens on the loopback.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import can

from fleet.can import frames
from fleet.can.bus import open_bus
from fleet.can.frames import PARAMETER_ID
from fleet.can.health import BUS_ERRORS
from fleet.can.interfaces import EchoFreeBus
from fleet.can.motors import OPENARM_MOTORS
from harness.twin.adapter import Adapter
from harness.twin.door import AT_ONCE, Door, Taken
from registry.errors import ServiceFailed, UsageError

ANSWERS_WITHIN_S = 0.25
"""A twin that lags behind its clock answers within this."""

_SO_MEMINFO, _MEMINFO = 55, struct.Struct("9I")
"""Linux's numbers of a socket's memory; the last counts what was dropped."""

INTERFACES = ("policyctl", "udp_multicast", "socketcand", "socketcan")


class BusDoor:
    """A python-can bus that strangers are on: udp_multicast, socketcan."""

    classic = refuses = False

    def __init__(self, where: Mapping[str, Any]) -> None:
        """Raises UsageError, ServiceFailed."""
        self.where: Mapping[str, object] = dict(where)
        self._bus = open_bus(where)
        inner = self._bus.inner if isinstance(self._bus, EchoFreeBus) else self._bus
        self._source = inner.fileno()
        try:
            self._alone()
        except UsageError:
            self._bus.shutdown()
            raise
        self._undelivered = 0

    @property
    def lost(self) -> int:
        return self._undelivered + _dropped(self._source)

    @property
    def programs(self) -> int | None:
        return None

    def sources(self) -> Iterable[int]:
        return (self._source,)

    def take(self, source: int) -> Iterable[Taken]:
        for _ in range(AT_ONCE):
            if (msg := self._bus.recv(0.0)) is None:
                return
            yield self, msg

    def give(self, msg: can.Message, time_s: float, but: object) -> None:
        if but is self:
            return  # whoever is on that bus has heard it there
        try:
            self._bus.send(msg)
        except BUS_ERRORS:
            self._undelivered += 1

    def tell(self, adapter: Adapter) -> None:
        pass

    def close(self) -> None:
        self._bus.shutdown()

    def _alone(self) -> None:
        """Ask for our motors. Raises UsageError if somebody answers."""
        with contextlib.suppress(*BUS_ERRORS):  # nobody acknowledges: nobody is there
            for motor in OPENARM_MOTORS:
                data = frames.refresh(motor.esc_id)
                self._bus.send(
                    can.Message(arbitration_id=PARAMETER_ID, data=data, is_extended_id=False)
                )
        deadline = time.monotonic() + ANSWERS_WITHIN_S
        answers = {motor.mst_id for motor in OPENARM_MOTORS}
        while (left := deadline - time.monotonic()) > 0.0:
            heard = self._bus.recv(left)
            if heard is not None and heard.arbitration_id in answers:
                named = ", ".join(f"{name} {value}" for name, value in self.where.items())
                raise UsageError(
                    "another twin or an arm answers on this bus",
                    evidence=f"{named}: a frame on {heard.arbitration_id:#05x}",
                    hint="end the other twin, or name another --port or --channel",
                )


def _dropped(source: int) -> int:
    """Frames for which the kernel had no room in a socket; 0 where it does not say."""
    try:
        with socket.socket(fileno=os.dup(source)) as same:
            said = same.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        return int(_MEMINFO.unpack(said)[-1])
    except (OSError, struct.error):
        return 0


def open_door(where: Mapping[str, Any]) -> Door:
    """The door that `where` names: interface, channel, port, … Raises UsageError, ServiceFailed."""
    interface = where.get("interface")
    match interface:
        case "policyctl":
            from harness.twin.socket_door import SocketDoor

            return SocketDoor(Path(str(where["channel"])))
        case "socketcand":
            from harness.twin.socketcand import SocketcandDoor

            return SocketcandDoor(
                str(where.get("channel", "can0")),
                str(where.get("host", "127.0.0.1")),
                int(where.get("port", 29536)),
            )
        case "udp_multicast" | "socketcan":
            return BusDoor({"fd": True, **where})
        case _:
            raise UsageError(
                f"a twin is not served on {interface!r}",
                hint=f"one of: {', '.join(INTERFACES)}",
            )


def run_folder() -> Path:
    """The folder of this user's sockets, for this user only; made if it is not there.

    Raises ServiceFailed if somebody else owns it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(base, "policyctl") if base else Path(f"/tmp/policyctl-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ServiceFailed(
            f"{folder} is not this user's alone",
            evidence=f"owner {found.st_uid}, mode {found.st_mode & 0o777:o}",
            hint="remove it, or set XDG_RUNTIME_DIR",
        )
    return folder
