"""The arm against a twin: real CAN frames, real physics, simulated time."""

from __future__ import annotations

import errno
from collections.abc import Callable

import can
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.can import frames
from fleet.can.arm import Arm, ArmFault, FaultKind
from fleet.can.bus import FrameTap
from fleet.can.frames import Special, Status
from fleet.can.motors import OPENARM_MOTORS, PEAK_TORQUE, Register
from harness.twin.bus import TwinBus
from harness.twin.physics import TwinConfig, TwinWorld
from registry.errors import Refused

KP = np.array([230.0, 230.0, 190.0, 190.0, 30.0, 30.0, 30.0, 30.0])
KD = np.array([2.7, 2.7, 2.2, 2.2, 1.5, 1.5, 1.5, 0.2])
ZERO = np.zeros(8)


class MeddledBus(can.BusABC):
    """A twin's bus on which a test may change, lose or add frames."""

    def __init__(self, world: TwinWorld) -> None:
        self.inner = TwinBus(world)
        self.now = world.now
        self.reply: Callable[[can.Message], can.Message | None] = lambda msg: msg
        self.fails = False
        self.extra: list[can.Message] = []
        self.sent: list[can.Message] = []
        super().__init__(channel="meddled")
        self._is_shutdown = True

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        if self.fails:
            raise can.CanOperationError("transmit buffer full")
        self.sent.append(msg)
        self.inner.send(msg)

    def recv(self, timeout: float | None = None) -> can.Message | None:
        if self.extra:
            return self.extra.pop(0)
        while (msg := self.inner.recv(timeout)) is not None:
            changed = self.reply(msg)
            if changed is not None:
                return changed
        return None


@pytest.fixture
def world() -> TwinWorld:
    return TwinWorld(TwinConfig(seed=1))


@pytest.fixture
def bus(world: TwinWorld) -> MeddledBus:
    return MeddledBus(world)


@pytest.fixture
def arm(bus: MeddledBus) -> Arm:
    return Arm(bus)


def hold(arm: Arm, seconds: float, q: np.ndarray | None = None) -> None:
    target = arm.state.q if q is None else q
    for _ in range(round(seconds / 0.005)):
        began = arm.now()
        arm.exchange(target, ZERO, KP, KD, ZERO)
        arm.wait(began + 0.005 - arm.now())


def frame(identifier: int, data: bytes) -> can.Message:
    return can.Message(arbitration_id=identifier, data=data, is_extended_id=False)


def test_connect_only_asks_and_moves_nothing(world: TwinWorld, bus: MeddledBus, arm: Arm) -> None:
    before = world.joints()
    state = arm.connect()
    assert {msg.arbitration_id for msg in bus.sent} == {frames.PARAMETER_ID}
    assert [bytes(msg.data) for msg in bus.sent[:9]] == [
        frames.refresh(i) for i in (1, *range(1, 9))
    ]
    assert {msg.data[2] for msg in bus.sent} == {frames.REFRESH, frames.READ}
    np.testing.assert_array_equal(world.joints(), before)
    np.testing.assert_allclose(state.q, before, atol=4e-4)
    assert arm.connected
    assert not arm.enabled


def test_full_scales_are_the_motors_own(world: TwinWorld, bus: MeddledBus, arm: Arm) -> None:
    for motor in OPENARM_MOTORS[2:4]:
        bus.send(
            frame(frames.PARAMETER_ID, frames.write_register(motor.esc_id, Register.VMAX, 8.0))
        )
    arm.connect()
    assert [scale.vmax for scale in arm.ranges] == [45.0, 45.0, 8.0, 8.0, 30.0, 30.0, 30.0, 30.0]


def test_a_commanded_pose_is_reached_and_reported(world: TwinWorld, arm: Arm) -> None:
    start = arm.connect().q
    arm.enable()
    target = start.copy()
    target[[3, 5, 7]] += [0.2, 0.2, 0.2]
    for step in range(200):
        q = start + (target - start) * min(step / 100, 1.0)
        state = arm.exchange(q, ZERO, KP, KD, ZERO)
        arm.wait(0.005)
    assert np.abs(state.q - target).max() < 0.06
    assert np.abs(state.tau).max() > 0.5
    np.testing.assert_allclose(state.q, world.joints(), atol=2e-3)
    assert (state.age_s == 0.0).all()
    assert state.time_s == pytest.approx(arm.now(), abs=0.006)
    assert arm.counters.missed == arm.counters.rejected == 0


def test_a_motor_fault_is_raised_names_the_joint_and_sticks(world: TwinWorld, arm: Arm) -> None:
    arm.connect()
    arm.enable()
    hold(arm, 0.05)
    world.bank().fail(3, Status.COIL_OVER_TEMPERATURE)
    with pytest.raises(ArmFault) as caught:
        hold(arm, 0.02)
    assert caught.value.kind is FaultKind.MOTOR
    assert caught.value.joints == ("joint4",)
    assert "coil over temperature" in caught.value.evidence
    sent = arm.counters.sent
    with pytest.raises(ArmFault) as again:
        hold(arm, 0.02)
    assert again.value is caught.value
    assert arm.counters.sent == sent
    with pytest.raises(ArmFault):
        arm.enable()
    arm.clear_faults()
    assert not arm.enabled
    arm.wait(2.0)  # the arm has come down on the table
    arm.enable()
    hold(arm, 0.05)


def test_a_fault_before_motion_is_found_at_connect(world: TwinWorld, arm: Arm) -> None:
    world.bank().fail(1, Status.UNDER_VOLTAGE)
    with pytest.raises(ArmFault, match="under voltage fault \\(joint2\\)"):
        arm.connect()
    arm.clear_faults()
    with pytest.raises(Refused):
        arm.exchange(ZERO, ZERO, KP, KD, ZERO)


def test_a_motor_that_goes_off_by_itself_stops_the_arm(world: TwinWorld, arm: Arm) -> None:
    arm.connect()
    arm.enable()
    hold(arm, 0.05)
    world.bank().fail(6, Status.DISABLED)
    with pytest.raises(ArmFault) as caught:
        hold(arm, 0.02)
    assert (caught.value.kind, caught.value.joints) == (FaultKind.DISABLED, ("joint7",))


def test_a_silent_axis_ages_then_stops_the_arm_after_200_ms(world: TwinWorld, arm: Arm) -> None:
    arm.connect()
    arm.enable()
    hold(arm, 0.05)
    world.bank().mute(1)
    muted_at = arm.now()
    while arm.now() < muted_at + 0.19:
        hold(arm, 0.005)
        assert arm.state.age_s[1] == pytest.approx(arm.now() - muted_at, abs=0.006)
        assert np.delete(arm.state.age_s, 1).max() < 0.005
    with pytest.raises(ArmFault) as caught:
        hold(arm, 1.0)
    assert (caught.value.kind, caught.value.joints) == (FaultKind.SILENT, ("joint2",))
    assert 0.195 < arm.now() - muted_at < 0.215


def test_a_motor_that_never_answers_is_named_at_connect(world: TwinWorld, arm: Arm) -> None:
    world.bank().mute(4)
    with pytest.raises(ArmFault) as caught:
        arm.connect()
    assert (caught.value.kind, caught.value.joints) == (FaultKind.SILENT, ("joint5",))


def test_a_motor_answering_on_a_strange_id_is_told_apart_from_a_dead_one(
    world: TwinWorld, bus: MeddledBus, arm: Arm
) -> None:
    bus.send(frame(frames.PARAMETER_ID, frames.write_register(6, Register.MST_ID, 0)))
    bus.recv(0.0)
    with pytest.raises(ArmFault, match="joint6 answers on 0x000") as caught:
        arm.connect()
    assert (caught.value.kind, caught.value.joints) == (FaultKind.MASTER_ID, ("joint6",))


def test_a_register_ack_is_not_taken_for_feedback(bus: MeddledBus, arm: Arm) -> None:
    arm.connect()
    arm.enable()
    hold(arm, 0.05)
    before = arm.state.q
    ack = frames.write_register(3, Register.TIMEOUT, 4000.0)
    bus.extra = [frame(0x13, ack)]
    hold(arm, 0.005)
    assert np.abs(arm.state.q - before).max() < 0.05  # it sags under its weight, no more
    assert arm.counters.rejected == 0
    bus.reply = lambda msg: frame(0x13, ack) if msg.arbitration_id == 0x13 else msg
    hold(arm, 0.05)
    assert arm.state.age_s[2] == pytest.approx(0.05, abs=0.011)
    assert np.abs(arm.state.q - before).max() < 0.05


def test_impossible_jumps_are_rejected_and_become_silence(bus: MeddledBus, arm: Arm) -> None:
    arm.connect()
    arm.enable()
    hold(arm, 0.05)
    before = arm.state.q

    def poison(msg: can.Message) -> can.Message:
        if msg.arbitration_id == 0x11:
            msg.data[1:3] = b"\xff\x00"
        return msg

    bus.reply = poison
    hold(arm, 0.05)
    assert np.abs(arm.state.q - before).max() < 0.05  # it sags under its weight, no more
    assert arm.counters.rejected >= 10
    with pytest.raises(ArmFault) as caught:
        hold(arm, 0.5)
    assert (caught.value.kind, caught.value.joints) == (FaultKind.SILENT, ("joint1",))


def test_feedback_with_another_motors_id_is_rejected(bus: MeddledBus, arm: Arm) -> None:
    arm.connect()
    arm.enable()
    hold(arm, 0.05)
    bus.extra = [frame(0x11, bytes.fromhex("127fff7ff7ff2320"))]
    hold(arm, 0.005)
    assert arm.counters.rejected == 1
    assert arm.fault is None


@pytest.mark.parametrize("identifier", [0x001, 0x7FF, 0x000, 0x321])
def test_somebody_else_on_the_bus_stops_the_arm(bus: MeddledBus, arm: Arm, identifier: int) -> None:
    arm.connect()
    arm.enable()
    hold(arm, 0.05)
    bus.extra = [frame(identifier, bytes(8))]
    with pytest.raises(ArmFault, match=f"{identifier:#05x}") as caught:
        hold(arm, 0.01)
    assert caught.value.kind is FaultKind.FOREIGN


def test_bus_error_frames_are_counted_not_obeyed(bus: MeddledBus, arm: Arm) -> None:
    arm.connect()
    arm.enable()
    bus.extra = [can.Message(arbitration_id=0x11, is_error_frame=True, data=bytes(8))]
    hold(arm, 0.02)
    assert arm.counters.error_frames == 1


def test_a_full_transmit_queue_loses_frames_then_the_bus_is_dead(bus: MeddledBus, arm: Arm) -> None:
    arm.connect()
    arm.enable()
    hold(arm, 0.05)
    bus.fails = True
    hold(arm, 0.1)
    assert arm.counters.send_errors == 2 * 8 + 18, "two passes, then one refresh each"
    with pytest.raises(ArmFault) as caught:
        hold(arm, 0.2)
    assert caught.value.kind is FaultKind.DEAD_BUS


def test_a_lost_interface_is_its_own_fault(bus: MeddledBus, arm: Arm) -> None:
    arm.connect()
    arm.enable()

    def gone(msg: can.Message) -> can.Message:
        raise can.CanOperationError("network is down", errno.ENETDOWN)

    bus.reply = gone
    with pytest.raises(ArmFault, match="adapter lost fault") as caught:
        hold(arm, 0.01)
    assert "network is down" in caught.value.evidence
    bus.reply = lambda msg: msg
    assert not arm.enabled


def test_after_power_up_a_joint_beyond_half_a_turn_is_refused(world: TwinWorld, arm: Arm) -> None:
    q = world.joints()
    q[0] = 3.3
    world.park("right", q)
    world.bank().power_cycle()
    with pytest.raises(ArmFault) as caught:
        arm.connect()
    assert (caught.value.kind, caught.value.joints) == (FaultKind.POSE, ("joint1",))
    assert "-2.98" in caught.value.evidence


def test_an_arm_that_does_not_come_to_rest_is_refused(bus: MeddledBus, arm: Arm) -> None:
    swing = iter(range(10_000))

    def sway(msg: can.Message) -> can.Message:
        if msg.arbitration_id == 0x14 and bus.sent[-1].data[2] == frames.REFRESH:
            msg.data[2] = (next(swing) * 7) & 0xFF
        return msg

    bus.reply = sway
    with pytest.raises(ArmFault) as caught:
        arm.connect()
    assert (caught.value.kind, caught.value.joints) == (FaultKind.UNSETTLED, ("joint4",))


def test_an_axis_that_answers_now_and_then_never_settles(world: TwinWorld) -> None:
    bus = MeddledBus(world)
    heard = iter(range(10**6))

    def every_other(msg: can.Message) -> can.Message | None:
        is_register = msg.data[2] == 0x33
        lost = msg.arbitration_id == 0x12 and not is_register and next(heard) % 2
        return None if lost else msg

    bus.reply = every_other
    with pytest.raises(ArmFault, match="answered by every motor") as caught:
        Arm(bus).connect()
    assert caught.value.kind is FaultKind.UNSETTLED


def test_a_running_arm_is_taken_over_as_it_stands(world: TwinWorld, arm: Arm) -> None:
    arm.connect()
    arm.enable()
    hold(arm, 0.5)
    heir = Arm(TwinBus(world))
    state = heir.connect()
    assert heir.enabled
    np.testing.assert_allclose(state.q, arm.state.q, atol=0.01)
    assert heir.exchange(state.q, ZERO, KP, KD, ZERO).status.tolist() == [1] * 8


def test_disable_works_with_a_fault_standing(world: TwinWorld, arm: Arm) -> None:
    arm.connect()
    arm.enable()
    hold(arm, 0.05)
    world.bank().fail(0, Status.OVER_CURRENT)
    with pytest.raises(ArmFault):
        hold(arm, 0.05)
    state = arm.disable()
    assert not (state.status == Status.ENABLED).any()


@pytest.mark.slow
def test_a_motor_that_does_not_confirm_disable_is_reported(world: TwinWorld, arm: Arm) -> None:
    arm.connect()
    arm.enable()
    hold(arm, 0.05)
    world.bank().mute(2)
    with pytest.raises(ArmFault, match="joint3") as caught:
        arm.disable()
    assert "power off by hand" in caught.value.hint


def test_a_silent_motor_keeps_no_other_switched_on(
    world: TwinWorld, bus: MeddledBus, arm: Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frame that switches joint2 off is lost once, while joint3 answers nothing."""
    arm.connect()
    arm.enable()
    hold(arm, 0.05)
    world.bank().mute(2)
    off, began, send = frames.special(Special.DISABLE), arm.now(), bus.send
    told: list[float] = []

    def lossy(msg: can.Message, timeout: float | None = None) -> None:
        if msg.arbitration_id == 2 and msg.data == off:
            told.append(arm.now() - began)
            if len(told) == 1:
                return
        send(msg, timeout)

    monkeypatch.setattr(bus, "send", lossy)
    with pytest.raises(ArmFault, match="joint3"):
        arm.disable(drop=True)
    assert told[1] < 0.031


def test_an_arm_in_another_mode_is_switched_to_mit(bus: MeddledBus, arm: Arm) -> None:
    bus.send(frame(frames.PARAMETER_ID, frames.write_register(8, Register.CTRL_MODE, 4)))
    start = arm.connect().q
    arm.enable()
    target = start.copy()
    target[7] += 0.2
    hold(arm, 0.5, target)
    assert arm.state.q[7] == pytest.approx(target[7], abs=0.05)


def test_nothing_is_sent_for_a_command_that_is_not_finite(bus: MeddledBus, arm: Arm) -> None:
    start = arm.connect().q
    arm.enable()
    sent = len(bus.sent)
    bad = start.copy()
    bad[4] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        arm.exchange(bad, ZERO, KP, KD, ZERO)
    assert len(bus.sent) == sent


def test_before_connect_there_is_no_state_and_no_motion(arm: Arm) -> None:
    with pytest.raises(Refused):
        _ = arm.state
    with pytest.raises(Refused):
        arm.exchange(ZERO, ZERO, KP, KD, ZERO)
    with pytest.raises(Refused):
        arm.enable()


wild = st.floats(-1e9, 1e9)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(st.tuples(wild, wild, wild, wild, wild), min_size=8, max_size=8))
def test_no_command_is_ever_a_special_frame_or_above_peak_torque(
    rows: list[tuple[float, ...]],
) -> None:
    seen: list[can.Message] = []

    class Sink(can.BusABC):
        def __init__(self) -> None:
            super().__init__(channel="sink")

        def send(self, msg: can.Message, timeout: float | None = None) -> None:
            seen.append(msg)

        def recv(self, timeout: float | None = None) -> can.Message | None:
            return None

    arm = Arm(FrameTap(Sink(), lambda time_s, msg: None))
    arm.enabled = True
    columns = np.array(rows).T
    columns[0] = 1e9  # position, speed and kd at full scale with everything
    with pytest.raises(ArmFault):
        arm.exchange(*columns)
    arm.bus.shutdown()
    assert len(seen) == 8
    for motor, msg, peak in zip(OPENARM_MOTORS, seen, PEAK_TORQUE, strict=True):
        assert frames.special_code(msg.data) is None
        assert not frames.collides_with_special(msg.data)
        tau = ((msg.data[6] & 0xF) << 8 | msg.data[7]) / 4095 * 2 * motor.type.ranges.tmax
        tau -= motor.type.ranges.tmax
        assert abs(tau) <= peak + 2 * motor.type.ranges.tmax / 4095


def test_special_frames_are_for_the_arm_to_send(bus: MeddledBus, arm: Arm) -> None:
    arm.connect()
    sent = len(bus.sent)
    arm.enable()
    data = {bytes(msg.data) for msg in bus.sent[sent:] if msg.arbitration_id < 0x10}
    assert data == {frames.special(Special.ENABLE)}
