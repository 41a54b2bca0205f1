"""Pick and place: what counts as placed, what breaks a rule, and an expert that does it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from experts import drive, expert_for, rate, specs

from fleet.kinematics import ArmKinematics
from harness.failures import FAILURES
from harness.sim.env import BatchEnv
from harness.sim.grid import Grid
from harness.sim.gym_env import contract_for
from harness.sim.peaks import hand_force
from harness.sim.plan import try_axes
from harness.sim.reach import Reach, outputs
from harness.sim.scene import SceneConfig, build_scene
from harness.tasks import TASKS
from harness.tasks.box_grasp import BOX_GRASP
from harness.tasks.pick_place import PICK_PLACE, PICK_PLACE_ALIGNED
from harness.tasks.task import Course, Truth
from policies.contract import ROBOT_CLASSES, Contract
from policies.training.imitation import contract_of
from policies.training.recipe import Recipe
from registry.config import load_gates_yaml, load_policy_yaml
from registry.yaml_file import load_yaml

GOAL = (0.25, -0.2, PICK_PLACE.rest_z, 0.3)
ROW = np.array([0])
SHIPPED = Path(__file__).parents[2] / "policies" / "pick_place"


class Still:
    """A policy that moves nothing."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract

    def reset(self) -> None:
        """It remembers nothing."""

    def act(self, observation: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.zeros((len(observation), len(self.contract.joints)), dtype=np.float32)


def lying(x: float = 0.25, y: float = -0.2, z: float = PICK_PLACE.rest_z, **facts: float) -> Truth:
    """A cube at rest, let go of, at its goal unless told otherwise."""
    at = {"yaw": 0.3, "joint_speed": 0.0, "speed": 0.0, "hand_force": 0.0, "released": 1.0} | facts
    return Truth(
        position=np.array([[x, y, z]]),
        yaw=np.array([at["yaw"]]),
        touch=np.array([not at["released"]]),
        rest_z=np.array([PICK_PLACE.rest_z]),
        goal=np.array([GOAL]),
        joint_speed=np.array([at["joint_speed"]]),
        released=np.array([bool(at["released"])]),
        speed=np.array([at["speed"]]),
        hand_force=np.array([at["hand_force"]]),
    )


@pytest.mark.parametrize(
    ("truth", "placed"),
    [
        (lying(), True),
        (lying(x=0.269), True),
        (lying(x=0.271), False),
        (lying(x=0.265, y=-0.215), False),
        (lying(released=0.0), True),
        (lying(z=PICK_PLACE.rest_z + 0.01, released=0.0), False),
        (lying(speed=0.05), False),
        (lying(yaw=1.2), True),
    ],
)
def test_placed_is_near_put_down_and_still(truth: Truth, placed: bool) -> None:
    assert PICK_PLACE.achieved(truth).tolist() == [placed]


@pytest.mark.parametrize(
    ("yaw", "placed"), [(0.3, True), (0.39, True), (0.41, False), (0.3 - 3 * np.pi / 2, True)]
)
def test_orientation_counts_modulo_quarter_turns_where_it_is_asked(
    yaw: float, placed: bool
) -> None:
    assert PICK_PLACE_ALIGNED.achieved(lying(yaw=yaw)).tolist() == [placed]


def test_rules_of_speed_and_force_begin_at_their_limits() -> None:
    broken = PICK_PLACE.violated(lying(joint_speed=1.5, hand_force=19.9))
    assert {mode: rows.tolist() for mode, rows in broken.items()} == {
        "overspeed": [True],
        "excess_force": [False],
    }
    assert PICK_PLACE.violated(lying(joint_speed=1.49, hand_force=20.0))["excess_force"].all()


@pytest.mark.parametrize(
    ("facts", "mode"),
    [
        ({}, "miss_grasp"),
        ({"fell": True}, "collision"),
        ({"grasped": True, "distance": 0.05}, "wrong_position"),
        ({"grasped": True, "distance": 0.05, "lost": True}, "dropped"),
        ({"grasped": True, "fell": True}, "dropped"),
        ({"grasped": True, "distance": 0.05, "held": True}, "timeout"),
        ({"grasped": True, "distance": 0.01, "holding": True}, "timeout"),
    ],
)
def test_failures_are_told_apart(facts: dict[str, Any], mode: str) -> None:
    nothing = Course(
        lift=0.0, grasped=False, holding=False, fell=False, distance=0.1, held=False, lost=False
    )
    assert PICK_PLACE.failure_mode(replace(nothing, **facts)) == mode
    assert mode in FAILURES


def test_a_cube_at_its_goal_but_turned_is_told_as_such() -> None:
    there = Course(
        lift=0.05, grasped=True, holding=False, fell=False, distance=0.01, held=False, lost=False
    )
    assert PICK_PLACE_ALIGNED.failure_mode(there) == "wrong_orientation"
    assert PICK_PLACE.failure_mode(there) == "timeout"
    assert PICK_PLACE.violated(lying()).keys() <= FAILURES.keys()


def test_cube_and_goal_lie_in_reach_and_apart() -> None:
    places = [PICK_PLACE.place(np.random.default_rng(seed)) for seed in range(300)]
    ways = np.array([np.hypot(p.goal[0] - p.x, p.goal[1] - p.y) for p in places])
    assert np.mean(ways >= PICK_PLACE.apart_m) > 0.98
    assert ways.min() > 0.04
    for bounds, values in (
        (PICK_PLACE.x, [p.goal[0] for p in places]),
        (PICK_PLACE.y, [p.goal[1] for p in places]),
        (PICK_PLACE.yaw, [p.goal[3] for p in places]),
    ):
        assert bounds[0] <= min(values) < max(values) <= bounds[1]
    again = PICK_PLACE.place(np.random.default_rng(7))
    assert again.goal == places[7].goal


def test_only_scenes_of_a_watched_task_measure_force() -> None:
    watched = {name: task.watched for name, task in TASKS.items()}
    assert watched == {"box-grasp": False, "pick-place": True, "pick-place-aligned": True}
    lift = build_scene(SceneConfig.of(BOX_GRASP, ("right",)))
    place = build_scene(SceneConfig.of(PICK_PLACE, ("right",)))
    assert lift.force.shape == (0, 2, 3)
    assert place.force.shape == (1, 2, 3)
    assert place.model.nsensor == lift.model.nsensor + 2


def test_a_policy_sees_its_goal_and_nothing_else_of_it() -> None:
    env = BatchEnv(contract_for("pick-place"), 2)
    env.reset([0, 1], specs("pick-place", 2))
    names = [term.name for term in env.contract.observation]
    assert names[-2:] == ["goal_position", "goal_yaw"]
    goal = env.truth(np.arange(2)).goal
    np.testing.assert_allclose(env.observe([0, 1])[:, -5:-2], goal[:, :3], rtol=1e-6)
    np.testing.assert_allclose(env.observe([0, 1])[:, -2], np.cos(4 * goal[:, 3]), atol=1e-6)


def test_a_goal_rises_with_the_table_and_with_the_cube() -> None:
    env = BatchEnv(contract_for("pick-place"), 3)
    todo = [
        specs("pick-place", 1)[0],
        specs("pick-place", 1, table_height=0.02)[0],
        specs("pick-place", 1, size=1.25)[0],
    ]
    env.reset([0, 1, 2], todo)
    truth = env.truth(np.arange(3))
    np.testing.assert_allclose(truth.goal[:, 2] - truth.goal[0, 2], [0.0, 0.02, 0.005])
    np.testing.assert_allclose(truth.goal[:, 2], truth.rest_z)


def test_a_fast_joint_ends_the_episode() -> None:
    made = contract_for("pick-place")
    made = made.model_copy(
        update={"action": made.action.model_copy(update={"limit": (0.06,) * 8, "ema_alpha": 1.0})}
    )
    env = BatchEnv(made, 1)
    env.reset([0], specs("pick-place", 1))
    rush = np.zeros((1, 8), dtype=np.float32)
    rush[0, 3] = -1.0
    steps = 1
    while not env.step([0], rush)[0]:
        steps += 1
    record = env.record(0)
    assert (record.success, record.failure_mode) == (False, "overspeed")
    assert record.metrics["speed_rad_s"] >= PICK_PLACE.speed_max
    assert steps < 25


def test_a_hand_that_presses_on_the_table_ends_the_episode() -> None:
    env = BatchEnv(contract_for("pick-place"), 1)
    env.reset([0], specs("pick-place", 1, table_height=0.05))
    arm, limit = ArmKinematics.load("right"), np.array(env.contract.action.limit)
    reach = Reach(arm, np.array(PICK_PLACE.start_q[:7]), 0.05, 0.03)
    down = np.array([[0.0, 0.0, -0.005]])
    for _ in range(200):
        q = env.measure(ROW).command[:, :7]
        move = reach.solve(q, down, np.zeros((1, 3)), arm.fk(q)[1])
        if env.step([0], outputs(move, np.zeros(1), limit))[0]:
            break
    record = env.record(0)
    assert (record.success, record.failure_mode) == (False, "excess_force")
    assert record.metrics["force_n"] >= PICK_PLACE.force_max


def test_the_grips_squeeze_is_no_force_but_the_cubes_weight_is() -> None:
    carried: list[tuple[float, float]] = []

    def watch(env: BatchEnv) -> None:
        truth = env.truth(ROW)
        if truth.lift[0] > 0.04 and truth.touch[0]:
            finger = float(np.abs(env.measure(ROW).tau[0, 7]))
            carried.append((float(hand_force(env.world, ROW)[0]), finger))

    (record,) = drive(specs("pick-place", 1, mass=1.75), watch=watch)
    force, torque = np.median(np.array(carried), axis=0)
    assert record.success
    assert force == pytest.approx(0.35 * 9.81, rel=0.1)
    assert torque > 5.0


def test_success_needs_the_whole_hold_and_latches() -> None:
    held = 0
    env = BatchEnv(contract_for("pick-place"), 1)
    expert = expert_for(env)
    env.reset([0], specs("pick-place", 1))
    while True:
        done = env.step([0], expert.act(env.measure(ROW), env.truth(ROW)))[0]
        held = held + 1 if PICK_PLACE.achieved(env.truth(ROW))[0] else 0
        assert bool(done) == (held == 25)
        if done:
            break
    assert env.record(0).success


def test_the_shipped_gate_spans_the_tasks_masses_and_says_why_no_arm_tries_it() -> None:
    config = load_policy_yaml(SHIPPED)
    gates = load_gates_yaml(config.gates_path)
    assert gates.sim is not None
    assert gates.sim.task == config.task == PICK_PLACE.name
    masses = gates.sim.grid["mass"]
    assert min(masses) * PICK_PLACE.box_mass == pytest.approx(0.05)
    assert max(masses) * PICK_PLACE.box_mass == pytest.approx(0.5)
    assert gates.sim.population == 5000
    assert gates.hil is None
    assert "judge" in gates.not_applicable["hil"]
    assert config.recipe is not None
    recipe = load_yaml(SHIPPED / config.recipe, Recipe)
    assert contract_of(recipe).check(ROBOT_CLASSES[config.robot_class], config.task) is None


@pytest.mark.slow
def test_every_axis_of_the_shipped_gate_is_alive() -> None:
    made = contract_for("pick-place")
    gates = load_gates_yaml(SHIPPED / "gates.yaml")
    assert gates.sim is not None
    reports = try_axes(Still(made), Grid.of("pick-place", gates.sim.axes, 2))
    assert {report.axis: report.alive for report in reports} == {
        "delay": True,
        "friction": True,
        "mass": True,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "axes",
    [
        {},
        {"friction": 0.3, "mass": 2.5},
        {"friction": 1.5, "mass": 0.25, "delay": 3},
        {"size": 1.3, "kp": 0.7, "latency": 0.04},
    ],
)
def test_the_expert_places_gently_where_the_gate_is(axes: dict[str, float]) -> None:
    records = drive(specs("pick-place", 32, **axes))
    assert rate(records) >= 0.95
    assert max(r.metrics["speed_rad_s"] for r in records if r.success) < PICK_PLACE.speed_max
    assert max(r.metrics["distance_m"] for r in records if r.success) < PICK_PLACE.tolerance_m


@pytest.mark.slow
def test_the_expert_turns_the_cube_where_it_is_asked() -> None:
    assert rate(drive(specs("pick-place-aligned", 24))) >= 0.95
