"""Troubles seen in the field, made and ended by name on a twin: in lock-step or live alike.

    inject(target, NAME, arm=None, joint=None, **details)
    clear(target, NAME=None, arm=None, joint=None)

`target` is a TwinWorld, or the FaultyBus of one of its arms (then `arm` is that one). `arm` may be
left out where the twin has one arm, `joint` where the table says so. Names and details are those
of harness/twin/fault_table.py. `clear` without a name ends everything injected. Both raise
UsageError for what is not known there, Refused where the trouble cannot be (an adapter fault, and
no bus of that arm is a FaultyBus).

Rules
- A fault is what happens to the hardware; what the driver makes of it is `Fault.seen_as`.
- `clear` ends the cause, not its traces: a motor's fault nibble stays until FB, a bus-off adapter
  is restarted and not believed again until somebody connects, a cut motor boots disabled.
- The same calls at the same simulated times give the same trace.

Units: °C, V, rad; a turn is 2 pi.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import can
import numpy as np

from fleet.can import frames
from fleet.can.frames import PARAMETER_ID, Status
from fleet.can.motors import Register
from harness.twin.adapter import (
    ACTIVE,
    BUS_OFF,
    CONTROLLER,
    RESTARTED,
    TX_PASSIVE,
    Adapter,
    error_frame,
)
from harness.twin.fault_table import FAULTS, JOINTS, Fault, check, place_of
from harness.twin.faulty_bus import FaultyBus
from harness.twin.motors import SUPPLY_V, MotorBank
from harness.twin.physics import TwinWorld
from registry.errors import Refused, UsageError

__all__ = ["FAULTS", "Fault", "clear", "inject"]

Target = TwinWorld | FaultyBus

HOT_COIL, HOT_MOS = 105.0, 125.0
LOW_SUPPLY_V, HIGH_SUPPLY_V = 12.0, 36.0
NOISE_RAD = 0.02
FULL_SENDS = 12


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
    world = _world(target)
    arm, details = check(
        name, world.config.arms, arm=arm or _arm_of(target), joint=joint, details=details
    )
    if name in _NEEDS_ADAPTER and not world.adapter(arm).handles:
        raise Refused(
            f"{name} is a trouble of the adapter, and no program goes through one",
            evidence=f"no bus of the {arm} arm is a FaultyBus",
            hint="wrap it: FaultyBus(TwinBus(world, arm))",
        )
    fault, bank = FAULTS[name], world.bank(arm)
    for slot in _slots(fault, joint):
        _break_motor(bank, slot, name, details)
    if fault.at == "arm":
        _break_arm(world, arm, name, details)
    world.injected.setdefault(arm, {})[name, joint] = fault


def clear(
    target: Target, name: str | None = None, *, arm: str | None = None, joint: str | None = None
) -> None:
    """End the trouble `name`, or all that was injected (of `arm`, if named). Raises UsageError.

    What was not injected is not an error: it is well already.
    """
    world = _world(target)
    arm = arm or _arm_of(target)
    if name is None:
        for where in world.config.arms if arm is None else (place_of(world.config.arms, arm),):
            for one, at in list(world.injected.get(where, {})):
                clear(target, one, arm=where, joint=at)
        return
    arm, _ = check(name, world.config.arms, arm=arm, joint=joint, clear=True)
    fault, bank, there = FAULTS[name], world.bank(arm), world.injected.get(arm, {})
    for one, at in list(there):
        if one == name and joint in (None, at):
            for slot in _slots(fault, at):
                _mend_motor(bank, slot, name)
            if fault.at == "arm":
                _mend_arm(world, arm, name)
            del there[one, at]


# -- the motors


def _break_motor(bank: MotorBank, slot: int, name: str, details: Mapping[str, Any]) -> None:
    match name:
        case "motor":
            bank.warm(slot, coil=details.get("coil"), mos=details.get("mos"))
            bank.fail(slot, details.get("status", Status.OVERLOAD))
        case "over_voltage" | "under_voltage":
            bank.supply[slot] = HIGH_SUPPLY_V if name == "over_voltage" else LOW_SUPPLY_V
            bank.fail(slot, _STATUS[name])
        case "mos_over_temperature":
            bank.warm(slot, mos=details.get("mos", HOT_MOS))
            bank.fail(slot, _STATUS[name])
        case "coil_over_temperature":
            bank.warm(slot, coil=details.get("coil", HOT_COIL))
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
            bank.registers_of(slot).ram[Register.MST_ID] = details.get("mst_id", 0)
            bank.reload()
        case "pose":
            bank.misread(slot, offset=2.0 * np.pi * details.get("turns", 1))
        case "unsettled":
            bank.misread(slot, noise=details.get("noise", NOISE_RAD))
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
            adapter.full = details.get("count", FULL_SENDS)
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
    if name == "e_stop":
        return world.config.arms
    return tuple(one for one in world.config.arms if one != arm)


def _power(world: TwinWorld, arms: tuple[str, ...], *, on: bool) -> None:
    for arm in arms:
        bank = world.bank(arm)
        for slot in range(len(bank.addresses)):
            bank.power(slot, on)
        world.adapter(arm).release()


def _speak(world: TwinWorld, arm: str, details: Mapping[str, Any]) -> None:
    """Another program's frame: the motors hear it, and so does ours, with their answer."""
    identifier = details.get("identifier", PARAMETER_ID)
    data = details.get("data", frames.refresh(1))
    adapter: Adapter = world.adapter(arm)
    adapter.extra.append(can.Message(arbitration_id=identifier, data=data, is_extended_id=False))
    answer = world.bank(arm).receive(identifier, data, world.now())
    if answer is not None:
        adapter.extra.append(
            can.Message(arbitration_id=answer[0], data=answer[1], is_extended_id=False)
        )


# -- names to things


def _world(target: Target) -> TwinWorld:
    world = target.world if isinstance(target, FaultyBus) else target
    if world is None:
        raise UsageError("there is no twin behind this bus", hint="inject on its TwinWorld")
    return world


def _arm_of(target: Target) -> str | None:
    """The arm that a bus is of; a whole twin names none."""
    return target.arm if isinstance(target, FaultyBus) else None


def _slots(fault: Fault, joint: str | None) -> tuple[int, ...]:
    """The motors that it breaks."""
    if fault.at == "arm":
        return ()
    return tuple(i for i, one in enumerate(JOINTS) if joint in (None, one))
