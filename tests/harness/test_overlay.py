"""Overlays are read strictly by the gate that names them: complaints name file and term."""

from __future__ import annotations

from pathlib import Path

import pytest
from overlays import overlay_of

from harness.sim.episode import Change
from harness.sim.overlay import SCHEMA, dump_overlay
from registry.errors import ConfigError

CHANGES = (
    Change("joint3", "friction", "set", 0.125),
    Change("joint3", "damping", "scale", 1.23),
    Change("gripper", "kp", "scale", 0.9),
    Change("command", "latency_s", "set", 0.004),
)


def written(folder: Path, *terms: str, schema: str = SCHEMA) -> Path:
    path = folder / "overlay.yaml"
    lines = [f"schema: {schema}", "terms:", *(f"  t{i}: {{{t}}}" for i, t in enumerate(terms))]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "overlay.yaml"
    path.write_text(dump_overlay(CHANGES, {CHANGES[1]: "± 0.01"}, "Fitted to a log\nof an arm"))
    assert overlay_of(path) == CHANGES
    text = path.read_text()
    assert text.startswith("# Fitted to a log\n# of an arm\nschema: policyctl.overlay/1\n")
    assert "value: 1.23}  # ± 0.01\n" in text


GOOD = "target: joint2, field: damping, operation: scale, value: 1"


@pytest.mark.parametrize(
    ("term", "complaint"),
    [
        ("target: joint1, field: kp, operation: times, value: 1", "operation"),
        ("target: joint1, field: damping, operation: scale, value: .nan", "finite"),
        ("target: joint1, field: damping, operation: scale", "missing key 'value'"),
        ("target: joint1, field: kp, operation: scale, value: 1, when: 2", "unknown key 'when'"),
    ],
)
def test_a_term_of_another_shape_is_refused_with_its_line(
    tmp_path: Path, term: str, complaint: str
) -> None:
    path = written(tmp_path, GOOD, term)
    with pytest.raises(ConfigError, match=complaint) as caught:
        overlay_of(path)
    assert caught.value.where == f"{path}:4"


@pytest.mark.parametrize(
    ("term", "complaint"),
    [
        ("target: joint8, field: damping, operation: scale, value: 1", "no 'joint8.damping'"),
        ("target: joint1, field: mass, operation: scale, value: 1", "no 'joint1.mass'"),
        ("target: joint1, field: latency_s, operation: set, value: 0", "no 'joint1.latency_s'"),
        ("target: command, field: kp, operation: scale, value: 1", "no 'command.kp'"),
        ("target: joint1, field: friction, operation: set, value: 2.5", "2.5 is outside"),
        ("target: joint1, field: damping, operation: scale, value: -1", "-1 is outside"),
        ("target: joint1, field: strength, operation: set, value: 1", "no operation 'set'"),
    ],
)
def test_a_term_that_means_nothing_is_refused_by_its_name(
    tmp_path: Path, term: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        overlay_of(written(tmp_path, GOOD, term))
    assert (caught.value.where, caught.value.field) == (
        str(tmp_path / "gates.yaml"),
        "sim.overlay.t1",
    )


@pytest.mark.parametrize(
    ("one", "other", "field"),
    [
        ("joint2", "joint2", "damping"),
        ("joint2", "joints", "damping"),
        ("joints", "right_joint2", "damping"),
        ("gripper", "left_joints", "damping"),
        ("camera", "front_camera", "x"),
    ],
)
def test_two_terms_on_one_field_are_refused(
    tmp_path: Path, one: str, other: str, field: str
) -> None:
    rest = f"field: {field}, operation: add, value: 0.1"
    path = written(tmp_path, f"target: {one}, {rest}", f"target: {other}, {rest}")
    with pytest.raises(ConfigError, match=f"t0 and t1 both change '{other}.{field}'") as caught:
        overlay_of(path)
    assert (caught.value.where, caught.value.field) == (
        str(tmp_path / "gates.yaml"),
        "sim.overlay.t1",
    )


def test_terms_on_other_joints_stand_beside_each_other(tmp_path: Path) -> None:
    rest = "field: damping, operation: scale, value: 1.5"
    targets = ("left_joint2", "right_joint2", "joint3", "gripper")
    path = written(tmp_path, *(f"target: {target}, {rest}" for target in targets))
    assert [change.target for change in overlay_of(path)] == list(targets)


def test_another_schema_and_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="schema"):
        overlay_of(written(tmp_path, schema="policyctl.overlay/2"))
    with pytest.raises(ConfigError, match="cannot read"):
        overlay_of(tmp_path / "none.yaml")
