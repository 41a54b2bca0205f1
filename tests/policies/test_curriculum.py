"""Training's worlds: further axes of a recipe, and ranges that widen while training goes on."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from sim_policies import value

from harness.sim.fields import ARM, FIELDS
from harness.sim.gym_env import contract_for
from harness.sim.randomization import AXES
from harness.sim.scene import SceneConfig, build_scene
from harness.sim.scenery import SURFACES
from harness.sim.teacher import SimClassroom, drawn, narrowed
from policies.formats.native import NativePolicy
from policies.training.imitation import contract_of, train
from policies.training.recipe import Curriculum, Randomization, Recipe, Round
from registry.errors import ConfigError

RANGES = {"friction": [0.4, 1.6], "mass": [0.05, 0.6], "delay": [0, 3]}


def recipe(task: str = "box-grasp", robot: str = "openarm-v2-right", **changes: Any) -> Recipe:
    made = contract_for(task, robot)
    return Recipe.model_validate(
        {
            "policy": task,
            "task": task,
            "robot_class": robot,
            "seed": 3,
            "observation": [term.name for term in made.observation],
            "action": made.action.model_dump(),
            "hidden": [32],
            "rounds": [
                {"driver": "teacher", "episodes": 4, "iterations": 40},
                {"driver": "student", "episodes": 4, "iterations": 40},
                {"driver": "student", "episodes": 4, "iterations": 40},
            ],
            "randomization": RANGES,
        }
        | changes
    )


@pytest.mark.parametrize(
    ("iteration", "share"), [(0, 0.0), (500, 0.0), (875, 0.25), (1250, 0.5), (2000, 1.0), (9e9, 1)]
)
def test_the_guides_schedule(iteration: int, share: float) -> None:
    assert Curriculum().share(iteration) == share


def test_a_round_is_as_wide_as_the_iterations_before_it_say() -> None:
    rounds = [{"driver": "teacher", "episodes": 1, "iterations": n} for n in (750, 500, 1000, 5)]
    plan = recipe(curriculum={"start": 500, "over": 1500}, rounds=rounds)
    assert [plan.width(number) for number in range(4)] == [0.0, 250 / 1500, 0.5, 1.0]
    assert [recipe(rounds=rounds).width(number) for number in range(4)] == [1.0] * 4


def test_ranges_widen_from_the_nominal_world() -> None:
    ranges = Randomization.model_validate(
        {**RANGES, "axes": {"kp": (0.7, 1.3), "latency": (0.01, 0.04), "gravity": (0.95, 1.1)}}
    )
    nominal, half = narrowed(ranges, 0.0), narrowed(ranges, 0.5)
    assert (nominal.friction, nominal.mass, nominal.delay) == ((0.8, 0.8), (0.2, 0.2), (0, 0))
    assert nominal.axes == {"kp": (1.0, 1.0), "latency": (0.0, 0.0), "gravity": (1.0, 1.0)}
    assert half.friction == pytest.approx((0.6, 1.2))
    assert half.mass == pytest.approx((0.125, 0.4))
    assert half.delay == (0, 2)
    assert half.axes["kp"] == pytest.approx((0.85, 1.15))
    assert half.axes["latency"] == pytest.approx((0.005, 0.02))
    assert narrowed(ranges, 1.0) == ranges


@pytest.mark.parametrize("name", sorted(set(AXES) - set(Randomization.model_fields)))
def test_every_named_axis_can_be_in_a_curriculum(name: str) -> None:
    axis = AXES[name]
    made = FIELDS.get((axis.target, axis.field)) or ARM[axis.field]
    ends = made.operations[axis.operation]
    nominal = made.unchanged(axis.operation)
    assert nominal is not None
    assert ends[0] <= nominal <= ends[1]
    rounds = [{"driver": "teacher", "episodes": 1, "iterations": 10}] * 4
    ranges = {"axes": {name: ends}}
    plan = recipe(randomization=ranges, curriculum={"start": 10, "over": 20}, rounds=rounds)
    room = SimClassroom(plan, slots=1)
    seen = [
        [value(room._spec(number, episode), axis.target, axis.field) for episode in range(20)]
        for number in range(4)
    ]
    assert set(seen[0]) == {nominal}
    assert len({*seen[2]}) > 1
    assert ends[0] <= min(seen[3]) < max(seen[3]) <= ends[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", SURFACES)
def test_the_nominal_saturation_is_that_of_the_scene(name: str) -> None:
    scene = build_scene(SceneConfig(visuals=True))
    red, green, blue = map(float, scene.model.geom(name.replace("background", "floor")).rgba[:3])
    assert FIELDS[name, "saturation"].nominal == pytest.approx(
        colorsys.rgb_to_hsv(red, green, blue)[1], abs=1e-6
    )


def test_further_axes_are_drawn_by_seed_and_move_no_other_draw() -> None:
    axes = {"kp": (0.7, 1.3), "observation_delay": (0, 2)}
    plain = SimClassroom(recipe(), slots=1)
    more = SimClassroom(recipe(randomization={**RANGES, "axes": axes}), slots=1)
    one = [plain._spec(1, episode) for episode in range(200)]
    two = [more._spec(1, episode) for episode in range(200)]
    assert [spec.changes for spec in one] == [spec.changes[:5] for spec in two]
    gains = np.array([value(spec, "joints", "kp") for spec in two])
    assert 0.7 <= gains.min() < 0.73 < 1.27 < gains.max() <= 1.3
    assert {value(spec, "observation", "delay") for spec in two} == {0, 1, 2}
    alone = {"observation_delay": axes["observation_delay"]}
    assert [drawn(alone, spec)[0] for spec in one] == [spec.changes[6] for spec in two]
    other = SimClassroom(recipe(randomization={**RANGES, "axes": axes}, seed=4), slots=1)
    assert other._spec(1, 0).changes != two[0].changes


def test_a_recipe_without_them_is_written_as_it_always_was() -> None:
    said = recipe().model_dump(mode="json")
    assert "curriculum" not in said
    assert "axes" not in said["randomization"]
    full = recipe(curriculum={}, randomization={"axes": {"kp": [0.9, 1.1]}})
    said = full.model_dump(mode="json")
    assert said["curriculum"] == {"start": 500, "over": 1500}
    assert Recipe.model_validate(said) == full


@pytest.mark.parametrize(
    "changes",
    [
        {"curriculum": {"start": -1}},
        {"curriculum": {"over": 0}},
        {"randomization": {"axes": {"kp": [1.3, 0.7]}}},
        {"randomization": {"axes": {"friction": [0.3, 0.7]}}},
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        recipe(**changes)


@pytest.mark.parametrize(
    ("axes", "why"), [({"kq": [1, 2]}, "no axis 'kq'"), ({"kp": [0.7, 99]}, "outside 'joints.kp'")]
)
def test_axes_that_the_simulator_does_not_have_are_refused(axes: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as refused:
        SimClassroom(recipe(randomization={"axes": axes}), slots=1)
    assert "randomization.axes.k" in str(refused.value.field)


@pytest.mark.slow
def test_a_recipe_with_a_curriculum_trains() -> None:
    plan = recipe(
        curriculum={"start": 20, "over": 40},
        randomization={**RANGES, "axes": {"kp": [0.8, 1.2], "latency": [0.0, 0.02]}},
    )
    room = SimClassroom(plan, slots=4)
    friction = [
        [value(room._spec(number, episode), "box", "friction") for episode in range(50)]
        for number in range(3)
    ]
    assert set(friction[0]) == {0.8}
    assert 0.6 <= min(friction[1]) < max(friction[1]) <= 1.2
    assert min(friction[2]) < 0.6
    trained = train(plan, room)
    assert len(trained.rounds) == 3
    assert trained.rounds[0]["driver_success"] == 1.0
    policy = NativePolicy(contract_of(plan), trained.network)
    assert np.isfinite(policy.act(np.zeros((1, policy.contract.width), np.float32))).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "robot"),
    [("pick-place", "openarm-v2-left"), ("pick-place-aligned", "openarm-v2-bimanual")],
)
def test_the_classroom_teaches_every_task_on_every_robot(task: str, robot: str) -> None:
    plan = Round(driver="teacher", episodes=8, action_noise=0.03, iterations=1)
    lesson = SimClassroom(recipe(task, robot), slots=8).collect(0, plan, None)
    assert lesson.success >= 0.75
    assert lesson.labels.shape[1] == len(contract_of(recipe(task, robot)).joints)
