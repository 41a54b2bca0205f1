"""The table of failure modes has every mode that the code gives, and every word of its sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.failures import FAILURES, names
from harness.hil.model import AGENT_LOST, OPERATOR_STOP, POLICY_MODES

HARNESS = Path(__file__).parents[2] / "harness"


def given(package: str) -> set[str]:
    """The modes that a package gives, as its source spells them.

    They are what `failure_mode` returns, what `_mode` returns first, the keys of what `violated`
    returns, and the literals with which an episode is recorded, failed or blamed on its policy.
    """
    modes: set[str] = set()
    for path in sorted((HARNESS / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                modes.update(_of_function(node))
            elif isinstance(node, ast.Call):
                modes.update(_of_call(node))
            elif isinstance(node, ast.Tuple) and node.elts:
                modes.update(m for m in _texts(node.elts[0]) if m.startswith("policy_"))
    return modes - {""}


def _of_function(function: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(function):
        if not isinstance(node, ast.Return) or node.value is None:
            continue
        if function.name == "failure_mode":
            yield from _texts(node.value)
        elif function.name == "_mode" and isinstance(node.value, ast.Tuple):
            yield from _texts(node.value.elts[0])
        elif function.name == "violated" and isinstance(node.value, ast.Dict):
            yield from (mode for key in node.value.keys if key for mode in _texts(key))


def _of_call(call: ast.Call) -> Iterator[str]:
    called = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    called = call.func.id if isinstance(call.func, ast.Name) else called
    if called == "EpisodeRecord":
        said = [*call.args[2:3], *(k.value for k in call.keywords if k.arg == "failure_mode")]
        yield from (mode for each in said for mode in _texts(each))
    elif called == "_failed":
        yield from _texts(call.args[0])
    elif called == "PolicyFailedError":
        yield from (f"policy_{mode}" for mode in _texts(call.args[0]))
    elif called == "blame":
        yield from (mode for each in call.args for mode in _texts(each))


def _texts(node: ast.expr) -> Iterator[str]:
    """What an expression may be where its value is a literal, or a choice between literals."""
    if isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


@pytest.mark.parametrize(
    ("package", "some"),
    [
        ("sim", {"policy_crash", "policy_shape", "policy_nan", "policy_late", "unstable",
                 "collision", "frozen"}),
        ("tasks", {"miss_grasp", "dropped", "timeout", "collision", "wrong_position",
                   "wrong_orientation", "overspeed", "excess_force"}),
        ("gym", {"policy_crash", "policy_shape", "policy_nan", "unstable", "terminated",
                 "timeout"}),
    ],
)  # fmt: skip
def test_every_mode_that_a_package_gives_is_in_the_table(package: str, some: set[str]) -> None:
    modes = given(package)
    assert some <= modes, "the search has lost modes that are given"
    assert modes <= FAILURES.keys()


def test_every_mode_of_the_lab_and_the_fleet_is_in_the_table() -> None:
    assert {*POLICY_MODES, OPERATOR_STOP, AGENT_LOST} <= FAILURES.keys()


def test_every_mode_says_what_happened() -> None:
    assert all(row.meaning for row in FAILURES.values())


def test_every_word_of_the_sources_is_somewhere_in_the_table() -> None:
    words = {name for row in FAILURES.values() for name in (row.manipulation, row.deployment)}
    assert {"miss_grasp", "wrong_position", "timeout", "collision"} <= words
    assert {"grasp", "trajectory", "placement"} <= words
    transfer = {row.transfer for row in FAILURES.values()}
    assert {"frozen", "oscillation", "drift", "collision", "grasp"} <= transfer
    article = {row.article for row in FAILURES.values()}
    assert {"visual confusion", "motor overshoot"} <= article


def test_a_mode_that_is_not_in_the_table_has_no_names() -> None:
    assert names("new_mode").meaning == ""
