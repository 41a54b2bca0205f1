"""The bus a commissioning command speaks to: named on the command line, of a robot file, or a twin.

A twin here is a new one in this process, in lock-step: it answers like motors do, and is forgotten
when the command ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import can

from fleet.can.bus import open_bus
from fleet.can.health import BUS_ERRORS
from fleet.robot import load_robot
from registry.errors import ServiceFailed, UsageError


@dataclass(frozen=True)
class ArmBus:
    """One arm's bus, open."""

    bus: can.BusABC
    side: str
    gripper: str
    fd: bool


@dataclass(frozen=True)
class Where:
    """What the command line said. `options` are python-can's, as `name=value`."""

    robot: Path | None
    interface: str | None
    channel: str | None
    fd: bool
    side: str
    gripper: str
    options: tuple[str, ...]
    seed: int


@contextmanager
def opened(where: Where) -> Iterator[ArmBus]:
    """The bus, closed after. Motors keep their last command. Raises UsageError, ServiceFailed."""
    config, fd = _config(where)
    if config["interface"] == "twin":
        from harness.twin.bus import TwinBus
        from harness.twin.physics import TwinConfig, TwinWorld

        world = TwinWorld(TwinConfig(seed=where.seed, arms=(where.side,)))
        bus: can.BusABC = TwinBus(world, where.side)
    else:
        bus = open_bus(config)
    try:
        yield ArmBus(bus, where.side, where.gripper, fd)
    except BUS_ERRORS as error:
        raise ServiceFailed(
            f"the bus of the {where.side} arm failed",
            evidence=str(error),
            hint="see that the adapter is there and the interface is up",
        ) from error
    finally:
        bus.shutdown()


def number_or_text(value: str) -> int | str:
    """What a bus's option says: a whole number where it is written as one."""
    return int(value) if re.fullmatch("-?[0-9]{1,18}", value) else value


def _config(where: Where) -> tuple[dict[str, object], bool]:
    if (where.robot is None) == (where.interface is None):
        raise UsageError(
            "name one bus",
            evidence="--robot FILE, or --interface NAME" + (", not both" if where.robot else ""),
            hint="for example --interface socketcan --channel can0 --fd",
        )
    if where.robot is not None:
        arms = {arm.name: arm for arm in load_robot(where.robot).arms}
        if where.side not in arms:
            raise UsageError(
                f"{where.robot} has no {where.side} arm",
                evidence=f"arms: {', '.join(arms)}",
                hint="choose with --side",
            )
        chosen = arms[where.side].bus
        return chosen.to_can(), chosen.fd
    config: dict[str, object] = {"interface": where.interface}
    if where.channel is not None:
        config["channel"] = where.channel
    if where.fd:
        config["fd"] = True
    for pair in where.options:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--option {pair!r} is not NAME=VALUE", hint="for example port=43311")
        config[name] = number_or_text(value)
    return config, where.fd
