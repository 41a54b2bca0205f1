"""What gates.yaml may say of a Gymnasium task: tried on the environment, named when wrong."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gym_worlds
import pytest

import harness.gym
from harness.gym.engine import fingerprint
from harness.gym.tasks import GymTask, dead_axes
from registry.config import load_gates_yaml
from registry.errors import ConfigError
from registry.gates import Term

POLE = {"gymnasium": "CartPole-v1", "success": {"return": 475}}
LEVER = {"gymnasium": "gym_worlds:Lever-v0", "success": "is_success"}
EXIT = {"gymnasium": "highway_env:exit-v1", "success": "is_success"}


def task(data: dict[str, Any], axes: Mapping[str, Term] | None = None) -> GymTask:
    return GymTask.of(data["gymnasium"], data["success"], axes or {}, where="gates.yaml:3")


def moving(option: str) -> Term:
    return Term((0.0, 1.0), target="reset", field=option, operation="set")


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"gymnasium": "Carpole-v1"}, "sim.task.gymnasium", "no Gymnasium environment 'Carpole"),
        ({"gymnasium": "CartPole-v9"}, "sim.task.gymnasium", "no Gymnasium environment"),
        ({"gymnasium": "not_there:X-v0"}, "sim.task.gymnasium", "no Gymnasium environment"),
        ({"gymnasium": "Car Pole"}, "sim.task.gymnasium", "cannot be made"),
        ({"success": "is_success"}, "sim.task.success", "tells no info 'is_success'"),
        ({"success": {"return": "much"}}, "sim.task.success", "does not say when"),
        ({"success": {"returns": 3}}, "sim.task.success", "does not say when"),
        ({"success": True}, "sim.task.success", "does not say when"),
    ],
)
def test_what_is_wrong_names_file_and_field(change: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        task(POLE | change)
    assert error.value.where == "gates.yaml:3"
    assert error.value.field.startswith(field)


def test_the_example_of_the_package_is_a_gate(tmp_path: Path) -> None:
    example = textwrap.dedent((harness.gym.__doc__ or "").split("\n\n")[1])
    path = tmp_path / "gates.yaml"
    path.write_text(f"{example}\nhil: {{not_applicable: no robot}}\n")
    gate = load_gates_yaml(path).sim
    assert gate is not None
    assert (gate.task, gate.gymnasium) == (EXIT["gymnasium"], {"success": EXIT["success"]})
    assert set(gate.axes) == {"config.vehicles_count"}


def test_info_keys_there_are_stand_in_the_error() -> None:
    with pytest.raises(ConfigError) as error:
        task(LEVER | {"success": "succes"})
    assert error.value.field == "sim.task.success: its info keys are is_success"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gym_worlds:Unseeded-v0", "does not follow from its seed"),
        ("gym_worlds:Breaks-v0", "breaks when it is played"),
        ("gym_worlds:Silent-v0", "tells no info 'is_success'"),
        ("Blackjack-v1", "observations of 'Blackjack-v1' are of a kind"),
    ],
)
def test_an_environment_that_no_gate_can_use_is_refused(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        task({"gymnasium": name, "success": "is_success"})


@pytest.mark.parametrize(
    ("axes", "dead"),
    [
        ({"low": (-0.05, -0.2), "high": (0.05, 0.2)}, ()),
        ({"high": (0.1,)}, ()),
        ({"low": (-0.05, -0.2), "gravity": (9.8, 1.6)}, ("gravity",)),
        ({"gravity": (1.6,)}, ("gravity",)),
    ],
)
def test_an_option_that_the_environment_ignores_is_a_dead_axis(
    axes: dict[str, tuple[float, ...]], dead: tuple[str, ...]
) -> None:
    assert dead_axes(task(POLE), axes) == dead


def test_an_axis_that_shows_only_in_steps_or_at_the_end_is_alive() -> None:
    names = {"stiffness": "spring.stiff", "way": "far", "none": "spring.x"}
    lever = task(LEVER, {axis: moving(option) for axis, option in names.items()})
    axes = {"stiffness": (0.0, 0.5), "way": (1.0, 2.0), "none": (0.0, 1.0)}
    assert dead_axes(lever, axes) == ("none",)


@pytest.mark.parametrize(
    ("term", "said"),
    [
        (Term((0.5, 2.0), target="lever", field="mass", operation="scale"), "scale lever.mass"),
        (Term((0.5, 2.0), target="reset", field="far", operation="add"), "add reset.far"),
        (Term((0.5, 2.0), when=1.5), "at 1.5 s"),
    ],
)
def test_a_term_that_is_no_reset_option_is_refused(term: Term, said: str) -> None:
    with pytest.raises(ConfigError, match="its reset is given") as error:
        task(LEVER, {"far": term})
    assert (error.value.where, error.value.field) == ("gates.yaml:3", f"sim.axes.far: {said}")


@pytest.mark.slow
def test_axes_of_another_distributions_environment() -> None:
    lane = task(EXIT)
    axes = {"config.duration": (3.0, 4.0), "config.vehicles_count": (0, 1), "vehicles": (0, 9)}
    assert dead_axes(lane, axes) == ("vehicles",)


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"far": (1.0, -1.0)}, "refuses far = -1"),
        ({"far": (-1.0,)}, "refuses far = -1"),
        ({"spring": (1.0, 2.0)}, "refuses spring = 1"),
    ],
)
def test_a_value_that_the_environment_refuses_is_named(
    axes: dict[str, tuple[float, ...]], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        dead_axes(task(LEVER), axes)
    assert error.value.field.startswith(f"sim.axes.{next(iter(axes))}: ")


def test_values_that_exclude_each_other_are_found_before_the_run() -> None:
    with pytest.raises(ConfigError, match=r"refuses low = 0\.3, high = 0\.1"):
        dead_axes(task(POLE), {"low": (-0.1, 0.3), "high": (0.1, 0.4)})


@pytest.mark.slow
def test_the_fingerprint_names_who_ships_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "highway-env" in fingerprint(task(EXIT))
    lever = task(LEVER)
    before = fingerprint(lever)
    copy = tmp_path / "gym_worlds.py"
    copy.write_text(Path(str(gym_worlds.__file__)).read_text() + "# another version\n")
    monkeypatch.setattr(gym_worlds, "__file__", str(copy))
    fingerprint.cache_clear()
    assert fingerprint(lever) != before
