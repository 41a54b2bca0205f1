"""The plan: balanced, drawn within bounds, the same for the same seed."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from harness.hil.model import Hook, Range, ResetSpec, SceneSpec, Suite, TaskSpec
from harness.hil.plan import seed_of, trial

SCENE = SceneSpec("s", Range(0.1, 0.2), Range(-0.3, -0.1), Range(-0.7, 0.7), Hook("assumed"))
TASK = TaskSpec("a", "lift", "lift", SCENE, ResetSpec("robot", {}, 3, None), Hook("joints"), 120.0)


def suite(names):
    tasks = tuple(replace(TASK, name=name) for name in names)
    return Suite("s", "arm", 0.3, tasks, "sha256:" + "0" * 64)


@given(st.integers(1, 5), st.integers(0, 60), st.integers(0, 2**63))
def test_tasks_stay_balanced_and_start_poses_inside_their_ranges(tasks, trials, seed):
    names = "abcde"[:tasks]
    plan = [trial(suite(names), seed, i) for i in range(trials)]
    assert [t.index for t in plan] == list(range(trials))
    for cut in range(trials + 1):
        counts = [sum(t.task == name for t in plan[:cut]) for name in names]
        assert max(counts) - min(counts) <= 1
    for t in plan:
        assert 0.1 <= t.goal.x <= 0.2
        assert -0.3 <= t.goal.y <= -0.1
        assert -0.7 <= t.goal.yaw <= 0.7
    assert plan == [trial(suite(names), seed, i) for i in range(trials)]


def test_another_version_meets_other_scenes_and_the_same_version_the_same():
    two = suite("ab")
    assert seed_of(two, "sha256:1") == seed_of(two, "sha256:1")
    assert seed_of(two, "sha256:1") != seed_of(two, "sha256:2")
    assert trial(two, 1, 0).goal != trial(two, 2, 0).goal


def test_a_task_more_moves_no_pose_of_the_others():
    def poses(names):
        return {(t.block, t.task): t.goal for t in (trial(suite(names), 7, i) for i in range(12))}

    few, many = poses("ab"), poses("abc")
    assert all(many[key] == few[key] for key in few.keys() & many.keys())


def test_about_the_asked_share_is_audited():
    audited = sum(trial(suite("ab"), 11, i).audit for i in range(1000))
    assert 240 < audited < 360
