"""Opening a bus: what each interface needs, what is refused, and real buses on this machine."""

from __future__ import annotations

import importlib.util
import os
import select
import socket
import threading
import tty
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import can
import pytest

from fleet.can.arm import Arm
from fleet.can.bus import open_bus
from fleet.can.interfaces import options_of
from harness.twin.bus import TwinBridge
from harness.twin.physics import TwinConfig, TwinWorld
from registry.errors import ServiceFailed, UsageError

GROUP = "239.74.163.91"


def frame(identifier: int, data: bytes = bytes(8), fd: bool = False) -> can.Message:
    return can.Message(
        arbitration_id=identifier, data=data, is_extended_id=False, is_fd=fd, bitrate_switch=fd
    )


def free_port() -> int:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def udp(port: int) -> dict[str, object]:
    return {"interface": "udp_multicast", "channel": GROUP, "port": port, "fd": True}


def test_socketcan_classic_or_fd() -> None:
    assert not options_of("socketcan", {"channel": "can0"})["fd"]
    fd = options_of("socketcan", {"channel": "can0", "fd": True})
    assert fd == {"channel": "can0", "fd": True, "ignore_rx_error_frames": False}


def test_slcan_is_opened_at_the_motors_bit_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    found = options_of("slcan", {"channel": "/dev/ttyACM0"})
    assert found == {"channel": "/dev/ttyACM0", "bitrate": 1_000_000}


def test_slcan_without_pyserial_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ServiceFailed, match="pyserial"):
        open_bus({"interface": "slcan", "channel": "/dev/ttyACM0"})


def test_the_twins_plug_in_gets_its_options_as_they_are() -> None:
    given = {"channel": "/run/x.sock", "anything": 3, "fd": True}
    assert options_of("policyctl", given) == given


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"interface": "udp_multicast", "channel": GROUP}, "needs a port"),
        ({"interface": "udp_multicast", "port": 43311}, "needs a channel"),
        ({**udp(43311), "hop_limit": 1}, "puts commands on the network"),
        ({"interface": "socketcand", "channel": "can0", "port": 1}, "needs a host"),
        (
            {"interface": "socketcand", "channel": "can0", "host": "::1", "port": 1, "fd": True},
            "classic frames only",
        ),
        ({"interface": "slcan", "channel": "/dev/x", "fd": True}, "classic frames only"),
        ({"interface": "socketcan"}, "needs a channel"),
        ({"interface": "virtual"}, "needs a channel"),
    ],
)
def test_missing_or_unsafe_options_are_refused(config: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        open_bus(config)
    assert caught.value.hint


def test_multicast_stays_on_this_machine_and_our_own_frames_are_not_heard() -> None:
    port = free_port()
    with closing_bus(udp(port)) as near, closing_bus(udp(port)) as far:
        assert near.inner._multicast.hop_limit == 0  # type: ignore[attr-defined]
        near.send(frame(0x001, b"commands", fd=True))
        heard = far.recv(2.0)
        assert heard is not None
        assert (heard.arbitration_id, bytes(heard.data)) == (0x001, b"commands")
        assert near.recv(0.1) is None, "an echo is not another program"
        far.send(frame(0x001, b"commands", fd=True))
        foreign = near.recv(2.0)
        assert foreign is not None, "the same frame from somebody else is"
        assert foreign.arbitration_id == 0x001


@contextmanager
def closing_bus(config: dict[str, object]) -> Iterator[can.BusABC]:
    bus = open_bus(config)
    try:
        yield bus
    finally:
        bus.shutdown()


@pytest.mark.parametrize("fd", [False, True])
def test_a_virtual_bus_carries_classic_and_fd(fd: bool) -> None:
    config = {"interface": "virtual", "channel": f"carries-{fd}", "fd": fd}
    with closing_bus(config) as near, closing_bus(config) as far:
        near.send(frame(0x11, fd=fd))
        heard = far.recv(1.0)
        assert heard is not None
        assert heard.is_fd is fd


@pytest.mark.slow
@pytest.mark.parametrize("interface", ["virtual", "udp_multicast"])
def test_an_arm_connects_over_a_real_bus(interface: str) -> None:
    """The twin's motors answer in a thread; foreign frames would be a fault, echoes are none."""
    config = (
        udp(free_port())
        if interface == "udp_multicast"
        else {"interface": "virtual", "channel": "an-arm-connects", "fd": True}
    )
    done = threading.Event()
    with closing_bus(config) as far, closing_bus(config) as near:
        bridge = TwinBridge(TwinWorld(TwinConfig(seed=1)), far)

        def serve() -> None:
            while not done.is_set():
                bridge.serve(0.02)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            arm = Arm(near, fd=True, reply_window_s=0.05)
            state = arm.connect()
            assert (state.status == 0).all()
            assert arm.counters.foreign == 0
        finally:
            done.set()
            thread.join()


def test_socketcand_speaks_to_a_server_and_carries_a_frame() -> None:
    """A server of a few lines: the greeting, open, rawmode, then one frame there and one back."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        got: list[str] = []

        def serve() -> None:
            client, _ = server.accept()
            with closing(client), client.makefile("rw", newline="") as stream:
                client.sendall(b"< hi >")
                for answer in (b"< ok >", b"< ok >"):
                    _sentence(client)
                    client.sendall(answer)
                got.append(_sentence(client))
                client.sendall(b"< frame 011 1234567.000001 1183277FF7FF0000 >")
                stream.read(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        config: dict[str, Any] = {
            "interface": "socketcand",
            "channel": "can0",
            "host": "127.0.0.1",
            "port": server.getsockname()[1],
        }
        with closing_bus(config) as bus:
            bus.send(frame(0x001, bytes.fromhex("fffffffffffffffc")))
            heard = bus.recv(2.0)
            assert heard is not None
            assert (heard.arbitration_id, bytes(heard.data).hex()) == (0x11, "1183277ff7ff0000")
        thread.join(2.0)
        assert "send 001 8 ff ff" in got[0].lower()


def _sentence(client: socket.socket) -> str:
    text = ""
    while not text.endswith(">"):
        text += client.recv(1).decode()
    return text


def test_slcan_speaks_over_a_serial_line() -> None:
    """A pseudo terminal instead of an adapter: opened at 1 Mbit/s, one frame out and one in."""
    master, slave = os.openpty()
    tty.setraw(slave)
    got = bytearray()
    done = threading.Event()

    def adapter() -> None:
        answered = False
        while not done.is_set():
            if select.select([master], [], [], 0.05)[0]:
                got.extend(os.read(master, 64))
            if not answered and b"t0018FFFFFFFFFFFFFFFC\r" in got:
                answered = True
                os.write(master, b"t01181183277FF7FF0000\r")

    thread = threading.Thread(target=adapter)
    thread.start()
    config = {"interface": "slcan", "channel": os.ttyname(slave), "sleep_after_open": 0.0}
    try:
        with closing_bus(config) as bus:
            bus.send(frame(0x001, bytes.fromhex("fffffffffffffffc")))
            heard = bus.recv(2.0)
            assert heard is not None
            assert (heard.arbitration_id, bytes(heard.data).hex()) == (0x11, "1183277ff7ff0000")
    finally:
        done.set()
        thread.join()
        os.close(master)
        os.close(slave)
    assert b"S8\r" in got
