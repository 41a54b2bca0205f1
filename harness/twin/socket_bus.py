"""python-can's `interface="policyctl"`: a bus to a twin process on this machine.

    can.Bus("/run/user/1000/policyctl/right.sock", "policyctl", ignore_config=True)

Rules
- The channel is the path of a Unix socket that `policyctl twin run` serves, for its owner only. One
  packet is one frame, classic or FD; the kernel keeps order and loses none.
- The twin is the CAN adapter: what its queue refuses, raises here as ENOBUFS at the next send after
  the twin has told (one pass later at most) and this end has read; an interface that vanished
  raises ENODEV for ever, and so does a twin that ended. Frames queued on a dead bus are the twin's:
  they outlive this program, and `flush_tx_buffer` throws them away.
- How many frames a full queue refuses is counted by the twin: each end says what it refused, and
  reads from what it is told what the twin has yet to hear of. Of programs that send in the same
  moment each may refuse as many.
- Other programs' frames are heard, our own are not.

Time is the monotonic clock of this machine; a frame's timestamp is when the twin sent it (epoch).
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from collections import deque
from enum import IntEnum
from typing import Any, Final, NamedTuple

import can
from can.bus import CanProtocol

VERSION: Final = 2
LARGEST: Final = 128
HELLO_WITHIN_S: Final = 2.0
SEND_WITHIN_S: Final = 1.0

_FRAME = struct.Struct("<BBId")
_STATE = struct.Struct("<BBiI")
_FD, _SWITCH, _EXTENDED, _REMOTE, _ERROR, _INDICATOR = 1, 2, 4, 8, 16, 32
_GONE, _BLOCKED = 1, 2


class Packet(IntEnum):
    """The first byte of a packet."""

    FRAME = 0
    STATE = 1
    """From the twin: what `State` says."""
    PURGE = 2
    """To the twin: throw away what is queued."""
    HELLO = 3
    """From the twin, first: VERSION."""
    REFUSED = 4
    """To the twin: a frame did not fit the full queue."""


class State(NamedTuple):
    """The adapter's state, for the programs on it."""

    gone: bool
    blocked: bool
    refuse: int
    """Sends to refuse; below 0 all until told otherwise."""
    seen: int = 0
    """Of this program's refusals, those that `refuse` is without; modulo 2**32."""

    def packed(self) -> bytes:
        flags = (_GONE if self.gone else 0) | (_BLOCKED if self.blocked else 0)
        return _STATE.pack(Packet.STATE, flags, self.refuse, self.seen)


def pack(msg: can.Message, time_s: float) -> bytes:
    """A frame as a packet."""
    flags = (
        (_FD if msg.is_fd else 0)
        | (_SWITCH if msg.bitrate_switch else 0)
        | (_EXTENDED if msg.is_extended_id else 0)
        | (_REMOTE if msg.is_remote_frame else 0)
        | (_ERROR if msg.is_error_frame else 0)
        | (_INDICATOR if msg.error_state_indicator else 0)
    )
    return _FRAME.pack(Packet.FRAME, flags, msg.arbitration_id, time_s) + msg.data


def unpack(packet: bytes) -> can.Message:
    """A packet as a received frame. Raises ValueError if it is none."""
    if len(packet) < _FRAME.size or packet[0] != Packet.FRAME:
        raise ValueError(f"not a frame: {packet[:16].hex()}")
    _, flags, identifier, time_s = _FRAME.unpack_from(packet)
    data = bytearray(packet[_FRAME.size :])
    return can.Message(
        timestamp=time_s,
        arbitration_id=identifier,
        is_extended_id=bool(flags & _EXTENDED),
        is_remote_frame=bool(flags & _REMOTE),
        is_error_frame=bool(flags & _ERROR),
        dlc=len(data),
        data=data,
        is_fd=bool(flags & _FD),
        is_rx=True,
        bitrate_switch=bool(flags & _SWITCH),
        error_state_indicator=bool(flags & _INDICATOR),
    )


def pack_hello() -> bytes:
    return bytes((Packet.HELLO, VERSION))


class PolicyctlBus(can.BusABC):
    """A program's end of the socket."""

    def __init__(self, channel: str | None = None, *, fd: bool = True, **options: Any) -> None:
        """`channel` is the socket's path; `fd` False refuses to send CAN FD frames.

        Raises can.CanInitializationError if no twin is there or its adapter is gone.
        """
        if not channel:
            raise can.CanInitializationError("interface policyctl needs a channel: a twin's socket")
        self.channel = str(channel)
        self.channel_info = f"twin at {self.channel}"
        self._can_protocol = CanProtocol.CAN_FD if fd else CanProtocol.CAN_20
        self._heard: deque[can.Message] = deque()
        self._gone = self._blocked = False
        self._refuse = self._refused = 0
        self._greeted = False
        self._socket = _connected(self.channel)
        try:
            self._greet()
        except can.CanError:
            self._socket.close()
            raise
        super().__init__(channel=channel, **options)

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        if self._gone:
            raise can.CanOperationError(f"{self.channel_info} is gone", errno.ENODEV)
        if msg.is_fd and self._can_protocol is not CanProtocol.CAN_FD:
            raise can.CanOperationError("this bus was opened for classic frames only")
        if self._blocked or self._refuse:
            self._take(0.0)  # it may have ended: a program that only sends hears of it here
        if self._refuse:
            self._write(bytes((Packet.REFUSED,)), 0.0)
            self._refused += 1
            self._refuse -= self._refuse > 0
        elif not self._blocked:
            self._write(pack(msg, time.time()), timeout)
            return
        raise can.CanOperationError("no buffer space available", errno.ENOBUFS)

    def flush_tx_buffer(self) -> None:
        """Throw away what the adapter has queued, whoever queued it."""
        self._write(bytes((Packet.PURGE,)), None)

    def fileno(self) -> int:
        return self._socket.fileno()

    def shutdown(self) -> None:
        super().shutdown()
        self._socket.close()

    def _recv_internal(self, timeout: float | None) -> tuple[can.Message | None, bool]:
        if self._heard:
            return self._heard.popleft(), False
        if self._gone:
            raise can.CanOperationError(f"{self.channel_info} is gone", errno.ENODEV)
        self._take(timeout)
        return (self._heard.popleft() if self._heard else None), False

    def _take(self, timeout: float | None) -> None:
        """Wait for packets and take all that are there."""
        # not poll(): it rounds up to milliseconds, and who waits by a bus for a tick wakes late
        wait_s = None if timeout is None else max(0.0, timeout)
        if not select.select([self._socket], [], [], wait_s)[0]:
            return
        while True:
            try:
                packet = self._socket.recv(LARGEST, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                self._gone = True
                raise can.CanOperationError(str(error), errno.ENODEV) from error
            if not packet:
                self._gone = True
                return
            match packet[0]:
                case Packet.FRAME:
                    self._heard.append(unpack(packet))
                case Packet.STATE if len(packet) != _STATE.size:
                    raise can.CanInitializationError(
                        "the twin speaks another version of this protocol"
                    )
                case Packet.STATE:
                    _, flags, refuse, seen = _STATE.unpack(packet)
                    unseen = (self._refused - seen) & 0xFFFFFFFF
                    self._refuse = refuse if refuse < 0 else max(0, refuse - unseen)
                    self._gone = self._gone or bool(flags & _GONE)
                    self._blocked = bool(flags & _BLOCKED)
                case Packet.HELLO:
                    if packet[1] != VERSION:
                        raise can.CanInitializationError(
                            f"the twin speaks version {packet[1]} of this protocol, not {VERSION}"
                        )
                    self._greeted = True

    def _greet(self) -> None:
        deadline = time.monotonic() + HELLO_WITHIN_S
        while not self._greeted and not self._gone and time.monotonic() < deadline:
            self._take(0.1)
        if self._gone:
            raise can.CanInitializationError(f"{self.channel_info}: no such device", errno.ENODEV)
        if not self._greeted:
            raise can.CanInitializationError(f"nobody answers at {self.channel}")

    def _write(self, packet: bytes, timeout: float | None) -> None:
        """Hand a packet to the kernel; waits where the twin is behind. Raises CanOperationError."""
        flags = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)
        deadline = time.monotonic() + (SEND_WITHIN_S if timeout is None else timeout)
        while True:
            try:
                self._socket.send(packet, flags)
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0.0:
                    raise can.CanOperationError("the twin does not read", errno.ENOBUFS) from None
                select.select([], [self._socket], [], left)
            except OSError as error:
                self._gone = True
                raise can.CanOperationError(str(error), errno.ENODEV) from error
            else:
                return


def _connected(path: str) -> socket.socket:
    try:
        found = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise can.CanInitializationError(
            f"this system has no packet sockets between processes: {error}"
        ) from error
    try:
        found.connect(path)
    except OSError as error:
        found.close()
        raise can.CanInitializationError(f"no twin at {path}: {error.strerror}") from error
    return found
