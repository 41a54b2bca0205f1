"""The servo loop: limits on what is sent, weight carried, time by the bus, one fault holds all."""

import numpy as np
import pytest

from fleet.can.faults import ArmFault, ArmState, FaultKind
from fleet.kinematics import load_arms
from fleet.limits import DDQ_MAX, SafetyLimits
from fleet.servo import Servo, check_period, ticks_per_step
from harness.sim.mirror import MIRROR
from registry.errors import ConfigError, Refused

START = np.array([-0.04, 0.77, -0.66, 1.81, 1.12, 0.42, -0.70, -0.5])
PERIOD = 0.005


class FollowingArm:
    """An arm that stands where it was told one tick ago, on a clock that only waiting moves."""

    def __init__(self, start, clock, busy_s=0.0):
        self.clock = clock
        self.q = np.array(start)
        self.sent = []
        self.tau = np.zeros(8)
        self.fault = None
        self.busy_s = busy_s

    def now(self):
        return self.clock[0]

    @property
    def state(self):
        idle = np.zeros(8, dtype=np.uint8)
        return ArmState(self.q.copy(), np.zeros(8), self.tau.copy(), idle, idle, idle + 1,
                        np.zeros(8), self.clock[0])  # fmt: skip

    def refresh(self):
        return self.state

    def exchange(self, q, dq, kp, kd, tau):
        if self.fault:
            raise self.fault
        self.clock[0] += self.busy_s
        state = self.state
        self.sent.append((np.array(q), np.array(tau)))
        self.q = np.array(q)
        return state

    def wait(self, seconds):
        self.clock[0] += seconds

    def path(self):
        return np.array([q for q, _ in self.sent])


def make(sides=("right",), busy_s=0.0, ddq_max=DDQ_MAX, **options):
    kinematics = load_arms(sides)
    clock = [0.0]
    starts = {"right": START, "left": START * MIRROR}
    arms = [FollowingArm(starts[side], clock, busy_s) for side in sides]
    limits = SafetyLimits.for_arms(kinematics, table_z=-0.445, ddq_max=ddq_max)
    servo = Servo(arms, kinematics, limits, period_s=PERIOD, **options)
    servo.start()
    return servo, arms, kinematics


def test_the_first_command_is_the_measured_pose():
    servo, (arm,), _ = make()
    servo.hold(1)
    np.testing.assert_array_equal(arm.path()[0], START)


def test_the_weight_of_the_measured_pose_is_sent_and_none_for_the_gripper():
    servo, (arm,), (kin,) = make()
    servo.hold(2)
    tau = arm.sent[0][1]
    np.testing.assert_allclose(tau[:7], kin.gravity(START[:7]))
    assert tau[7] == 0


def test_a_policy_step_goes_straight_to_its_command_in_equal_ticks():
    servo, (arm,), _ = make()
    first = START + 0.002
    servo.follow(first, 4)
    np.testing.assert_allclose(np.diff(arm.path(), axis=0), 0.0005, atol=1e-9)
    np.testing.assert_array_equal(arm.path()[-1], first)
    assert servo.interventions() == {}


def test_a_tick_takes_one_period_of_bus_time():
    servo, (arm,), _ = make()
    servo.hold(10)
    assert arm.now() == pytest.approx(10 * PERIOD)
    assert servo.overruns == 0


def test_a_tick_that_is_late_is_counted_and_not_caught_up():
    servo, (arm,), _ = make(busy_s=0.007)
    servo.hold(10)
    assert servo.overruns == 10
    assert arm.now() == pytest.approx(0.07)


def test_a_pause_between_attempts_is_no_overrun():
    servo, (arm,), _ = make()
    servo.hold(2)
    arm.wait(30.0)
    servo.begin()
    servo.hold(2)
    assert servo.overruns == 0
    assert arm.now() == pytest.approx(30 + 4 * PERIOD)


def test_an_old_command_is_not_followed():
    servo, (arm,), _ = make()
    servo.follow(START + 0.01, 4, age_s=0.2)
    np.testing.assert_array_equal(arm.path()[-1], START)
    assert servo.events == ["late"]
    assert not servo.stopped


def test_a_move_reaches_its_goal_within_the_limits():
    servo, (arm,), _ = make()
    goal = START + np.array([0.2, 0.1, 0.1, -0.3, 0.4, -0.5, 0.3, 0.2])
    assert servo.move_to(goal)
    path = np.vstack([START, arm.path()])
    np.testing.assert_allclose(path[-1], goal)
    assert (np.abs(np.diff(path, axis=0)) <= servo.limits.dq_max * PERIOD * 0.51).all()


def test_a_protective_stop_brakes_within_limits_and_holds_until_resume():
    servo, (arm,), _ = make()
    for k in range(1, 6):
        servo.follow(START + 0.03 * k, 4)
    servo.protective_stop("operator")
    speed = np.diff(arm.path(), axis=0) / PERIOD
    assert (np.abs(np.diff(speed, axis=0)) <= servo.limits.ddq_max * PERIOD * 1.001).all()
    np.testing.assert_array_equal(speed[-1], 0)
    held = arm.path()[-1]
    assert not servo.move_to(START)
    np.testing.assert_array_equal(arm.path()[-1], held)
    assert (servo.stopped, servo.stop_reason) == (True, "operator")
    servo.resume()
    assert servo.move_to(START)


def test_a_stop_rests_also_where_the_station_brakes_slowly():
    servo, (arm,), _ = make(ddq_max=(2, 2, 4, 4, 8, 8, 8, 15))
    goal = START + np.array([0.9, 0, 0, 0, 0, 0, 0, 0])
    assert not servo.move_to(goal, 1.0, keep_going=lambda: servo.ticks < 170)
    servo.protective_stop("operator")
    before = arm.path()[-1]
    servo.hold(5)
    np.testing.assert_array_equal(arm.path()[-1], before)


def test_a_contact_stops_the_servo_and_is_an_event():
    servo, (arm,), _ = make()
    arm.tau[0] = -60.0
    servo.hold(60)
    assert servo.events == ["contact_force"]
    assert servo.stop_reason == "contact_force"
    assert servo.stopped


def test_one_arm_that_faults_holds_both():
    servo, (right, left), _ = make(("right", "left"))
    both = np.concatenate([START, START * MIRROR])
    servo.follow(both + 0.005, 4)
    right.fault = ArmFault(FaultKind.SILENT, "right", ("joint2",), "no answer", "look at the cable")
    with pytest.raises(ArmFault):
        servo.follow(both + 0.010, 4)
    assert servo.stopped
    for _ in range(20):
        with pytest.raises(ArmFault):
            servo.tick(both + 0.5)
    np.testing.assert_allclose(left.path()[-1], left.path()[-5])
    assert np.abs(left.path()[-1] - both[8:]).max() < 0.02


def test_an_arm_brakes_within_limits_when_the_other_faults_in_mid_motion():
    servo, (right, left), _ = make(("right", "left"))
    both = np.concatenate([START, START * MIRROR])
    swing = np.zeros(16)
    swing[8] = 0.038
    for k in range(1, 7):
        servo.follow(both + k * swing, 4)
    right.fault = ArmFault(FaultKind.SILENT, "right", ("joint2",), "no answer", "look at the cable")
    with pytest.raises(ArmFault):
        servo.follow(both + 7 * swing, 4)
    with pytest.raises(ArmFault):
        servo.protective_stop("arm_fault")
    speeds = np.diff(left.path()[:, 0]) / PERIOD
    assert speeds[-12] > 1.5
    assert np.abs(np.diff(speeds[-12:])).max() <= DDQ_MAX[0] * PERIOD * 1.01
    assert speeds[-1] == 0.0


def test_two_arms_move_in_lock_step():
    servo, (right, left), _ = make(("right", "left"))
    both = np.concatenate([START, START * MIRROR])
    servo.follow(both + 0.004, 4)
    np.testing.assert_allclose(right.path()[:, 0] - START[0], left.path()[:, 0] + START[0])
    assert len(right.sent) == len(left.sent) == 4


def test_a_period_that_physics_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match=r"2\.5 physics steps"):
        make(physics_s=0.002)
    check_period(0.004, 0.002)
    check_period(0.005, 0.001)


def test_speed_scale_dilates_time():
    assert ticks_per_step(50, 0.005) == 4
    assert ticks_per_step(50, 0.005, 0.5) == 8
    with pytest.raises(ConfigError, match="servo ticks"):
        ticks_per_step(50, 0.005, 0.3)
    with pytest.raises(ConfigError, match="servo ticks"):
        ticks_per_step(50, 0.005, 2.0)


def test_nothing_moves_before_start():
    kinematics = load_arms("right")
    servo = Servo([FollowingArm(START, [0.0])], kinematics, SafetyLimits.for_arms(kinematics))
    with pytest.raises(Refused, match="not started"):
        servo.tick(START)


def test_arms_and_kinematics_have_to_match():
    kinematics = load_arms("right")
    with pytest.raises(ConfigError, match="1 arm"):
        Servo([FollowingArm(START, [0.0])], [], SafetyLimits.for_arms(kinematics))


def test_what_is_called_before_a_tick_can_keep_it_from_being_sent():
    servo, (arm,), _ = make()
    servo.hold(2)

    def refuse(of):
        assert of is servo
        raise Refused("the guardian has taken the arm over")

    servo.before_tick = refuse
    with pytest.raises(Refused):
        servo.tick(START)
    assert (len(arm.sent), servo.ticks) == (2, 2)


def test_a_tick_that_was_paused_before_it_sends_sends_nothing():
    servo, (arm,), _ = make()
    servo.hold(2)
    pauses = [0.06]

    def pause(_):
        arm.clock[0] += pauses.pop() if pauses else 0.0

    servo.before_tick = pause
    servo.tick(START)
    assert (len(arm.sent), servo.ticks) == (2, 3)
    servo.tick(START)
    assert len(arm.sent) == 3
    assert not servo.stopped


def test_the_servo_says_what_is_hot():
    servo, (arm,), _ = make()
    assert servo.hot == ""
    state = arm.state._replace(temp_rotor=np.full(8, 90, dtype=np.uint8))
    servo._take(0, state)
    assert "coil 90" in servo.hot


def test_a_loop_that_stalls_in_mid_motion_is_stopped_and_named():
    servo, (arm,), _ = make()
    servo.hold(5)
    arm.busy_s = 0.15
    servo.tick(START)
    arm.busy_s = 0.0
    assert servo.stopped
    assert servo.stop_reason == "loop_stalled"
    assert servo.events == ["loop_stalled"]
    held = servo.command.copy()
    servo.hold(10)
    np.testing.assert_array_equal(servo.command, held)
    servo.resume()
    assert not servo.stopped


def test_a_tick_that_is_only_late_stops_nothing():
    servo, _, _ = make(busy_s=0.05)
    servo.hold(5)
    assert not servo.stopped
    assert servo.overruns == 5
