"""Troubles seen in the field, made and ended by name on a twin: in lock-step or live alike.

    inject(target, NAME, arm=None, joint=None, **details)
    clear(target, NAME=None, arm=None, joint=None)

`target` is a TwinWorld, or the FaultyBus of one of its arms (then `arm` is that one). `arm` may be
left out where the twin has one arm, `joint` where the table says so. Names are `FAULTS`; every
class of fleet/can/faults.py has one of its own name, others are ways to the same class. `clear`
without a name ends everything injected. Both raise UsageError for names, arms, joints or details
that are not known, Refused where the trouble cannot be (an adapter fault, and no bus of that arm
is a FaultyBus).

Rules
- A fault is what happens to the hardware; what the driver makes of it is `Fault.seen_as`.
- `clear` ends the cause, not its traces: a motor's fault nibble stays until FB, a bus-off adapter
  is restarted and not believed again until somebody connects, a cut motor boots disabled.
- The same calls at the same simulated times give the same trace.

Units: °C, V, rad; a turn is 2 pi.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

import can
import numpy as np

from fleet.can import frames
from fleet.can.faults import Condition, FaultKind
from fleet.can.frames import PARAMETER_ID, Status
from fleet.can.motors import Register
from harness.twin.adapter import (
    ACTIVE,
    BUS_OFF,
    CONTROLLER,
    RESTARTED,
    TX_PASSIVE,
    Adapter,
    FaultyBus,
    error_frame,
)
from harness.twin.motors import SUPPLY_V, MotorBank
from harness.twin.physics import TwinWorld
from registry.errors import Refused, UsageError

Target = TwinWorld | FaultyBus

HOT_COIL, HOT_MOS = 105.0, 125.0
LOW_SUPPLY_V, HIGH_SUPPLY_V = 12.0, 36.0
NOISE_RAD = 0.02
FULL_SENDS = 12


@dataclass(frozen=True)
class Fault:
    """One trouble. `at`: which motors it needs (`joint` one, `all` by default every one)."""

    seen_as: FaultKind | Condition
    at: Literal["joint", "all", "arm"]
    does: str
    details: tuple[str, ...] = ()


_MOTOR, _ADAPTER = FaultKind.MOTOR, FaultKind.ADAPTER_LOST

FAULTS: Final[Mapping[str, Fault]] = MappingProxyType(
    {
        "motor": Fault(
            _MOTOR, "joint", "a motor faults with `status` (E, overload)", ("status", "coil", "mos")
        ),
        "over_voltage": Fault(_MOTOR, "all", "the supply rises to 36 V"),
        "over_current": Fault(_MOTOR, "joint", "a motor draws more than its drive bears"),
        "mos_over_temperature": Fault(_MOTOR, "joint", "a drive at 125 °C", ("mos",)),
        "coil_over_temperature": Fault(_MOTOR, "joint", "a coil at 105 °C", ("coil",)),
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
            FaultKind.MASTER_ID, "joint", "a motor answers on id `mst_id` (0)", ("mst_id",)
        ),
        "foreign": Fault(
            FaultKind.FOREIGN, "arm", "another program sends a frame", ("identifier", "data")
        ),
        "pose": Fault(FaultKind.POSE, "joint", "a joint reads a turn off", ("turns",)),
        "unsettled": Fault(FaultKind.UNSETTLED, "joint", "a joint's reading shakes", ("noise",)),
        "setup": Fault(FaultKind.SETUP, "joint", "a motor acknowledges writes and forgets them"),
        "queue_full": Fault(
            Condition.QUEUE_FULL, "arm", "`count` (12) frames do not fit the queue", ("count",)
        ),
        "error_passive": Fault(Condition.ERROR_PASSIVE, "arm", "the adapter counts many errors"),
        "other_arm": Fault(Condition.OTHER_ARM, "arm", "all arms but this one lose power"),
        "e_stop": Fault(FaultKind.DEAD_BUS, "arm", "hardware e-stop: every arm loses power"),
    }
)

_STATUS = {
    "over_current": Status.OVER_CURRENT,
    "mos_over_temperature": Status.MOS_OVER_TEMPERATURE,
    "coil_over_temperature": Status.COIL_OVER_TEMPERATURE,
    "communication_lost": Status.COMMUNICATION_LOST,
    "overload": Status.OVERLOAD,
    "over_voltage": Status.OVER_VOLTAGE,
    "under_voltage": Status.UNDER_VOLTAGE,
}
_NEEDS_ADAPTER = ("dead_bus", "bus_off", "adapter_lost", "foreign", "queue_full", "error_passive")


def inject(
    target: Target,
    name: str,
    *,
    arm: str | None = None,
    joint: str | None = None,
    **details: Any,
) -> None:
    """Make the trouble `name`. Raises UsageError, Refused."""
    fault = _known(name)
    unknown = sorted(set(details) - set(fault.details))
    if unknown:
        raise UsageError(
            f"{name} takes no {unknown[0]}",
            hint=f"it takes {', '.join(fault.details) or 'no details'}",
        )
    world, arm = _place(target, arm)
    slots = _slots(world.bank(arm), fault, name, joint)
    if name in _NEEDS_ADAPTER and not world.adapter(arm).handles:
        raise Refused(
            f"{name} is a trouble of the adapter, and no program goes through one",
            evidence=f"no bus of the {arm} arm is a FaultyBus",
            hint="wrap it: FaultyBus(world.bus(arm))",
        )
    for slot in slots:
        _break_motor(world.bank(arm), slot, name, details)
    if fault.at == "arm":
        _break_arm(world, arm, name, details)
    world.injected.setdefault(arm, {})[name, joint] = fault


def clear(
    target: Target, name: str | None = None, *, arm: str | None = None, joint: str | None = None
) -> None:
    """End the trouble `name`, or all that was injected (of `arm`, if named). Raises UsageError.

    What was not injected is not an error: it is well already.
    """
    if name is None:
        world = _world(target)
        if isinstance(target, FaultyBus):
            arm = target.arm
        for where in world.config.arms if arm is None else (_place(target, arm)[1],):
            for one, at in list(world.injected.get(where, {})):
                clear(target, one, arm=where, joint=at)
        return
    fault = _known(name)
    world, arm = _place(target, arm)
    bank = world.bank(arm)
    there = world.injected.get(arm, {})
    for one, at in list(there):
        if one == name and joint in (None, at):
            for slot in _slots(bank, fault, name, at):
                _mend_motor(bank, slot, name)
            if fault.at == "arm":
                _mend_arm(world, arm, name)
            del there[one, at]


# -- the motors


def _break_motor(bank: MotorBank, slot: int, name: str, details: Mapping[str, Any]) -> None:
    match name:
        case "motor":
            bank.warm(slot, coil=details.get("coil"), mos=details.get("mos"))
            bank.fail(slot, Status(int(details.get("status", Status.OVERLOAD))))
        case "over_voltage" | "under_voltage":
            bank.supply[slot] = HIGH_SUPPLY_V if name == "over_voltage" else LOW_SUPPLY_V
            bank.fail(slot, _STATUS[name])
        case "mos_over_temperature":
            bank.warm(slot, mos=float(details.get("mos", HOT_MOS)))
            bank.fail(slot, _STATUS[name])
        case "coil_over_temperature":
            bank.warm(slot, coil=float(details.get("coil", HOT_COIL)))
            bank.fail(slot, _STATUS[name])
        case "over_current" | "overload" | "communication_lost":
            bank.fail(slot, _STATUS[name])
        case "disabled":
            bank.power(slot, on=False)
            bank.power(slot, on=True)
        case "power_cut":
            bank.power(slot, on=False)
        case "silent":
            bank.mute(slot)
        case "master_id":
            bank.registers_of(slot).ram[Register.MST_ID] = int(details.get("mst_id", 0))
            bank.reload()
        case "pose":
            bank.misread(slot, offset=2.0 * np.pi * float(details.get("turns", 1)))
        case "unsettled":
            bank.misread(slot, noise=float(details.get("noise", NOISE_RAD)))
        case "setup":
            bank.registers_of(slot).stuck = True


def _mend_motor(bank: MotorBank, slot: int, name: str) -> None:
    match name:
        case "over_voltage" | "under_voltage":
            bank.supply[slot] = SUPPLY_V
        case "motor" | "mos_over_temperature" | "coil_over_temperature":
            bank.cool(slot)
        case "power_cut":
            bank.power(slot, on=True)
        case "silent":
            bank.mute(slot, False)
        case "master_id":
            bank.registers_of(slot).ram[Register.MST_ID] = bank.addresses[slot].mst_id
            bank.reload()
        case "pose" | "unsettled":
            bank.misread(slot)
        case "setup":
            bank.registers_of(slot).stuck = False


# -- adapter, cable and supply of an arm


def _break_arm(world: TwinWorld, arm: str, name: str, details: Mapping[str, Any]) -> None:
    adapter = world.adapter(arm)
    match name:
        case "dead_bus":
            adapter.dead = True
        case "power_off" | "other_arm" | "e_stop":
            _power(world, _without_power(world, arm, name), on=False)
        case "bus_off":
            adapter.extra.append(error_frame(BUS_OFF))
            adapter.off = True
        case "adapter_lost":
            adapter.unplug()
        case "foreign":
            _speak(world, arm, details)
        case "queue_full":
            adapter.full = int(details.get("count", FULL_SENDS))
        case "error_passive":
            adapter.extra.append(error_frame(CONTROLLER, TX_PASSIVE))


def _mend_arm(world: TwinWorld, arm: str, name: str) -> None:
    adapter = world.adapter(arm)
    match name:
        case "dead_bus":
            adapter.dead = False
            adapter.release()
        case "power_off" | "other_arm" | "e_stop":
            _power(world, _without_power(world, arm, name), on=True)
        case "bus_off":
            adapter.off = False
            adapter.extra.append(error_frame(RESTARTED))
            adapter.release()
        case "adapter_lost":
            adapter.plug_in()
        case "queue_full":
            adapter.full = 0
        case "error_passive":
            adapter.extra.append(error_frame(CONTROLLER, ACTIVE))


def _without_power(world: TwinWorld, arm: str, name: str) -> tuple[str, ...]:
    """The arms whose supply is off."""
    if name == "power_off":
        return (arm,)
    others = tuple(one for one in world.config.arms if one != arm)
    if name == "other_arm" and not others:
        raise UsageError("this twin has no other arm", evidence=f"arms: {arm}")
    return others if name == "other_arm" else world.config.arms


def _power(world: TwinWorld, arms: tuple[str, ...], *, on: bool) -> None:
    for arm in arms:
        bank = world.bank(arm)
        for slot in range(len(bank.addresses)):
            bank.power(slot, on)
        world.adapter(arm).release()


def _speak(world: TwinWorld, arm: str, details: Mapping[str, Any]) -> None:
    """Another program's frame: the motors hear it, and so does ours, with their answer."""
    identifier = int(details.get("identifier", PARAMETER_ID))
    data = details.get("data", frames.refresh(1))
    data = bytes.fromhex(data) if isinstance(data, str) else bytes(data)
    adapter: Adapter = world.adapter(arm)
    adapter.extra.append(can.Message(arbitration_id=identifier, data=data, is_extended_id=False))
    answer = world.bank(arm).receive(identifier, data, world.now())
    if answer is not None:
        adapter.extra.append(
            can.Message(arbitration_id=answer[0], data=answer[1], is_extended_id=False)
        )


# -- names to things


def _known(name: str) -> Fault:
    if name not in FAULTS:
        raise UsageError(f"no fault {name!r}", hint=f"one of: {', '.join(FAULTS)}")
    return FAULTS[name]


def _world(target: Target) -> TwinWorld:
    world = target.world if isinstance(target, FaultyBus) else target
    if world is None:
        raise UsageError("there is no twin behind this bus", hint="inject on its TwinWorld")
    return world


def _place(target: Target, arm: str | None) -> tuple[TwinWorld, str]:
    world = _world(target)
    if isinstance(target, FaultyBus):
        arm = arm or target.arm
    arms = world.config.arms
    if arm is None and len(arms) == 1:
        arm = arms[0]
    if arm not in arms:
        raise UsageError(
            "which arm?" if arm is None else f"this twin has no {arm} arm",
            hint=f"one of: {', '.join(arms)}",
        )
    return world, arm


def _slots(bank: MotorBank, fault: Fault, name: str, joint: str | None) -> tuple[int, ...]:
    joints = [address.joint for address in bank.addresses]
    if fault.at == "arm":
        if joint is not None:
            raise UsageError(f"{name} is a trouble of the whole arm", hint="name no joint")
        return ()
    if joint is None and fault.at == "joint":
        raise UsageError(f"{name} needs a joint", hint=f"one of: {', '.join(joints)}")
    if joint is not None and joint not in joints:
        raise UsageError(f"no joint {joint!r}", hint=f"one of: {', '.join(joints)}")
    return tuple(i for i, one in enumerate(joints) if joint in (None, one))
