"""The time that frames take, who speaks first, what is lost, and what a recorder writes."""

from __future__ import annotations

import errno
from pathlib import Path

import can
import numpy as np
import pytest
from can.io.canutils import CanutilsLogReader
from hypothesis import given
from hypothesis import strategies as st

from fleet.can import frames
from fleet.can.arm import Arm
from fleet.can.bus import FrameTap
from fleet.can.frames import PARAMETER_ID, Status
from fleet.can.gains import STIFF
from harness.twin.adapter import QUEUE_LENGTH
from harness.twin.bus import TwinBus
from harness.twin.faulty_bus import FaultyBus
from harness.twin.physics import TwinConfig, TwinWorld
from harness.twin.wire import Recorder, WireBus, WireModel, classic_bits, frame_time
from registry.errors import ServiceFailed

ZERO = np.zeros(8)


def msg(identifier: int, data: bytes = bytes(8), *, fd: bool, switch: bool = True) -> can.Message:
    return can.Message(
        arbitration_id=identifier,
        data=data,
        is_extended_id=False,
        is_fd=fd,
        bitrate_switch=fd and switch,
    )


def swing(arm: Arm, ticks: int) -> np.ndarray:
    start = arm.connect().q
    arm.enable()
    trace = []
    for k in range(ticks):
        began = arm.now()
        arm.exchange(start + 0.05 * np.sin(0.02 * k), ZERO, STIFF.kp, STIFF.kd, ZERO)
        arm.wait(began + 0.005 - arm.now())
        trace.append(arm.state.q)
    return np.array(trace)


def test_an_arm_whose_answers_take_15_ms_connects_and_is_enabled() -> None:
    """As behind a network or a busy host: later than the next sample was due."""
    arm = Arm(WireBus(TwinWorld(TwinConfig(seed=1)), model=WireModel(reply_latency_s=0.015)))
    arm.connect()
    assert (arm.enable().status == Status.ENABLED).all()


def test_frame_times_are_those_of_the_reference() -> None:
    model = WireModel()
    assert frame_time(msg(0x11, fd=True), model) == pytest.approx(49.2e-6)
    assert frame_time(msg(0x11, fd=True, switch=False), model) == pytest.approx(126e-6)
    assert frame_time(msg(0x11, fd=True), WireModel(data_bps=8e6)) == pytest.approx(42e-6)


@pytest.mark.slow
@given(st.integers(0, 0x7FF), st.binary(min_size=8, max_size=8))
def test_a_classic_frame_of_8_bytes_is_111_to_135_bits(identifier: int, data: bytes) -> None:
    assert 111 <= classic_bits(identifier, data) <= 135


def test_stuff_bits_are_counted_one_by_one() -> None:
    """Against the same frame written out as text, bit by bit."""
    bits = "0" + "10101010101" + "000" + "0000"
    crc = 0
    for bit in bits:
        crc = (crc << 1 ^ (0x4599 if (crc >> 14) ^ int(bit) else 0)) & 0x7FFF
    word, out, run = bits + f"{crc:015b}", "", 0
    for bit in word:
        out += bit
        run = run + 1 if len(out) > 1 and out[-2] == bit else 1
        if run == 5:
            out += "10"[int(bit)]
            run = 1
    assert classic_bits(0x555, b"") == len(out) + 13


def test_a_reply_comes_after_two_frames_and_the_motors_latency() -> None:
    world = TwinWorld(TwinConfig(seed=1))
    bus = WireBus(world, model=WireModel(reply_latency_s=1e-4))
    bus.send(msg(PARAMETER_ID, frames.refresh(4), fd=True))
    assert bus.recv(0.0) is None
    reply = bus.recv(0.01)
    assert reply is not None
    assert reply.arbitration_id == 0x14
    assert world.now() == pytest.approx(2 * 49.2e-6 + 1e-4, abs=1e-8)
    assert reply.timestamp == pytest.approx(world.now(), abs=1e-8)
    assert bus.recv(0.005) is None
    assert world.now() == pytest.approx(0.005 + 2 * 49.2e-6 + 1e-4, abs=1e-8)


def test_the_lowest_id_speaks_first_so_commands_go_out_before_answers() -> None:
    world = TwinWorld(TwinConfig(seed=1))
    order: list[int] = []
    bus = WireBus(
        world,
        model=WireModel(reply_latency_s=0.0),
        observer=lambda t, m: order.append(m.arbitration_id),
    )
    for esc_id in range(1, 9):
        bus.send(msg(esc_id, frames.special(frames.Special.DISABLE), fd=True))
    while bus.recv(0.001) is not None:
        pass
    assert order == [*range(1, 9), *range(0x11, 0x19)]

    order.clear()
    for esc_id in (8, 1):  # a refresh has the highest id: an answer that is ready goes before it
        bus.send(msg(PARAMETER_ID, frames.refresh(esc_id), fd=True))
    while bus.recv(0.001) is not None:
        pass
    assert order == [PARAMETER_ID, 0x18, PARAMETER_ID, 0x11]


def test_eight_commands_and_answers_take_what_a_bus_takes() -> None:
    for fd, most_hz, least_hz in ((True, 1271, 1200), (False, 564, 463)):
        world = TwinWorld(TwinConfig(seed=1, can_br=9 if fd else 4))
        bus = WireBus(world, model=WireModel(reply_latency_s=0.0))
        for esc_id in range(1, 9):
            bus.send(msg(esc_id, fd=fd))
        for _ in range(8):
            assert bus.recv(0.01) is not None
        assert least_hz <= 1.0 / world.now() <= most_hz


@pytest.mark.parametrize("fd", [True, False])
def test_an_arm_works_over_it_and_repeats_to_the_bit(fd: bool) -> None:
    def play() -> tuple[np.ndarray, Arm]:
        world = TwinWorld(TwinConfig(seed=1, can_br=9 if fd else 4))
        arm = Arm(WireBus(world), fd=fd, reply_window_s=0.004)
        return swing(arm, 100), arm

    (one, arm), (again, _) = play(), play()
    assert arm.counters.missed == 0
    np.testing.assert_array_equal(one, again)


def test_loss_is_the_share_asked_for_and_the_driver_bears_it() -> None:
    world = TwinWorld(TwinConfig(seed=1))
    bus = WireBus(world, model=WireModel(loss=0.003, seed=3))
    arm = Arm(bus)
    swing(arm, 300)
    assert arm.fault is None
    assert 0.001 < bus.lost / (arm.counters.sent + arm.counters.received) < 0.006
    assert arm.counters.missed >= bus.lost > 5


@pytest.mark.parametrize(
    "values", [{"loss": 1.0}, {"nominal_bps": 0.0}, {"reply_latency_s": -1e-6}]
)
def test_a_wire_that_makes_no_sense_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        WireModel(**values)


def test_the_recorder_only_listens_and_candump_can_read_it(tmp_path: Path) -> None:
    def play(path: Path | None) -> tuple[np.ndarray, Arm]:
        world = TwinWorld(TwinConfig(seed=1))
        bus: can.BusABC = TwinBus(world)
        recorder = None if path is None else Recorder(path, epoch_s=1000.0)
        if recorder is not None:
            bus = FrameTap(bus, recorder.of("can0"))
        arm = Arm(bus)
        trace = swing(arm, 50)
        if recorder is not None:
            recorder.close()
        return trace, arm

    (plain, _), (watched, arm) = play(None), play(tmp_path / "arm.log")
    np.testing.assert_array_equal(plain, watched)
    read = list(CanutilsLogReader(tmp_path / "arm.log"))
    assert len(read) == arm.counters.sent + arm.counters.received
    assert read[0].timestamp == 1000.0
    assert bytes(read[0].data) == frames.refresh(1)
    with pytest.raises(ServiceFailed, match="cannot record"):
        Recorder(tmp_path / "no" / "such.log")


@pytest.mark.parametrize("bus", [TwinBus, WireBus])
@pytest.mark.parametrize(
    "kind", [{"is_extended_id": True}, {"is_remote_frame": True}, {"is_error_frame": True}]
)
def test_motors_listen_to_11_bit_data_frames_only(
    bus: type[TwinBus | WireBus], kind: dict[str, bool]
) -> None:
    world = TwinWorld(TwinConfig(seed=1))
    to_motors = bus(world)
    enable = frames.special(frames.Special.ENABLE)
    data = b"" if "is_remote_frame" in kind else enable
    other = can.Message(arbitration_id=1, data=data, **{"is_extended_id": False, **kind})
    other.data = bytearray(enable)
    to_motors.send(other)
    assert not any(to_motors.recv(0.001) for _ in range(2))
    assert world.bank().status[0] == Status.DISABLED
    to_motors.send(msg(1, enable, fd=False))
    assert any(to_motors.recv(0.001) for _ in range(2))
    assert world.bank().status[0] == Status.ENABLED


def test_the_queue_is_finite_and_what_does_not_fit_is_refused() -> None:
    world = TwinWorld(TwinConfig(seed=1))
    order: list[int] = []
    bus = WireBus(world, observer=lambda t, m: order.append(m.arbitration_id))
    frame = msg(PARAMETER_ID, frames.refresh(1), fd=True)
    bus.send(frame)
    assert bus.next_event, "it is under way, and no longer in the queue"
    for esc_id in range(QUEUE_LENGTH):
        bus.send(msg(1 + esc_id % 8, frames.special(frames.Special.DISABLE), fd=True))
    assert bus.waiting == QUEUE_LENGTH
    with pytest.raises(can.CanOperationError) as caught:
        bus.send(frame)
    assert caught.value.error_code == errno.ENOBUFS
    while bus.recv(0.1) is not None:  # commands go before answers
        pass
    assert bus.waiting == 0
    assert [one for one in order if one <= 8] == [1 + k % 8 for k in range(QUEUE_LENGTH)]
    bus.send(frame)


def test_what_a_dead_bus_queues_is_in_the_same_queue() -> None:
    world = TwinWorld(TwinConfig(seed=1))
    order: list[int] = []
    wire = WireBus(world, observer=lambda t, m: order.append(m.arbitration_id))
    bus = FaultyBus(wire)

    def send(identifier: int) -> None:
        bus.send(msg(identifier, frames.special(frames.Special.DISABLE), fd=True))

    for _ in range(100):
        send(8)
    waiting = wire.waiting
    bus.adapter.dead = True
    for k in range(QUEUE_LENGTH - waiting):
        send(1 + k % 7)
    with pytest.raises(can.CanOperationError) as caught:
        send(1)
    assert caught.value.error_code == errno.ENOBUFS
    bus.adapter.dead = False
    while bus.recv(0.1) is not None:  # commands go before answers
        pass
    assert [one for one in order if one <= 8] == [
        *[8] * 100,
        *(1 + k % 7 for k in range(QUEUE_LENGTH - waiting)),
    ]


@pytest.mark.parametrize("how", ["purge", "unplug"])
def test_what_waits_for_the_wire_is_thrown_away_with_the_rest_of_the_queue(how: str) -> None:
    world = TwinWorld(TwinConfig(seed=1))
    wire = WireBus(world)
    bus = FaultyBus(wire)
    for k in range(200):
        bus.send(msg(1 + k % 8, frames.special(frames.Special.ENABLE), fd=True))
    bus.adapter.dead = True
    if how == "purge":
        bus.flush_tx_buffer()
    else:
        bus.adapter.unplug()
    assert wire.waiting == 0
    bus.adapter.dead = bus.adapter.gone = False
    world.advance(0.1)
    assert wire.waiting == 0
    assert set(world.bank().status[1:]) == {Status.DISABLED}, "the first frame was under way"


def test_no_frame_passes_a_cut_cable_and_those_that_waited_follow_in_order() -> None:
    world = TwinWorld(TwinConfig(seed=1))
    order: list[tuple[float, int]] = []
    wire = WireBus(world, observer=lambda t, m: order.append((t, m.arbitration_id)))
    bus = FaultyBus(wire)
    for k in range(100):
        bus.send(msg(1 + k % 8, frames.special(frames.Special.DISABLE), fd=True))
    bus.adapter.dead = True
    begun = len(order)
    world.advance(0.5)
    assert bus.recv(0.1) is None
    assert len(order) - begun <= 1, "what was under way ends"
    bus.adapter.dead = False
    mended = world.now()
    while bus.recv(0.1) is not None:
        pass
    assert [one for _, one in order if one <= 8] == [1 + k % 8 for k in range(100)]
    assert order[begun + 1][0] >= mended
