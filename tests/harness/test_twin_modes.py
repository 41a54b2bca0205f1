"""POS_VEL, VEL and POS_FORCE on the twin: the arm moves as each mode says, in real physics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from fleet.can.arm import Arm
from fleet.can.commands import Command, Mit, PosForce, PosVel, Vel
from fleet.can.gains import STIFF
from fleet.can.motors import Mode, Register
from harness.tasks.box_grasp import BOX_GRASP
from harness.twin.bus import TwinBus
from harness.twin.physics import TwinConfig, TwinWorld

MODES = (Mode.MIT,) * 4 + (Mode.POS_VEL, Mode.VEL, Mode.MIT, Mode.POS_FORCE)


def ready(modes: Sequence[Mode] = MODES) -> tuple[TwinWorld, Arm]:
    world = TwinWorld(TwinConfig(seed=3))
    arm = Arm(TwinBus(world))
    arm.connect()
    arm.modes = tuple(modes)
    for motor in arm.motors:  # quick enough for a test
        arm.write_register(motor, Register.ACC, 20.0)
        arm.write_register(motor, Register.DEC, -20.0)
    arm.enable()
    return world, arm


def play(arm: Arm, special: dict[int, Command], seconds: float) -> np.ndarray:
    """Hold all joints in MIT, drive those of `special`; (ticks, 3, 8): q, dq, tau."""
    start = arm.state.q
    commands: list[Command] = [
        special.get(i) or Mit(start[i], 0.0, STIFF.kp[i], STIFF.kd[i], 0.0) for i in range(8)
    ]
    trace = []
    for _ in range(round(seconds / 0.005)):
        state = arm.exchange_commands(commands)
        trace.append((state.q, state.dq, state.tau))
        arm.wait(0.005)
    return np.array(trace)


def still(start: np.ndarray) -> dict[int, Command]:
    return {4: PosVel(start[4], 1.0), 5: Vel(0.0), 7: PosForce(start[7], 5.0, 0.3)}


def test_pos_vel_goes_there_no_faster_than_its_limit_and_stays() -> None:
    _, arm = ready()
    start = arm.state.q
    play(arm, still(start), 0.05)
    goal = start[4] - 0.5
    trace = play(arm, {4: PosVel(goal, 0.8), 5: Vel(0.0), 7: PosForce(start[7], 5.0, 0.3)}, 2.0)
    assert trace[-1, 0, 4] == pytest.approx(goal, abs=0.01)
    assert np.abs(trace[:, 1, 4]).max() < 0.8 * 1.15
    assert np.abs(trace[60:100, 1, 4]).max() > 0.6, "it uses the limit on the way"
    assert trace[:, 0, 4].min() > goal - 0.03, "it does not overshoot"
    assert np.abs(trace[-20:, 1, 4]).max() < 0.05


def test_vel_turns_at_its_speed_until_told_otherwise() -> None:
    _, arm = ready()
    start = arm.state.q
    others = {4: PosVel(start[4], 1.0), 7: PosForce(start[7], 5.0, 0.3)}
    trace = play(arm, {**others, 5: Vel(-0.6)}, 1.0)
    assert trace[50:, 1, 5].mean() == pytest.approx(-0.6, abs=0.05)
    trace = play(arm, {**others, 5: Vel(0.0)}, 0.5)
    assert np.abs(trace[-20:, 1, 5]).max() < 0.05
    assert trace[-1, 0, 5] == pytest.approx(trace[40, 0, 5], abs=0.01), "and holds there"


def test_acceleration_is_the_motors_register() -> None:
    _, arm = ready()
    arm.write_register(arm.motors[5], Register.ACC, 1.0)
    start = arm.state.q
    others = {4: PosVel(start[4], 1.0), 7: PosForce(start[7], 5.0, 0.3)}
    trace = play(arm, {**others, 5: Vel(-0.6)}, 0.35)
    assert trace[-1, 1, 5] == pytest.approx(-0.35, abs=0.08)


@pytest.mark.parametrize("current", [0.1, 0.3])
def test_pos_force_closes_on_the_box_with_the_torque_it_may(current: float) -> None:
    """The fingers meet their end stop: from there the motor gives its share of TMAX, no more."""
    _, arm = ready()
    start = arm.state.q
    play(arm, still(start), 0.05)
    others: dict[int, Command] = {4: PosVel(start[4], 1.0), 5: Vel(0.0)}
    trace = play(arm, {**others, 7: PosForce(0.5, 5.0, current)}, 1.5)
    assert trace[-1, 0, 7] > start[7] + 0.2, "it closed"
    assert np.abs(trace[-40:, 2, 7]).mean() == pytest.approx(current * 10.0, abs=0.15)
    assert np.abs(trace[:, 2, 7]).max() < current * 10.0 + 0.15


def test_a_motor_in_another_mode_is_limp_until_its_first_command() -> None:
    world, _ = ready()
    start = world.joints()
    world.advance(0.5)
    assert np.abs(world.joints() - start).max() > 0.05


def test_commands_are_seen_after_the_robots_latency_and_the_trace_repeats() -> None:
    def trace() -> np.ndarray:
        _, arm = ready()
        start = arm.state.q
        return play(
            arm, {4: PosVel(start[4] - 0.3, 1.0), 5: Vel(0.2), 7: PosForce(-0.2, 5.0, 0.3)}, 0.5
        )

    np.testing.assert_array_equal(trace(), trace())


def test_back_in_mit_the_loops_are_off() -> None:
    world, arm = ready()
    start = arm.state.q
    play(arm, {4: PosVel(start[4], 1.0), 5: Vel(0.1), 7: PosForce(start[7], 5.0, 0.3)}, 0.2)
    arm.disable(drop=True)
    world.park()
    arm.connect()
    arm.modes = (Mode.MIT,) * 8
    arm.enable()
    here = arm.state.q
    for _ in range(40):
        state = arm.exchange(here, np.zeros(8), STIFF.kp, STIFF.kd, np.zeros(8))
        arm.wait(0.005)
    assert np.abs(state.q - here).max() < 0.1
    assert BOX_GRASP.start_q[0] == pytest.approx(here[0], abs=0.01)
