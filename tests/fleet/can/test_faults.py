"""Each trouble seen in the field, injected on a twin's bus; the one table of what follows."""

from __future__ import annotations

import errno
import re
import subprocess
import threading
from pathlib import Path

import can
import numpy as np
import pytest

from fleet.can import frames, health
from fleet.can.arm import Arm
from fleet.can.faults import RULES, ArmFault, Condition, FaultKind
from fleet.can.frames import PARAMETER_ID, REFRESH, Status
from fleet.can.gains import STIFF
from fleet.can.health import AT_REST_S, IN_A_TICK_S, is_full_queue, purge
from fleet.can.motors import Register
from fleet.kinematics import load_arms
from fleet.limits import SafetyLimits
from fleet.servo import Servo
from harness.tasks.box_grasp import BOX_GRASP
from harness.twin.adapter import (
    ACK,
    BUS_OFF,
    CONTROLLER,
    TX_PASSIVE,
    Adapter,
    error_frame,
)
from harness.twin.bus import TwinBus
from harness.twin.faulty_bus import FaultyBus
from harness.twin.physics import TwinConfig, TwinWorld

ZERO = np.zeros(8)


@pytest.fixture
def world() -> TwinWorld:
    return TwinWorld(TwinConfig(seed=1))


@pytest.fixture
def bus(world: TwinWorld) -> FaultyBus:
    return FaultyBus(TwinBus(world), sent=[])


@pytest.fixture
def arm(bus: FaultyBus) -> Arm:
    return Arm(bus)


def hold(arm: Arm, seconds: float) -> None:
    target = arm.state.q
    for _ in range(round(seconds / 0.005)):
        began = arm.now()
        arm.exchange(target, ZERO, STIFF.kp, STIFF.kd, ZERO)
        arm.wait(began + 0.005 - arm.now())


def running(arm: Arm) -> None:
    arm.connect()
    arm.enable()
    hold(arm, 0.05)


def broken(arm: Arm, seconds: float = 0.5) -> ArmFault:
    """The fault that comes within `seconds`; it sticks, and sends nothing more."""
    with pytest.raises(ArmFault) as caught:
        hold(arm, seconds)
    sent = arm.counters.sent
    with pytest.raises(ArmFault) as again:
        hold(arm, 0.01)
    assert again.value is caught.value
    assert arm.counters.sent == sent
    assert caught.value.hint
    return caught.value


def test_the_table_in_the_docs_is_the_table_in_the_code() -> None:
    text = (Path(__file__).parents[3] / "docs" / "faults.md").read_text()
    rows = [
        tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        for line in text.splitlines()
        if line.startswith("| `")
    ]
    told = [(f"`{kind}`", rule.arms, rule.attempt, rule.told) for kind, rule in RULES.items()]
    assert rows == told


def test_every_fault_and_condition_has_a_rule() -> None:
    assert set(RULES) == {*FaultKind, *Condition}
    assert all(RULES[kind].outcome for kind in FaultKind), "a fault ends the attempt"


def test_a_dead_bus_stops_commands_after_two_passes_and_replays_none(
    world: TwinWorld, bus: FaultyBus, arm: Arm
) -> None:
    running(arm)
    bus.adapter.dead = True
    began = arm.now()
    hold(arm, 0.1)
    queued = [msg for _, msg in bus.adapter.queue]
    assert len([msg for msg in queued if msg.arbitration_id != PARAMETER_ID]) == 2 * 8
    assert all(msg.data[2] == REFRESH for msg in queued if msg.arbitration_id == PARAMETER_ID)
    fault = broken(arm)
    assert fault.kind is FaultKind.DEAD_BUS
    assert arm.now() - began < 0.22
    assert "purged" in fault.evidence
    world.bank().power_cycle()
    bus.adapter.dead = False
    bus.adapter.release()
    assert bus.adapter.replayed == []


def test_a_bus_that_cannot_be_purged_says_so(world: TwinWorld) -> None:
    bus = FaultyBus(TwinBus(world), Adapter(can_purge=False))
    arm = Arm(bus)
    running(arm)
    bus.adapter.dead = True
    fault = broken(arm)
    assert "could not be purged" in fault.evidence
    assert "interface down and up" in fault.hint


def test_a_dead_bus_at_connect_sees_refreshes_alone(bus: FaultyBus, arm: Arm) -> None:
    bus.adapter.dead = True
    seen: list[can.Message] = []
    flush = bus.flush_tx_buffer
    bus.flush_tx_buffer = lambda: (seen.extend(m for _, m in bus.adapter.queue), flush())[1]  # type: ignore[method-assign]
    with pytest.raises(ArmFault) as caught:
        arm.connect()
    assert caught.value.kind is FaultKind.DEAD_BUS
    assert [bytes(msg.data) for msg in seen] == [frames.refresh(i) for i in range(1, 9)]
    assert not bus.adapter.queue


def test_the_first_frame_is_alone_until_it_is_answered(bus: FaultyBus, arm: Arm) -> None:
    before_answer: list[int] = []
    bus.adapter.reply = lambda msg: (before_answer.append(len(bus.sent)), msg)[1]
    arm.connect()
    assert before_answer[0] == 1
    assert bytes(bus.sent[0].data) == frames.refresh(1)


def test_disabling_on_a_dead_bus_queues_no_commands(bus: FaultyBus, arm: Arm) -> None:
    running(arm)
    bus.adapter.dead = True
    broken(arm)
    with pytest.raises(ArmFault) as caught:
        arm.disable()
    assert caught.value.kind is FaultKind.DEAD_BUS
    assert not bus.adapter.queue


def test_a_full_queue_on_a_living_bus_drops_frames_and_goes_on(bus: FaultyBus, arm: Arm) -> None:
    running(arm)
    bus.adapter.full = 8 * 3 - 2
    hold(arm, 0.2)
    assert arm.fault is None
    assert arm.counters.send_errors > 8
    assert RULES[Condition.QUEUE_FULL].outcome == ""
    assert (arm.state.age_s < 0.01).all()


def test_bus_off_is_read_from_error_frames_and_sticks(bus: FaultyBus, arm: Arm) -> None:
    running(arm)
    bus.adapter.extra.extend([error_frame(ACK), error_frame(BUS_OFF)])
    fault = broken(arm, 0.02)
    assert fault.kind is FaultKind.BUS_OFF
    assert "bus-off 1" in fault.evidence
    assert arm.health.ack_errors == 1
    assert arm.health.tx_errors == 128
    arm.connect()
    assert arm.fault is None


def test_error_passive_is_counted_and_stops_nothing(bus: FaultyBus, arm: Arm) -> None:
    running(arm)
    bus.adapter.extra.extend([error_frame(CONTROLLER, TX_PASSIVE)])
    hold(arm, 0.05)
    assert arm.fault is None
    assert arm.health.passive
    assert arm.health.error_passive == 1
    bus.adapter.extra.extend([error_frame(CONTROLLER, 0x40)])
    hold(arm, 0.01)
    assert not arm.health.passive


def test_one_silent_axis_is_named_after_200_ms(bus: FaultyBus, arm: Arm) -> None:
    running(arm)
    bus.adapter.silent = {0x14}
    began = arm.now()
    fault = broken(arm)
    assert (fault.kind, fault.joints) == (FaultKind.SILENT, ("joint4",))
    assert 0.19 < arm.now() - began < 0.22


def test_a_motor_fault_carries_code_and_temperatures(world: TwinWorld, arm: Arm) -> None:
    running(arm)
    world.bank().fail(2, Status.MOS_OVER_TEMPERATURE)
    fault = broken(arm, 0.02)
    assert fault.kind is FaultKind.MOTOR
    (motor,) = fault.motors
    assert (motor.joint, motor.status) == ("joint3", Status.MOS_OVER_TEMPERATURE)
    assert 20 <= motor.temp_mos <= 60
    assert fault.rule.outcome == "failure"


def test_undervoltage_is_told_apart_from_other_motor_faults(world: TwinWorld, arm: Arm) -> None:
    running(arm)
    for slot in range(8):
        world.bank().fail(slot, Status.UNDER_VOLTAGE)
    fault = broken(arm, 0.02)
    assert fault.kind is FaultKind.UNDER_VOLTAGE
    assert len(fault.motors) == 8


@pytest.mark.parametrize("answers_on", [0x000, 0x12])
def test_a_wrong_master_id_is_named(bus: FaultyBus, arm: Arm, answers_on: int) -> None:
    """0: as the factory ships it; 0x12: another motor's, so two answer on one id."""
    data = frames.write_register(5, Register.MST_ID, answers_on)
    bus.send(can.Message(arbitration_id=PARAMETER_ID, data=data, is_extended_id=False))
    while bus.recv(0.0) is not None:
        pass
    with pytest.raises(ArmFault) as caught:
        arm.connect()
    assert (caught.value.kind, caught.value.joints) == (FaultKind.MASTER_ID, ("joint5",))
    assert f"{answers_on:#05x}" in caught.value.evidence


def test_an_adapter_that_is_lost_and_comes_back(world: TwinWorld, bus: FaultyBus, arm: Arm) -> None:
    running(arm)
    bus.adapter.unplug()
    fault = broken(arm, 0.02)
    assert fault.kind is FaultKind.ADAPTER_LOST
    with pytest.raises(ArmFault):
        arm.disable()
    bus.adapter.plug_in()
    back = FaultyBus(TwinBus(world), sent=[])
    arm.rebind(back)
    with pytest.raises(ArmFault):
        arm.exchange(ZERO, ZERO, STIFF.kp, STIFF.kd, ZERO)
    assert back.sent == [], "nothing moves until somebody connects"
    arm.connect()
    assert arm.fault is None
    assert arm.enabled, "the motors held all the while; they are taken over as they stand"
    hold(arm, 0.05)


@pytest.mark.parametrize("identifier", [0x003, PARAMETER_ID, 0x105])
def test_another_program_on_the_bus(bus: FaultyBus, arm: Arm, identifier: int) -> None:
    running(arm)
    bus.adapter.extra.extend(
        [can.Message(arbitration_id=identifier, data=bytes(8), is_extended_id=False)]
    )
    assert broken(arm, 0.02).kind is FaultKind.FOREIGN


def test_one_of_two_arms_gone_holds_the_other() -> None:
    world = TwinWorld(TwinConfig(seed=2, arms=("right", "left")))
    buses = [
        FaultyBus(TwinBus(world, "right"), sent=[]),
        FaultyBus(TwinBus(world, "left"), sent=[]),
    ]
    arms = [Arm(bus, name=name) for bus, name in zip(buses, ("right", "left"), strict=True)]
    for arm in arms:
        arm.connect()
    for arm in arms:
        arm.enable()
    kinematics = load_arms("openarm-v2-bimanual")
    limits = SafetyLimits.for_arms(kinematics, table_z=BOX_GRASP.table_z)
    servo = Servo(arms, kinematics, limits, physics_s=0.001)
    servo.start()
    servo.hold(20)
    buses[1].adapter.dead = True
    sent = len(buses[0].sent)
    with pytest.raises(ArmFault) as caught:
        servo.hold(100)
    assert (caught.value.kind, caught.value.arm) == (FaultKind.DEAD_BUS, "left")
    assert servo.stopped
    assert len(buses[0].sent) - sent >= 8 * 40, "the other was commanded in every pass"
    assert arms[0].fault is None
    assert np.abs(world.joints("right") - servo.command[:8]).max() < 0.1
    assert RULES[Condition.OTHER_ARM].outcome == "void"


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (can.CanOperationError("full", errno.ENOBUFS), True),
        (can.CanOperationError("Transmit buffer full"), True),
        (can.CanOperationError("down", errno.ENETDOWN), False),
        (OSError(errno.ENODEV, "gone"), False),
        (ConnectionResetError(errno.ECONNRESET, "reset"), False),
    ],
)
def test_a_full_queue_is_told_from_a_lost_adapter(error: Exception, full: bool) -> None:
    assert is_full_queue(error) is full


def test_a_bus_without_a_way_to_purge_is_not_called_purged() -> None:
    with can.Bus("test_purge", "virtual", ignore_config=True) as bus:
        assert purge(bus, AT_REST_S) is False


def test_an_interface_that_is_slow_to_go_down_keeps_no_tick_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tick that takes 60 ms lets the guardians lower every arm."""
    goes_down, said = threading.Event(), []

    def ip(words: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        assert goes_down.wait(20.0)
        said.append(words[-1])
        return subprocess.CompletedProcess(words, 0)

    class SlowBus:
        channel = "can7"
        __module__ = "can.interfaces.socketcan"

        def flush_tx_buffer(self) -> None:
            raise NotImplementedError

    monkeypatch.setattr(health.subprocess, "run", ip)
    assert purge(SlowBus(), IN_A_TICK_S) is None  # type: ignore[arg-type]
    assert said == []
    goes_down.set()
    for thread in threading.enumerate():
        if thread.name == "purge":
            thread.join(20.0)
    assert said == ["down", "up"], "what was begun is finished"
    assert purge(SlowBus(), AT_REST_S) is True  # type: ignore[arg-type]
