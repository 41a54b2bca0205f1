"""Programs on the socket of a live twin, pass by pass of its loop: what is refused."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import can
import pytest
from twin_process import closing_bus, free_port, refresh

from fleet.can import frames
from fleet.can.bus import open_bus
from fleet.can.frames import PARAMETER_ID, Special, Status
from harness.twin.adapter import QUEUE_LENGTH
from harness.twin.bus import TwinBus
from harness.twin.door import AT_ONCE
from harness.twin.doors import BusDoor
from harness.twin.faulty_bus import FaultyBus
from harness.twin.live import Line, LiveTwin
from harness.twin.physics import TwinConfig, TwinWorld
from harness.twin.socket_bus import Packet, PolicyctlBus
from harness.twin.socket_door import SocketDoor, listen
from harness.twin.wire import WireBus, WireModel


class Served:
    """A twin whose loop runs only when told to, and the programs on it."""

    def __init__(self, folder: Path, undo: ExitStack, wire: WireModel | None = None) -> None:
        self.door = SocketDoor(folder / "right.sock")
        undo.callback(self.door.close)
        self._undo = undo
        world = TwinWorld(TwinConfig(seed=1))
        bus = TwinBus(world) if wire is None else WireBus(world, model=wire)
        self.line = Line("right", FaultyBus(bus, world.adapter()), [self.door])
        self.twin = LiveTwin(world, [self.line])

    def passes(self, count: int = 3) -> None:
        left = iter(range(count))
        self.twin.run(lambda: next(left, None) is not None)

    def join(self) -> PolicyctlBus:
        """Another program."""
        found: list[PolicyctlBus] = []
        path = str(self.door.where["channel"])
        thread = threading.Thread(target=lambda: found.append(PolicyctlBus(path)))
        thread.start()
        while thread.is_alive():
            self.passes(1)
        self._undo.enter_context(closing_bus(found[0]))
        return found[0]

    def trouble(self, **event: object) -> None:
        self.twin.answer({"do": "fault", "event": {"fault": "queue_full", **event}})


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with ExitStack() as undo:
        yield Served(tmp_path, undo)


def special(slot: int, what: Special) -> can.Message:
    data = frames.special(what)
    return can.Message(arbitration_id=slot + 1, data=data, is_extended_id=False, is_fd=True)


def is_refused(bus: can.BusABC) -> bool:
    """Whether the next frame does not fit."""
    try:
        bus.send(refresh())
    except can.CanOperationError as error:
        return error.error_code == errno.ENOBUFS
    return False


def refusals(served: Served, *programs: PolicyctlBus) -> int:
    """How often the programs are refused in turn, until none is any more."""
    for bus in programs:
        assert bus.recv(0.0) is None
    count = 0
    while any(refused := [is_refused(bus) for bus in programs]):
        count += sum(refused)
        served.passes()
    return count


@pytest.mark.parametrize("clear", [{"do": "clear"}, {"do": "fault", "event": {"clear": True}}])
def test_a_full_queue_that_is_cleared_takes_frames_again(
    served: Served, clear: dict[str, dict[str, object]]
) -> None:
    bus = served.join()
    served.trouble(details={"count": 1000})
    served.passes()
    assert bus.recv(0.0) is None
    assert is_refused(bus)
    served.passes()
    assert is_refused(bus)
    if "event" in clear:
        clear = {**clear, "event": {**clear["event"], "fault": "queue_full"}}
    served.twin.answer(clear)
    served.passes()
    assert not is_refused(bus), "it has read nothing since, as a program that only sends"
    served.passes()
    assert (served.line.heard, served.line.refused) == (1, 2)


@pytest.mark.parametrize("programs", [1, 2])
@pytest.mark.parametrize("before", [False, True])
def test_so_many_frames_do_not_fit_and_no_more_whoever_sends_them_and_since_whenever(
    served: Served, programs: int, before: bool
) -> None:
    if before:
        served.trouble(details={"count": 4})
        served.passes()
    buses = [served.join() for _ in range(programs)]
    if not before:
        served.trouble(details={"count": 4})
    served.passes()
    assert refusals(served, *buses) == 4
    served.passes()
    assert (served.line.heard, served.line.refused) == (programs, 4)


def test_a_program_that_sends_faster_than_the_twin_looks_is_refused_as_often(
    served: Served,
) -> None:
    bus = served.join()
    served.trouble(details={"count": 4})
    served.passes()
    assert bus.recv(0.0) is None
    assert [is_refused(bus) for _ in range(6)] == [True] * 4 + [False] * 2
    served.passes()
    assert not is_refused(bus), "what it was told meanwhile is not counted again"
    served.passes()
    assert (served.line.heard, served.line.refused) == (3, 4)


def test_a_frame_that_was_taken_before_the_queue_was_full_goes_out(served: Served) -> None:
    bus = served.join()
    assert not is_refused(bus)
    served.trouble(details={"count": 2})
    served.passes()
    answer = bus.recv(0.0)
    assert answer is not None
    assert answer.arbitration_id == 0x11
    assert refusals(served, bus) == 2


def test_a_program_that_floods_the_twin_keeps_nobody_waiting_and_loses_nothing(
    served: Served,
) -> None:
    flooding, other = served.join(), served.join()
    for k in range(2 * AT_ONCE + 10):
        flooding.send(refresh(k % 7))
    other.send(refresh(7))
    heard = []
    for _ in range(4):
        served.passes(1)
        heard.append(served.line.heard)
    assert heard[0] == AT_ONCE + 1, "the other's frame is among them"
    answered = []
    while (msg := flooding.recv(0.0)) is not None:
        if msg.arbitration_id not in (PARAMETER_ID, 0x18):  # the other's
            answered.append(msg.arbitration_id - 0x11)
    assert answered == [k % 7 for k in range(2 * AT_ONCE + 10)], "in order"
    assert heard == [AT_ONCE + 1, 2 * AT_ONCE + 1, 2 * AT_ONCE + 11, 2 * AT_ONCE + 11]
    assert served.line.refused == served.door.lost == 0


@pytest.mark.parametrize("reads", [True, False])
def test_what_a_program_sent_before_it_ended_is_heard_to_its_last_frame(
    served: Served, reads: bool
) -> None:
    """Also where it ends with answers that it has not read, which resets the socket."""
    bus = served.join()
    for k in range(8):
        bus.send(special(k, Special.ENABLE))
        served.passes()
        assert not reads or bus.recv(0.0) is not None
    bank = served.twin.world.bank()
    assert set(bank.status) == {Status.ENABLED}
    for _ in range(2 * AT_ONCE):
        bus.send(refresh())
    for k in range(8):
        bus.send(special(k, Special.DISABLE))
    bus.shutdown()
    served.passes(6)
    assert set(bank.status) == {Status.DISABLED}
    assert served.line.heard == 2 * AT_ONCE + 16
    assert served.door.programs == 0


@pytest.mark.parametrize("first", [bytes((Packet.HELLO, 1)), bytes((Packet.STATE, 0)) + bytes(4)])
def test_a_twin_of_another_version_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    path = tmp_path / "right.sock"
    with listen(path, socket.SOCK_SEQPACKET, "--channel") as listening:
        listening.setblocking(True)

        def greet() -> None:
            link, _ = listening.accept()
            with link:
                link.send(first)
                link.recv(1)

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        with pytest.raises(can.CanInitializationError, match="version"):
            PolicyctlBus(str(path))
        thread.join()


def test_what_the_network_could_not_hand_over_is_counted() -> None:
    port = free_port()
    where = {"interface": "udp_multicast", "channel": "239.74.163.91", "port": port}
    with ExitStack() as undo:
        door = BusDoor({**where, "fd": True})
        undo.callback(door.close)
        world = TwinWorld(TwinConfig(seed=1))
        line = Line("right", FaultyBus(TwinBus(world), world.adapter()), [door])
        twin = LiveTwin(world, [line])
        bus = undo.enter_context(closing_bus(open_bus({**where, "fd": True})))
        sent = 0
        while not door.lost and sent < 100_000:
            bus.send(refresh())
            sent += 1
        (source,) = door.sources()
        assert len(list(door.take(source))) == AT_ONCE
        while frames := len(list(door.take(source))):
            line.heard += frames
        assert twin.state()["arms"][0]["lost"] == sent - AT_ONCE - line.heard > 0


def test_a_program_that_sends_more_than_a_wire_carries_is_refused(tmp_path: Path) -> None:
    with ExitStack() as undo:
        served = Served(tmp_path, undo, wire=WireModel(nominal_bps=1e4, data_bps=1e4))
        bus = served.join()
        for sent in range(QUEUE_LENGTH + 3 * AT_ONCE):
            if not sent % AT_ONCE:
                served.passes(1)
                bus.recv(0.0)
            if is_refused(bus):
                break
        assert is_refused(bus)
        assert sent >= QUEUE_LENGTH
