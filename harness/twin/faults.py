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
- Each trouble ends alone: what another that stands holds (a supply, a heat, a reading, a bus)
  stays as that one has it. Of two that set the same, the newest is felt.
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
from harness.twin.motors import AMBIENT, SUPPLY_V, MotorBank
from harness.twin.physics import TwinWorld
from registry.errors import Refused, UsageError

__all__ = ["FAULTS", "Fault", "clear", "inject"]

Target = TwinWorld | FaultyBus

_SUPPLY_V = {"over_voltage": 36.0, "under_voltage": 12.0}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "motor": {"status": Status.OVERLOAD},
    "mos_over_temperature": {"mos": 125.0},
    "coil_over_temperature": {"coil": 105.0},
    "master_id": {"mst_id": 0},
    "foreign": {"identifier": PARAMETER_ID, "data": frames.refresh(1)},
    "pose": {"turns": 1},
    "unsettled": {"noise": 0.02},
    "queue_full": {"count": 12},
}
_STATUS = {
    "over_current": Status.OVER_CURRENT,
    "mos_over_temperature": Status.MOS_OVER_TEMPERATURE,
    "coil_over_temperature": Status.COIL_OVER_TEMPERATURE,
    "communication_lost": Status.COMMUNICATION_LOST,
    "overload": Status.OVERLOAD,
    "over_voltage": Status.OVER_VOLTAGE,
    "under_voltage": Status.UNDER_VOLTAGE,
}
_TELLS = {"bus_off": (BUS_OFF, 0), "error_passive": (CONTROLLER, TX_PASSIVE)}
"""By trouble, the error frame that tells of it."""
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
    fault, details = FAULTS[name], {**_DEFAULTS.get(name, {}), **details}
    there = world.injected.setdefault(arm, {})
    there[name, joint] = {**there.pop((name, joint), {}), **details}
    for slot in _slots(fault, joint):
        _break_motor(world, arm, slot, name, details)
    if fault.at == "arm":
        _break_arm(world, arm, name, details)


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
    fault, there = FAULTS[name], world.injected.get(arm, {})
    for one, at in list(there):
        if one == name and joint in (None, at):
            details = there.pop((one, at))
            for slot in _slots(fault, at):
                _mend_motor(world, arm, slot, name, details)
            if fault.at == "arm":
                _mend_arm(world, arm, name)


# -- the motors


def _break_motor(
    world: TwinWorld, arm: str, slot: int, name: str, details: Mapping[str, Any]
) -> None:
    bank = world.bank(arm)
    match name:
        case "motor" | "mos_over_temperature" | "coil_over_temperature":
            bank.warm(slot, coil=details.get("coil"), mos=details.get("mos"))
            bank.fail(slot, details.get("status", _STATUS.get(name)))
        case "over_voltage" | "under_voltage":
            _supply(world, arm, slot)
            bank.fail(slot, _STATUS[name])
        case "over_current" | "overload" | "communication_lost":
            bank.fail(slot, _STATUS[name])
        case "disabled":
            bank.power(slot, on=False)
            _power(world, arm, slot)
        case "power_cut":
            bank.power(slot, on=False)
        case "silent":
            bank.mute(slot)
        case "master_id":
            _answer_on(bank, slot, details["mst_id"])
        case "pose" | "unsettled":
            _misread(world, arm, slot)
        case "setup":
            bank.registers_of(slot).stuck = True


def _mend_motor(
    world: TwinWorld, arm: str, slot: int, name: str, details: Mapping[str, Any]
) -> None:
    """What `name` with `details`, which stands no more, held at this motor."""
    bank = world.bank(arm)
    match name:
        case "over_voltage" | "under_voltage":
            _supply(world, arm, slot)
        case "motor" | "mos_over_temperature" | "coil_over_temperature":
            _cool(world, arm, slot, details)
        case "power_cut":
            _power(world, arm, slot)
        case "silent":
            bank.mute(slot, False)
        case "master_id":
            _answer_on(bank, slot, bank.addresses[slot].mst_id)
        case "pose" | "unsettled":
            _misread(world, arm, slot)
        case "setup":
            bank.registers_of(slot).stuck = False


def _standing(world: TwinWorld, arm: str, slot: int) -> dict[str, Mapping[str, Any]]:
    """Details of what stands at this motor, by name, the newest last."""
    found: dict[str, Mapping[str, Any]] = {}
    for (name, joint), details in world.injected.get(arm, {}).items():
        if joint in (None, JOINTS[slot]):
            found.pop(name, None)
            found[name] = details
    return found


def _supply(world: TwinWorld, arm: str, slot: int) -> None:
    volts = [_SUPPLY_V[name] for name in _standing(world, arm, slot) if name in _SUPPLY_V]
    world.bank(arm).supply[slot] = volts[-1] if volts else SUPPLY_V


def _misread(world: TwinWorld, arm: str, slot: int) -> None:
    stands = _standing(world, arm, slot)
    turns = stands.get("pose", {}).get("turns", 0)
    noise = stands.get("unsettled", {}).get("noise", 0.0)
    world.bank(arm).misread(slot, offset=2.0 * np.pi * turns, noise=noise)


def _cool(world: TwinWorld, arm: str, slot: int, warmed: Mapping[str, Any]) -> None:
    """What was `warmed` is no hotter than what still stands makes it."""
    bank, stands = world.bank(arm), _standing(world, arm, slot).values()
    for part, now in (("coil", bank.coil[slot]), ("mos", bank.mos[slot])):
        if part in warmed:
            held = [details[part] for details in stands if part in details]
            bank.warm(slot, **{part: min(now, *held) if held else AMBIENT})


def _answer_on(bank: MotorBank, slot: int, mst_id: int) -> None:
    bank.registers_of(slot).ram[Register.MST_ID] = mst_id
    bank.reload()


def _power(world: TwinWorld, arm: str, slot: int) -> None:
    """A motor has power if nothing that stands takes it; what it forgets meanwhile stands too."""
    bank, stands = world.bank(arm), _standing(world, arm, slot)
    on = "power_cut" not in stands and not any(
        arm in _without_power(world, where, name)
        for where, there in world.injected.items()
        for name, _ in there
    )
    bank.power(slot, on)
    if on and "master_id" in stands:
        _answer_on(bank, slot, stands["master_id"]["mst_id"])


# -- adapter, cable and supply of an arm


def _break_arm(world: TwinWorld, arm: str, name: str, details: Mapping[str, Any]) -> None:
    adapter = world.adapter(arm)
    match name:
        case "dead_bus":
            adapter.dead = True
        case "power_off" | "other_arm" | "e_stop":
            _power_arms(world, _without_power(world, arm, name))
        case "bus_off":
            adapter.off = True
            _tell(adapter, name)
        case "adapter_lost":
            adapter.unplug()
        case "foreign":
            _speak(world, arm, details["identifier"], details["data"])
        case "queue_full":
            adapter.full = details["count"]
        case "error_passive":
            _tell(adapter, name)


def _mend_arm(world: TwinWorld, arm: str, name: str) -> None:
    adapter = world.adapter(arm)
    match name:
        case "dead_bus":
            adapter.dead = False
            adapter.release()
        case "power_off" | "other_arm" | "e_stop":
            _power_arms(world, _without_power(world, arm, name))
        case "bus_off":
            adapter.off = False
            adapter.extra.append(error_frame(RESTARTED))
            adapter.release()
        case "adapter_lost":
            stands = world.injected[arm]
            adapter.plug_in()
            adapter.off = ("bus_off", None) in stands
            for one in _TELLS:
                if (one, None) in stands:
                    _tell(adapter, one)
        case "queue_full":
            adapter.full = 0
        case "error_passive":
            adapter.extra.append(error_frame(CONTROLLER, ACTIVE))


def _tell(adapter: Adapter, name: str) -> None:
    adapter.extra.append(error_frame(*_TELLS[name]))


def _without_power(world: TwinWorld, arm: str, name: str) -> tuple[str, ...]:
    """The arms whose supply is off by `name` at `arm`."""
    match name:
        case "power_off":
            return (arm,)
        case "e_stop":
            return world.config.arms
        case "other_arm":
            return tuple(one for one in world.config.arms if one != arm)
        case _:
            return ()


def _power_arms(world: TwinWorld, arms: tuple[str, ...]) -> None:
    for arm in arms:
        for slot in range(len(JOINTS)):
            _power(world, arm, slot)
        world.adapter(arm).release()


def _speak(world: TwinWorld, arm: str, identifier: int, data: bytes) -> None:
    """Another program's frame: the motors hear it, and so does ours, with their answer."""
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
