"""A suite file is read strictly: file, line, field and what was probably meant."""

from pathlib import Path

import pytest
from hil_bench import SUITE, plain

from harness.hil.config import load_suite
from registry.errors import ConfigError

GOOD = plain(SUITE)
SHIPPED = Path(__file__).parents[3] / "policies" / "box_grasp" / "hil" / "lift.yaml"


def written(folder, text):
    path = folder / "lift.yaml"
    path.write_text(text)
    return path


def line_of(text, word):
    return next(n for n, line in enumerate(text.splitlines(), 1) if word in line)


def test_the_shipped_suite_shows_all_three_resets():
    suite = load_suite(SHIPPED)
    assert [task.reset.kind for task in suite.tasks] == ["robot", "technician", "disposable"]
    assert suite.tasks[0].reset.attempts == 3
    assert suite.tasks[0].reset.fallback == "technician"
    assert {task.success.name for task in suite.tasks} == {"joints"}


def test_the_timeout_is_two_minutes_where_none_is_given(tmp_path):
    assert load_suite(written(tmp_path, GOOD)).tasks[0].timeout_s == 120.0


def test_comments_and_order_do_not_change_the_digest_but_meaning_does(tmp_path):
    digest = load_suite(written(tmp_path, GOOD)).digest
    assert load_suite(written(tmp_path, "# a remark\n" + GOOD)).digest == digest
    swapped = GOOD.replace(
        "suite: lift\nrobot_class: bench-arm", "robot_class: bench-arm\nsuite: lift"
    )
    assert load_suite(written(tmp_path, swapped)).digest == digest
    assert load_suite(written(tmp_path, GOOD.replace("lift it", "lift this", 1))).digest != digest


@pytest.mark.parametrize(
    ("old", "new", "what", "hint"),
    [
        ("kind: robot", "kind: robto", "no reset hook 'robto'", "robot"),
        ("hook: object_pose", "hook: object_pos", "no scene hook 'object_pos'", "object_pose"),
        ("judge: bench", "judge: joint", "no judge hook 'joint'", "joints"),
        ("item: bag", "itme: bag", "takes no 'itme'", "item"),
        ("item: bag, ", "", "needs 'item'", "add"),
        ("initial: 50", "initial: many", "initial", ""),
        ("x: [0.2, 0.3]", "x: [0.3, 0.2]", "[low, high]", ""),
        ("instruction: lift it", "instructoin: lift it", "'instructoin'", "instruction"),
        ("name: by-hand", "name: self-reset", "'self-reset'", ""),
        ("task: lift", "task: ''", "at least 1", ""),
        ("kind: technician", "kind: technician, attempts: 0", "attempts", ""),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, old, new, what, hint):
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_suite(path)
    assert error.value.exit_status == 2
    assert what in str(error.value)
    assert hint in str(error.value)
    assert f"{path}:" in error.value.where
    line = int(error.value.where.rsplit(":", 1)[1])
    changed = line_of(text, new) if new else line_of(text, "kind: disposable")
    assert line == changed or what.startswith("'self-reset'") or what == "'instructoin'"
