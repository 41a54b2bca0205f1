"""Modes, registers, host loss, gains and MotorInfo, on a twin's bus or on one that only records."""

from __future__ import annotations

import struct
from collections.abc import Callable

import can
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.can import frames
from fleet.can.arm import Arm
from fleet.can.commands import Mit, PosForce, PosVel, Vel, encode
from fleet.can.faults import ArmFault, FaultKind
from fleet.can.frames import PARAMETER_ID, Special, Status
from fleet.can.gains import PRESETS, STIFF, preset
from fleet.can.host_loss import HostLoss
from fleet.can.motors import OPENARM_MOTORS, Mode, Register, joint_limits
from fleet.servo import KD, KP
from harness.twin.bus import TwinBus
from harness.twin.faulty_bus import FaultyBus
from harness.twin.physics import TwinConfig, TwinWorld
from registry.errors import Refused, UsageError

ZERO = np.zeros(8)
GRIPPER = OPENARM_MOTORS[7]


@pytest.fixture
def world() -> TwinWorld:
    return TwinWorld(TwinConfig(seed=1))


@pytest.fixture
def bus(world: TwinWorld) -> FaultyBus:
    return FaultyBus(TwinBus(world), sent=[])


def say(bus: FaultyBus, register: Register, value: float, slot: int) -> None:
    """Send a register write from a tool, before the arm connects."""
    data = frames.write_register(slot + 1, register, value)
    bus.send(can.Message(arbitration_id=PARAMETER_ID, data=data, is_extended_id=False))
    while bus.recv(0.0) is not None:
        pass
    bus.sent.clear()


def hold(arm: Arm, seconds: float, q: np.ndarray | None = None) -> None:
    target = arm.state.q if q is None else q
    for _ in range(round(seconds / 0.005)):
        began = arm.now()
        arm.exchange(target, ZERO, STIFF.kp, STIFF.kd, ZERO)
        arm.wait(began + 0.005 - arm.now())


def test_a_gripper_in_pos_force_beside_joints_in_mit(bus: FaultyBus) -> None:
    arm = Arm(bus)
    start = arm.connect().q
    arm.modes = (Mode.MIT,) * 7 + (Mode.POS_FORCE,)
    arm.enable()
    assert arm.read_register(GRIPPER, Register.CTRL_MODE) == Mode.POS_FORCE
    with pytest.raises(Refused, match="not in MIT mode"):
        arm.exchange(start, ZERO, STIFF.kp, STIFF.kd, ZERO)
    sent = len(bus.sent)
    joints = [Mit(start[i], 0.0, STIFF.kp[i], STIFF.kd[i], 0.0) for i in range(7)]
    state = arm.exchange_commands([*joints, PosForce(start[7], 5.0, 0.5)])
    out = bus.sent[sent:]
    assert [msg.arbitration_id for msg in out] == [1, 2, 3, 4, 5, 6, 7, 0x308]
    assert struct.unpack("<fHH", out[7].data) == (pytest.approx(start[7]), 500, 5000)
    assert (state.age_s == 0.0).all(), "each mode's command is answered by one feedback"


def test_pos_vel_and_vel_have_their_own_ids_and_layout(bus: FaultyBus) -> None:
    arm = Arm(bus)
    start = arm.connect().q
    arm.modes = (Mode.POS_VEL,) * 4 + (Mode.VEL,) * 4
    arm.enable()
    sent = len(bus.sent)
    arm.exchange_commands([*(PosVel(q, 1.0) for q in start[:4]), *(Vel(0.5) for _ in range(4))])
    out = bus.sent[sent:]
    assert [m.arbitration_id for m in out] == [*range(0x101, 0x105), *range(0x205, 0x209)]
    assert struct.unpack("<ff", out[0].data) == (pytest.approx(start[0]), 1.0)
    assert struct.unpack("<f", out[7].data) == (0.5,)
    with pytest.raises(Refused, match="modes"):
        arm.exchange_commands([Vel(0.0)] * 8)


finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.slow
@given(q=finite, a=finite, b=finite, c=finite, d=finite)
def test_no_command_of_any_mode_is_ever_special_or_above_full_scale(
    q: float, a: float, b: float, c: float, d: float
) -> None:
    for motor in OPENARM_MOTORS:
        ranges = motor.type.ranges
        for command in (Mit(q, a, b, c, d), PosVel(q, a), Vel(q), PosForce(q, a, b)):
            identifier, data = encode(motor, ranges, command)
            assert not frames.collides_with_special(data)
            assert frames.special_code(data.ljust(8, b"\0")) is None
            if isinstance(command, PosVel):
                assert abs(struct.unpack("<ff", data)[0]) <= ranges.pmax
                assert 0.0 <= struct.unpack("<ff", data)[1] <= ranges.vmax
            if isinstance(command, Vel):
                assert abs(struct.unpack("<f", data)[0]) <= ranges.vmax
            if isinstance(command, PosForce):
                share = struct.unpack("<fHH", data)[2] / 1e4
                assert share * ranges.tmax <= motor.type.peak_torque + 1e-9
            assert identifier & 0xF == motor.esc_id


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("make", [lambda x: PosVel(x, 1.0), Vel, lambda x: PosForce(0.0, 1.0, x)])
def test_a_command_that_is_not_finite_is_refused(
    make: Callable[[float], PosVel | Vel | PosForce], bad: float
) -> None:
    with pytest.raises(ValueError, match="not finite"):
        encode(GRIPPER, GRIPPER.type.ranges, make(bad))


def test_an_enabled_motor_is_not_switched_to_another_mode(world: TwinWorld) -> None:
    first = Arm(TwinBus(world))
    first.connect()
    first.enable()
    hold(first, 0.05)
    heir = Arm(TwinBus(world))
    heir.connect()
    heir.modes = (Mode.POS_VEL,) * 8
    with pytest.raises(Refused, match="is enabled in mode 1"):
        heir.enable()


def test_attaching_sends_no_special_frame_and_the_arm_stays_up(world: TwinWorld) -> None:
    first = Arm(TwinBus(world))
    first.connect()
    first.enable()
    hold(first, 0.3)
    bus = FaultyBus(TwinBus(world), sent=[])
    heir = Arm(bus)
    before = heir.connect().q
    heir.enable()
    hold(heir, 0.1, before)
    specials = {frames.special_code(msg.data) for msg in bus.sent if msg.arbitration_id < 0x10}
    assert specials == {None}
    assert np.abs(heir.state.q - before).max() < 0.05, "it sags a little without feed-forward"


def test_connect_and_enable_never_set_zero_nor_save(world: TwinWorld, bus: FaultyBus) -> None:
    arm = Arm(bus, on_host_loss="fall")
    arm.connect()
    arm.enable()
    hold(arm, 0.05)
    arm.disable()
    codes = {frames.special_code(m.data) for m in bus.sent if m.arbitration_id < 0x10}
    assert codes == {Special.ENABLE, Special.DISABLE, None}
    assert not [m for m in bus.sent if m.arbitration_id == PARAMETER_ID and m.data[2] == 0xAA]
    assert world.bank().saves == 0


def test_the_first_command_has_to_hold_the_measured_pose(bus: FaultyBus) -> None:
    arm = Arm(bus)
    start = arm.connect().q
    arm.enable()
    sent = len(bus.sent)
    away = start.copy()
    away[3] += 0.5
    with pytest.raises(Refused, match=r"0\.50 rad away at joint4"):
        arm.exchange(away, ZERO, STIFF.kp, STIFF.kd, ZERO)
    assert len(bus.sent) == sent
    hold(arm, 0.02, start)
    arm.exchange(away, ZERO, STIFF.kp, STIFF.kd, ZERO)  # later jumps are protection's matter


@pytest.mark.parametrize(("on_host_loss", "value"), [("hold", 0), ("fall", 4000)])
def test_host_loss_is_set_and_read_back_at_each_enable(
    bus: FaultyBus, on_host_loss: HostLoss, value: int
) -> None:
    say(bus, Register.TIMEOUT, 123, slot=2)
    arm = Arm(bus, on_host_loss=on_host_loss)
    arm.connect()
    assert arm.info[2].timeout_s == pytest.approx(123 * 5e-5)
    for _ in range(2):
        bus.sent.clear()
        arm.enable()
        touched = [
            (m.data[0], m.data[2])
            for m in bus.sent
            if m.arbitration_id == PARAMETER_ID and m.data[3] == Register.TIMEOUT
        ]
        assert [(i, c) for i, c in touched if c == 0x55] == [(i, 0x55) for i in range(1, 9)]
        assert {i for i, c in touched if c == 0x33} == set(range(1, 9))
        assert {arm.read_register(m, Register.TIMEOUT) for m in arm.motors} == {value}
        arm.disable(drop=True)


def test_a_watchdog_that_does_not_hold_its_value_is_a_fault(bus: FaultyBus) -> None:
    arm = Arm(bus, on_host_loss="fall")
    arm.connect()

    def forgets(msg: can.Message) -> can.Message:
        if msg.data[2] == 0x33 and msg.data[3] == Register.TIMEOUT and msg.arbitration_id == 0x16:
            msg.data[4:8] = bytes(4)
        return msg

    bus.adapter.reply = forgets
    with pytest.raises(ArmFault) as caught:
        arm.enable()
    assert (caught.value.kind, caught.value.joints) == (FaultKind.SETUP, ("joint6",))
    assert not arm.enabled


def test_a_host_that_dies_lets_the_arm_fall_where_the_station_says_so(
    world: TwinWorld, bus: FaultyBus
) -> None:
    arm = Arm(bus, on_host_loss="fall")
    arm.connect()
    arm.enable()
    hold(arm, 0.1)
    world.advance(0.5)
    with pytest.raises(ArmFault) as caught:
        hold(arm, 0.02)
    assert caught.value.kind is FaultKind.MOTOR
    assert {m.status for m in caught.value.motors} == {Status.COMMUNICATION_LOST}


@pytest.mark.slow
def test_saving_needs_a_disabled_motor_and_is_refused_in_a_loop(
    world: TwinWorld, bus: FaultyBus
) -> None:
    arm = Arm(bus)
    arm.connect()
    arm.write_register(GRIPPER, Register.OT_VALUE, 90.0)
    arm.save_registers(GRIPPER)
    assert world.bank().saves == 1
    with pytest.raises(Refused, match="wrote its flash"):
        arm.save_registers(GRIPPER)
    assert world.bank().saves == 1
    arm.wait(61.0)
    arm.save_registers(GRIPPER)
    assert world.bank().saves == 2
    arm.enable()
    with pytest.raises(Refused, match="is enabled"):
        arm.save_registers(OPENARM_MOTORS[0])
    assert world.bank().saves == 2
    assert arm.fault is None


def test_setting_zero_is_confirmed_and_counts_as_a_flash_write(bus: FaultyBus) -> None:
    arm = Arm(bus)
    arm.connect()
    state = arm.set_zero(["joint2"])
    assert abs(state.q[1]) < 1e-3
    codes = [frames.special_code(m.data) for m in bus.sent if m.arbitration_id == 2]
    assert codes == [Special.DISABLE, Special.SET_ZERO, Special.DISABLE]
    assert not [m for m in bus.sent if m.arbitration_id in (1, 3, 4, 5, 6, 7, 8)]
    with pytest.raises(Refused, match="wrote its flash"):
        arm.set_zero(["joint2"])


def test_what_each_motor_is_is_read_at_connect(bus: FaultyBus) -> None:
    say(bus, Register.VMAX, 8.0, slot=3)
    say(bus, Register.CAN_BAUD, 4, slot=0)

    arm = Arm(bus)
    inner = bus.send

    def answer(msg: can.Message, timeout: float | None = None) -> None:
        versions = {Register.SW_VERSION: 0x35313135, Register.HW_VERSION: 0x56303033}
        if msg.arbitration_id == PARAMETER_ID and msg.data[2] == 0x33 and msg.data[3] in versions:
            data = bytearray(msg.data)
            data[4:8] = versions[Register(data[3])].to_bytes(4, "little")
            bus.adapter.extra.append(
                can.Message(arbitration_id=0x10 + data[0], data=data, is_extended_id=False)
            )
            return
        inner(msg, timeout)

    bus.send = answer  # type: ignore[method-assign]
    arm.connect()
    info = arm.info[3]
    assert (info.ranges.vmax, info.gear, info.mode) == (8.0, 40.0, 1)
    assert (info.firmware, info.hardware) == ("V5115", "V003")
    assert [i.bit_rate for i in arm.info] == [1_000_000] + [5_000_000] * 7
    assert arm.ranges == tuple(i.ranges for i in arm.info)


def test_a_senseless_full_scale_is_refused(bus: FaultyBus) -> None:
    arm = Arm(bus)

    def zero(msg: can.Message) -> can.Message:
        if msg.data[2] == 0x33 and msg.data[3] == Register.TMAX and msg.arbitration_id == 0x15:
            msg.data[4:8] = bytes(4)
        return msg

    bus.adapter.reply = zero
    with pytest.raises(ArmFault) as caught:
        arm.connect()
    assert (caught.value.kind, caught.value.joints) == (FaultKind.SETUP, ("joint5",))


def test_classic_and_fd_replies_are_accepted_alike(bus: FaultyBus) -> None:
    flip = iter(range(10**6))

    def mixed(msg: can.Message) -> can.Message:
        msg.is_fd = next(flip) % 2 == 0
        return msg

    bus.adapter.reply = mixed
    arm = Arm(bus, fd=True)
    arm.connect()
    arm.enable()
    hold(arm, 0.05)
    assert arm.counters.rejected == 0
    assert all(msg.is_fd and msg.bitrate_switch for msg in bus.sent)


def test_gain_presets_fit_the_frame_and_the_servo_uses_one() -> None:
    for gains in PRESETS.values():
        assert gains.kp.shape == gains.kd.shape == (8,)
        assert (gains.kd > 0.0).all(), "kp without kd makes a motor oscillate"
    assert (tuple(STIFF.kp), tuple(STIFF.kd)) == (KP, KD)
    assert preset("soft").kp[0] == 70.0
    with pytest.raises(UsageError, match="no gains 'hard'"):
        preset("hard")


def test_left_and_right_v1_and_v2_grippers() -> None:
    for side, gripper, degrees in [
        ("right", "v1", (-60.0, 0.0)),
        ("left", "v1", (-60.0, 0.0)),
        ("right", "v2", (-45.0, 0.0)),
        ("left", "v2", (0.0, 45.0)),
    ]:
        low, high = joint_limits(side, gripper)
        assert np.degrees((low[7], high[7])) == pytest.approx(degrees)
    with pytest.raises(ValueError, match="gripper"):
        joint_limits("left", "v3")
