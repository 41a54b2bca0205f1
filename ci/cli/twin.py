"""`policyctl twin`: an emulated arm as a process that other programs drive, and trouble for it.

`run` serves the motors in real time until SIGTERM (exit 0) or ctrl-C (exit 130), and ends with what
was seen. `fault` reaches a running twin by its control socket.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from ci.cli.finite import FiniteRange
from ci.cli.tables import table
from ci.output import emit, narrate, wants_json
from registry.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from harness.twin.wire import WireModel

INTERFACES = ("policyctl", "udp_multicast", "socketcand", "socketcan")


@click.group("twin")
def command() -> None:
    """Run an emulated arm as a process, and break it on purpose."""


_control = click.option(
    "--control",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The twin's control socket; else one in this user's runtime folder.",
)


@command.command("run")
@click.option(
    "--arm", "arms", multiple=True, type=click.Choice(["right", "left"]), help="Default: right."
)
@click.option("--interface", type=click.Choice(INTERFACES), default="policyctl", show_default=True)
@click.option("--channel", help="Socket path, multicast group, can0, vcan0; {arm} is replaced.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Of udp_multicast or socketcand; a second arm's is +1. 0: socketcand takes a free one.",
)
@click.option(
    "--door",
    "more",
    multiple=True,
    metavar="[ARM=]INTERFACE[,NAME=VALUE…]",
    help="One more way in, for an arm or for each.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--task", default="box-grasp", show_default=True, help="Whose table and box.")
@click.option("--physics-hz", default=1000, show_default=True, type=click.IntRange(min=1000))
@click.option(
    "--pose",
    type=click.Choice(["start", "hang"]),
    default="start",
    show_default=True,
    help="Where the arm is at first: the task's start, or straight down with the table far below.",
)
@click.option(
    "--bit-rate", type=click.Choice(["1M", "5M"]), help="Of the motors: classic, or CAN FD."
)
@click.option("--wire", is_flag=True, help="Frames take the time they take on a bus.")
@click.option("--loss", default=0.0, type=FiniteRange(0, 1, max_open=True), help="Of frames.")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), help="A candump log.")
@click.option("--script", type=click.Path(dir_okay=False, path_type=Path), help="Troubles to come.")
@click.option("--seconds", type=FiniteRange(min=0), help="End after so long.")
@click.option("--live", is_flag=True, help="Show the motors while it runs.")
@_control
def run(
    arms: tuple[str, ...],
    interface: str,
    channel: str | None,
    port: int | None,
    more: tuple[str, ...],
    seed: int,
    task: str,
    physics_hz: int,
    pose: str,
    bit_rate: str | None,
    wire: bool,
    loss: float,
    record: Path | None,
    script: Path | None,
    seconds: float | None,
    live: bool,
    control: Path | None,
) -> None:
    """Serve a twin's motors in real time to programs on this machine."""
    from ci.cli.twin_view import view
    from ci.twin_process import Settings, how_to_connect, live_twin, parse_door
    from harness.twin.script import load_script

    first: dict[str, Any] = {"interface": interface}
    if channel is not None:
        first["channel"] = channel
    if port is not None:
        first["port"] = port
    sides = arms or ("right",)
    events = load_script(script, sides) if script is not None else ()
    settings = Settings(
        arms=sides,
        doors=((None, first), *(parse_door(text) for text in more)),
        control=control or _default_control(),
        seed=seed,
        task=task,
        physics_hz=physics_hz,
        hanging=pose == "hang",
        classic=None if bit_rate is None else bit_rate == "1M",
        wire=_wire(loss, seed, bit_rate) if wire or loss else None,
        record=record,
    )
    with _signals() as stop, live_twin(settings, narrate) as twin:
        if events:
            twin.play(events)
        doors = how_to_connect(twin)
        narrate(f"a twin with the {' and '.join(sides)} arm; ctrl-C ends it")
        for door in doors:
            narrate(f"  {door['try']}")
        reach = f" --control {settings.control}" if control is not None else ""
        which = f" --arm {sides[0]}" if len(sides) > 1 else ""
        narrate(f"  policyctl twin fault silent --joint joint4{which}{reach}")
        shows = live and not wants_json() and sys.stderr.isatty()
        with view(twin) if shows else nullcontext():
            twin.run(lambda: not stop, seconds)
        state = twin.state()
    error = None
    if signal.SIGINT in stop:
        error = Interrupted("interrupted", hint="its programs have lost their bus; run it again")
    emit({**state, "doors": doors}, _summary(state), error=error)


@command.command("fault")
@click.argument("name", required=False)
@click.option("--arm", help="Which arm; needed where the twin has two.")
@click.option("--joint", help="joint1 … joint7, gripper.")
@click.option("--detail", "details", multiple=True, metavar="NAME=VALUE", help="See --list.")
@click.option("--clear", is_flag=True, help="End the trouble; without NAME all of them.")
@click.option(
    "--script",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A YAML list of {at, fault, joint, clear, …}; `at` in seconds from now.",
)
@click.option("--list", "listing", is_flag=True, help="The troubles there are.")
@_control
def fault(
    name: str | None,
    arm: str | None,
    joint: str | None,
    details: tuple[str, ...],
    clear: bool,
    script: Path | None,
    listing: bool,
    control: Path | None,
) -> None:
    """Make or end a trouble of a running twin: one class of what happens in the field."""
    from harness.twin.control import ask
    from harness.twin.fault_table import FAULTS
    from harness.twin.script import load_script

    if listing:
        rows = [
            {
                "fault": one,
                "seen_as": str(known.seen_as),
                "of": "one joint" if known.at == "joint" else known.at,
                "does": known.does,
                "details": ", ".join(known.details),
            }
            for one, known in FAULTS.items()
        ]
        emit({"faults": rows}, table(rows, ("fault", "seen_as", "of", "does", "details")))
        return
    if (name is None) == (script is None) and not (clear and script is None):
        raise UsageError(
            "name one trouble, or a script",
            evidence=f"NAME {name!r}, --script {script}",
            hint="see `policyctl twin fault --list`",
        )
    where = control or _default_control()
    if script is not None:
        sides = [one["arm"] for one in ask(where, {"do": "state"})["arms"]]
        events = load_script(script, sides)
        ask(where, {"do": "script", "events": [event.model_dump() for event in events]})
        rows = [event.model_dump() for event in events]
        emit(
            {"script": str(script), "events": rows},
            table(rows, ("at", "fault", "arm", "joint", "clear"), ("fault", "arm", "joint")),
        )
        return
    if name is None:
        state = ask(where, {"do": "clear", "arm": arm})
    else:
        event: dict[str, Any] = {"fault": name, "arm": arm, "joint": joint, "clear": clear}
        event["details"] = dict(_detail(text) for text in details)
        state = ask(where, {"do": "fault", "event": event})
    standing = {one["arm"]: one["faults"] for one in state["arms"]}
    emit(
        {"standing": standing, "time_s": state["time_s"], "arms": state["arms"]},
        "\n".join(_standing(one) for one in state["arms"]),
    )


def _standing(state: dict[str, Any]) -> str:
    """What is wrong with an arm: causes, and motors that show traces of one."""
    troubles = ", ".join(state["faults"]) or "no trouble"
    well = ("enabled", "disabled")
    ill = [one for one in state["joints"] if one["status"] not in well]
    same = {one["status"] for one in ill}
    if len(ill) == len(state["joints"]) and len(same) == 1:
        said = [f"all motors: {same.pop()}"]
    else:
        said = [f"{one['joint']}: {one['status']}" for one in ill]
    return "; ".join((f"{state['arm']}: {troubles}", *said))


def _detail(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--detail {text!r} is not NAME=VALUE", hint="for example coil=105")
    if name == "data":  # hexadecimal, also where it looks like a decimal number
        return name, value
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def _default_control() -> Path:
    from harness.twin.doors import run_folder

    return run_folder() / "control.sock"


def _wire(loss: float, seed: int, bit_rate: str | None) -> WireModel:
    from harness.twin.wire import WireModel

    try:
        return WireModel(data_bps=1e6 if bit_rate == "1M" else 5e6, loss=loss, seed=seed)
    except ValueError as error:
        raise UsageError("there is no such bus", evidence=str(error)) from None


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that asked to stop, while the block runs; a second ctrl-C does not wait."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number in came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(number)

    old = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _summary(state: dict[str, Any]) -> str:
    lines = [f"{state['time_s']} s, {state['slipped_s']} s behind the clock"]
    lines += [
        f"{one['arm']}: {one['heard']} frames in, {one['said']} out, {one['refused']} refused,"
        f" {one['lost']} lost"
        for one in state["arms"]
    ]
    return "\n".join(lines)
