"""Letting go of a raised arm: lowered unless dropping was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from fleet.can.arm import Arm
from fleet.can.bus import FrameTap
from fleet.can.frames import Status
from fleet.can.gains import STIFF
from harness.twin.bus import TwinBus
from harness.twin.monitor import FrameMonitor
from harness.twin.physics import TwinConfig, TwinWorld
from registry.errors import Refused

pytestmark = pytest.mark.slow

ZERO = np.zeros(8)


def hold(arm: Arm, seconds: float) -> None:
    target = arm.state.q
    for _ in range(round(seconds / 0.005)):
        began = arm.now()
        arm.exchange(target, ZERO, STIFF.kp, STIFF.kd, ZERO)
        arm.wait(began + 0.005 - arm.now())


def _fastest_fall(world: TwinWorld, drop: bool) -> tuple[float, float]:
    """Highest joint speed [rad/s] from disabling to rest, and how far joint2 sank [rad]."""
    arm = Arm(TwinBus(world))
    arm.connect()
    arm.enable()
    hold(arm, 0.3)
    before = arm.state.q
    speeds = [0.0]
    last, at = world.joints(), arm.now()
    arm.disable(drop=drop)
    assert not (arm.state.status == Status.ENABLED).any()
    for _ in range(200):
        arm.refresh()
        arm.wait(0.005)
        now = world.joints()
        speeds.append(float(np.abs(now - last).max() / max(arm.now() - at, 1e-9)))
        last, at = now, arm.now()
    return max(speeds[2:]), float(before[1] - world.joints()[1])


def test_disable_lowers_the_arm_and_dropping_has_to_be_asked_for() -> None:
    lowered, sank = _fastest_fall(TwinWorld(TwinConfig(seed=1)), drop=False)
    dropped, fell = _fastest_fall(TwinWorld(TwinConfig(seed=1)), drop=True)
    assert sank > 0.1
    assert fell > 0.1
    assert lowered < 0.5, "once off it has little left to fall"
    assert dropped > 3 * lowered


def test_lowering_sinks_slowly_all_the_way() -> None:
    world = TwinWorld(TwinConfig(seed=1))
    arm = Arm(TwinBus(world))
    start = arm.connect().q
    arm.enable()
    hold(arm, 0.3)
    began, before = arm.now(), world.joints()
    state = arm.disable()
    assert (state.status == Status.DISABLED).all()
    way = np.abs(world.joints() - before).max()
    assert way / (arm.now() - began) < 0.5
    with pytest.raises(Refused):
        arm.exchange(start, ZERO, STIFF.kp, STIFF.kd, ZERO)


def test_lowering_jumps_in_no_command_as_an_independent_monitor_sees_it() -> None:
    witness = FrameMonitor()
    world = TwinWorld(TwinConfig(seed=1))
    arm = Arm(FrameTap(TwinBus(world), witness))
    arm.connect()
    arm.enable()
    hold(arm, 0.3)
    arm.disable()
    report = witness.report()
    assert report.kept, report.examples
    assert report.commands > 8 * 200
    assert not world.bank().any_enabled
