from __future__ import annotations

import can
import pytest

from fleet.can.bus import FrameTap, clock_of, open_bus
from registry.errors import ServiceFailed, UsageError


def frame(identifier: int) -> can.Message:
    return can.Message(arbitration_id=identifier, data=bytes(8), is_extended_id=False, is_rx=False)


def test_a_bus_opens_by_the_name_of_its_interface() -> None:
    config = {"interface": "virtual", "channel": "test_open"}
    with open_bus(config) as one, open_bus(config) as other:
        one.send(frame(0x11))
        received = other.recv(1.0)
        assert received is not None
        assert received.arbitration_id == 0x11


def test_a_bus_object_is_passed_through() -> None:
    with open_bus({"interface": "virtual", "channel": "test_pass"}) as bus:
        assert open_bus(bus) is bus


@pytest.mark.parametrize("config", [{}, {"interface": "twin"}, {"interface": 3}])
def test_a_bus_without_an_interface_is_a_usage_error(config: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="name of an interface"):
        open_bus(config)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {"interface": "no_such_interface"},
        {"interface": "socketcan", "channel": "can_that_is_not_there"},
        {"interface": "socketcand", "channel": "can0", "host": "127.0.0.1", "port": 1},
    ],
)
def test_a_bus_that_does_not_open_says_which_and_why(config: dict[str, object]) -> None:
    with pytest.raises(ServiceFailed, match=str(config["interface"])) as caught:
        open_bus(config)
    assert caught.value.evidence


@pytest.mark.parametrize("group", ["not an address", "192.168.1.2", "::1"])
def test_a_multicast_bus_needs_a_multicast_group(group: str) -> None:
    with pytest.raises(UsageError, match="multicast group"):
        open_bus({"interface": "udp_multicast", "channel": group, "port": 43999})


def test_a_tap_sees_both_directions_in_order_and_changes_nothing() -> None:
    seen: list[tuple[float, int, bool]] = []
    config = {"interface": "virtual", "channel": "test_tap"}
    with open_bus(config) as far, open_bus(config) as near:
        tap = FrameTap(near, lambda at, msg: seen.append((at, msg.arbitration_id, msg.is_rx)))
        tap.send(frame(0x01))
        got = far.recv(1.0)
        assert got is not None
        assert got.data == bytes(8)
        far.send(frame(0x11))
        answer = tap.recv(1.0)
        assert answer is not None
        assert answer.arbitration_id == 0x11
        assert tap.recv(0.0) is None
        tap.shutdown()
        with pytest.raises(can.CanOperationError):
            near.send(frame(0x01))
    assert [(identifier, rx) for _, identifier, rx in seen] == [(0x01, False), (0x11, True)]
    assert seen[0][0] <= seen[1][0] <= clock_of(tap)()
