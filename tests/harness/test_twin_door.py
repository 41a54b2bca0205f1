"""Two twins that come to one socket at once: one serves, the other is refused."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from pathlib import Path

import pytest

from harness.twin import socket_door
from harness.twin.socket_door import SocketDoor, listen
from registry.errors import PolicyctlError, ServiceFailed, UsageError


def test_a_twin_that_comes_while_another_looks_is_refused_and_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find the socket that a killed twin left behind; only one may replace it."""
    path = tmp_path / "right.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(path))
    found: list[socket.socket | PolicyctlError] = []
    looks = socket_door._answers

    def come() -> None:
        try:
            found.append(listen(path, socket.SOCK_SEQPACKET, "--channel"))
        except PolicyctlError as error:
            found.append(error)

    second = threading.Thread(target=come)

    def looked(where: Path, kind: int) -> bool:
        answers = looks(where, kind)
        if not second.ident:
            second.start()
            second.join(0.5)  # today's other comes and goes in this time, if nothing keeps it out
        return answers

    monkeypatch.setattr(socket_door, "_answers", looked)
    come()
    second.join()
    served = [one for one in found if isinstance(one, socket.socket)]
    (refused,) = [one for one in found if isinstance(one, PolicyctlError)]
    assert len(served) == 1
    assert isinstance(refused, UsageError)
    assert "is in use" in refused.what
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as program:
        program.connect(str(path))
        served[0].setblocking(True)
        served[0].accept()[0].close()
    served[0].close()


def test_a_folder_that_somebody_keeps_locked_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_door, "ALONE_WITHIN_S", 0.05)
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(ServiceFailed, match="locked") as caught:
            listen(tmp_path / "right.sock", socket.SOCK_SEQPACKET, "--channel")
    finally:
        os.close(handle)
    assert "end that program" in caught.value.hint
    assert "another folder with --channel" in caught.value.hint
    listen(tmp_path / "right.sock", socket.SOCK_SEQPACKET, "--channel").close()


def test_a_twin_that_ended_leaves_its_path_free_and_a_folder_that_is_not_there_is_named(
    tmp_path: Path,
) -> None:
    path = tmp_path / "right.sock"
    for _ in range(2):
        door = SocketDoor(path)
        with pytest.raises(UsageError, match="in use"):
            SocketDoor(path)
        door.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ServiceFailed, match="cannot serve"):
        SocketDoor(tmp_path / "nowhere" / "right.sock")
