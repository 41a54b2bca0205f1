"""The twin as a whole: arm, frames, motors, physics and simulated time."""

from __future__ import annotations

import socket
import threading

import can
import numpy as np
import pytest

from fleet.can.arm import Arm, ArmFault, FaultKind
from harness.twin.bus import TwinBridge, TwinBus
from harness.twin.physics import TwinConfig, TwinWorld

KP = np.array([230.0, 230.0, 190.0, 190.0, 30.0, 30.0, 30.0, 30.0])
KD = np.array([2.7, 2.7, 2.2, 2.2, 1.5, 1.5, 1.5, 0.2])
ZERO = np.zeros(8)


class PumpedVirtualBus(can.BusABC):
    """python-can's own virtual bus between arm and twin, in lock-step with simulated time."""

    def __init__(self, world: TwinWorld, channel: str) -> None:
        self.near = can.Bus(channel, "virtual", ignore_config=True)
        self.far = can.Bus(channel, "virtual", ignore_config=True)
        self.bridge = TwinBridge(world, self.far)
        self.world = world
        self.now = world.now
        super().__init__(channel=channel)

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        self.near.send(msg)

    def recv(self, timeout: float | None = None) -> can.Message | None:
        self.bridge.serve()
        msg = self.near.recv(0.0)
        if msg is None and timeout:
            self.world.advance(timeout)
        return msg

    def shutdown(self) -> None:
        super().shutdown()
        self.near.shutdown()
        self.far.shutdown()


def swing(arm: Arm, world: TwinWorld, ticks: int = 200) -> np.ndarray:
    """Connect, enable and follow a smooth path; the true joints after every tick."""
    start = arm.connect().q
    arm.enable()
    trace = []
    for tick in range(ticks):
        target = start + 0.1 * np.sin(tick * 0.005 * np.arange(1, 9))
        target[7] = start[7]
        arm.exchange(target, ZERO, KP, KD, ZERO)
        arm.wait(0.005)
        trace.append(world.joints())
    return np.array(trace)


def test_time_passes_only_by_waiting_on_an_empty_bus() -> None:
    world = TwinWorld()
    bus = TwinBus(world)
    for esc_id in (1, 2):
        bus.send(
            can.Message(
                arbitration_id=0x7FF,
                is_extended_id=False,
                data=bytes((esc_id, 0, 0xCC, 0, 0, 0, 0, 0)),
                is_fd=True,
            )
        )
    replies = [bus.recv(1.0), bus.recv(1.0)]
    assert [msg.arbitration_id for msg in replies if msg] == [0x11, 0x12]
    assert all(msg.is_fd and msg.is_rx and msg.timestamp == 0.0 for msg in replies if msg)
    assert bus.recv(0.0) is None
    assert bus.now() == 0.0
    assert bus.recv(0.005) is None
    assert (bus.now(), world.steps) == (0.005, 5)
    for _ in range(10):
        bus.recv(0.00025)
    assert bus.now() == pytest.approx(0.0075)
    assert world.steps == 7
    with pytest.raises(can.CanOperationError, match="never speaks unasked"):
        bus.recv(None)


def test_the_same_seed_gives_the_same_trace_to_the_bit() -> None:
    worlds = [TwinWorld(TwinConfig(seed=seed)) for seed in (5, 5, 6)]
    one, again, other = (swing(Arm(TwinBus(world)), world) for world in worlds)
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-4


def test_pythons_virtual_can_bus_gives_the_same_trace_as_the_in_process_bus() -> None:
    world, copy = TwinWorld(TwinConfig(seed=2)), TwinWorld(TwinConfig(seed=2))
    with PumpedVirtualBus(copy, "test_same_trace") as bus:
        bridged = swing(Arm(bus, fd=True), copy)
    np.testing.assert_array_equal(swing(Arm(TwinBus(world)), world), bridged)


def has_vcan() -> bool:
    return any(name.startswith("vcan") for _, name in socket.if_nameindex())


@pytest.mark.parametrize(
    ("interface", "channel"),
    [
        ("virtual", "test_threaded"),
        pytest.param(
            "socketcan",
            "vcan0",
            marks=pytest.mark.skipif(not has_vcan(), reason="SocketCAN: no vcan0 here"),
        ),
    ],
)
def test_an_arm_connects_and_moves_over_a_bus_between_threads(interface: str, channel: str) -> None:
    world = TwinWorld(TwinConfig(seed=2))
    stop = threading.Event()
    with (
        can.Bus(channel, interface, ignore_config=True) as near,
        can.Bus(channel, interface, ignore_config=True) as far,
    ):
        bridge = TwinBridge(world, far)

        def serve() -> None:
            while not stop.is_set():
                bridge.serve(0.002)
                world.advance(0.002)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            arm = Arm(near, reply_window_s=0.1)
            trace = swing(arm, world, ticks=40)
        finally:
            stop.set()
            thread.join()
    assert arm.fault is None
    assert arm.counters.rejected == arm.counters.foreign == 0
    assert np.abs(np.diff(trace[:, 7])).max() < 0.1
    assert np.abs(trace[-1] - trace[0]).max() > 1e-3


def test_without_feed_forward_the_arm_sags_and_with_it_does_not() -> None:
    def error(feed_forward: bool) -> float:
        world = TwinWorld(TwinConfig(seed=4))
        arm = Arm(TwinBus(world))
        start = arm.connect().q
        arm.enable()
        tau = ZERO
        for _ in range(1000):
            state = arm.exchange(start, ZERO, KP, KD, tau)
            arm.wait(0.005)
            if feed_forward:
                tau = tau + 0.005 * KP * (start - state.q)  # finds the weight by integration
        return float(np.abs(state.q - start)[:7].max())

    assert error(feed_forward=False) > 0.01
    assert error(feed_forward=True) < 0.002


def test_switched_off_in_mid_air_the_arm_falls_and_on_its_stand_it_does_not() -> None:
    world = TwinWorld()
    arm = Arm(TwinBus(world))
    start = world.joints()
    arm.wait(1.0)
    np.testing.assert_array_equal(world.joints(), start)
    arm.connect()
    arm.enable()
    arm.exchange(start, ZERO, KP, KD, ZERO)
    arm.wait(0.1)
    with pytest.raises(ValueError, match="enabled"):
        world.park()
    arm.disable()
    arm.wait(1.0)
    assert np.abs(world.joints() - start).max() > 0.2
    world.park()
    arm.wait(0.5)
    np.testing.assert_array_equal(world.joints(), start)


def test_motors_hold_the_last_command_when_the_host_dies() -> None:
    world = TwinWorld()
    arm = Arm(TwinBus(world))
    start = arm.connect().q
    arm.enable()
    for _ in range(200):
        arm.exchange(start, ZERO, KP, KD, ZERO)
        arm.wait(0.005)
    before = world.joints()
    world.advance(5.0)
    np.testing.assert_allclose(world.joints(), before, atol=2e-3)


def test_a_commands_effect_comes_after_the_robots_latency() -> None:
    def first_effect(latency: float) -> int:
        """Physics steps until two worlds with different commands differ."""
        worlds = [TwinWorld(TwinConfig(latency_s=(latency, latency))) for _ in range(2)]
        for world, offset in zip(worlds, (0.0, 0.3), strict=True):
            arm = Arm(TwinBus(world))
            start = arm.connect().q
            arm.enable()
            arm.exchange(start + offset, ZERO, KP, KD, ZERO)
        steps = 0
        while (worlds[0].joints() == worlds[1].joints()).all():
            for world in worlds:
                world.advance(0.001)
            steps += 1
        return steps

    assert [first_effect(latency) for latency in (0.0, 0.003, 0.008)] == [1, 4, 9]


def test_robots_differ_within_their_ranges_and_a_robot_stays_itself() -> None:
    config = {"joint_friction_scale": (0.5, 2.0), "latency_s": (0.0, 0.004)}
    worlds = [TwinWorld(TwinConfig(seed=seed, **config)) for seed in range(6)]
    scales = [world.variation["joint_friction_scale"] for world in worlds]
    assert len(set(scales)) == 6
    assert all(0.5 <= scale <= 2.0 for scale in scales)
    assert {world.latency_steps for world in worlds} <= set(range(5))
    assert TwinWorld(TwinConfig(seed=3, **config)).variation == worlds[3].variation


def test_each_scene_draws_a_box_of_the_robots_payload_on_the_table() -> None:
    world = TwinWorld(TwinConfig(seed=9, box_mass=(0.8, 1.0), box_friction=(0.5, 0.5)))
    places, masses = [], []
    for _ in range(20):
        placement = world.new_scene()
        world.advance(0.2)
        truth = world.truth()
        assert truth.position[:2] == pytest.approx([placement.x, placement.y], abs=1e-3)
        assert abs(truth.rise) < 1e-3
        assert not truth.held
        places.append((placement.x, placement.y, placement.yaw))
        masses.append(world.box_mass)
        assert world.box_friction == 0.5
    assert len(set(places)) == 20
    assert 0.8 <= min(masses) < 0.85
    assert 0.95 < max(masses) <= 1.0


def test_the_detector_sees_the_box_late_and_noisy_but_never_exactly() -> None:
    world = TwinWorld(TwinConfig(seed=1))
    camera = world.pose_source()
    errors, ages = [], []
    for _ in range(200):
        world.advance(0.02)
        pose = camera.read()
        assert pose is not None
        errors.append(pose.position - world.truth().position)
        ages.append(pose.age_s)
    deviation = np.std(errors, axis=0)
    assert (deviation > 0.0012).all()
    assert (deviation < 0.0028).all()
    assert min(ages) >= 0.03
    assert max(ages) < 0.3


def test_the_twins_detector_repeats_with_its_seed_and_scene() -> None:
    def poses() -> list[float]:
        world = TwinWorld(TwinConfig(seed=8))
        world.new_scene()
        camera = world.pose_source()
        seen = []
        for _ in range(10):
            world.advance(0.02)
            pose = camera.read()
            assert pose is not None
            seen.append(float(pose.position[0]))
        return seen

    assert poses() == poses()


def test_two_arms_share_one_world_and_one_clock() -> None:
    world = TwinWorld(TwinConfig(arms=("right", "left")))
    right, left = Arm(TwinBus(world, "right")), Arm(TwinBus(world, "left"), name="left")
    for arm in (right, left):
        arm.connect()
    assert right.now() == left.now()
    starts = {arm.name: arm.state.q for arm in (right, left)}
    for arm in (right, left):
        arm.enable()
    lifted = starts["left"].copy()
    lifted[3] += 0.2
    for _ in range(200):
        right.exchange(starts["right"], ZERO, KP, KD, ZERO)
        left.exchange(lifted, ZERO, KP, KD, ZERO)
        right.wait(0.005)
    assert left.state.q[3] - starts["left"][3] > 0.15
    assert np.abs(right.state.q - starts["right"]).max() < 0.05
    world.bank("left").mute(0)
    for _ in range(20):
        left.exchange(lifted, ZERO, KP, KD, ZERO)
    left.wait(0.2)
    with pytest.raises(ArmFault, match="left arm") as caught:
        left.exchange(lifted, ZERO, KP, KD, ZERO)
    assert caught.value.kind is FaultKind.SILENT
    assert right.fault is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("physics_hz", 7),
        ("physics_hz", 0),
        ("box_mass", (1.0, 0.5)),
        ("joint_friction_scale", (0.0, 1.0)),
        ("latency_s", (-0.001, 0.001)),
    ],
)
def test_a_twin_that_makes_no_sense_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        TwinConfig(**{field: value})
