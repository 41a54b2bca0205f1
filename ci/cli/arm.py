"""`policyctl arm`: commission one arm over any bus, or try a version on it (`run`, its own file).

`scan` finds the motors, `monitor` shows them live, `zero` makes the present pose their zero,
`limits` records the range of each joint while a person moves the arm by hand: these do not move it.
Angles are shown in degrees and kept in radians.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ci.cli.arm_run import command as run
from ci.cli.finite import FiniteRange
from ci.cli.tables import table
from ci.output import emit, narrate, wants_json
from registry.errors import Interrupted, Refused, ServiceFailed, UsageError
from registry.storage import disk_errors

if TYPE_CHECKING:
    from ci.arm_bus import Where
    from fleet.can.faults import ArmState
    from fleet.can.link import MotorLink


MOVED = 0.1
"""[rad] a joint has to be moved through to have a range."""


@click.group("arm")
def command() -> None:
    """Commission an arm (scan, monitor, zero, limits: nothing moves), or try a version on it."""


command.add_command(run)


def _where(function: Callable[..., None]) -> Callable[..., None]:
    """The options that name a bus, handed over as one value."""

    @functools.wraps(function)
    def wrapped(
        robot: Path | None,
        interface: str | None,
        channel: str | None,
        fd: bool,
        side: str,
        gripper: str,
        option: tuple[str, ...],
        seed: int,
        **rest: Any,
    ) -> None:
        from ci.arm_bus import Where

        function(Where(robot, interface, channel, fd, side, gripper, option, seed), **rest)

    for decorate in reversed(
        (
            click.option(
                "--robot",
                type=click.Path(dir_okay=False, path_type=Path),
                help="Take the bus from this robot file.",
            ),
            click.option("--interface", help="python-can's name, or twin for a new one here."),
            click.option("--channel", help="can0, /dev/ttyACM0, 239.74.163.91 …"),
            click.option("--fd", is_flag=True, help="CAN FD with bit rate switch."),
            click.option("--side", type=click.Choice(["right", "left"]), default="right"),
            click.option("--gripper", type=click.Choice(["v1", "v2"]), default="v2"),
            click.option("--option", multiple=True, metavar="NAME=VALUE", help="Of the interface."),
            click.option("--seed", default=0, type=click.IntRange(min=0), help="Of a twin."),
        )
    ):
        wrapped = decorate(wrapped)
    return wrapped


@command.command("scan")
@_where
def scan_command(where: Where) -> None:
    """Find the arm's eight motors and read what each says it is. Exit 9 if one is missing."""
    from ci.arm_bus import opened
    from fleet.can.frames import status_name
    from fleet.can.scan import scan

    with opened(where) as arm:
        found = scan(arm.bus, arm=arm.side, fd=arm.fd)
    rows = []
    for i, one in enumerate(found.motors):
        row: dict[str, Any] = {"joint": one.motor.joint, "esc_id": one.motor.esc_id}
        row["answers_on"] = one.answers_on
        row["type"] = one.motor.type.name
        if one.info is not None:
            info, state = one.info, found.state
            row |= {
                "status": status_name(int(state.status[i])),
                "q": round(float(state.q[i]), 4),
                "temp_mos": int(state.temp_mos[i]),
                "temp_rotor": int(state.temp_rotor[i]),
                "pmax": info.ranges.pmax,
                "vmax": info.ranges.vmax,
                "tmax": info.ranges.tmax,
                "gear": info.gear,
                "mode": info.mode,
                "timeout_s": info.timeout_s,
                "bit_rate": info.bit_rate,
                "firmware": info.firmware,
                "hardware": info.hardware,
            }
        rows.append(row)
    missing = [one for one in found.motors if not one.ok]
    error = None
    if missing:
        says = ", ".join(
            f"{one.motor.joint} (silent)"
            if one.answers_on is None
            else f"{one.motor.joint} (on {one.answers_on:#05x})"
            for one in missing
        )
        error = ServiceFailed(
            f"{len(missing)} of {len(found.motors)} motors of the {where.side} arm do not answer",
            evidence=says,
            hint="check power, the cable before the first silent joint, and MST_ID; docs/arm.md",
        )
    columns = ("joint", "esc_id", "answers_on", "status", "q", "vmax", "tmax", "mode", "bit_rate")
    shown = [{**row, "answers_on": _hexadecimal(row["answers_on"])} for row in rows]
    emit(
        {"arm": where.side, "motors": rows, "stray": found.stray},
        table(shown, (*columns, "firmware"), ("joint", "answers_on", "status")),
        error=error,
    )


@command.command("monitor")
@_where
@click.option("--hz", default=20.0, type=FiniteRange(1, 200), show_default=True)
@click.option("--seconds", type=FiniteRange(0), help="Stop after so long; else by ctrl-C.")
def monitor(where: Where, hz: float, seconds: float | None) -> None:
    """Watch position, speed, torque, temperatures and age of each motor, live."""
    last: list[dict[str, Any]] = []
    looks = _watching(where, hz, seconds, _monitor_rows)
    with _until_interrupted(lambda: bool(last)), closing(looks):
        for rows in looks:
            last = rows
    emit({"arm": where.side, "motors": last}, table(last, tuple(last[0]) if last else ()))


@command.command("zero")
@_where
@click.option("--joint", "joints", multiple=True, help="Only this one; repeatable. Default: all.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def zero(where: Where, joints: tuple[str, ...], yes: bool) -> None:
    """Make the present pose zero: the arm hanging straight down, gripper closed. Writes flash."""
    from ci.arm_bus import opened
    from fleet.can.arm import Arm
    from fleet.can.motors import OPENARM_MOTORS

    names = [motor.joint for motor in OPENARM_MOTORS]
    if unknown := [joint for joint in joints if joint not in names]:
        raise UsageError(f"no joint {unknown[0]!r}", hint=f"one of: {', '.join(names)}")
    chosen = list(joints or names)
    with opened(where) as arm:
        driver = Arm(arm.bus, name=arm.side, fd=arm.fd)
        before = driver.find()
        if not yes:
            narrate("Is the arm hanging straight down, gripper closed, nobody touching it?")
            if not click.confirm(f"Make this the zero of {', '.join(chosen)}?", err=True):
                raise Refused("nothing was changed", hint="answer y, or give --yes")
        after = driver.set_zero(chosen)
    rows = []
    for i, name in enumerate(names):
        if name in chosen:
            pair = round(float(before.q[i]), 4), round(float(after.q[i]), 4)
            rows.append({"joint": name, "before": pair[0], "after": pair[1]})
    emit({"arm": where.side, "zeroed": rows}, table(rows, ("joint", "before", "after")))


@command.command("limits")
@_where
@click.option("--seconds", type=FiniteRange(0), help="Stop after so long; else by ctrl-C.")
@click.option(
    "--save", type=click.Path(dir_okay=False, path_type=Path), help="Write a calibration."
)
@click.option(
    "--import",
    "lerobot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Take the ranges from LeRobot's calibration file instead of moving the arm.",
)
def limits(where: Where, seconds: float | None, save: Path | None, lerobot: Path | None) -> None:
    """Record each joint's range while you move the arm by hand, and keep it as JSON."""
    import numpy as np

    from fleet.can.calibration import Calibration, import_lerobot
    from fleet.can.motors import OPENARM_MOTORS, joint_limits

    if save is not None and save.exists():
        raise Refused("the calibration exists already", evidence=str(save), hint="name another")
    if save is not None and not save.parent.is_dir():  # before a person moves the whole arm
        raise UsageError("there is no such folder", evidence=str(save.parent), hint="make it first")
    own = joint_limits(where.side, where.gripper)
    if lerobot is not None:
        found = import_lerobot(lerobot, where.side, where.gripper)
    else:
        low, high = np.full(8, np.inf), np.full(8, -np.inf)

        def widen(link: MotorLink, state: ArmState) -> list[dict[str, Any]]:
            heard = state.age_s < 1.0
            np.minimum(low, state.q, out=low, where=heard)
            np.maximum(high, state.q, out=high, where=heard)
            return _range_rows(low, high, own)

        looks = _watching(where, 50.0, seconds, widen)
        with _until_interrupted(lambda: bool(np.isfinite(low).any())), closing(looks):
            for _ in looks:
                pass
        still = [motor.joint for i, motor in enumerate(OPENARM_MOTORS) if high[i] - low[i] < MOVED]
        if still and save is not None:
            raise Refused(
                "some joints were not moved, so they have no range",
                evidence=", ".join(still),
                hint="move every joint from stop to stop",
            )
        found = Calibration(where.side, where.gripper, low, high)
    for note in found.notes:
        narrate(note)
    if save is not None:
        with disk_errors(save):
            found.save(save)
    rows = _range_rows(found.low, found.high, own)
    emit(
        {"arm": where.side, "saved": None if save is None else str(save), **found.to_json()},
        table(rows, tuple(rows[0])),
    )


def _watching(
    where: Where,
    hz: float,
    seconds: float | None,
    rows_of: Callable[[MotorLink, ArmState], list[dict[str, Any]]],
) -> Generator[list[dict[str, Any]], None, None]:
    """Look at the motors again and again; what each look makes of them is shown live."""
    from rich.console import Console
    from rich.live import Live

    from ci.arm_bus import opened
    from fleet.can.arm import Arm

    screen = Console(stderr=True)
    with opened(where) as arm:
        driver = Arm(arm.bus, name=arm.side, fd=arm.fd)
        driver.find()
        began = driver.now()
        live = Live(console=screen, auto_refresh=False, transient=True)
        with live if screen.is_terminal and not wants_json() else nullcontext():
            while seconds is None or driver.now() - began <= seconds:
                due = driver.now() + 1.0 / hz
                rows = rows_of(driver.link, driver.refresh())
                if live.is_started:
                    live.update(table(rows, tuple(rows[0])), refresh=True)
                yield rows
                driver.wait(max(due - driver.now(), 1e-3))


@contextmanager
def _until_interrupted(seen: Callable[[], bool]) -> Iterator[None]:
    """Ctrl-C ends the looking, not the command: what was seen is told. Nothing was commanded.

    Raises Interrupted where nothing was `seen` yet.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not seen():
            raise Interrupted(
                "interrupted before the motors had answered",
                evidence="nothing was seen, and nothing saved",
                hint="run it again; `policyctl arm scan` says which motors answer",
            ) from None
        narrate("stopped")


def _monitor_rows(link: MotorLink, state: ArmState) -> list[dict[str, Any]]:
    import numpy as np

    from fleet.can.frames import status_name

    return [
        {
            "joint": motor.joint,
            "status": status_name(int(state.status[i])),
            "deg": round(float(np.degrees(state.q[i])), 2),
            "deg_s": round(float(np.degrees(state.dq[i])), 1),
            "nm": round(float(state.tau[i]), 2),
            "mos_c": int(state.temp_mos[i]),
            "coil_c": int(state.temp_rotor[i]),
            "age_ms": _whole_ms(float(state.age_s[i])),
        }
        for i, motor in enumerate(link.motors)
    ]


def _hexadecimal(identifier: int | None) -> str | None:
    return None if identifier is None else f"{identifier:#05x}"


def _whole_ms(age_s: float) -> float | None:
    return round(1e3 * age_s, 1) if age_s < 1e6 else None


def _range_rows(low: Any, high: Any, own: tuple[Any, Any]) -> list[dict[str, Any]]:
    import numpy as np

    from fleet.can.motors import OPENARM_MOTORS

    def degrees(value: float) -> float | None:
        return round(float(np.degrees(value)), 1) if np.isfinite(value) else None

    return [
        {
            "joint": motor.joint,
            "low": degrees(low[i]),
            "high": degrees(high[i]),
            "model_low": degrees(own[0][i]),
            "model_high": degrees(own[1][i]),
        }
        for i, motor in enumerate(OPENARM_MOTORS)
    ]
