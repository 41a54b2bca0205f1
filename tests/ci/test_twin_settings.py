"""What a twin process is asked for and cannot be: said before anything is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twin_process import free_port

from ci.cli import twin as command
from ci.twin_process import Settings, live_twin, parse_door
from harness.twin import doors
from registry.errors import UsageError


def served(folder: Path, *doors: str, **more: Any) -> None:
    wanted: dict[str, Any] = {"arms": ("right",), "control": folder / "control.sock", **more}
    doors = doors or (f"policyctl,channel={folder}/{{arm}}.sock",)
    settings = Settings(doors=tuple(parse_door(door) for door in doors), **wanted)
    with live_twin(settings, lambda text: None):
        pass


@pytest.mark.parametrize(
    ("door", "says"),
    [
        ("policyctl2", "not served on"),
        ("udp_multicast,port=abc", "no port"),
        ("udp_multicast,port=99999", "no port"),
        ("udp_multicast,port=--5", "no port"),
        ("udp_multicast,port=\u00b2", "no port"),
        ("udp_multicast,channel=300.1.1.1", "multicast group"),
        ("udp_multicast,channel=192.168.1.2", "multicast group"),
        ("udp_multicast,hop_limit=1", "on the network"),
        ("socketcand,port=-1", "no port"),
        ("left=socketcand", "door for the left arm"),
        ("policyctl,channel=/" + 120 * "x", "at most 107 bytes"),
        ("policyctl,port", "not NAME=VALUE"),
    ],
)
def test_a_door_that_cannot_be(tmp_path: Path, door: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        served(tmp_path, door)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"arms": ("left", "left")}, "named twice"),
        ({"physics_hz": 1003}, "no such twin"),
        ({"task": "juggling"}, "juggling"),
    ],
)
def test_a_twin_that_cannot_be(tmp_path: Path, more: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        served(tmp_path, **more)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "right.sock").write_text("mine")
    with pytest.raises(UsageError, match="no socket"):
        served(tmp_path)
    assert (tmp_path / "right.sock").read_text() == "mine"


@pytest.mark.parametrize(
    "doors",
    [
        ("udp_multicast,port=43999", "udp_multicast,channel=239.1.2.3,port=43999"),
        ("right=udp_multicast,port=43999", "left=udp_multicast,port=43999"),
        ("policyctl,channel={folder}/{arm}.sock", "policyctl,channel={folder}/right.sock"),
        ("socketcand,port=43999", "socketcand,channel=can7,port=43999"),
    ],
)
def test_two_doors_on_one_bus_would_hear_each_other(tmp_path: Path, doors: tuple[str, str]) -> None:
    named = [door.replace("{folder}", str(tmp_path)) for door in doors]
    with pytest.raises(UsageError, match="two doors on one bus"):
        served(tmp_path, *named, arms=("right", "left"))
    assert not list(tmp_path.iterdir())


def test_an_ipv4_and_an_ipv6_group_on_one_port_are_two_buses(tmp_path: Path) -> None:
    port = free_port()
    served(
        tmp_path,
        f"right=udp_multicast,port={port}",
        f"left=udp_multicast,channel=ff11::7079:6367,port={port}",
        arms=("right", "left"),
    )


def test_two_arms_need_room_for_two_ports(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leaves room"):
        served(tmp_path, "udp_multicast,port=65535", arms=("right", "left"))


def test_the_command_offers_what_there_is() -> None:
    assert command.INTERFACES == doors.INTERFACES
