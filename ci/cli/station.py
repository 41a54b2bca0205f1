"""`policyctl station`: is this station fit for trials, who holds it, what lies at it.

`check` powers the arm and holds it where it is; it makes no task motion. Exit status 9 where a row
fails. `lease` without an option tells; `--take` reserves the station for a person, `--give` frees
it. Every row of a check is measured, none assumed.
"""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from ci.app import home_option, open_registry
from ci.cli.finite import FiniteRange
from ci.output import emit
from registry.errors import NotFound, PolicyctlError, Refused, ServiceFailed
from registry.home import find_home

if TYPE_CHECKING:
    from ci.rig import Rig
    from fleet.robot import RobotConfig

MAX_POSE_AGE_S = 0.5
LOOKS, LOOK_S = 5, 0.04
SETTLE_S = 0.5
MAX_SPEED = 0.1
"""[rad/s] of an arm that is told to hold."""
MAX_ROTOR_C = 70.0

station_file = click.argument(
    "file", metavar="STATION.yaml", type=click.Path(dir_okay=False, path_type=Path)
)


@click.group("station")
def command() -> None:
    """Check a lab station, or lease it."""


@dataclass(frozen=True)
class Row:
    what: str
    ok: bool
    found: str


@command.command("check")
@station_file
def check(file: Path) -> None:
    """Measure whether the station of a robot file is fit for trials. The arm only holds."""
    from ci.rig import build_rig
    from fleet.robot import load_robot

    config = load_robot(file)
    rows = [Row("role", config.role == "lab", config.role)]
    try:
        rig = build_rig(config)
    except PolicyctlError as error:
        rows.append(Row("arm", False, str(error).replace("\n", "; ")))
    else:
        with rig:
            rows += [_row(name, measure, rig) for name, measure in MEASURES]
    rows.append(_lease_row(config))
    _tell(config, rows)


def _row(name: str, measure: Callable[[Rig], tuple[bool, str]], rig: Rig) -> Row:
    try:
        return Row(name, *measure(rig))
    except PolicyctlError as error:
        return Row(name, False, str(error).replace("\n", "; "))


def _motors(rig: Rig) -> tuple[bool, str]:
    found = sum(len(arm.state.q) for arm in rig.arms)
    return found == 8 * len(rig.arms), f"{found} motors answer on {len(rig.arms)} bus(es)"


def _rest(rig: Rig) -> tuple[bool, str]:
    import numpy as np

    rig.servo.hold(round(SETTLE_S / rig.servo.period_s))
    fastest = float(np.abs(rig.servo.dq).max())
    return fastest < MAX_SPEED, f"fastest joint {fastest:.3f} rad/s while holding"


def _warmth(rig: Rig) -> tuple[bool, str]:
    hottest = max(float(arm.state.temp_rotor.max()) for arm in rig.arms)
    return hottest < MAX_ROTOR_C, f"hottest rotor {hottest:.0f} °C"


def _late(rig: Rig) -> tuple[bool, str]:
    return rig.servo.overruns == 0, f"{rig.servo.overruns} of {rig.servo.ticks} servo ticks late"


def _sight(rig: Rig) -> tuple[bool, str]:
    pose = None
    for _ in range(LOOKS):  # a detector looks when it is asked
        rig.servo.hold(round(LOOK_S / rig.servo.period_s))
        pose = rig.poses.read()
    if pose is None:
        return False, "nothing sees the object"
    x, y, z = (100 * float(value) for value in pose.position)
    found = f"object at {x:.1f}, {y:.1f}, {z:.1f} cm, {1000 * pose.age_s:.0f} ms old"
    return pose.age_s <= MAX_POSE_AGE_S, found


def _bounds(rig: Rig) -> tuple[bool, str]:
    frames = rig.frames()
    if not frames["frames"]:
        return True, "no monitor on a real bus"
    return frames["violations"] == 0, f"{frames['violations']} of {frames['frames']} frames out"


MEASURES: tuple[tuple[str, Callable[[Rig], tuple[bool, str]]], ...] = (
    ("motors", _motors),
    ("at rest", _rest),
    ("temperature", _warmth),
    ("timing", _late),
    ("pose source", _sight),
    ("frame bounds", _bounds),
)


def _lease_row(config: RobotConfig) -> Row:
    try:
        with open_registry() as registry:
            held = registry.lease(config.robot)
    except NotFound:
        return Row("lease", True, "no registry home here")
    if held is None:
        return Row("lease", True, "free")
    left = held.expires_at - time.time()
    return Row("lease", held.holder == getpass.getuser(), f"{held.holder}, {left:.0f} s left")


def _tell(config: RobotConfig, rows: list[Row]) -> None:
    bad = [row for row in rows if not row.ok]
    table = Table("check", "", "found", title=f"{config.robot} ({config.robot_class})")
    for row in rows:
        table.add_row(row.what, "[green]ok[/]" if row.ok else "[red]no[/]", row.found)
    error = None
    if bad:
        error = ServiceFailed(
            f"{config.robot} is not fit for trials: {', '.join(row.what for row in bad)}",
            evidence="; ".join(row.found for row in bad),
            hint="put that right and check again",
        )
    data = {
        "station": config.robot,
        "robot_class": config.robot_class,
        "fit": not bad,
        "checks": [vars(row) for row in rows],
    }
    emit(data, table, error=error)


@command.command("lease")
@station_file
@click.option(
    "--take", type=FiniteRange(), metavar="SECONDS", help="Reserve the station for yourself."
)
@click.option("--give", is_flag=True, help="Give your lease back.")
def lease(file: Path, take: float | None, give: bool) -> None:
    """Who may move the station's arm; nobody else may while a lease lasts."""
    from fleet.robot import load_robot

    name, me = load_robot(file).robot, getpass.getuser()
    with open_registry() as registry:
        if take is not None:
            registry.acquire_lease(name, me, take)
        held = registry.lease(name)
        if give and held is not None:
            if held.holder != me:
                raise Refused(
                    f"the lease of {name} is not yours to give",
                    evidence=f"{held.holder} holds it",
                    hint="wait until it runs out, or ask them",
                )
            registry.release_lease(held)
            held = None
    if held is None:
        emit({"station": name, "holder": None}, f"{name} is free")
        return
    left = max(held.expires_at - time.time(), 0.0)
    data: dict[str, Any] = {
        "station": name,
        "holder": held.holder,
        "token": held.token,
        "seconds_left": round(left, 1),
    }
    emit(data, f"{name} is held by {held.holder} for {left:.0f} s (token {held.token})")


@command.command("stock")
@station_file
@click.argument("item")
@click.option("--set", "count", type=click.IntRange(min=0), help="What you counted.")
def stock(file: Path, item: str, count: int | None) -> None:
    """How many disposable pieces lie at the station."""
    from fleet.robot import load_robot
    from harness.hil.hooks.stock import StockFile

    name = load_robot(file).robot
    shelf = StockFile(find_home(home_option(), must_exist=True).root / "hil" / name / "stock.json")
    if count is not None:
        shelf.set(item, count)
    left = shelf.count(item)
    if left is None:
        raise NotFound(
            f"nobody counted {item} at {name}",
            evidence=str(shelf.path),
            hint=f"policyctl station stock {file} {item} --set N",
        )
    emit({"station": name, "item": item, "count": left}, f"{name}: {left} {item}")
