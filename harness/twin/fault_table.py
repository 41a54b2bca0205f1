"""Troubles seen in the field, by name: what each does to the hardware, and what it may be told.

Rules
- Every class of fleet/can/faults.py has a trouble of its own name; others lead to the same class.
- `check` says what is wrong with a trouble before anything happens: name, arm, joint, details. The
  twin's command, a script and `inject` ask it alike, so a script that was read can be played.

Units: °C, V, rad; a turn is 2 pi.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from fleet.can.faults import Condition, FaultKind
from fleet.can.frames import Status
from fleet.can.motors import OPENARM_MOTORS
from registry.errors import UsageError

JOINTS: Final = tuple(motor.joint for motor in OPENARM_MOTORS)
HOTTEST: Final = 250.0
"""°C that a motor's temperature field can say, about."""

Read = Callable[[Any], Any]
"""A detail as somebody wrote it, as what it means. Raises ValueError, TypeError, OverflowError."""


def _number(low: float, high: float) -> Read:
    def read(value: Any) -> float:
        number = float(value)
        if not low <= number <= high:  # also false for what is no number
            raise ValueError(f"{value!r} is not between {low:g} and {high:g}")
        return number

    return read


def _whole(low: int, high: int) -> Read:
    def read(value: Any) -> int:
        number = int(value, 0) if isinstance(value, str) else int(value)
        if not low <= number <= high or (not isinstance(value, str) and number != value):
            raise ValueError(f"{value!r} is no whole number between {low} and {high}")
        return number

    return read


def _status(value: Any) -> Status:
    """A fault nibble: 14, E, 0xE, overload."""
    names = {str(one.name).lower(): one for one in Status if one > Status.ENABLED}
    nibbles = {f"{one:x}": one for one in names.values()}
    text = str(value).strip().lower()
    found = names.get(text) or nibbles.get(text.removeprefix("0x"))
    if found is None and text.isdigit():
        found = next((one for one in names.values() if one == int(text)), None)
    if found is None:
        said = ", ".join(f"{one:X} {name}" for name, one in names.items())
        raise ValueError(f"{value!r} is no motor fault; those are {said}")
    return found


def _data(value: Any) -> bytes:
    """Up to 8 bytes: hexadecimal text, or bytes."""
    if isinstance(value, int):  # bytes() of it would be so many zeros
        raise ValueError(f"{value!r} is a number; in a script, hexadecimal text stands in quotes")
    data = bytes.fromhex(value) if isinstance(value, str) else bytes(value)
    if len(data) > 8:
        raise ValueError(f"{len(data)} bytes; a classic frame has 8 at most")
    return data


@dataclass(frozen=True)
class Fault:
    """One trouble. `at`: which motors it needs (`joint` one, `all` by default every one)."""

    seen_as: FaultKind | Condition
    at: Literal["joint", "all", "arm"]
    does: str
    details: Mapping[str, Read] = field(default_factory=dict)
    """By name, how each is read."""


_MOTOR, _ADAPTER = FaultKind.MOTOR, FaultKind.ADAPTER_LOST
_CELSIUS = _number(0.0, HOTTEST)

FAULTS: Final[Mapping[str, Fault]] = MappingProxyType(
    {
        "motor": Fault(
            _MOTOR,
            "joint",
            "a motor faults with `status` (E, overload)",
            {"status": _status, "coil": _CELSIUS, "mos": _CELSIUS},
        ),
        "over_voltage": Fault(_MOTOR, "all", "the supply rises to 36 V"),
        "over_current": Fault(_MOTOR, "joint", "a motor draws more than its drive bears"),
        "mos_over_temperature": Fault(_MOTOR, "joint", "a drive at 125 °C", {"mos": _CELSIUS}),
        "coil_over_temperature": Fault(_MOTOR, "joint", "a coil at 105 °C", {"coil": _CELSIUS}),
        "communication_lost": Fault(_MOTOR, "all", "the motors' own watchdogs end"),
        "overload": Fault(_MOTOR, "joint", "a motor is overloaded"),
        "under_voltage": Fault(FaultKind.UNDER_VOLTAGE, "all", "the supply falls to 12 V"),
        "disabled": Fault(
            FaultKind.DISABLED, "joint", "a motor's power fails for an instant: it boots, disabled"
        ),
        "power_cut": Fault(FaultKind.SILENT, "joint", "a motor is without power: limp and silent"),
        "silent": Fault(
            FaultKind.SILENT, "joint", "a motor's data line is broken: it goes on as it was"
        ),
        "dead_bus": Fault(
            FaultKind.DEAD_BUS, "arm", "the cable to all motors is cut: they go on as they were"
        ),
        "power_off": Fault(
            FaultKind.DEAD_BUS, "arm", "hardware e-stop: no motor of the arm has power"
        ),
        "bus_off": Fault(FaultKind.BUS_OFF, "arm", "the adapter leaves the bus"),
        "adapter_lost": Fault(_ADAPTER, "arm", "the interface vanishes; cleared, it is a new one"),
        "master_id": Fault(
            FaultKind.MASTER_ID,
            "joint",
            "a motor answers on id `mst_id` (0)",
            {"mst_id": _whole(0, 0x7FF)},
        ),
        "foreign": Fault(
            FaultKind.FOREIGN,
            "arm",
            "another program sends a frame",
            {"identifier": _whole(0, 0x7FF), "data": _data},
        ),
        "pose": Fault(
            FaultKind.POSE, "joint", "a joint reads a turn off", {"turns": _number(-5, 5)}
        ),
        "unsettled": Fault(
            FaultKind.UNSETTLED, "joint", "a joint's reading shakes", {"noise": _number(0, 3)}
        ),
        "setup": Fault(FaultKind.SETUP, "joint", "a motor acknowledges writes and forgets them"),
        "queue_full": Fault(
            Condition.QUEUE_FULL,
            "arm",
            "`count` (12) frames do not fit the queue",
            {"count": _whole(1, 1_000_000)},
        ),
        "error_passive": Fault(Condition.ERROR_PASSIVE, "arm", "the adapter counts many errors"),
        "other_arm": Fault(Condition.OTHER_ARM, "arm", "all arms but this one lose power"),
        "e_stop": Fault(FaultKind.DEAD_BUS, "arm", "hardware e-stop: every arm loses power"),
    }
)


def known(name: str) -> Fault:
    """The trouble of that name. Raises UsageError."""
    if name not in FAULTS:
        raise UsageError(f"no fault {name!r}", hint=f"one of: {', '.join(FAULTS)}")
    return FAULTS[name]


def check(
    name: str,
    arms: Sequence[str],
    *,
    arm: str | None = None,
    joint: str | None = None,
    clear: bool = False,
    details: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[str, dict[str, Any]]:
    """Which of `arms` is meant, and what the details mean. Raises UsageError.

    `clear`: the trouble is to end; then a joint may be left out (all of them), and no detail helps.
    """
    fault = known(name)
    place = place_of(arms, arm)
    if fault.at == "arm" and joint is not None:
        raise UsageError(f"{name} is a trouble of the whole arm", hint="name no joint")
    if fault.at == "joint" and joint is None and not clear:
        raise UsageError(f"{name} needs a joint", hint=f"one of: {', '.join(JOINTS)}")
    if joint is not None and joint not in JOINTS:
        raise UsageError(f"no joint {joint!r}", hint=f"one of: {', '.join(JOINTS)}")
    if name == "other_arm" and len(arms) == 1:
        raise UsageError("this twin has no other arm", evidence=f"arms: {arms[0]}")
    takes = {} if clear else fault.details
    found = {}
    for detail, value in details.items():
        if detail not in takes:
            raise UsageError(
                f"{name} takes no {detail}{' to end' if clear else ''}",
                hint=f"it takes {', '.join(takes) or 'no details'}",
            )
        try:
            found[detail] = takes[detail](value)
        except (ValueError, TypeError, OverflowError) as error:
            raise UsageError(f"{name}: {detail} cannot be that", evidence=str(error)) from None
    return place, found


def place_of(arms: Sequence[str], arm: str | None) -> str:
    """The arm that is meant, where one may be left out. Raises UsageError."""
    if arm is None and len(arms) == 1:
        return arms[0]
    if arm is None or arm not in arms:
        raise UsageError(
            "which arm?" if arm is None else f"this twin has no {arm} arm",
            hint=f"one of: {', '.join(arms)}",
        )
    return arm
