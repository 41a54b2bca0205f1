"""Troubles at the same time: each ends alone, and what another one holds stays as it was."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import can
import pytest

from fleet.can import frames
from fleet.can.frames import PARAMETER_ID
from harness.twin.bus import TwinBus
from harness.twin.faults import FAULTS, clear, inject
from harness.twin.faulty_bus import FaultyBus
from harness.twin.physics import TwinConfig, TwinWorld
from harness.twin.registers import VBUS

ARMS = ("right", "left")


@pytest.fixture(scope="module")
def broken() -> TwinWorld:
    world = TwinWorld(TwinConfig(seed=1, arms=ARMS))
    for arm in ARMS:
        FaultyBus(TwinBus(world, arm))
    return world


@pytest.fixture
def world(broken: TwinWorld) -> Iterator[TwinWorld]:
    yield broken
    clear(broken)


def effects(world: TwinWorld) -> list[tuple[object, ...]]:
    """What each motor says (its status aside: that is a trace) and what its adapter does."""
    found: list[tuple[object, ...]] = []
    for arm in ARMS:
        bank, adapter = world.bank(arm), world.adapter(arm)
        found.append((adapter.dead, adapter.off, adapter.gone, adapter.full))
        for slot in range(8):
            said = []
            for asked in (frames.refresh(slot + 1),) * 2 + (frames.read_register(slot + 1, VBUS),):
                bank.moved()
                answer = bank.receive(PARAMETER_ID, asked, world.now())
                said.append(answer and (answer[0], bytes(answer[1][1:])))
            readings = frozenset(said[:2])  # a joint that shakes reads two ways in turn
            found.append((readings, said[2], bank.registers_of(slot).stuck))
    return found


def places(name: str) -> tuple[str | None, ...]:
    return {"joint": ("joint4",), "all": (None, "joint4"), "arm": (None,)}[FAULTS[name].at]


@pytest.mark.parametrize("held", list(FAULTS))
def test_a_trouble_stays_as_it_was_while_others_come_and_go(world: TwinWorld, held: str) -> None:
    well = effects(world)
    for joint in places(held):
        inject(world, held, arm="right", joint=joint)
        before = effects(world)
        for arm in ARMS:
            for other in FAULTS:
                for at in places(other):
                    if (arm, other, at) == ("right", held, joint):
                        continue
                    inject(world, other, arm=arm, joint=at)
                    clear(world, other, arm=arm, joint=at)
                    standing = world.injected["right"]
                    if (held, joint) in standing:  # without a joint, it ends at all of them
                        assert effects(world) == before, f"{other} {at} of the {arm} arm"
                    else:
                        inject(world, held, arm="right", joint=joint)
        clear(world, held, arm="right", joint=joint)
        assert effects(world) == well, "and it ends"


@pytest.mark.parametrize("first", ["pose", "unsettled"])
def test_a_joint_may_read_a_turn_off_and_shake(world: TwinWorld, first: str) -> None:
    alone = {}
    for name in ("pose", "unsettled"):
        inject(world, name, arm="right", joint="joint4")
        alone[name] = effects(world)
        clear(world, name, arm="right")
    second = "pose" if first == "unsettled" else "unsettled"
    inject(world, first, arm="right", joint="joint4")
    inject(world, second, arm="right", joint="joint4")
    assert effects(world) not in alone.values()
    clear(world, first, arm="right")
    assert effects(world) == alone[second]


def test_a_motor_is_as_hot_as_what_still_stands_makes_it(world: TwinWorld) -> None:
    bank = world.bank("right")
    inject(world, "coil_over_temperature", arm="right", joint="joint4", coil=105)
    inject(world, "motor", arm="right", joint="joint4", coil=150, mos=90)
    clear(world, "motor", arm="right")
    assert (bank.coil[3], bank.mos[3]) == (105.0, 25.0)
    inject(world, "motor", arm="right", joint="joint4", mos=90)
    clear(world, "coil_over_temperature", arm="right")
    assert (bank.coil[3], bank.mos[3]) == (25.0, 90.0)


def test_the_supply_is_what_the_newest_trouble_that_stands_makes_it(world: TwinWorld) -> None:
    supply = world.bank("right").supply
    inject(world, "under_voltage", arm="right")
    inject(world, "over_voltage", arm="right", joint="joint4")
    assert list(supply) == [12.0] * 3 + [36.0] + [12.0] * 4
    clear(world, "under_voltage", arm="right")
    assert list(supply) == [24.0] * 3 + [36.0] + [24.0] * 4


def test_a_new_interface_of_a_bus_that_is_off_says_so(world: TwinWorld) -> None:
    inject(world, "bus_off", arm="right")
    inject(world, "adapter_lost", arm="right")
    clear(world, "adapter_lost", arm="right")
    bus = FaultyBus(TwinBus(world, "right"))
    heard = bus.recv(0.0)
    assert heard is not None
    assert heard.is_error_frame
    frame = can.Message(arbitration_id=1, data=bytes(8), is_extended_id=False)
    for _ in range(512):
        bus.send(frame)
    with pytest.raises(can.CanOperationError) as caught:
        bus.send(frame)
    assert caught.value.error_code == errno.ENOBUFS
    bus.flush_tx_buffer()
