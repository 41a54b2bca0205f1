"""The twin's end of `interface="policyctl"`: a Unix socket of packets, for its owner only.

A program that does not read is given a backlog, then cut off: it must not hold up the others. An
adapter that vanished closes its programs' sockets; who connects meanwhile is told at once.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import can

from harness.twin.adapter import Adapter
from harness.twin.door import AT_ONCE, Taken, Word
from harness.twin.socket_bus import LARGEST, Packet, State, pack, pack_hello, unpack
from registry.errors import ServiceFailed, UsageError

_WORDS = {bytes((Packet.PURGE,)): Word.PURGE, bytes((Packet.REFUSED,)): Word.REFUSED}

BACKLOG = 8192
"""Packets kept for a program that is slow; 200 Hz make 3 200 a second."""
ALONE_WITHIN_S = 5.0
"""Others need milliseconds."""
LONGEST_PATH = 107
"""Bytes that the kernel has for a Unix socket's path."""


def listen(path: Path, kind: int, option: str) -> socket.socket:
    """A listening Unix socket that only its owner may open. Raises UsageError, ServiceFailed.

    A socket left behind by a process that was killed is replaced; a live one is not, nor a file. Of
    two that come at once, the second finds the first one's.
    `option` is what the user named it by.
    """
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise UsageError(
            f"a socket's path has at most {LONGEST_PATH} bytes",
            evidence=str(path),
            hint=f"name a shorter one with {option}",
        )
    with _alone_in(path.parent, option):
        return _bound(path, kind, option)


@contextmanager
def _alone_in(folder: Path, option: str) -> Iterator[None]:
    """Nobody else looks for a live socket, or puts one, in `folder` meanwhile. ServiceFailed."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot_serve(folder, option, error) from error
    try:
        until = time.monotonic() + ALONE_WITHIN_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise ServiceFailed(
                        f"cannot serve in {folder}: another program has it locked",
                        evidence=f"for more than {ALONE_WITHIN_S:g} s; a twin needs milliseconds",
                        hint=f"end that program (`lsof {folder}` names it), or name a path in"
                        f" another folder with {option}",
                    ) from error
                time.sleep(0.01)
            except OSError as error:
                raise _cannot_serve(folder, option, error) from error
        yield
    finally:
        os.close(handle)


def _cannot_serve(path: Path, option: str, error: OSError) -> ServiceFailed:
    return ServiceFailed(
        f"cannot serve at {path}",
        evidence=str(error),
        hint=f"name a path that can be written with {option}",
    )


def _bound(path: Path, kind: int, option: str) -> socket.socket:
    found = socket.socket(socket.AF_UNIX, kind)
    try:
        if path.is_socket() and _answers(path, kind):
            raise UsageError(
                f"{path} is in use",
                evidence="another process listens there",
                hint=f"end the other twin, or name another path with {option}",
            )
        if path.exists() and not path.is_socket():
            raise UsageError(
                f"{path} is there already, and no socket", hint=f"name another with {option}"
            )
        if path.is_socket():
            path.unlink()
        found.bind(str(path))
        os.chmod(path, 0o600)  # before listen: nobody gets in between
        found.listen(16)
        found.setblocking(False)
    except OSError as error:
        found.close()
        raise _cannot_serve(path, option, error) from error
    except UsageError:
        found.close()
        raise
    return found


def _answers(path: Path, kind: int) -> bool:
    with socket.socket(socket.AF_UNIX, kind) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


class _Program:
    """One connected program and what still waits to go to it."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.waiting: deque[bytes] = deque()
        self.refused = 0
        """Frames that it says did not fit."""
        self.deaf = False
        """It has closed; what it sent before is still read."""
        self._heard_of: State | None = None

    def tell(self, state: State) -> bool:
        """The adapter's state, if it is news; False as with `write`."""
        state = state._replace(seen=self.refused & 0xFFFFFFFF)
        if state == self._heard_of:
            return True
        self._heard_of = state
        return self.write(state.packed())

    def write(self, packet: bytes) -> bool:
        """False if the program is so far behind that it is cut off."""
        self.waiting.append(packet)
        return self.flush()

    def flush(self) -> bool:
        while self.waiting:
            try:
                self.link.send(self.waiting[0], socket.MSG_DONTWAIT)
            except BlockingIOError:
                return len(self.waiting) <= BACKLOG
            except OSError:
                self.deaf = True
            if self.deaf:
                self.waiting.clear()
            else:
                self.waiting.popleft()
        return True


class SocketDoor:
    """A Unix socket that programs connect to."""

    classic = False
    refuses = True
    lost = 0
    """What is not taken yet waits in the program's socket, then holds it up."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError if a twin is served there already, ServiceFailed."""
        self.where: Mapping[str, object] = {"interface": "policyctl", "channel": str(path)}
        self._path = path
        self._listening = listen(path, socket.SOCK_SEQPACKET, "--channel")
        self._programs: dict[int, _Program] = {}
        self._state = State(gone=False, blocked=False, refuse=0)

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
        for _ in range(AT_ONCE):
            try:
                packet = program.link.recv(LARGEST, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionResetError:  # it closed before it had read all; what it sent is here
                continue
            except OSError:
                packet = b""
            if (word := _WORDS.get(packet)) is not None:
                program.refused += word is Word.REFUSED
                yield program, word
                continue
            try:
                frame = unpack(packet)
            except ValueError:  # it closed, or is no program of ours
                if self._programs.get(source) is program:
                    self._drop(source)
                return
            frame.is_rx = False
            yield program, frame

    def give(self, msg: can.Message, time_s: float, but: object) -> None:
        packet = pack(msg, time_s)
        for source, program in tuple(self._programs.items()):
            if program is not but and not program.write(packet):
                self._drop(source)

    def tell(self, adapter: Adapter) -> None:
        """Also flushes what waits for slow programs."""
        self._state = State(gone=adapter.gone, blocked=adapter.room <= 0, refuse=adapter.full)
        for source, program in tuple(self._programs.items()):
            alive = program.flush() and program.tell(self._state)
            if not alive or adapter.gone:
                self._drop(source)

    def close(self) -> None:
        for source in tuple(self._programs):
            self._drop(source)
        self._listening.close()
        self._path.unlink(missing_ok=True)

    def _welcome(self) -> None:
        try:
            link, _ = self._listening.accept()
        except OSError:
            return
        program = _Program(link)
        if program.write(pack_hello()) and program.tell(self._state):
            self._programs[link.fileno()] = program
        else:
            link.close()

    def _drop(self, source: int) -> None:
        self._programs.pop(source).link.close()
