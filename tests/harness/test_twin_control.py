"""The control socket's server outlives what it is asked."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ci.cli.twin import _detail
from harness.twin.control import ControlServer


@pytest.mark.parametrize("error", [MemoryError, OverflowError, ZeroDivisionError])
def test_a_request_that_goes_wrong_is_answered(tmp_path: Path, error: type[Exception]) -> None:
    def handle(request: Mapping[str, Any]) -> None:
        raise error("too large")

    server = ControlServer(tmp_path / "control.sock", handle)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.connect(str(server.path))
        link.sendall(b"{}\n")
        (door,) = server.sources()
        server.take(door)
        _, asked = server.sources()
        server.take(asked)
        answer = json.loads(link.recv(65536))
    server.close()
    assert answer["error"]["evidence"] == f"{error.__name__}: too large"


def test_data_that_looks_like_a_number_stays_text() -> None:
    assert _detail("data=0100330000000000") == ("data", "0100330000000000")
    assert _detail("count=12") == ("count", 12)
