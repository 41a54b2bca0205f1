"""Overlays are read strictly: each complaint names file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.sim.episode import Change
from harness.sim.overlay import dump_overlay, load_overlay
from registry.errors import ConfigError

CHANGES = (
    Change("joint3", "friction", "set", 0.125),
    Change("joint3", "damping", "scale", 1.23),
    Change("gripper", "kp", "scale", 0.9),
    Change("command", "latency_s", "set", 0.004),
)


def written(folder: Path, *terms: str, schema: str = "policyctl.overlay/1") -> Path:
    path = folder / "overlay.yaml"
    lines = [f"schema: {schema}", "terms:", *(f"  t{i}: {{{t}}}" for i, t in enumerate(terms))]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "overlay.yaml"
    path.write_text(dump_overlay(CHANGES, {CHANGES[1]: "± 0.01"}, "Fitted to a log\nof an arm"))
    assert load_overlay(path) == CHANGES
    text = path.read_text()
    assert text.startswith("# Fitted to a log\n# of an arm\nschema: policyctl.overlay/1\n")
    assert "value: 1.23}  # ± 0.01\n" in text


@pytest.mark.parametrize(
    ("term", "complaint"),
    [
        ("target: joint8, field: damping, operation: scale, value: 1", "there is no 'joint8'"),
        ("target: joint1, field: mass, operation: scale, value: 1", "joint1 has no 'mass'"),
        ("target: joint1, field: latency_s, operation: set, value: 0", "has no 'latency_s'"),
        ("target: command, field: kp, operation: scale, value: 1", "command has no 'kp'"),
        ("target: joint1, field: kp, operation: times, value: 1", "operation"),
        ("target: joint1, field: friction, operation: set, value: 2.5", "takes 0 to 2, not 2.5"),
        ("target: joint1, field: damping, operation: scale, value: -1", "takes 0 to 10, not -1"),
        ("target: joint1, field: damping, operation: scale, value: .nan", "finite"),
        ("target: joint1, field: damping, operation: scale", "missing key 'value'"),
        ("target: joint1, field: kp, operation: scale, value: 1, when: 2", "unknown key 'when'"),
    ],
)
def test_a_term_that_means_nothing_is_refused_with_its_line(
    tmp_path: Path, term: str, complaint: str
) -> None:
    good = "target: joint2, field: damping, operation: scale, value: 1"
    path = written(tmp_path, good, term)
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_overlay(path)
    assert caught.value.where == f"{path}:4"


@pytest.mark.parametrize("other", ["joint2", "joints"])
def test_two_terms_on_one_field_are_refused(tmp_path: Path, other: str) -> None:
    rest = "field: damping, operation: scale, value: 1"
    path = written(tmp_path, f"target: joint2, {rest}", f"target: {other}, {rest}")
    with pytest.raises(ConfigError, match="t1 and t0 both change joint2's damping") as caught:
        load_overlay(path)
    assert (caught.value.where, caught.value.hint) == (
        f"{path}:4",
        "keep one of them; the other is on line 3",
    )


def test_another_schema_and_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="schema"):
        load_overlay(written(tmp_path, schema="policyctl.overlay/2"))
    with pytest.raises(ConfigError, match="cannot read"):
        load_overlay(tmp_path / "none.yaml")
