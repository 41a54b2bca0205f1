"""Puts a twin process together: world, doors, adapters, wire, recorder, control socket.

Two arms have a door each: `{arm}` in a door's values becomes the arm's name, ports count up by one,
and `can0` becomes `can1`. Motors are set up for CAN FD, or for classic frames where a door carries
no others.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import can
import numpy as np

from ci.arm_bus import number_or_text
from fleet.can.bus import FrameTap
from harness.tasks import find_robot_task
from harness.twin.bus import TwinBus
from harness.twin.control import ControlServer
from harness.twin.door import Door
from harness.twin.doors import INTERFACES, open_door, run_folder
from harness.twin.faulty_bus import FaultyBus
from harness.twin.live import Line, LiveTwin
from harness.twin.physics import TwinConfig, TwinWorld
from harness.twin.registers import CLASSIC_CODE, FD_CODE
from harness.twin.wire import Recorder, WireBus, WireModel
from registry.errors import UsageError

FLOOR_Z = -0.65
"""An arm that hangs reaches below the task's table [m]: then the table is this far down."""

Where = Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """What `policyctl twin run` was asked for."""

    arms: tuple[str, ...]
    doors: tuple[tuple[str | None, Where], ...]
    """For which arm (None: each), and how programs come in."""
    control: Path
    seed: int = 0
    task: str = "box-grasp"
    physics_hz: int = 1000
    hanging: bool = False
    classic: bool | None = None
    """Motors on classic CAN; None: where a door needs it."""
    wire: WireModel | None = None
    """None: frames take no time."""
    record: Path | None = None


def parse_door(text: str) -> tuple[str | None, Where]:
    """`[ARM=]INTERFACE[,NAME=VALUE…]`. Raises UsageError."""
    head, *rest = text.split(",")
    arm, equals, interface = head.rpartition("=")
    where: dict[str, Any] = {"interface": interface}
    for part in rest:
        name, between, value = part.partition("=")
        if not between or not name:
            raise UsageError(
                f"{part!r} in {text!r} is not NAME=VALUE",
                hint="for example udp_multicast,channel=239.74.163.91,port=43311",
            )
        where[name] = number_or_text(value)
    return arm if equals else None, where


@contextmanager
def live_twin(settings: Settings, tell: Callable[[str], None]) -> Iterator[LiveTwin]:
    """The twin, its doors open; all is closed after. Raises UsageError, ServiceFailed."""
    _check(settings)
    wanted = _doors(settings)
    with ExitStack() as undo:
        doors = {arm: [_open(where, undo) for where in wanted[arm]] for arm in settings.arms}
        classic = settings.classic
        if classic is None:
            classic = any(door.classic for mine in doors.values() for door in mine)
        task = find_robot_task(settings.task)
        if settings.hanging:
            task = replace(task, table_z=FLOOR_Z)
        try:
            config = TwinConfig(
                seed=settings.seed,
                arms=settings.arms,
                physics_hz=settings.physics_hz,
                can_br=CLASSIC_CODE if classic else FD_CODE,
            )
        except ValueError as error:
            raise UsageError("there is no such twin", evidence=str(error)) from None
        world = TwinWorld(config, task)
        if settings.hanging:
            for arm in settings.arms:
                world.park(arm, np.zeros(8))
        recorder = None
        if settings.record is not None:
            recorder = Recorder(settings.record, time.time())
            undo.callback(recorder.close)
        lines = [
            _line(settings, world, arm, doors[arm], recorder.of(f"can{i}") if recorder else None)
            for i, arm in enumerate(settings.arms)
        ]
        twin = LiveTwin(world, lines, recorder=recorder, tell=tell)
        twin.control = ControlServer(settings.control, twin.answer)
        undo.callback(twin.control.close)
        yield twin


def how_to_connect(twin: LiveTwin) -> list[dict[str, Any]]:
    """Per arm and door: how python-can and `policyctl arm` reach it."""
    found = []
    for line in twin.lines:
        for door in line.doors:
            where = dict(door.where)
            words = [f"--interface {where['interface']}", f"--channel {where['channel']}"]
            if where.get("fd") or where["interface"] == "policyctl":
                words.append("--fd")
            words += [
                f"--option {name}={value}"
                for name, value in where.items()
                if name not in ("interface", "channel", "fd")
            ]
            side = f" --side {line.arm}" if line.arm != "right" else ""
            found.append(
                {
                    "arm": line.arm,
                    "bus": where,
                    "try": " ".join(["policyctl arm scan", *words]) + side,
                }
            )
    return found


def _check(settings: Settings) -> None:
    """Raises UsageError where arms and doors do not fit each other."""
    if len(set(settings.arms)) < len(settings.arms):
        raise UsageError("an arm is named twice", evidence=" ".join(settings.arms))
    for arm, where in settings.doors:
        if arm is not None and arm not in settings.arms:
            raise UsageError(
                f"a door for the {arm} arm, which this twin has not",
                evidence=f"{arm}={where['interface']}; arms: {', '.join(settings.arms)}",
                hint=f"add --arm {arm}, or leave {arm}= out",
            )


def _line(
    settings: Settings,
    world: TwinWorld,
    arm: str,
    doors: Sequence[Door],
    observer: Callable[[float, can.Message], None] | None,
) -> Line:
    wire = None
    bus: can.BusABC
    if settings.wire is not None:
        bus = wire = WireBus(world, arm, settings.wire, observer)
    else:
        bus = TwinBus(world, arm) if observer is None else FrameTap(TwinBus(world, arm), observer)
    return Line(arm, FaultyBus(bus, world.adapter(arm)), doors, wire)


def _doors(settings: Settings) -> dict[str, list[Where]]:
    """Each arm's doors, every one a bus of its own. Raises UsageError."""
    found: dict[str, list[Where]] = {}
    buses: set[tuple[object, ...]] = set()
    for index, arm in enumerate(settings.arms):
        mine = found[arm] = [
            _for_arm(where, arm, index if only is None else 0)
            for only, where in settings.doors
            if only in (None, arm)
        ]
        if not mine:
            raise UsageError(
                f"the {arm} arm has no door",
                evidence=f"doors: {', '.join(str(only) for only, _ in settings.doors)}",
                hint=f"add --door {arm}=INTERFACE,…; interfaces: {', '.join(INTERFACES)}",
            )
        for where in mine:
            bus = _bus_of(where)
            if bus in buses:
                raise UsageError(
                    "two doors on one bus would hear each other",
                    evidence=" ".join(str(part) for part in bus),
                    hint="give one another channel; between multicast buses it is the port",
                )
            buses.add(bus)
    return found


def _bus_of(where: Where) -> tuple[object, ...]:
    """What keeps a door apart from others."""
    interface, channel, port = where["interface"], str(where.get("channel")), where.get("port")
    if interface == "udp_multicast":  # on Linux all groups of one port are one bus
        return interface, "IPv6" if ":" in channel else "IPv4", port
    if interface == "socketcand":
        return interface, where.get("host"), port or id(where)
    return interface, channel


def _open(where: Where, undo: ExitStack) -> Door:
    door = open_door(where)
    undo.callback(door.close)
    return door


def _for_arm(where: Where, arm: str, index: int) -> dict[str, Any]:
    """One arm's own values of a door that was named for all."""
    found = {
        name: value.replace("{arm}", arm) if isinstance(value, str) else value
        for name, value in where.items()
    }
    interface, channel = found["interface"], found.get("channel")
    if interface == "policyctl":
        found["channel"] = channel or str(run_folder() / f"{arm}.sock")
        if index and channel is not None and "{arm}" not in str(where.get("channel")):
            raise UsageError(
                "two arms need two sockets", hint=f"for example --channel {channel}-{{arm}}"
            )
    elif interface == "socketcand":
        found.setdefault("channel", f"can{index}")
        free = found.get("port") == 0
        found["port"] = 0 if free else _port(found.get("port", 29536), index)
        if channel == "can0" and index:
            found["channel"] = f"can{index}"
    elif interface == "udp_multicast":
        found.setdefault("channel", "239.74.163.91")
        found["port"] = _port(found.get("port", 43311), index)
    elif interface == "socketcan":
        found.setdefault("channel", "vcan0")
        if index:
            with contextlib.suppress(ValueError):
                stem, number = str(found["channel"])[:-1], int(str(found["channel"])[-1])
                found["channel"] = f"{stem}{number + index}"
    return found


def _port(value: object, index: int) -> int:
    """The port of arm number `index`. Raises UsageError."""
    if not isinstance(value, int) or not 1 <= value + index <= 65535:
        raise UsageError(
            f"{value!r} is no port" + (f" that leaves room for {index} more" if index else ""),
            hint="a number from 1 to 65535",
        )
    return value + index
