"""Every trouble by name: the driver sees the class that the table says, until it is cleared."""

from __future__ import annotations

import errno
from pathlib import Path

import can
import numpy as np
import pytest

from fleet.can.arm import Arm
from fleet.can.bus import FrameTap
from fleet.can.faults import RULES, ArmFault, Condition, FaultKind
from fleet.can.frames import PARAMETER_ID, Status
from fleet.can.gains import STIFF
from harness.twin.bus import TwinBus
from harness.twin.faults import FAULTS, clear, inject
from harness.twin.faulty_bus import FaultyBus
from harness.twin.physics import TwinConfig, TwinWorld
from registry.errors import Refused, UsageError

pytestmark = pytest.mark.slow

ZERO = np.zeros(8)
AT_CONNECT = ("master_id", "pose", "unsettled")
"""Troubles that a running arm shows in another way."""


def built(arms: tuple[str, ...] = ("right",)) -> tuple[TwinWorld, dict[str, FaultyBus]]:
    world = TwinWorld(TwinConfig(seed=1, arms=arms))
    return world, {name: FaultyBus(TwinBus(world, name), sent=[]) for name in arms}


def hold(arm: Arm, seconds: float) -> None:
    target = arm.state.q
    for _ in range(round(seconds / 0.005)):
        began = arm.now()
        arm.exchange(target, ZERO, STIFF.kp, STIFF.kd, ZERO)
        arm.wait(began + 0.005 - arm.now())


def running(bus: FaultyBus) -> Arm:
    arm = Arm(bus, name=bus.arm)
    arm.connect()
    arm.enable()
    hold(arm, 0.05)
    return arm


def joint_of(name: str) -> str | None:
    return "joint4" if FAULTS[name].at == "joint" else None


def test_every_class_of_the_drivers_table_can_be_made_by_its_own_name() -> None:
    assert {str(kind) for kind in RULES} <= set(FAULTS)
    assert all(str(FAULTS[str(kind)].seen_as) == str(kind) for kind in RULES)


def test_the_page_has_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "twin.md").read_text()
    of = {"joint": "one joint", "all": "one joint or all", "arm": "arm"}
    for name, fault in FAULTS.items():
        details = ", ".join(f"`{detail}`" for detail in fault.details)
        row = f"| `{name}` | `{fault.seen_as}` | {of[fault.at]} | {fault.does} | {details} |"
        assert row in text
    assert text.count("\n| `") == len(FAULTS), "and no other"


@pytest.mark.parametrize(
    "name",
    [n for n, f in FAULTS.items() if isinstance(f.seen_as, FaultKind) and n not in AT_CONNECT],
)
def test_a_running_arm_sees_it(name: str) -> None:
    world, buses = built()
    arm = running(buses["right"])
    if name == "setup":  # seen where something is written
        arm.disable(drop=True)
        world.park()
        arm = Arm(buses["right"], on_host_loss="fall")
        arm.connect()
    inject(world, name, joint=joint_of(name))
    with pytest.raises(ArmFault) as caught:
        arm.enable() if name == "setup" else hold(arm, 0.5)
    assert caught.value.kind is FAULTS[name].seen_as
    if FAULTS[name].at == "joint":
        assert caught.value.joints == ("joint4",)


@pytest.mark.parametrize("name", AT_CONNECT)
def test_an_arm_that_connects_sees_it_and_switches_nothing_on(name: str) -> None:
    world, buses = built()
    inject(world, name, joint="joint4")
    arm = Arm(buses["right"])
    with pytest.raises(ArmFault) as caught:
        arm.connect()
    assert (caught.value.kind, caught.value.joints) == (FAULTS[name].seen_as, ("joint4",))
    assert not world.bank().any_enabled
    clear(world)
    Arm(buses["right"]).connect()


@pytest.mark.parametrize("name", list(FAULTS))
def test_what_is_cleared_is_well_after_a_person_has_cleared_it_too(name: str) -> None:
    arms = ("right", "left")
    world, buses = built(arms)
    arm = running(buses["right"])
    inject(world, name, arm="right", joint=joint_of(name))
    try:
        hold(arm, 0.3)
    except ArmFault:
        assert isinstance(FAULTS[name].seen_as, FaultKind)
    clear(world, name, arm="right", joint=joint_of(name))
    assert not world.injected["right"]
    world.advance(0.01)
    arm.rebind(FaultyBus(TwinBus(world), sent=[]))
    arm.clear_faults()
    world.advance(2.0)  # it has fallen, and comes to rest
    world.park("right")
    arm.connect()
    arm.enable()
    hold(arm, 0.1)
    assert arm.fault is None


def test_conditions_stop_nothing_and_are_counted() -> None:
    _, buses = built()
    arm = running(buses["right"])
    inject(buses["right"], "queue_full", count=5)
    inject(buses["right"], "error_passive")
    hold(arm, 0.1)
    assert arm.fault is None
    assert (arm.counters.send_errors, arm.health.error_passive) == (5, 1)
    assert arm.health.passive
    clear(buses["right"])
    hold(arm, 0.01)
    assert not arm.health.passive


def test_a_hardware_e_stop_drops_the_arm_and_nothing_is_replayed() -> None:
    world, buses = built()
    arm = running(buses["right"])
    before = world.joints()
    inject(world, "e_stop")
    with pytest.raises(ArmFault) as caught:
        hold(arm, 0.5)
    assert caught.value.kind is FaultKind.DEAD_BUS
    assert arm.health.ack_errors == 1
    world.advance(0.5)
    assert np.abs(world.joints() - before).max() > 0.05, "without power it sinks"
    sent = len(buses["right"].sent or ())
    clear(world, "e_stop")
    world.advance(0.1)
    assert len(buses["right"].sent or ()) == sent
    assert world.adapter().replayed == []
    assert not world.bank().any_enabled


def test_a_program_that_does_not_purge_sees_its_frames_replayed_after_it_is_gone() -> None:
    world, buses = built()
    program = buses["right"]
    program.send(can.Message(arbitration_id=1, data=b"\xff" * 7 + b"\xfc", is_extended_id=False))
    assert world.bank().any_enabled
    inject(world, "power_off")
    frames = [
        can.Message(arbitration_id=1, data=b"\xff" * 7 + b"\xfc", is_extended_id=False),
        can.Message(arbitration_id=1, data=bytes(8), is_extended_id=False),
    ]
    for frame in frames:
        program.send(frame)
    program.shutdown()
    clear(world, "power_off")
    assert world.adapter().replayed == frames
    assert world.bank().any_enabled, "it was switched on by a program that is long gone"


def test_a_dead_bus_fills_the_queue_and_then_refuses() -> None:
    world, buses = built()
    inject(world, "dead_bus")
    refresh = can.Message(arbitration_id=PARAMETER_ID, data=bytes(8), is_extended_id=False)
    for _ in range(512):
        buses["right"].send(refresh)
    with pytest.raises(can.CanOperationError) as caught:
        buses["right"].send(refresh)
    assert caught.value.error_code == errno.ENOBUFS
    heard = buses["right"].recv(0.0)
    assert heard is not None
    assert heard.is_error_frame
    assert buses["right"].recv(0.0) is None, "told once"


def test_a_lost_adapter_comes_back_as_another_one() -> None:
    world, buses = built()
    inject(world, "adapter_lost")
    with pytest.raises(can.CanOperationError) as caught:
        buses["right"].recv(0.0)
    assert caught.value.error_code == errno.ENODEV
    clear(world)
    with pytest.raises(can.CanOperationError):
        buses["right"].recv(0.0)
    assert FaultyBus(TwinBus(world)).recv(0.0) is None


def test_the_other_arm_alone_loses_power() -> None:
    world, buses = built(("right", "left"))
    right, left = running(buses["right"]), running(buses["left"])
    inject(world, "other_arm", arm="right")
    hold(right, 0.3)
    with pytest.raises(ArmFault) as caught:
        hold(left, 0.5)
    assert caught.value.kind is FaultKind.DEAD_BUS
    assert FAULTS["other_arm"].seen_as is Condition.OTHER_ARM
    with pytest.raises(UsageError, match="no other arm"):
        inject(built()[0], "other_arm")


def test_a_cause_that_persists_makes_the_fault_again() -> None:
    world, buses = built()
    arm = running(buses["right"])
    inject(world, "under_voltage", joint="joint2")
    with pytest.raises(ArmFault):
        hold(arm, 0.1)
    arm.clear_faults()
    world.advance(2.0)
    world.park()
    arm.connect()
    with pytest.raises(ArmFault) as caught:
        arm.enable()
    assert (caught.value.kind, caught.value.joints) == (FaultKind.UNDER_VOLTAGE, ("joint2",))
    clear(world)
    arm.clear_faults()
    world.park()
    arm.connect()
    arm.enable()


def test_a_motor_fault_carries_the_status_and_temperatures_asked_for() -> None:
    world, buses = built()
    arm = running(buses["right"])
    inject(world, "motor", joint="joint6", status=Status.COIL_OVER_TEMPERATURE, coil=107.0)
    with pytest.raises(ArmFault) as caught:
        hold(arm, 0.1)
    (motor,) = caught.value.motors
    assert (motor.joint, motor.status) == ("joint6", Status.COIL_OVER_TEMPERATURE)
    assert motor.temp_rotor == pytest.approx(107, abs=1)


def test_another_programs_command_moves_the_motor_too() -> None:
    world, buses = built()
    arm = running(buses["right"])
    inject(world, "foreign", identifier=8, data="fffffffffffffffd")
    assert world.bank().status[7] == Status.DISABLED
    with pytest.raises(ArmFault) as caught:
        hold(arm, 0.02)
    assert caught.value.kind in (FaultKind.FOREIGN, FaultKind.DISABLED)


def test_the_same_script_gives_the_same_trace_to_the_bit() -> None:
    def trace() -> list[bytes]:
        world, _ = built()
        seen: list[bytes] = []
        bus = FaultyBus(
            FrameTap(TwinBus(world), lambda t, msg: seen.append(bytes(msg.data))), world.adapter()
        )
        arm = Arm(bus)
        arm.connect()
        arm.enable()
        hold(arm, 0.05)
        inject(bus, "queue_full")
        hold(arm, 0.05)
        inject(bus, "overload", joint="gripper")
        with pytest.raises(ArmFault):
            hold(arm, 0.05)
        return seen

    assert trace() == trace()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"name": "sabotage"}, "no fault 'sabotage'"),
        ({"name": "silent"}, "silent needs a joint"),
        ({"name": "silent", "joint": "elbow"}, "no joint 'elbow'"),
        ({"name": "dead_bus", "joint": "joint1"}, "trouble of the whole arm"),
        ({"name": "dead_bus", "arm": "third"}, "no third arm"),
        ({"name": "overload", "joint": "joint1", "count": 3}, "takes no count"),
    ],
)
def test_what_makes_no_sense_is_refused(words: dict[str, str], says: str) -> None:
    world, _ = built()
    with pytest.raises(UsageError, match=says):
        inject(world, **words)


def test_an_adapter_fault_without_an_adapter_is_refused() -> None:
    with pytest.raises(Refused, match="no program goes through one"):
        inject(TwinWorld(), "bus_off")
