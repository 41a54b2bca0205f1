"""A small socketcand: the ASCII protocol that brings a CAN bus over TCP to strangers.

    < hi >  < open can0 > < ok >  < rawmode > < ok >
    < send 001 8 ff ff ff ff ff ff ff fc >          to the motors, hexadecimal
    < frame 011 23.424242 1183277FF7FF0000 >        from them: id, seconds.microseconds, data
    < error 224 23.424242 >                         an error frame

Rules
- One bus, classic frames only: the protocol has no others. Frames are told in raw mode alone.
- A sentence that is not understood is answered `< error unknown command >` and changes nothing.
- By default on the loopback: whoever reaches the port moves the motors.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping

import can

from harness.twin.adapter import Adapter
from harness.twin.door import Taken
from registry.errors import ServiceFailed

LONGEST = 256
"""Characters without a closing bracket after which a program is cut off."""
BACKLOG = 1 << 20
LARGEST = 2048
"""Characters taken at once: 54 frames of 8 bytes."""

_SENTENCE = re.compile(r"<\s*([^<>]*?)\s*>")
_SEND = re.compile(r"send ([0-9A-Fa-f]{1,8}) ([0-8])((?: [0-9A-Fa-f]{1,2}){0,8})")


class _Program:
    """One TCP connection and how far its conversation is."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.text = ""
        self.waiting = b""
        self.opened = self.raw = False

    def write(self, sentence: str) -> bool:
        """False if the program is gone, or does not read."""
        self.waiting += sentence.encode("ascii")
        try:
            sent = self.link.send(self.waiting)
        except BlockingIOError:
            return len(self.waiting) <= BACKLOG
        except OSError:
            return False
        self.waiting = self.waiting[sent:]
        return len(self.waiting) <= BACKLOG


class SocketcandDoor:
    """One bus under one name on one port."""

    classic = True
    refuses = False
    lost = 0

    def __init__(self, channel: str, host: str, port: int) -> None:
        """Port 0 takes a free one; `where` says which. Raises ServiceFailed."""
        self._channel = channel
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            self._listening = socket.create_server((host, port), family=family)
        except OSError as error:
            raise ServiceFailed(
                f"cannot serve socketcand on {host} port {port}",
                evidence=str(error),
                hint="name another port",
            ) from error
        self._listening.setblocking(False)
        self.where: Mapping[str, object] = {
            "interface": "socketcand",
            "channel": channel,
            "host": host,
            "port": self._listening.getsockname()[1],
        }
        self._programs: dict[int, _Program] = {}

    @property
    def programs(self) -> int | None:
        return len(self._programs)

    def sources(self) -> Iterable[int]:
        return (self._listening.fileno(), *self._programs)

    def take(self, source: int) -> Iterable[Taken]:
        if source == self._listening.fileno():
            self._welcome()
            return
        program = self._programs[source]
        try:
            data = program.link.recv(LARGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        program.text += data.decode("ascii", "replace")
        while (found := _SENTENCE.search(program.text)) is not None:
            program.text = program.text[found.end() :]
            frame = self._hear(program, " ".join(found[1].split()))
            if frame is not None:
                yield program, frame
        if self._programs.get(source) is program and (not data or len(program.text) > LONGEST):
            self._drop(source)

    def give(self, msg: can.Message, time_s: float, but: object) -> None:
        if msg.is_fd or msg.is_remote_frame:
            return
        name = f"{msg.arbitration_id:08X}" if msg.is_extended_id else f"{msg.arbitration_id:03X}"
        if msg.is_error_frame:
            sentence = f"< error {msg.arbitration_id:03X} {time_s:.6f} >"
        else:
            sentence = f"< frame {name} {time_s:.6f} {msg.data.hex().upper()} >"
        for source, program in tuple(self._programs.items()):
            if program.raw and program is not but and not program.write(sentence):
                self._drop(source)

    def tell(self, adapter: Adapter) -> None:
        for source, program in tuple(self._programs.items()):
            if adapter.gone or (program.waiting and not program.write("")):
                self._drop(source)

    def close(self) -> None:
        for source in tuple(self._programs):
            self._drop(source)
        self._listening.close()

    def _hear(self, program: _Program, sentence: str) -> can.Message | None:
        """Answer one sentence; the frame in it, if it sends one."""
        if not program.opened:
            program.opened = sentence == f"open {self._channel}"
            program.write("< ok >" if program.opened else "< error could not open bus >")
            return None
        if sentence == "rawmode":
            program.write("< ok >")
            program.raw = True
            return None
        if sentence == "echo":
            program.write("< echo >")
            return None
        found = _SEND.fullmatch(sentence)
        data = bytes(int(octet, 16) for octet in found[3].split()) if found else b""
        if found is None or len(data) != int(found[2]):
            program.write("< error unknown command >")
            return None
        extended = len(found[1]) > 3
        return can.Message(
            arbitration_id=int(found[1], 16) & (0x1FFFFFFF if extended else 0x7FF),
            is_extended_id=extended,
            data=data,
            is_rx=False,
        )

    def _welcome(self) -> None:
        try:
            link, _ = self._listening.accept()
        except OSError:
            return
        link.setblocking(False)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        program = _Program(link)
        if program.write("< hi >"):
            self._programs[link.fileno()] = program
        else:
            link.close()

    def _drop(self, source: int) -> None:
        self._programs.pop(source).link.close()
