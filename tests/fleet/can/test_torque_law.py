"""A motor that is not where it says is found by its torque, and nothing moves by what it says."""

from __future__ import annotations

import numpy as np
import pytest
from fault_bench import Bench

from fleet.can.faults import ArmFault, ArmState, FaultKind
from fleet.can.motors import OPENARM_MOTORS, PEAK_TORQUE
from fleet.can.torque_law import DOUBT_S, TorqueLaw
from fleet.servo import KD, KP

CALM = np.zeros(8)


def answered(away: np.ndarray, tau: np.ndarray, at_s: float) -> ArmState:
    fine = np.ones(8, dtype=np.uint8)
    return ArmState(-away, CALM, tau, fine, fine, fine, CALM, at_s)


def verdicts(away: float, share: float, joint: int = 0, ticks: int = 40) -> list[tuple[int, ...]]:
    """Per tick of 5 ms, for a joint `away` from its command that gives that share of its due."""
    law, kp = TorqueLaw(OPENARM_MOTORS), np.array(KP)
    off, tau = np.zeros(8), np.zeros(8)
    off[joint] = away
    tau[joint] = share * np.clip(kp[joint] * away, -PEAK_TORQUE[joint], PEAK_TORQUE[joint])
    return [
        law.broken(answered(off, tau, 0.005 * k), CALM, CALM, kp, np.array(KD), CALM)[0]
        for k in range(ticks)
    ]


@pytest.mark.parametrize("joint", range(7))
@pytest.mark.parametrize("away", [0.3, -1.0])
def test_a_far_position_without_its_torque_is_told_after_50_ms(joint: int, away: float) -> None:
    found = verdicts(away, 0.1, joint)
    first = found.index((joint,))
    assert 0.005 * first == pytest.approx(DOUBT_S)
    assert set(found[:first]) == {()}


@pytest.mark.parametrize("joint", range(7))
def test_who_pushes_an_arm_away_meets_its_torque(joint: int) -> None:
    assert set(verdicts(0.5, 0.95, joint)) == {()}


def test_the_gripper_may_be_held_open() -> None:
    assert set(verdicts(0.8, 0.0, joint=7)) == {()}


def test_a_moment_of_doubt_is_forgotten() -> None:
    law, kp, kd = TorqueLaw(OPENARM_MOTORS), np.array(KP), np.array(KD)
    off, near = np.full(8, 0.5), np.full(8, 0.01)
    for k in range(100):
        state = answered(near if k % 8 == 7 else off, CALM, 0.005 * k)
        assert law.broken(state, CALM, CALM, kp, kd, CALM)[0] == ()


@pytest.mark.parametrize("offset", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("joint", [0, 3, 4])
def test_a_joint_that_reads_elsewhere_is_a_fault_and_moves_nothing(
    joint: int, offset: float
) -> None:
    bench = Bench()
    before, told_to = bench.world.joints("right").copy(), bench.servo.command.copy()
    bench.world.bank("right").misread(joint, offset=offset)
    with pytest.raises(ArmFault) as told:
        bench.servo.hold(60)
    assert (told.value.kind, told.value.joints) == (FaultKind.SILENT, (f"joint{joint + 1}",))
    assert "rad where" in told.value.evidence
    bench.world.advance(0.5)
    assert np.abs(bench.world.joints("right") - before)[:7].max() < 0.05
    np.testing.assert_allclose(bench.servo.command, told_to, atol=1e-9)
