"""The control socket of a live twin: one request and one answer a connection, JSON, for its owner.

A request is `{"do": …, …}`; the answer is `{"ok": …}`, or `{"error": {what, evidence, hint,
exit_status}}`, which `ask` raises as what it was.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.twin.socket_door import listen
from registry.errors import PolicyctlError, Refused, ServiceFailed, UsageError

LARGEST = 1 << 20
WITHIN_S = 5.0

Handler = Callable[[Mapping[str, Any]], Any]

_ERRORS = {error.exit_status: error for error in (UsageError, Refused, ServiceFailed)}


class ControlServer:
    """Answers requests in its owner's loop."""

    def __init__(self, path: Path, handle: Handler) -> None:
        """Raises UsageError if another twin listens there, ServiceFailed."""
        self.path = path
        self._handle = handle
        self._listening = listen(path, socket.SOCK_STREAM, "--control")
        self._asking: dict[int, tuple[socket.socket, bytearray]] = {}

    def sources(self) -> Iterable[int]:
        return (self._listening.fileno(), *self._asking)

    def take(self, source: int) -> None:
        """Read what is there; answer where a request is whole."""
        if source == self._listening.fileno():
            try:
                link, _ = self._listening.accept()
            except OSError:
                return
            link.setblocking(False)
            self._asking[link.fileno()] = (link, bytearray())
            return
        link, text = self._asking[source]
        try:
            data = link.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        text += data
        if b"\n" in text:
            self._answer(link, bytes(text))
        if b"\n" in text or not data or len(text) > LARGEST:
            self._asking.pop(source)
            link.close()

    def close(self) -> None:
        for link, _ in self._asking.values():
            link.close()
        self._listening.close()
        self.path.unlink(missing_ok=True)

    def _answer(self, link: socket.socket, text: bytes) -> None:
        answer: dict[str, Any]
        try:
            request = json.loads(text)
            answer = {"ok": self._handle(request)}
        except PolicyctlError as error:
            answer = {"error": error.as_dict()}
        except Exception as error:  # noqa: BLE001 - no request may end the twin that others use
            why = f"{type(error).__name__}: {error}"
            answer = {"error": UsageError("this is no request", evidence=why).as_dict()}
        link.setblocking(True)
        link.settimeout(WITHIN_S)
        try:
            link.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            return  # whoever asked is gone; what was asked for was done


def ask(path: Path, request: Mapping[str, Any]) -> Any:
    """The answer of the twin at `path`. Raises ServiceFailed if none is there, or its error."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(WITHIN_S)
        try:
            link.connect(str(path))
            link.sendall(json.dumps(request).encode() + b"\n")
            text = b""
            while not text.endswith(b"\n") and (data := link.recv(65536)):
                text += data
        except OSError as error:
            raise ServiceFailed(
                "no twin answers",
                evidence=f"{path}: {error}",
                hint="start one with `policyctl twin run`, or name its --control socket",
            ) from error
    try:
        answer = json.loads(text)
    except ValueError:
        raise ServiceFailed("the twin ended before it answered", evidence=str(path)) from None
    if "error" in answer:
        told = answer["error"]
        kind = _ERRORS.get(told["exit_status"], ServiceFailed)
        raise kind(told["what"], evidence=told["evidence"], hint=told["hint"])
    return answer["ok"]
