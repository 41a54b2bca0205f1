"""A grid is a fixed population: numbered, named, and equal in its scenes from cell to cell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim_policies import ExpertPolicy, contract

from harness.sim.env import BatchEnv
from harness.sim.executors.threads import InProcess
from harness.sim.grid import Grid
from harness.sim.randomization import AXES as NAMED
from registry.errors import ConfigError

SCALE = "scale from 0.1 to 20 times the nominal"
AXES = {"friction": (0.3, 0.5, 0.8, 1.0, 1.5), "mass": (0.5, 1, 2), "delay": (0, 1, 2, 3)}


def test_the_reference_grid_has_five_thousand_episodes() -> None:
    axes = {**AXES, "mass": (0.5, 0.75, 1, 1.5, 2)}
    grid = Grid.of("box-grasp", axes, 50)
    assert grid.population == 5000
    assert len({grid.key(number) for number in range(5000)}) == 5000
    assert len({grid.spec(number) for number in range(5000)}) == 5000


def test_an_episode_has_its_cells_physics() -> None:
    grid = Grid.of("box-grasp", AXES, 50)
    cell, episode = grid.place(grid.population - 1)
    spec = grid.spec(grid.population - 1)
    assert cell.name == "delay=3 friction=1.5 mass=2"
    assert episode == 49
    found = {(c.target, c.field): (c.operation, c.value) for c in spec.changes}
    assert found["box", "friction"] == ("set", 1.5)
    assert found["box", "mass"] == ("scale", 2.0)
    assert found["command", "delay"] == ("set", 3.0)
    assert grid.key(grid.population - 1) == "box-grasp:3.4.2:49"


@given(st.permutations(sorted(AXES)))
def test_the_population_does_not_depend_on_how_the_axes_are_written_down(names: list[str]) -> None:
    grid = Grid.of("box-grasp", {name: AXES[name] for name in names}, 3)
    assert grid == Grid.of("box-grasp", AXES, 3)


def test_a_number_outside_the_population_is_refused() -> None:
    grid = Grid.of("box-grasp", AXES, 2)
    for number in (-1, grid.population):
        with pytest.raises(IndexError):
            grid.place(number)


def test_the_scene_of_an_episode_is_the_same_in_every_cell() -> None:
    grid = Grid.of("box-grasp", AXES, 2)
    same = [n for n in range(grid.population) if grid.place(n)[1] == 1]
    other = next(n for n in range(grid.population) if grid.place(n)[1] == 0)
    env = BatchEnv(contract(), 3)
    env.reset([0, 1, 2], [grid.spec(n) for n in (same[0], same[-1], other)])
    first, last, different = env.observe([0, 1, 2])
    np.testing.assert_array_equal(first, last)
    assert not np.array_equal(first, different)


@pytest.mark.parametrize(
    ("axes", "what", "hint"),
    [
        ({"fricton": (0.5,)}, "there is no axis 'fricton'", "did you mean 'friction'?"),
        (
            {"wind": (0.5,)},
            "there is no axis 'wind'",
            f"axes: {', '.join(NAMED)}",
        ),
        ({"mass": ()}, "a term has values, or a range", ""),
        ({"mass": (1.0, 1.0)}, "axis 'mass' names a value twice", ""),
        ({"friction": (-0.5,)}, "-0.5 is outside 'box.friction'", "set from 0.05 to 3"),
        ({"delay": (99,)}, "99 is outside 'command.delay'", "set from 0 to 15 policy steps"),
        ({"delay": (1.5,)}, "1.5 is no whole number of policy steps", ""),
        (
            {"mass": (float("nan"),)},
            "nan is outside 'box.mass'",
            "scale from 0.1 to 20 times the nominal",
        ),
    ],
)
def test_axes_that_make_no_grid_are_refused_by_name(
    axes: dict[str, tuple[float, ...]], what: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Grid.of("box-grasp", axes, 5, where="gates.yaml:4")
    assert caught.value.what == what
    assert caught.value.hint == hint
    assert caught.value.where == "gates.yaml:4"
    assert next(iter(axes)) in caught.value.field


def test_a_cell_without_episodes_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one episode"):
        Grid.of("box-grasp", AXES, 0)


@pytest.mark.parametrize("axis", ["friction", "mass", "delay"])
def test_every_axis_moves_the_physics(axis: str) -> None:
    """An axis that changed nothing would make the gate's grid a smaller one than it says."""
    values = {"friction": (0.3, 1.5), "mass": (0.5, 2.0), "delay": (0, 3)}[axis]
    grid = Grid.of("box-grasp", {axis: values}, 1)
    ends = {r.digest for r in InProcess(ExpertPolicy(), slots=2).map([grid.spec(0), grid.spec(1)])}
    assert len(ends) == 2
