"""Protection can only restrict: limits hold for any input, and good commands pass untouched."""

from dataclasses import replace

import numpy as np
import pytest
from contract_data import contract_json
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.kinematics import load_arms
from fleet.limits import SafetyLimits
from fleet.safety import (
    CLASS_A,
    INTERVENTIONS,
    STOPPING,
    Measured,
    SafetyState,
    interpolate,
    protect,
)
from harness.sim.mirror import MIRROR
from policies.actions import shape, start
from policies.contract import parse_contract

DT = 0.004
TABLE = -0.445
START = np.array([-0.04, 0.77, -0.66, 1.81, 1.12, 0.42, -0.70, -0.5])

RIGHT = SafetyLimits.for_arms(load_arms("right"), table_z=TABLE)
BOTH = SafetyLimits.for_arms(load_arms("openarm-v2-bimanual"), table_z=TABLE)
BOTH_START = np.concatenate([START, START * MIRROR])

wild = st.one_of(
    st.floats(-4, 4),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([np.nan, np.inf, -np.inf, 1e300, -1e300, 0.0]),
)


def drive(limits, start, targets, dt=DT):
    """Commands (T, J) after protection of targets (T, J), and the state at the end."""
    state = SafetyState(limits, start[None])
    commands = []
    for target in targets:
        protect(limits, state, np.asarray(target)[None], None, dt)
        commands.append(state.command[0].copy())
    return np.array(commands), state


def assert_within_limits(limits, start, commands, dt=DT):
    path = np.vstack([start, start, commands])
    speed = np.diff(path, axis=0) / dt
    acceleration = np.diff(speed, axis=0) / dt
    assert np.isfinite(commands).all()
    assert (commands >= limits.q_min - 1e-12).all()
    assert (commands <= limits.q_max + 1e-12).all()
    assert (np.abs(speed) <= limits.dq_max * (1 + 1e-9) + 1e-9).all()
    assert (np.abs(acceleration) <= limits.ddq_max * (1 + 1e-7) + 1e-6).all()


@settings(max_examples=60)
@given(
    st.lists(st.lists(wild, min_size=8, max_size=8), min_size=1, max_size=6),
    st.integers(1, 40),
    st.sampled_from([0.002, 0.004, 0.005]),
)
def test_output_is_always_within_limits_whatever_the_input(targets, repeats, dt):
    sequence = np.repeat(np.array(targets), repeats, axis=0)
    commands, _ = drive(RIGHT, START, sequence, dt)
    assert_within_limits(RIGHT, START, commands, dt)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.floats(0.01, 3.0))
def test_two_arms_stay_within_limits_and_apart_under_noise(seed, size):
    rng = np.random.default_rng(seed)
    targets = BOTH_START + np.cumsum(rng.normal(0, size * DT * 8, (150, 16)), axis=0)
    commands, _ = drive(BOTH, BOTH_START, targets)
    assert_within_limits(BOTH, BOTH_START, commands)
    right, left = (arm.fk(commands[:, 8 * i : 8 * i + 7])[0] for i, arm in enumerate(BOTH.arms))
    assert (left[:, 1] - right[:, 1]).min() > 0.18 - 0.005


@pytest.mark.slow
@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_the_commanded_tcp_stays_in_the_workspace(seed):
    rng = np.random.default_rng(seed)
    goals = rng.uniform(RIGHT.q_min, RIGHT.q_max, (4, 8))
    commands, state = drive(RIGHT, START, np.repeat(goals, 120, axis=0))
    inside, own = RIGHT.clearance(commands)
    assert min(inside.min(), own.min()) > -0.002
    assert_within_limits(RIGHT, START, commands)
    assert np.abs(state.velocity).max() < 6.4


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.0, 1.0))
def test_in_range_slow_targets_pass_unchanged_to_the_bit(seed, share):
    rng = np.random.default_rng(seed)
    # A speed of at most half the limits, reached and left at no more than half the acceleration.
    t = np.arange(200) * DT
    width = 0.06 * share * rng.uniform(0, 1, 8)
    targets = START + width * (1 - np.cos(2 * np.pi * 1.5 * t[:, None]))
    commands, state = drive(RIGHT, START, targets)
    np.testing.assert_array_equal(commands, targets)
    assert state.counted() == {}


@settings(max_examples=40)
@given(st.lists(st.lists(wild, min_size=8, max_size=8), min_size=1, max_size=5))
def test_every_difference_from_the_target_is_counted(targets):
    state = SafetyState(RIGHT, START[None])
    for target in np.repeat(np.array(targets), 5, axis=0):
        before = state.counts.sum()
        _, command, found = protect(RIGHT, state, target[None], None, DT)
        assert bool(found) == (state.counts.sum() > before)
        if not np.array_equal(command[0], target):
            assert found
        assert set(found) <= set(INTERVENTIONS)


@pytest.mark.slow
@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_a_row_does_not_depend_on_its_batch(seed):
    rng = np.random.default_rng(seed)
    targets = START + np.cumsum(rng.normal(0, 0.03, (80, 5, 8)), axis=0)
    targets[rng.uniform(size=(80, 5)) < 0.02] = np.nan
    together = SafetyState(RIGHT, np.repeat(START[None], 5, axis=0))
    alone = [SafetyState(RIGHT, START[None]) for _ in range(5)]
    for tick in targets:
        protect(RIGHT, together, tick, None, DT)
        for i, state in enumerate(alone):
            protect(RIGHT, state, tick[i : i + 1], None, DT)
            np.testing.assert_array_equal(state.command[0], together.command[i])
            np.testing.assert_array_equal(state.counts[0], together.counts[i])


def test_a_ramp_is_followed_without_lag_once_caught():
    ramp = START + np.arange(1, 101)[:, None] * DT * RIGHT.dq_max * 0.3 * MIRROR
    ramp[:, 7] = START[7]
    commands, _ = drive(RIGHT, START, ramp)
    np.testing.assert_array_equal(commands[30:], ramp[30:])


def test_a_resting_target_is_reached_without_overshoot():
    goal = START + np.array([0.4, 0.1, 0.3, -0.3, -0.4, -0.6, 0.4, 0.3])
    commands, state = drive(RIGHT, START, np.repeat(goal[None], 300, axis=0))
    overshoot = (commands - goal) * np.sign(goal - START)
    assert overshoot.max() < 1e-9
    np.testing.assert_array_equal(commands[-1], goal)
    assert set(state.counted()) == {"acceleration", "velocity"}


def test_the_expert_speed_of_the_wrist_is_within_the_limits():
    assert (RIGHT.dq_max[2:7] >= 0.06 / 0.02).all()


def test_a_hand_driven_at_the_table_stops_above_it_and_can_leave():
    arm = RIGHT.arms[0]
    q = START.copy()
    down = []
    for _ in range(200):
        step = np.linalg.pinv(arm.jacobian(q[None, :7])[0, :3]) @ [0, 0, -0.004]
        q = q + np.append(step, 0.0)
        down.append(q)
    commands, state = drive(RIGHT, START, down)
    heights = arm.fk(commands[:, :7])[0][:, 2]
    assert heights.min() > TABLE + 0.012
    assert heights[-1] < TABLE + 0.05
    assert state.counted()["workspace"] > 50
    q = state.command[0].copy()
    for _ in range(50):
        q[:7] += np.linalg.pinv(arm.jacobian(q[None, :7])[0, :3]) @ [0, 0, 0.002]
        protect(RIGHT, state, q[None].copy(), None, DT)
    assert arm.fk(state.command[:, :7])[0][0, 2] > heights[-1] + 0.08


def test_from_outside_the_workspace_only_the_way_in_is_open():
    hanging = np.zeros(8)
    state = SafetyState(RIGHT, hanging[None])
    first = RIGHT.clearance(state.command)[0][0, 0]
    assert first < -0.1
    for k in range(500):
        target = interpolate(hanging, START, k + 1, 500)
        protect(RIGHT, state, target[None], None, DT)
    np.testing.assert_allclose(state.command[0], START, atol=1e-9)


outside = st.lists(st.floats(-0.1, 0.1), min_size=8, max_size=8)


@settings(max_examples=60)
@given(
    outside,
    st.lists(st.booleans(), min_size=8, max_size=8),
    st.sampled_from(["hold", "in", "wild"]),
    st.lists(wild, min_size=8, max_size=8),
    st.sampled_from([0.002, 0.004, 0.005]),
)
def test_from_beyond_a_joint_limit_commands_start_where_the_joint_is_and_never_move_further_out(
    beyond, upper, what, noise, dt
):
    """Clamped in one tick, a shoulder .09 rad outside would be pulled in with 21 Nm."""
    edge = np.where(upper, RIGHT.q_max, RIGHT.q_min)
    measured = edge + np.array(beyond)
    state = SafetyState(RIGHT, measured[None])
    np.testing.assert_array_equal(state.command[0], measured)
    path = [measured]
    for _ in range(80):
        target = {"hold": path[-1], "in": (RIGHT.q_min + RIGHT.q_max) / 2, "wild": np.array(noise)}
        protect(RIGHT, state, target[what][None], None, dt)
        path.append(state.command[0].copy())
    steps = np.diff(path, axis=0)
    assert (np.abs(steps) <= RIGHT.dq_max * dt * (1 + 1e-9) + 1e-12).all()
    out = np.maximum(np.array(path) - RIGHT.q_max, RIGHT.q_min - np.array(path))
    assert (np.diff(np.maximum(out, 0.0), axis=0) <= 1e-12).all()
    outward = np.where(np.array(path[:-1]) > RIGHT.q_max, steps, -steps)
    assert (outward[out[:-1] > 0] <= 1e-12).all()


def test_a_joint_beyond_its_limit_is_led_in_at_the_velocity_limit():
    start = np.where(np.arange(8) == 0, RIGHT.q_min - 0.09, START)
    commands, _ = drive(RIGHT, start, np.repeat(START[None], 200, axis=0))
    speed = np.diff(commands[:, 0]) / DT
    assert speed.max() == pytest.approx(RIGHT.dq_max[0], rel=1e-6)
    np.testing.assert_allclose(commands[-1], START, atol=1e-9)


def test_a_target_that_is_not_finite_brakes_and_is_counted():
    ramp = START + np.arange(1, 51)[:, None] * DT * 0.5
    broken = np.full((30, 8), np.nan)
    commands, state = drive(RIGHT, START, np.vstack([ramp, broken]))
    assert state.counted()["non_finite"] == 30
    np.testing.assert_array_equal(state.velocity, 0)
    assert np.abs(commands[-1] - ramp[-1]).max() < 0.02


def test_stop_brakes_at_once_and_holds_until_resume():
    state = SafetyState(RIGHT, START[None])
    goal = START + 0.1
    for _ in range(8):
        protect(RIGHT, state, goal[None], None, DT)
    state.stop()
    for _ in range(20):
        protect(RIGHT, state, goal[None], None, DT)
    held = state.command.copy()
    np.testing.assert_array_equal(state.velocity, 0)
    _, command, found = protect(RIGHT, state, goal[None], None, DT)
    np.testing.assert_array_equal(command, held)
    assert set(found) == {"stopped"}
    state.resume()
    for _ in range(200):
        protect(RIGHT, state, goal[None], None, DT)
    np.testing.assert_allclose(state.command[0], goal, atol=1e-9)


def torque_until_stop(tau, gravity, ticks=200):
    state = SafetyState(RIGHT, START[None])
    measured = Measured(np.array([tau], dtype=float), np.array([gravity], dtype=float))
    for tick in range(ticks):
        _, _, found = protect(RIGHT, state, START[None], measured, DT)
        if state.stopped[0]:
            return tick, sorted(STOPPING & set(found)), state
    return ticks, [], state


def test_torque_against_the_weight_beyond_the_force_limit_is_a_contact():
    tick, names, state = torque_until_stop([-38, 0, 0, 0, 0, 0, 0, 7], [12, 0, 0, 0, 0, 0, 0, 0])
    assert names == ["contact_force"]
    assert "contact_force" in CLASS_A
    assert tick < 25
    assert state.stopped[0]


def test_torque_that_carries_the_weight_is_no_event():
    tick, names, _ = torque_until_stop([37, 0, 0, 0, 0, 0, 0, 7], [24, 0, 0, 0, 0, 0, 0, 0])
    assert (tick, names) == (200, [])


def test_torque_near_the_drives_peak_stops_the_row_but_is_not_class_a():
    tick, names, _ = torque_until_stop([40, 0, 0, 0, 0, 0, 0, 0], [30, 0, 0, 0, 0, 0, 0, 0])
    assert names == ["torque"]
    assert "torque" not in CLASS_A
    assert 25 < tick < 100


def test_a_gripper_that_holds_hard_is_no_event():
    assert torque_until_stop([0] * 7 + [7], [0] * 8)[1] == []


def test_a_measurement_that_is_not_finite_is_a_protection_failure():
    tick, names, state = torque_until_stop([np.nan] + [0] * 7, [0] * 8)
    assert (tick, names) == (0, ["protection_failure"])
    assert state.stopped[0]


def test_a_torque_event_is_reported_once():
    state = SafetyState(RIGHT, START[None])
    measured = Measured(np.full((1, 8), 39.0), np.full((1, 8), 35.0))
    for _ in range(200):
        protect(RIGHT, state, START[None], measured, DT)
    assert state.counted()["torque"] == 1


@pytest.mark.parametrize(
    ("tau", "name"), [(-38.0, "contact_force"), (np.nan, "protection_failure")]
)
def test_what_is_class_a_is_reported_once_more_than_the_torque_before_it(tau, name):
    state = SafetyState(RIGHT, START[None])
    pushed = Measured(np.full((1, 8), 39.0), np.full((1, 8), 35.0))
    hurt = Measured(np.full((1, 8), tau), np.zeros((1, 8)))
    for measured in (pushed, hurt, hurt):
        for _ in range(100):
            protect(RIGHT, state, START[None], measured, DT)
    found = {name: count for name, count in state.counted().items() if name in STOPPING}
    assert found == {"torque": 1, name: 1}
    state.resume()
    for _ in range(100):
        protect(RIGHT, state, START[None], hurt, DT)
    assert state.counted()[name] == 2


def test_a_row_that_a_person_stopped_tells_no_contact():
    """Whoever moves it out of the way by hand is none."""
    state = SafetyState(RIGHT, START[None])
    state.stop()
    hurt = Measured(np.full((1, 8), -38.0), np.zeros((1, 8)))
    for _ in range(100):
        protect(RIGHT, state, START[None], hurt, DT)
    assert "contact_force" not in state.counted()


def test_only_the_row_with_the_contact_stops():
    state = SafetyState(RIGHT, np.repeat(START[None], 3, axis=0))
    tau = np.zeros((3, 8))
    tau[1, 0] = 39
    for _ in range(200):
        protect(RIGHT, state, state.command.copy(), Measured(tau, np.zeros((3, 8))), DT)
    np.testing.assert_array_equal(state.stopped, [False, True, False])


def test_a_measured_hand_far_outside_is_a_breach():
    tcp = np.array([[[0.25, -0.2, TABLE - 0.02]], [[0.25, -0.2, TABLE + 0.02]]])
    np.testing.assert_array_equal(RIGHT.breached(tcp), [True, False])


def test_interpolation_ends_on_the_command():
    a, b = np.array([[0.1, 0.2]]), np.array([[0.3, -0.7]])
    assert interpolate(a, b, 5, 5) is b
    np.testing.assert_allclose(interpolate(a, b, 1, 4), [[0.15, -0.025]])


def test_limits_that_no_command_could_keep_are_refused():
    with pytest.raises(ValueError, match="positive"):
        SafetyLimits.for_arms(load_arms("right"), ddq_max=[0.0] * 8)


def test_reset_rows_begin_anew():
    state = SafetyState(RIGHT, np.repeat(START[None], 3, axis=0))
    for _ in range(20):
        protect(RIGHT, state, state.command + 1.0, None, DT)
    kept = state.command[[0, 2]].copy()
    state.reset(RIGHT, np.array([1]), START[None])
    np.testing.assert_array_equal(state.command[1], START)
    np.testing.assert_array_equal(state.command[[0, 2]], kept)
    assert state.counts[1].sum() == 0
    assert state.counts[0].sum() > 0


eight = st.lists(st.floats(-6, 6), min_size=8, max_size=8)
widths = st.lists(st.floats(0.01, 6), min_size=8, max_size=8)


@settings(max_examples=80)
@given(eight, widths, widths, st.sampled_from(["delta", "absolute"]), st.lists(eight, max_size=8))
def test_whatever_a_contract_says_the_arm_stays_within_its_own_limits(
    low, width, limit, space, raws
):
    contract = parse_contract(contract_json())
    action = contract.action.model_copy(
        update={
            "space": space,
            "low": tuple(low),
            "high": tuple(np.add(low, width).tolist()),
            "limit": tuple(limit),
        }
    )
    contract = contract.model_copy(update={"action": action})
    state, targets = start(contract, START[None]), []
    for raw in raws:
        state, command, _, _ = shape(contract, state, np.array([raw], dtype=np.float32))
        assert (command[0] >= low).all(), "shaping keeps the contract's range"
        assert (command[0] <= np.array(action.high)).all()
        targets += [command[0]] * 5
    if targets:
        commands, _ = drive(RIGHT, START, targets)
        assert_within_limits(RIGHT, START, commands)


def test_finite_comes_before_the_joint_limits():
    target = START + 9.0
    target[3] = np.nan
    _, state = drive(RIGHT, START, [target])
    assert state.counted() == {"non_finite": 1}


def test_joint_limits_come_before_speed():
    """What is clamped first is not too fast: 9 rad away is far, its limit is not."""
    at = RIGHT.q_max.copy()
    at[:7] -= 0.001
    limits = replace(RIGHT, workspaces=(replace(RIGHT.workspaces[0], low=np.full(3, -9.0),
                                                high=np.full(3, 9.0), column=0.0),))  # fmt: skip
    target = at.copy()
    target[5] += 9.0
    commands, state = drive(limits, at, [target])
    assert state.counted().get("joint_limit") == 1
    assert "velocity" not in state.counted()
    assert commands[0, 5] <= limits.q_max[5]


def test_the_workspace_sees_what_speed_and_acceleration_left():
    """A far target through the table is no workspace event while one tick cannot get there."""
    target = START.copy()
    target[1] += 1.0
    _, state = drive(RIGHT, START, [target])
    assert "workspace" not in state.counted()


def test_torque_has_the_last_word_over_a_good_target():
    state = SafetyState(RIGHT, START[None])
    pushed = Measured(np.full((1, 8), 39.0), np.full((1, 8), 35.0))
    for _ in range(100):
        protect(RIGHT, state, START[None], pushed, DT)
    _, command, found = protect(RIGHT, state, START[None] + 0.001, pushed, DT)
    assert set(found) == {"stopped"}
    np.testing.assert_array_equal(command[0], START)
