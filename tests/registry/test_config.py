"""policy.yaml and gates.yaml: right ones are read exactly, wrong ones name file, line and field."""

import json
from fractions import Fraction
from pathlib import Path
from shutil import copytree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.config import find_policy, load_gates_yaml, load_policy_yaml
from registry.errors import ConfigError, NotFound
from registry.gates import CanaryGate, Regression, Term, TrialGate, gate_from_json, suite_of
from registry.versions import digest_bytes
from registry.yaml_file import read_yaml

SHIPPED = Path(__file__).parents[2] / "policies" / "box_grasp"
GATES = (SHIPPED / "gates.yaml").read_text()


def wrong(tmp_path: Path, old: str, new: str) -> ConfigError:
    """The complaint about the shipped gates with one change."""
    assert old in GATES
    path = tmp_path / "gates.yaml"
    path.write_text(GATES.replace(old, new, 1))
    copytree(SHIPPED / "hil", tmp_path / "hil")
    with pytest.raises(ConfigError) as caught:
        load_gates_yaml(path)
    assert caught.value.exit_status == 2
    return caught.value


def line_of(text: str, content: str = GATES) -> int:
    return next(n for n, line in enumerate(content.splitlines(), 1) if text in line)


def test_the_shipped_gates_are_those_of_the_requirements() -> None:
    gates = load_gates_yaml(SHIPPED / "gates.yaml")
    assert gates.sim is not None
    assert gates.sim.grid == {
        "friction": (0.3, 0.5, 0.8, 1.0, 1.5),
        "mass": (0.5, 0.75, 1.0, 1.5, 2.0),
        "delay": (0.0, 1.0, 2.0, 3.0),
    }
    assert gates.sim.population == 5000
    assert gates.sim.threshold == 0.85
    assert gates.sim.regression == Regression(alpha=0.05, margin=0.02)
    assert (gates.sim.floor, gates.sim.floor_alpha) == (0.60, 0.05)
    suite = digest_bytes((SHIPPED / "hil" / "lift.yaml").read_bytes())
    assert gates.hil == TrialGate("hil/lift.yaml", suite_digest=suite)
    assert gates.canary.ratio == Fraction(1, 2)
    assert gates.canary.cohort_min == 4
    assert gates.canary.margin == 0.10
    assert gates.canary.deadline_s == 7 * 86400
    assert gates.canary.wave_baseline == Fraction(1, 4)


def test_the_shipped_policy_is_read_with_its_folder() -> None:
    policy = load_policy_yaml(SHIPPED)
    assert (policy.name, policy.task, policy.robot_class) == (
        "box-grasp",
        "box-grasp",
        "openarm-v2-right",
    )
    assert policy.gates_path == SHIPPED / "gates.yaml"


def test_what_is_left_out_is_the_default_of_the_gate(tmp_path: Path) -> None:
    path = tmp_path / "gates.yaml"
    path.write_text("sim: {task: t, axes: {mass: [1]}}\nhil: {suite: s.yaml}\n")
    (tmp_path / "s.yaml").write_text("suite: s\n")
    gates = load_gates_yaml(path)
    assert gates.canary == CanaryGate()
    assert gates.hil == TrialGate("s.yaml", suite_digest=digest_bytes(b"suite: s\n"))


def sim_of(tmp_path: Path, text: str) -> Path:
    """A gates.yaml with this sim section, indented by two, and no hil."""
    path = tmp_path / "gates.yaml"
    path.write_text(f"sim:\n{text}hil: {{not_applicable: no lab}}\n")
    return path


OVERLAY = """\
schema: policyctl.overlay/1
terms:
  j: {target: joint3, field: damping, operation: scale, value: 1.2}
"""
WHOLE = """\
  task: box-grasp
  axes:
    friction: [0.3, 1.0]
    mass: {range: [0.8, 1.2], target: object, field: mass, operation: scale}
  episodes_per_cell: 10
  regression: {alpha: 0.1, margin: 0.05}
  floor: 0.5
  floor_alpha: 0.1
  suites:
    camera:
      axes:
        tilt: {range: [-0.05, 0.05], target: camera, field: position, operation: add}
      samples: 200
      threshold: 0.7
    held-out: {overlay: arm.yaml}
    few: {episodes_per_cell: 2, regression: {margin: 0.1}, floor: 0.4}
"""


def test_all_of_a_sim_section_becomes_its_gates(tmp_path: Path) -> None:
    (tmp_path / "arm.yaml").write_text(OVERLAY)
    gates = load_gates_yaml(sim_of(tmp_path, WHOLE))
    sim, suites = gates.sim, gates.suites
    assert sim is not None
    assert (sim.cells, sim.population, sim.name) == (2, 20, "sim")
    assert sim.axes["mass"] == Term((), (0.8, 1.2), "object", "mass", "scale")
    assert (sim.regression, sim.floor, sim.floor_alpha) == (Regression(0.1, 0.05), 0.5, 0.1)
    camera, held_out, few = suites["camera"], suites["held-out"], suites["few"]
    assert [suite.name for suite in suites.values()] == ["sim:camera", "sim:held-out", "sim:few"]
    assert [suite_of(suite.name) for suite in suites.values()] == list(suites)
    assert suite_of(sim.name) is None
    assert (camera.task, camera.cells, camera.population) == ("box-grasp", 1, 200)
    assert (camera.threshold, camera.regression, camera.floor) == (0.7, None, None)
    assert (held_out.axes, sim.overlay) == (sim.axes, {})
    assert held_out.overlay == {"j": Term((1.2,), None, "joint3", "damping", "scale")}
    assert (held_out.population, held_out.threshold) == (20, 0.85)
    assert (few.population, few.regression, few.floor) == (4, Regression(margin=0.1), 0.4)
    for gate in (sim, *suites.values()):
        assert gate_from_json(json.loads(json.dumps(gate.to_json()))) == gate
    assert gates.to_json()["suites"]["camera"] == camera.to_json()


def test_a_gymnasium_environment_is_a_task_with_its_own_axes(tmp_path: Path) -> None:
    text = """\
  task:
    gymnasium: CartPole-v1
    success: is_success
    axes: {low: [-0.05, -0.2], high: {range: [0.05, 0.2]}}
  suites:
    other: {task: box-grasp, axes: {mass: [1]}}
"""
    gates = load_gates_yaml(sim_of(tmp_path, text))
    sim = gates.sim
    assert sim is not None
    assert (sim.task, sim.gymnasium) == ("CartPole-v1", {"success": "is_success"})
    assert (sim.cells, set(sim.axes)) == (2, {"low", "high"})
    assert gate_from_json(json.loads(json.dumps(sim.to_json()))) == sim
    assert (gates.suites["other"].task, gates.suites["other"].gymnasium) == ("box-grasp", None)


def test_the_comparison_can_be_said_to_be_off(tmp_path: Path) -> None:
    for off in ("off", '"off"'):
        text = f"  task: t\n  axes: {{mass: [1]}}\n  regression: {off}\n"
        sim = load_gates_yaml(sim_of(tmp_path, text)).sim
        assert sim is not None
        assert sim.regression is None


RANGES = "{x: {range: [0, 1]}}"


@pytest.mark.parametrize(
    ("text", "line", "field", "what"),
    [
        ("  task: t\n  axes: {m: [1]}\n  regression: on\n", 4, "sim.regression", "mapping"),
        ("  task: t\n  axes: {m: [1]}\n  regression: {margin: 2}\n", 4, "sim.regression.margin",
         "margin lies between 0 and 1"),
        ("  task: t\n  axes: {m: [1]}\n  regression: {alpha: 5}\n", 4, "sim.regression.alpha",
         "alpha lies between 0 and .5"),
        ("  task: t\n  axes: {m: [1]}\n  regression:\n    margn: .1\n", 5, "sim.regression.margn",
         "unknown key 'margn'"),
        ("  task: t\n  axes: {m: [1]}\n  floor: 60\n", 4, "sim.floor", "floor lies between"),
        ("  task: t\n  axes: {m: [1]}\n  floor_alpha: 1\n", 4, "sim.floor_alpha", "floor_alpha"),
        ("  task: t\n  axes: {m: [1]}\n  samples: 9\n", 4, "sim.samples", "episodes_per_cell"),
        (f"  task: t\n  axes: {RANGES}\n  episodes_per_cell: 9\n", 4, "sim.episodes_per_cell",
         "ranges"),
        (f"  task: t\n  axes: {RANGES}\n", 3, "sim.axes", "how many samples"),
        (f"  task: t\n  axes: {RANGES}\n  samples: 0\n", 4, "sim.samples", "at least 1"),
        ("  axes: {m: [1]}\n", 1, "sim", "missing key 'task'"),
        ("  task: t\n", 1, "sim", "missing key 'axes'"),
        ("  task: 5\n  axes: {m: [1]}\n", 2, "sim.task", "valid string"),
        ("  task:\n    gymnasium: X-v0\n  axes: {m: [1]}\n", 2, "sim.task.success",
         "missing key 'success'"),
        ("  task:\n    gymnasium: X-v0\n    sucess: y\n    axes: {m: [1]}\n", 4, "sim.task.sucess",
         "unknown key 'sucess'"),
        ("  task: {gymnasium: X-v0, success: y, axes: {m: [1]}}\n  axes: {m: [2]}\n", 3, "sim.axes",
         "m is also an axis of the task"),
        ("  task: t\n  axes: {m: [1]}\n  suites:\n    Camera: {samples: 3}\n", 4, "sim.suites",
         "'Camera' is not a suite's name"),
        ("  task: t\n  axes: {m: [1]}\n  suites:\n    camera:\n      treshold: 3\n", 6,
         "sim.suites.camera.treshold", "unknown key 'treshold'"),
        ("  task: t\n  axes: {m: [1]}\n  suites:\n    camera:\n      threshold: 3\n", 6,
         "sim.suites.camera.threshold", "threshold lies between 0 and 1"),
        (f"  task: t\n  axes: {{m: [1]}}\n  suites:\n    camera:\n      axes: {RANGES}\n", 6,
         "sim.suites.camera.axes", "how many samples"),
        ("  task: t\n  axes: {m: [1]}\n  suites:\n    camera: {not_applicable: x}\n", 4,
         "sim.suites", "leave camera out"),
        ("  not_applicable: x\n  suites: {camera: {floor: 0.5}}\n", 2, "sim.not_applicable",
         "stands alone"),
    ],
)  # fmt: skip
def test_a_wrong_sim_section_is_named_with_line_and_field(
    tmp_path: Path, text: str, line: int, field: str, what: str
) -> None:
    path = sim_of(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_gates_yaml(path)
    error = caught.value
    assert what in error.what
    assert (error.where, error.field) == (f"{path}:{line}", field)
    assert error.exit_status == 2


def test_an_unknown_key_of_an_environment_names_the_nearest(tmp_path: Path) -> None:
    text = "  task: {gymnasium: X-v0, success: y, axis: {m: [1]}}\n"
    with pytest.raises(ConfigError) as caught:
        load_gates_yaml(sim_of(tmp_path, text))
    assert "did you mean 'axes'?" in caught.value.hint


def test_an_edited_suite_is_another_gate_and_a_missing_one_is_said(tmp_path: Path) -> None:
    path, suite = tmp_path / "gates.yaml", tmp_path / "hil" / "s.yaml"
    path.write_text("sim: {task: t, axes: {mass: [1]}}\nhil:\n  suite: hil/s.yaml\n")
    with pytest.raises(ConfigError, match="No such file") as caught:
        load_gates_yaml(path)
    assert (caught.value.where, caught.value.field) == (f"{path}:3", "hil.suite")
    suite.parent.mkdir()
    suite.write_text("suite: s\naudit_fraction: 0.1\n")
    before = load_gates_yaml(path)
    suite.write_text("suite: s\naudit_fraction: 0.2\n")
    after = load_gates_yaml(path)
    assert before.hil is not None
    assert after.hil is not None
    assert before.hil.digest != after.hil.digest
    assert gate_from_json(after.hil.to_json()) == after.hil


def test_a_gate_that_does_not_apply_says_why(tmp_path: Path) -> None:
    path = tmp_path / "gates.yaml"
    path.write_text("sim: {task: t, axes: {mass: [1]}}\nhil: {not_applicable: no lab yet}\n")
    gates = load_gates_yaml(path)
    assert gates.hil is None
    assert gates.not_applicable == {"hil": "no lab yet"}
    path.write_text("sim: {task: t, axes: {mass: [1]}}\nhil: {not_applicable: ''}\n")
    with pytest.raises(ConfigError, match="say why"):
        load_gates_yaml(path)
    path.write_text("sim: {not_applicable: x, task: t}\nhil: {suite: s}\n")
    with pytest.raises(ConfigError, match="stands alone"):
        load_gates_yaml(path)


@pytest.mark.parametrize(
    ("old", "new", "marker", "field", "what", "hint"),
    [
        ("threshold: 0.85", "treshold: 0.85", "threshold", "sim.treshold",
         "unknown key 'treshold'", "did you mean 'threshold'?"),
        ("suite: hil/lift.yaml", "suit: hil/lift.yaml", "suite:", "hil.suit",
         "unknown key 'suit'", "did you mean 'suite'?"),
        ("    beta: 0.10\n    max", "    betta: 0.10\n    max", "    beta:",
         "canary.absolute.betta", "unknown key 'betta'", "did you mean 'beta'?"),
        ("threshold: 0.85", "threshold: 85", "threshold", "sim.threshold",
         "threshold lies between 0 and 1", ""),
        ("episodes_per_cell: 50", "episodes_per_cell: many", "episodes_per_cell",
         "sim.episodes_per_cell", "valid integer", ""),
        ("ratio: 1/2", "ratio: half", "ratio:", "canary.ratio", "'half' is not a ratio", ""),
        ("ratio: 1/2", "ratio: 3/2", "ratio:", "canary.ratio", "between 0 and 1", ""),
        ("deadline: 7d", "deadline: soon", "deadline:", "canary.deadline", "not a duration", ""),
        ("waves: [25, 50", "waves: [50, 25", "waves:", "canary.waves", "waves rise", ""),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, marker: str, field: str, what: str, hint: str
) -> None:
    error = wrong(tmp_path, old, new)
    assert what in error.what
    assert error.where == f"{tmp_path / 'gates.yaml'}:{line_of(marker)}"
    assert error.field == field
    assert hint in error.hint


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("max_trials: 50", "max_trials: 20", "max_trials must be at least 28"),
        ("    accept_at: 0.92", "    accept_at: 0.72", "too close"),
    ],
)
def test_a_test_that_cannot_decide_is_refused_where_it_is_written(
    tmp_path: Path, old: str, new: str, what: str
) -> None:
    """Found out in the controller instead, it kept every rollout from being called back."""
    assert what in wrong(tmp_path, old, new).what


def test_a_missing_key_is_named_with_the_section_it_lacks_in(tmp_path: Path) -> None:
    error = wrong(tmp_path, "  suite: hil/lift.yaml\n", "")
    assert "missing key 'suite'" in error.what
    assert error.where.endswith(f":{line_of('hil:')}")
    path = tmp_path / "policy.yaml"
    path.write_text("task: t\nrobot_class: c\n")
    with pytest.raises(ConfigError, match="missing key 'name'"):
        load_policy_yaml(path)


def test_a_key_given_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    error = wrong(tmp_path, "  deadline: 7d", "  deadline: 7d\n  deadline: 8d")
    first = line_of("deadline:")
    assert "'canary.deadline' is given twice" in error.what
    assert error.where.endswith(f":{first + 1}")
    assert f"line {first}" in error.hint


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: [1\nb: 2\n", "not YAML"),
        ("", "an empty file"),
        ("- 1\n", "a list"),
        ("name: !!python/object:os.system x\n", "tag"),
        ("base: &b {x: 1}\nname: {<<: *b}\n", "merge key"),
        ("name: &a [*a]\n", "contains itself"),
        ("name: \xff", "not UTF-8"),
    ],
)
def test_what_is_not_plain_yaml_is_refused(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=what) as caught:
        load_policy_yaml(path)
    assert str(path) in caught.value.where


def test_aliases_cannot_multiply_a_file(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="too many values"):
        read_yaml(path)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_gates_yaml(tmp_path / "gates.yaml")


def test_a_policy_is_found_from_inside_its_folder_and_by_name(tmp_path: Path) -> None:
    for name in ("box_grasp", "pick_place"):
        folder = tmp_path / "policies" / name
        folder.mkdir(parents=True)
        text = f"name: {name.replace('_', '-')}\ntask: t\nrobot_class: c\n"
        (folder / "policy.yaml").write_text(text)
    inside = tmp_path / "policies" / "pick_place" / "hil"
    inside.mkdir()
    assert find_policy(inside).name == "pick-place"
    assert find_policy(inside, "box-grasp").name == "box-grasp"
    assert find_policy(tmp_path, "box-grasp").folder.name == "box_grasp"
    with pytest.raises(NotFound):
        find_policy(tmp_path)
    with pytest.raises(NotFound):
        find_policy(tmp_path, "stacking")


@given(st.text(max_size=200))
def test_no_text_is_ever_read_as_gates_without_a_complaint(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ConfigError) as caught:
        load_gates_yaml(path)
    assert str(path) in caught.value.where
