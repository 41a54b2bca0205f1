"""One attempt on an emulated arm: order, outcomes, and who is to blame for what."""

import errno

import can
import numpy as np
import pytest

from fleet import answers
from fleet.attempt import SceneCheck
from fleet.camera import Pose
from fleet.can.arm import REPLY_WINDOW_S, Arm
from fleet.can.faults import ArmFault, FaultKind
from fleet.can.frames import Status
from fleet.kinematics import load_arms
from fleet.limits import SafetyLimits
from fleet.runtime import Runtime
from fleet.servo import Servo
from fleet.sight import POSE_AGE_S
from harness.hil.model import InfraCode, InfraError
from harness.sim.mirror import MIRROR
from harness.tasks.box_grasp import BOX_GRASP
from harness.tasks.detector import Detector, DetectorModel
from harness.twin.physics import TwinConfig, TwinWorld
from policies.contract import ROBOT_CLASSES, parse_contract
from policies.process import PolicyFailedError
from registry.errors import Refused, ServiceFailed

WIDTHS = {"joint_position": 8, "joint_command": 8, "tcp_position": 3, "gripper_torque": 1}


def contract_for(robot_class):
    robot = ROBOT_CLASSES[robot_class]
    arms = len(robot.arms)
    kinematics = load_arms(robot_class)
    return parse_contract(
        {
            "schema": "policyctl.contract/1",
            "task": "box-grasp",
            "robot_class": robot_class,
            "arms": [arm.name for arm in robot.arms],
            "joints": list(robot.joints),
            "rate_hz": 50,
            "observation": [
                *({"name": name, "width": width * arms} for name, width in WIDTHS.items()),
                {"name": "object_position", "width": 3},
            ],
            "action": {
                "space": "delta",
                "limit": [0.04, 0.04, 0.06, 0.06, 0.06, 0.06, 0.06, 0.1] * arms,
                "ema_alpha": 1.0,
                "low": [float(x) for arm in kinematics for x in arm.q_min],
                "high": [float(x) for arm in kinematics for x in arm.q_max],
            },
            "memory_mb": 64,
            "load_s": 1.0,
            "latency_ms": 20.0,
        }
    )


class ScriptedPolicy:
    """Answers every observation by a function of the step."""

    def __init__(self, contract, answer):
        self.contract = contract
        self.answer = answer
        self.log = []
        self.steps = 0

    def reset(self):
        self.log.append("reset")
        self.steps = 0

    def act(self, observation):
        assert observation.shape == (1, self.contract.width)
        assert observation.dtype == np.float32
        self.steps += 1
        return np.asarray(self.answer(self.steps), dtype=np.float32)


class PatientJudge:
    """Says what it was told to say after so many steps."""

    version = "patient/1"

    def __init__(self, steps=10, says="success"):
        self.steps, self.says = steps, says
        self.seen = 0

    def reset(self):
        self.seen = 0

    def update(self, q, dq, tau, dt):
        assert dt == pytest.approx(0.02)
        self.seen += 1

    def outcome(self):
        return self.says if self.seen >= self.steps else None

    def failure_mode(self):
        return "miss_grasp"


class TwinTask:
    horizon_s = 0.8

    def __init__(self, arms):
        start = np.array(BOX_GRASP.start_q)
        self.start_q = np.concatenate([start if a == "right" else start * MIRROR for a in arms])


class Rig:
    """A twin with everything an attempt needs."""

    def __init__(self, robot_class="openarm-v2-right", **limits):
        arms = tuple(arm.name for arm in ROBOT_CLASSES[robot_class].arms)
        self.world = TwinWorld(TwinConfig(seed=5, arms=arms))
        self.buses = [self.world.bus(name) for name in arms]
        self.arms = [Arm(bus, name=name) for bus, name in zip(self.buses, arms, strict=True)]
        for arm in self.arms:
            arm.connect()
            arm.enable()
        kinematics = load_arms(robot_class)
        bounds = SafetyLimits.for_arms(kinematics, table_z=BOX_GRASP.table_z, **limits)
        self.servo = Servo(self.arms, kinematics, bounds, physics_s=0.001)
        self.servo.start()
        self.contract = contract_for(robot_class)
        self.task = TwinTask(arms)
        self.joints = 8 * len(arms)
        self.log = []
        self.ready = SceneCheck(True, facts={"scene": 1})
        self.poses = self.world.pose_source()
        self.runtime = Runtime(self.servo, kinematics, self)

    def read(self):
        return self.poses.read() if self.poses else None

    def prepare(self):
        self.log.append("scene")
        self.world.new_scene()
        return self.ready

    def still(self, step):
        return np.zeros((1, self.joints))

    def attempt(self, answer=None, judge=None, **options):
        policy = ScriptedPolicy(self.contract, answer or self.still)
        policy.log = self.log
        return self.runtime.run_attempt(
            policy, self.task, judge or PatientJudge(), self.opened, self, **options
        )

    def opened(self, facts):
        self.log.append("opened")
        self.at_opening = self.servo.command.copy()
        self.facts = facts

    def close(self):
        for bus in self.buses:
            bus.shutdown()


@pytest.fixture
def rig():
    rig = Rig()
    yield rig
    rig.close()


def sway(step):
    row = np.zeros((1, 8))
    row[0, 0] = 0.4 if step < 10 else -0.4
    return row


def test_the_order_is_home_scene_reset_open_motion(rig):
    moved = {}

    def answer(step):
        moved.setdefault("log", list(rig.log))
        return sway(step)

    episode = rig.attempt(answer)
    assert rig.log == ["scene", "reset", "opened"]
    assert moved["log"] == ["scene", "reset", "opened"]
    np.testing.assert_allclose(rig.at_opening, rig.task.start_q)
    assert rig.facts == episode.scene == {"scene": 1}


def test_a_judged_success(rig):
    episode = rig.attempt(sway, trace=True)
    assert (episode.outcome, episode.failure_mode, episode.judge) == ("success", "", "patient/1")
    assert episode.opened
    assert episode.steps == 10
    assert episode.duration_s == pytest.approx(0.2)
    assert episode.overruns == 0
    assert episode.safety_events == ()
    q, command = episode.trace
    assert q.shape == command.shape == (10, 8)
    assert np.abs(command - q).max() < 0.2


def test_it_ends_at_home_with_the_gripper_open(rig):
    squeeze = np.zeros((1, 8))
    squeeze[0, [0, 7]] = 0.5, 1.0
    rig.attempt(lambda step: squeeze)
    np.testing.assert_allclose(rig.servo.command, rig.task.start_q)
    np.testing.assert_allclose(rig.world.joints(), rig.task.start_q, atol=0.06)


def test_the_horizon_ends_an_undecided_attempt(rig):
    episode = rig.attempt(judge=PatientJudge(steps=10_000))
    assert (episode.outcome, episode.failure_mode, episode.steps) == ("failure", "timeout", 40)


def test_the_judge_names_why_it_failed(rig):
    episode = rig.attempt(judge=PatientJudge(says="failure"))
    assert (episode.outcome, episode.failure_mode) == ("failure", "miss_grasp")


@pytest.mark.parametrize(
    ("answer", "mode"),
    [
        (lambda step: np.full((1, 8), np.nan), "policy_fault"),
        (lambda step: np.zeros((1, 7)), "policy_fault"),
        (lambda step: 1 // 0, "policy_fault"),
        (lambda step: (_ for _ in ()).throw(PolicyFailedError("late", "200 ms")), "late"),
    ],
)
def test_a_policy_that_fails_has_failed_and_the_next_attempt_runs(rig, answer, mode):
    episode = rig.attempt(answer)
    assert (episode.outcome, episode.failure_mode, episode.opened) == ("failure", mode, True)
    assert rig.attempt().outcome == "success"


def test_a_policy_that_is_late_has_failed(rig):
    def slow(step):
        rig.arms[0].wait(0.05)
        return rig.still(step)

    episode = rig.attempt(slow)
    assert (episode.outcome, episode.failure_mode) == ("failure", "late")
    assert "50 ms" in episode.detail


def test_a_policy_that_cannot_reset_has_failed_an_opened_attempt(rig):
    policy = ScriptedPolicy(rig.contract, rig.still)
    policy.reset = lambda: 1 // 0
    episode = rig.runtime.run_attempt(policy, rig.task, PatientJudge(), rig.opened, rig)
    assert (episode.outcome, episode.failure_mode, episode.opened) == (
        "failure",
        "policy_fault",
        True,
    )
    assert rig.log == ["scene", "opened"]


def test_what_happened_before_is_not_told_of_an_attempt_whose_policy_could_not_reset(rig):
    dive = np.zeros((1, 8))
    dive[0, [1, 3]] = -0.5, -0.8
    before = rig.attempt(lambda step: dive, judge=PatientJudge(steps=39))
    assert before.safety_events == ("contact_force",)
    assert before.interventions["contact_force"] > 0
    rig.runtime.resume()
    policy = ScriptedPolicy(rig.contract, rig.still)
    policy.reset = lambda: 1 // 0
    episode = rig.runtime.run_attempt(policy, rig.task, PatientJudge(), rig.opened, rig)
    assert (episode.outcome, episode.failure_mode) == ("failure", "policy_fault")
    assert (episode.safety_events, episode.interventions, episode.steps) == ((), {}, 0)


def test_a_scene_that_is_not_ready_opens_nothing(rig):
    rig.ready = SceneCheck(False, "no box in the rectangle")
    episode = rig.attempt()
    assert (episode.outcome, episode.failure_mode, episode.opened) == ("void", "scene", False)
    assert "rectangle" in episode.detail
    assert rig.log == ["scene"]


def test_without_a_pose_nothing_is_opened(rig):
    rig.poses = None
    episode = rig.attempt()
    assert (episode.outcome, episode.failure_mode, episode.opened) == ("void", "no_pose", False)


def test_a_pose_source_that_dies_in_mid_attempt_voids_it_and_the_arm_holds(rig):
    """The camera's fault is not the policy's: it would grope for where the object was."""
    moving = []

    def answer(step):
        if step == 5:
            rig.poses = None
        moving.append(rig.servo.now())
        return sway(step)

    episode = rig.attempt(answer, PatientJudge(steps=39, says="failure"))
    assert (episode.outcome, episode.failure_mode, episode.opened) == ("void", "no_pose", True)
    assert "ms old" in episode.detail
    assert moving[-1] - moving[4] < POSE_AGE_S + 0.02
    assert not rig.servo.stopped
    assert np.abs(rig.servo.q[0] - np.array(BOX_GRASP.start_q)).max() < 0.15
    assert rig.attempt().failure_mode == "no_pose", "the next one is not opened"
    assert rig.log.count("opened") == 1


def test_a_source_that_was_not_asked_for_long_is_asked_until_it_has_looked(rig):
    rig.prepare = lambda: (rig.servo.hold(400), rig.ready)[1]
    assert rig.attempt(sway).outcome == "success"


def test_the_detectors_normal_dropout_never_reaches_the_limit():
    """Hours of attempts: 512 cameras, each over two runs of its frames."""
    size, steps = 512, 1700
    detector = Detector(size, DetectorModel())
    slots, rngs = np.arange(size), [np.random.default_rng(seed) for seed in range(size)]
    place, yaw = np.zeros((size, 3)), np.zeros(size)
    detector.reset(slots, rngs, place, yaw)
    oldest = 0.0
    for step in range(steps):
        _, _, age = detector.read(slots, np.full(size, 0.02 * step), place, yaw)
        oldest = max(oldest, float(age.max()))
    assert 0.1 < oldest < 0.6 * POSE_AGE_S


def test_an_attempt_that_cannot_be_written_down_does_not_move(rig):
    def full(facts):
        raise OSError(errno.ENOSPC, "no space left on device")

    policy = ScriptedPolicy(rig.contract, sway)
    with pytest.raises(OSError, match="no space"):
        rig.runtime.run_attempt(policy, rig.task, PatientJudge(), full, rig)
    assert policy.steps == 0
    assert rig.attempt().outcome == "success"


def test_a_stop_ends_the_attempt_and_a_person_has_to_resume(rig):
    asked = []

    def stop():
        asked.append(1)
        return "stopped" if len(asked) > 5 else None

    episode = rig.attempt(sway, should_stop=stop)
    assert (episode.outcome, episode.failure_mode, episode.steps) == ("failure", "stopped", 5)
    held = rig.servo.command.copy()
    again = rig.attempt(sway)
    assert (again.outcome, again.failure_mode, again.opened) == ("void", "protective_stop", False)
    np.testing.assert_array_equal(rig.servo.command, held)
    rig.runtime.resume()
    assert rig.attempt(sway).outcome == "success"


def test_after_a_stop_the_arm_goes_on_from_where_it_is_not_from_where_it_was(rig):
    (arm,) = rig.arms
    rig.servo.protective_stop("operator")
    stopped_at = rig.servo.command.copy()
    arm.disable()
    arm.wait(0.3)
    arm.enable()
    arm.wait(0.05)  # limp until its first command
    rig.runtime.resume()
    assert np.abs(rig.servo.command - stopped_at).max() > 0.1, "the arm has sunk"
    np.testing.assert_allclose(rig.servo.command, arm.refresh().q, atol=1e-3)


def test_hold_is_safe_at_any_time_even_with_a_dead_motor(rig):
    rig.runtime.hold()
    rig.world.bank().fail(2, Status.COIL_OVER_TEMPERATURE)
    rig.runtime.hold()
    rig.runtime.hold()
    assert rig.attempt().outcome == "void"


def test_a_motor_that_faults_under_the_policy_is_its_failure(rig):
    def answer(step):
        if step == 3:
            rig.world.bank().fail(3, Status.OVERLOAD)
        return sway(step)

    episode = rig.attempt(answer)
    assert (episode.outcome, episode.failure_mode) == ("failure", "arm_fault")
    assert "joint4" in episode.detail
    assert rig.attempt().outcome == "void"


def test_lost_communication_voids_the_attempt(rig):
    def answer(step):
        if step == 3:
            rig.world.bank().mute(1)
        return sway(step)

    episode = rig.attempt(answer, judge=PatientJudge(steps=39))
    assert (episode.outcome, episode.failure_mode, episode.opened) == ("void", "rig_fault", True)
    assert "joint2" in episode.detail


def test_an_adapter_that_vanishes_between_two_exchanges_voids_the_attempt(rig):
    (bus,), gone = rig.buses, []
    receive = bus.recv

    def recv(timeout=None):
        if gone and timeout > 1.1 * REPLY_WINDOW_S:  # the wait for the next tick
            raise can.CanOperationError("no such device")
        return receive(timeout)

    def answer(step):
        if step == 3:
            gone.append(True)
        return sway(step)

    bus.recv = recv
    episode = rig.attempt(answer, judge=PatientJudge(steps=39))
    assert (episode.outcome, episode.failure_mode, episode.opened) == ("void", "rig_fault", True)
    assert "no such device" in episode.detail


@pytest.mark.parametrize("error", [ServiceFailed, Refused])
def test_a_servo_that_fails_under_the_policy_voids_the_attempt_and_closes_it(rig, error):
    """Not by a fault of an arm: such as a servo process whose guardian has taken over."""
    follow, servo = rig.servo.follow, rig.servo

    def breaks(command, ticks):
        if rig.failing:
            raise error("the servo is gone", evidence="killed")
        follow(command, ticks)

    def answer(step):
        rig.failing = step >= 5
        return sway(step)

    rig.failing, servo.follow = False, breaks
    episode = rig.attempt(answer, PatientJudge(steps=39))
    assert (episode.outcome, episode.failure_mode, episode.opened) == ("void", "rig_fault", True)
    assert "the servo is gone" in episode.detail
    assert "killed" in episode.detail
    assert servo.stopped
    assert not rig.attempt().opened


@pytest.mark.parametrize("error", [ServiceFailed, Refused])
@pytest.mark.parametrize(("at", "opened"), [("move_to", False), ("begin", True)])
def test_a_servo_that_fails_before_the_first_step_is_void_too(rig, error, at, opened):
    def breaks(*args, **more):
        raise error("the guardian has taken over", evidence="right arm")

    if at == "move_to":
        rig.servo.move_to = breaks
    else:
        rig.servo.begin = breaks
    episode = rig.attempt(sway, PatientJudge(steps=39))
    assert (episode.outcome, episode.failure_mode, episode.opened) == ("void", "rig_fault", opened)
    assert "the guardian has taken over" in episode.detail


@pytest.mark.parametrize("error", [ServiceFailed, Refused])
@pytest.mark.parametrize("where", ["scene", "eyes"])
def test_a_scene_or_a_camera_that_fails_before_the_attempt_voids_it_and_the_next_one_runs(
    rig, monkeypatch, error, where
):
    def breaks():
        raise error("no twin answers", evidence="twin.sock")

    with monkeypatch.context() as patch:
        patch.setattr(rig, "prepare" if where == "scene" else "read", breaks)
        episode = rig.attempt(sway)
    assert (episode.outcome, episode.failure_mode, episode.opened) == ("void", "rig_fault", False)
    assert "no twin answers" in episode.detail
    assert "opened" not in rig.log
    assert rig.attempt(sway).outcome == "success"


@pytest.mark.parametrize("where", ["prepare", "read"])
def test_a_failure_that_the_station_has_a_name_for_passes_as_it_is(rig, monkeypatch, where):
    def breaks():
        raise InfraError(InfraCode.POSE, "the lens is covered")

    monkeypatch.setattr(rig, where, breaks)
    with pytest.raises(InfraError, match="E_POSE: the lens is covered") as caught:
        rig.attempt(sway)
    assert caught.value.infra is InfraCode.POSE


def test_a_servo_that_says_nothing_after_the_attempt_keeps_it_from_nothing(rig):
    def gone():
        raise ArmFault(FaultKind.ADAPTER_LOST, "right", (), "the servo does not answer")

    def answer(step):
        if step == 5:
            rig.servo.interventions = gone
            rig.world.bank().mute(1)
        return sway(step)

    episode = rig.attempt(answer, PatientJudge(steps=39))
    assert (episode.outcome, episode.failure_mode, episode.opened) == ("void", "rig_fault", True)


def test_late_ticks_of_other_attempts_are_not_told_where_the_first_count_is_not_known(
    rig, monkeypatch
):
    asked = []

    def overruns(servo):
        asked.append(1)
        if len(asked) == 1:
            raise ServiceFailed("the servo does not answer")
        return 1000

    count = property(overruns, lambda servo, value: None)
    monkeypatch.setattr(type(rig.servo), "overruns", count, raising=False)
    episode = rig.attempt(sway)
    assert len(asked) == 2
    assert (episode.outcome, episode.overruns) == ("success", 0)


def test_a_stop_that_follows_a_torque_stop_is_not_undone(rig):
    """The servo keeps its first reason; who stops the arm after that is not overruled."""
    asked = []

    def should_stop():
        asked.append(1)
        if len(asked) == 5:
            rig.servo.halt("torque")
            return "operator_stop"
        return None

    episode = rig.attempt(sway, PatientJudge(steps=39), should_stop=should_stop)
    assert (episode.outcome, episode.failure_mode) == ("failure", "operator_stop")
    assert rig.servo.stopped


def test_an_arm_is_stopped_before_anybody_waits_for_the_policy(rig, monkeypatch):
    stopped = []
    close = answers.SingleAnswers.close

    def closing(self):
        stopped.append(rig.servo.stopped)
        close(self)

    monkeypatch.setattr(answers.SingleAnswers, "close", closing)
    judge = PatientJudge()
    judge.update = lambda *args: 1 // 0
    with pytest.raises(ZeroDivisionError):
        rig.attempt(sway, judge)
    assert stopped == [True]


def test_a_judge_that_breaks_leaves_the_arm_holding(rig):
    judge = PatientJudge()
    judge.update = lambda *args: 1 // 0
    with pytest.raises(ZeroDivisionError):
        rig.attempt(sway, judge)
    assert rig.servo.stopped
    assert rig.servo.stop_reason == "interrupted"


def test_a_policy_that_dives_is_held_above_the_table(rig):
    dive = np.zeros((1, 8))
    dive[0, [1, 3]] = -0.25, -0.4
    episode = rig.attempt(lambda step: dive, judge=PatientJudge(steps=39), trace=True)
    heights = rig.servo.limits.arms[0].fk(episode.trace[0][:, :7])[0][:, 2]
    assert episode.interventions["workspace"] > 10
    assert heights.min() > BOX_GRASP.table_z + 0.005
    assert episode.safety_events == ()
    assert rig.attempt().outcome == "success"


def test_a_policy_that_drives_the_hand_hard_onto_the_box_is_a_class_a_event(rig):
    dive = np.zeros((1, 8))
    dive[0, [1, 3]] = -0.5, -0.8
    episode = rig.attempt(lambda step: dive, judge=PatientJudge(steps=39))
    assert (episode.outcome, episode.failure_mode) == ("failure", "collision")
    assert episode.safety_events == ("contact_force",)
    assert rig.servo.stopped, "until a person resumes"
    assert rig.attempt().failure_mode == "protective_stop"


def test_a_measured_breach_is_a_class_a_event():
    rig = Rig(low=(-0.15, -0.62, -0.25))
    episode = rig.attempt()
    rig.close()
    assert (episode.outcome, episode.failure_mode) == ("failure", "collision")
    assert episode.safety_events == ("workspace_breach",)
    assert rig.servo.stopped


def test_what_shaping_and_protection_changed_is_counted_apart(rig):
    push = np.full((1, 8), 0.0)
    push[0, 2] = 3.0
    episode = rig.attempt(lambda step: push)
    assert episode.interventions["shape_delta"] == 10
    assert episode.interventions["acceleration"] > 0


def test_two_arms_are_one_robot():
    rig = Rig("openarm-v2-bimanual")
    push = np.zeros((1, 16))
    push[0, [4, 12]] = 0.5, -0.5
    episode = rig.attempt(lambda step: push, trace=True)
    assert episode.outcome == "success"
    q, command = episode.trace
    assert command.shape == (10, 16)
    np.testing.assert_allclose(q[-1, 4], -q[-1, 12], atol=0.02)
    np.testing.assert_allclose(rig.servo.command, rig.task.start_q)
    rig.close()


@pytest.mark.parametrize(
    ("trouble", "outcome", "mode"),
    [
        (lambda rig: rig.world.bank().fail(2, Status.OVER_CURRENT), "failure", "arm_fault"),
        (lambda rig: rig.world.bank().fail(2, Status.UNDER_VOLTAGE), "failure", "arm_fault"),
        (lambda rig: rig.world.bank().fail(2, Status.DISABLED), "void", "rig_fault"),
        (lambda rig: rig.world.bank().mute(2), "void", "rig_fault"),
        (lambda rig: [rig.world.bank().mute(i) for i in range(8)], "void", "rig_fault"),
    ],
)
def test_a_fault_in_mid_attempt_counts_as_the_table_says(rig, trouble, outcome, mode):
    def answer(step):
        if step == 5:
            trouble(rig)
        return sway(step)

    episode = rig.attempt(answer, PatientJudge(steps=39))
    assert (episode.outcome, episode.failure_mode, episode.opened) == (outcome, mode, True)
    assert (rig.arms[0].fault.rule.outcome, rig.arms[0].fault.rule.mode) == (outcome, mode)
    assert rig.servo.stopped


def test_a_camera_that_repeats_one_frame_voids_the_attempt_and_the_next_is_not_opened(rig):
    real = rig.poses

    def answer(step):
        if step == 5:
            seen = real.read()
            rig.poses = type(
                "Frozen", (), {"read": lambda self: Pose(seen.position, seen.yaw, 0.04)}
            )()
        return sway(step)

    episode = rig.attempt(answer, PatientJudge(steps=39))
    assert (episode.outcome, episode.failure_mode, episode.opened) == (
        "void", "camera_frozen", True,
    )  # fmt: skip
    assert 5 < episode.steps < 15
    assert not rig.attempt().opened
    rig.poses = real
    assert rig.attempt(sway).outcome == "success"


def test_a_hot_motor_ends_the_attempt_and_the_next_waits_until_it_has_cooled(rig):
    bank = rig.world.bank("right")

    def answer(step):
        if step == 5:
            bank.coil[4] = 92.0
        return sway(step)

    episode = rig.attempt(answer, PatientJudge(steps=39))
    assert (episode.outcome, episode.failure_mode) == ("failure", "motor_hot")
    assert not rig.servo.stopped
    bank.coil[4] = 80.0
    assert (rig.attempt().failure_mode, rig.log.count("opened")) == ("motor_hot", 1)
    bank.coil[4] = 60.0
    cooled = rig.attempt(sway)
    assert (cooled.outcome, cooled.failure_mode, cooled.detail) == ("success", "", "")


def test_the_whole_order_on_the_twin_from_home_to_home(rig):
    """Every port writes one log: motions of the servo, scene, policy, attempt, judge."""
    servo, log = rig.servo, rig.log
    move_to = servo.move_to

    def moved(goal, *args, **options):
        opens = abs(goal[7] - servo.command[7]) > 0.05
        home = np.allclose(goal, rig.task.start_q)
        log.append("home" if home else "release" if opens else "move")
        return move_to(goal, *args, **options)

    servo.move_to = moved

    class Judge(PatientJudge):
        def outcome(self):
            found = super().outcome()
            if found:
                log.append("judged")
            return found

    def answer(step):
        log.append("act")
        squeeze = np.zeros((1, 8))
        squeeze[0, [0, 7]] = 0.5, 1.0
        return squeeze

    rig.attempt(answer, Judge(steps=3))
    assert log == [
        "home", "scene", "reset", "opened", "act", "act", "act", "judged", "release", "home",
    ]  # fmt: skip


def test_the_hardware_e_stop_is_observed_and_nothing_is_sent_until_a_person_resumes(rig):
    """Power gone from all motors under the policy."""
    bank = rig.world.bank("right")

    def answer(step):
        if step == 3:
            for slot in range(8):
                bank.fail(slot, Status.UNDER_VOLTAGE)
        return sway(step)

    episode = rig.attempt(answer, PatientJudge(steps=39))
    assert episode.opened
    assert episode.failure_mode in ("arm_fault", "rig_fault")
    assert rig.servo.stopped
    assert rig.servo.stop_reason == "arm_fault"
    sent = []
    send = rig.buses[0].send
    rig.buses[0].send = lambda msg, timeout=None: (sent.append(msg), send(msg, timeout))
    again = rig.attempt(sway)
    assert (again.outcome, again.failure_mode, again.opened) == ("void", "protective_stop", False)
    assert sent == [], "no frame at all goes to a stopped arm in fault"


def test_demo_station_and_agent_run_attempts_by_this_runtime_alone():
    """Each builds its robot by `ci.rig.build_rig`, which makes the one `Runtime` there is."""
    import ast
    from pathlib import Path

    import ci

    room = Path(ci.__file__).parent
    makes = set()
    for room_path in (room, room.parent / "harness", room.parent / "fleet"):
        for path in room_path.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Runtime":
                    makes.add(path.relative_to(room.parent).as_posix())
    assert makes == {"ci/rig.py"}
    for user in ("agent.py", "station.py"):
        names = {n.id for n in ast.walk(ast.parse((room / user).read_text()))
                 if isinstance(n, ast.Name)}  # fmt: skip
        assert "build_rig" in names
        assert "Servo" not in names
