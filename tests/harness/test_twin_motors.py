"""Emulated motors at frame level: frames in, frames out, no physics."""

from __future__ import annotations

import numpy as np
import pytest

from fleet.can import frames
from fleet.can.frames import PARAMETER_ID, Special, Status
from fleet.can.motors import OPENARM_MOTORS, Register
from harness.twin.motors import AMBIENT, MotorBank

RANGES = [motor.type.ranges for motor in OPENARM_MOTORS]


class Joints:
    """What the motors' encoders and current sensors see, set by the test."""

    def __init__(self) -> None:
        self.q, self.dq, self.tau = np.zeros(8), np.zeros(8), np.zeros(8)

    def __call__(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.q, self.dq, self.tau


@pytest.fixture
def joints() -> Joints:
    return Joints()


@pytest.fixture
def bank(joints: Joints) -> MotorBank:
    return MotorBank(joints)


def ask(bank: MotorBank, slot: int, now: float = 0.0) -> frames.Feedback:
    bank.moved()
    reply = bank.receive(PARAMETER_ID, frames.refresh(slot + 1), now)
    assert reply is not None
    assert reply[0] == 0x11 + slot
    return frames.decode_feedback(RANGES[slot], reply[1])


def tell(bank: MotorBank, slot: int, code: Special, now: float = 0.0) -> frames.Feedback:
    reply = bank.receive(slot + 1, frames.special(code), now)
    assert reply is not None
    return frames.decode_feedback(RANGES[slot], reply[1])


def command(bank: MotorBank, slot: int, q: float, now: float = 0.0) -> None:
    data = frames.encode_mit(RANGES[slot], q=q, dq=0.0, kp=30.0, kd=1.0, tau=0.0)
    assert bank.receive(slot + 1, data, now) is not None


def read(bank: MotorBank, slot: int, register: int) -> float | None:
    reply = bank.receive(PARAMETER_ID, frames.read_register(slot + 1, register), 0.0)
    return None if reply is None else frames.decode_register(reply[1]).value


def write(bank: MotorBank, slot: int, register: Register, value: float) -> bytes | None:
    data = frames.write_register(slot + 1, register, value)
    reply = bank.receive(PARAMETER_ID, data, 0.0)
    return None if reply is None else bytes(reply[1])


def test_a_motor_at_rest_shows_the_bits_a_real_one_shows(bank: MotorBank) -> None:
    reply = bank.receive(1, frames.special(Special.ENABLE), 0.0)
    assert reply is not None
    assert reply[1][:6].hex() == "117fff7ff7ff"


def test_every_accepted_frame_is_answered_even_while_disabled(
    bank: MotorBank, joints: Joints
) -> None:
    joints.q[4] = 0.5
    assert ask(bank, 4).q == pytest.approx(0.5, abs=4e-4)
    assert ask(bank, 4).status == Status.DISABLED
    command(bank, 4, 1.0)
    assert bank.drive()[0].tolist() == [0.0] * 8
    assert bank.receive(0x0A, bytes(8), 0.0) is None
    assert bank.receive(1, bytes(3), 0.0) is None


def test_a_command_is_held_until_the_motor_is_disabled(bank: MotorBank) -> None:
    tell(bank, 7, Special.ENABLE)
    command(bank, 7, -0.4)
    for _ in range(3):
        kp, kd, drive, _ = bank.drive()
    assert kp[7] == pytest.approx(30.0, abs=0.13)
    assert drive[7] == pytest.approx(kp[7] * -0.4, abs=0.03)
    tell(bank, 7, Special.DISABLE)
    tell(bank, 7, Special.ENABLE)
    kp, kd, drive, _ = bank.drive()
    assert (kp[7], kd[7]) == (0.0, 0.0)
    assert abs(drive[7]) < 0.01


def test_a_fault_takes_the_torque_off_until_cleared_and_enabled(bank: MotorBank) -> None:
    tell(bank, 2, Special.ENABLE)
    command(bank, 2, 0.3)
    bank.fail(2, Status.OVERLOAD)
    assert bank.drive()[0][2] == 0.0
    assert tell(bank, 2, Special.ENABLE).status == Status.OVERLOAD
    assert tell(bank, 2, Special.DISABLE).status == Status.OVERLOAD
    assert tell(bank, 2, Special.CLEAR_ERROR).status == Status.DISABLED
    assert tell(bank, 2, Special.ENABLE).status == Status.ENABLED


def test_the_watchdog_trips_after_its_timeout_and_is_off_as_shipped(bank: MotorBank) -> None:
    tell(bank, 0, Special.ENABLE)
    tell(bank, 1, Special.ENABLE)
    assert read(bank, 0, Register.TIMEOUT) == 0
    assert write(bank, 1, Register.TIMEOUT, 4000) is not None
    command(bank, 0, 0.1, now=1.0)
    command(bank, 1, 0.1, now=1.0)
    assert bank.watched == (1,)
    bank.watch(1.19)
    assert ask(bank, 1, now=1.0).status == Status.ENABLED
    bank.watch(1.21)
    assert ask(bank, 1).status == Status.COMMUNICATION_LOST
    assert ask(bank, 0).status == Status.ENABLED


def test_registers_survive_power_only_if_saved_while_disabled(bank: MotorBank) -> None:
    written = write(bank, 3, Register.VMAX, 8.0)
    assert written == frames.write_register(4, Register.VMAX, 8.0)
    assert read(bank, 3, Register.VMAX) == 8.0
    tell(bank, 3, Special.ENABLE)
    assert bank.receive(PARAMETER_ID, frames.save_registers(4), 0.0) is None
    tell(bank, 3, Special.DISABLE)
    bank.power_cycle()
    assert read(bank, 3, Register.VMAX) == 10.0
    write(bank, 3, Register.VMAX, 8.0)
    ack = bank.receive(PARAMETER_ID, frames.save_registers(4), 0.0)
    assert ack is not None
    assert frames.is_register_reply(ack[1], 4)
    bank.power_cycle()
    assert read(bank, 3, Register.VMAX) == 8.0
    assert bank.saves == 1


def test_every_documented_register_is_answered(bank: MotorBank, joints: Joints) -> None:
    joints.q[2] = 0.7
    numbers = (*range(37), *range(50, 57), 59, 60, 61, 62, 80, 81)
    values = {number: read(bank, 2, number) for number in numbers}
    assert None not in values.values()
    assert values[Register.SW_VERSION] == 0x35313137  # "5117": as the makers tested the DM4340
    assert values[Register.HW_VERSION] == 0x56303033  # "V003"
    assert (values[60], values[62]) == (24.0, AMBIENT)
    assert values[80] == values[81] == pytest.approx(0.7)
    assert [n for n in range(82) if read(bank, 2, n) is None] == [
        n for n in range(82) if n not in numbers
    ]


def test_read_only_and_missing_registers_are_not_written(bank: MotorBank) -> None:
    assert write(bank, 0, Register.GEAR, 1.0) is None
    assert read(bank, 0, Register.GEAR) == 9.0
    assert bank.receive(PARAMETER_ID, frames.read_register(1, 57), 0.0) is None


def test_a_new_reply_id_counts_at_once(bank: MotorBank) -> None:
    write(bank, 5, Register.MST_ID, 0)
    reply = bank.receive(PARAMETER_ID, frames.refresh(6), 0.0)
    assert reply is not None
    assert reply[0] == 0


def test_feedback_is_in_the_scale_of_the_motors_registers(bank: MotorBank, joints: Joints) -> None:
    joints.dq[2] = 4.0
    assert ask(bank, 2).dq == pytest.approx(4.0, abs=0.005)
    write(bank, 2, Register.VMAX, 8.0)
    assert ask(bank, 2).dq == pytest.approx(5.0, abs=0.005)  # a host that assumes 10 reads wrong


def test_zero_is_kept_over_power_loss_and_commands_follow_it(
    bank: MotorBank, joints: Joints
) -> None:
    joints.q[6] = 0.5
    tell(bank, 6, Special.SET_ZERO)
    assert ask(bank, 6).q == pytest.approx(0.0, abs=4e-4)
    bank.power_cycle()
    assert ask(bank, 6).q == pytest.approx(0.0, abs=4e-4)
    tell(bank, 6, Special.ENABLE)
    command(bank, 6, 0.1)
    kp, _, drive, _ = bank.drive()
    assert drive[6] / kp[6] == pytest.approx(0.6, abs=2e-3)


def test_a_new_zero_counts_at_once_for_what_a_motor_holds(bank: MotorBank) -> None:
    tell(bank, 0, Special.ENABLE)
    bank.touched = False
    tell(bank, 0, Special.SET_ZERO)
    assert bank.touched


def test_the_turn_count_is_lost_with_power(bank: MotorBank, joints: Joints) -> None:
    joints.q[:2] = [3.3, 3.0]
    assert ask(bank, 0).q == pytest.approx(3.3, abs=4e-4)
    bank.power_cycle()
    assert ask(bank, 0).q == pytest.approx(3.3 - 2 * np.pi, abs=4e-4)
    assert ask(bank, 1).q == pytest.approx(3.0, abs=4e-4)


def test_the_bit_rate_acts_after_save_and_power_cycle(bank: MotorBank) -> None:
    def answers_fd() -> bool:
        reply = bank.receive(PARAMETER_ID, frames.refresh(4), 0.0)
        assert reply is not None
        return reply[2]

    assert answers_fd()
    write(bank, 3, Register.CAN_BAUD, 4)
    assert answers_fd(), "a write alone changes nothing yet"
    bank.power_cycle()
    assert answers_fd(), "it was not saved"
    write(bank, 3, Register.CAN_BAUD, 4)
    bank.receive(PARAMETER_ID, frames.save_registers(4), 0.0)
    assert answers_fd()
    bank.power_cycle()
    assert not answers_fd()
    assert (
        MotorBank(Joints(), can_br=4).receive(1, frames.special(Special.DISABLE), 0.0)[2] is False
    )


def test_flash_writes_are_counted_over_power_cycles(bank: MotorBank) -> None:
    bank.receive(PARAMETER_ID, frames.save_registers(4), 0.0)
    bank.power_cycle()
    tell(bank, 0, Special.SET_ZERO)
    bank.receive(PARAMETER_ID, frames.save_registers(1), 0.0)
    bank.power_cycle()
    assert (bank.saves, bank.zeroings) == (2, 1)


def test_a_motor_without_power_is_limp_and_silent_and_boots_disabled(
    bank: MotorBank, joints: Joints
) -> None:
    tell(bank, 1, Special.ENABLE)
    write(bank, 1, Register.TIMEOUT, 4000)
    command(bank, 1, 0.3)
    joints.q[1] = 3.3
    bank.power(1, on=False)
    assert bank.drive().kp[1] == 0.0
    assert bank.receive(PARAMETER_ID, frames.refresh(2), 0.0) is None
    assert bank.acknowledges
    bank.power(1, on=True)
    assert ask(bank, 1).status == Status.DISABLED
    assert ask(bank, 1).q == pytest.approx(3.3 - 2 * np.pi, abs=4e-4)
    assert read(bank, 1, Register.TIMEOUT) == 0
    for slot in range(8):
        bank.power(slot, on=False)
    assert not bank.acknowledges


def test_what_feeds_the_watchdog_can_be_chosen(joints: Joints) -> None:
    for any_frame, status in ((True, Status.ENABLED), (False, Status.COMMUNICATION_LOST)):
        bank = MotorBank(joints, any_frame_feeds=any_frame)
        tell(bank, 0, Special.ENABLE)
        write(bank, 0, Register.TIMEOUT, 4000)
        ask(bank, 0, now=0.15)
        bank.watch(0.25)
        assert ask(bank, 0).status == status


def test_a_hot_motor_cools_and_faults_again_while_it_is_hot(bank: MotorBank) -> None:
    tell(bank, 4, Special.ENABLE)
    bank.warm(4, coil=130.0)
    bank.heat(np.zeros(8), 0.05)
    assert ask(bank, 4).status == Status.COIL_OVER_TEMPERATURE
    tell(bank, 4, Special.CLEAR_ERROR)
    tell(bank, 4, Special.ENABLE)
    bank.heat(np.zeros(8), 0.05)
    assert ask(bank, 4).status == Status.COIL_OVER_TEMPERATURE
    bank.heat(np.zeros(8), 20_000.0)
    assert bank.coil[4] == pytest.approx(AMBIENT, abs=1.0)
    tell(bank, 4, Special.CLEAR_ERROR)
    tell(bank, 4, Special.ENABLE)
    bank.heat(np.zeros(8), 0.05)
    assert ask(bank, 4).status == Status.ENABLED


def test_frames_of_other_modes_are_answered_and_not_executed(bank: MotorBank) -> None:
    tell(bank, 7, Special.ENABLE)
    assert bank.receive(0x308, frames.encode_pos_force(-0.5, 50.0, 0.2), 0.0) is not None
    assert bank.receive(0x208, frames.encode_vel(1.0), 0.0) is not None
    assert bank.drive()[0][7] == 0.0
    write(bank, 7, Register.CTRL_MODE, 4)
    command(bank, 7, -0.4)
    assert bank.drive()[0][7] == 0.0


def test_a_muted_motor_hears_and_says_nothing_and_goes_on(bank: MotorBank) -> None:
    tell(bank, 1, Special.ENABLE)
    command(bank, 1, 0.3)
    held = bank.drive()[2][1]
    bank.mute(1)
    data = frames.encode_mit(RANGES[1], q=0.9, dq=0.0, kp=30.0, kd=1.0, tau=0.0)
    assert bank.receive(2, data, 0.0) is None
    assert bank.receive(PARAMETER_ID, frames.refresh(2), 0.0) is None
    assert bank.drive()[2][1] == held
    bank.mute(1, False)
    assert ask(bank, 1).status == Status.ENABLED


def test_rated_torque_is_what_a_motor_bears_for_ever(bank: MotorBank) -> None:
    rated = np.array([motor.type.rated_torque for motor in OPENARM_MOTORS])
    for slot in range(8):
        tell(bank, slot, Special.ENABLE)
    for _ in range(100):
        bank.heat(0.99 * rated, 1000.0)
    assert bank.coil == pytest.approx(np.full(8, 98.5), abs=0.1)
    assert {ask(bank, slot).status for slot in range(8)} == {Status.ENABLED}
    assert ask(bank, 0).temp_rotor == 98
    assert AMBIENT < ask(bank, 0).temp_mos < 98


def test_a_stalled_gripper_overheats_and_faults(bank: MotorBank) -> None:
    tell(bank, 7, Special.ENABLE)
    seconds = 0
    while ask(bank, 7).status == Status.ENABLED:
        bank.heat(np.full(8, 7.0), 10.0)
        seconds += 10
    assert ask(bank, 7).status == Status.COIL_OVER_TEMPERATURE
    assert 120 < seconds < 600
