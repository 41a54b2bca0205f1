"""One attempt on an emulated arm: its order, its outcomes, and where it ends."""

import errno

import numpy as np
import pytest
from twin_attempts import PatientJudge, Rig, ScriptedPolicy, sway


def test_the_order_is_home_scene_reset_open_motion(rig):
    moved = {}

    def answer(step):
        moved.setdefault("log", list(rig.log))
        return sway(step)

    episode = rig.attempt(answer)
    assert rig.log == ["scene", "reset", "opened"]
    assert moved["log"] == ["scene", "reset", "opened"]
    np.testing.assert_allclose(rig.at_opening, rig.task.start_q)
    assert rig.facts == episode.scene == {"scene": 1}


def test_a_judged_success(rig):
    episode = rig.attempt(sway, trace=True)
    assert (episode.outcome, episode.failure_mode, episode.judge) == ("success", "", "patient/1")
    assert episode.opened
    assert episode.steps == 10
    assert episode.duration_s == pytest.approx(0.2)
    assert episode.overruns == 0
    assert episode.safety_events == ()
    q, command = episode.trace
    assert q.shape == command.shape == (10, 8)
    assert np.abs(command - q).max() < 0.2


def test_it_ends_at_home_with_the_gripper_open(rig):
    squeeze = np.zeros((1, 8))
    squeeze[0, [0, 7]] = 0.5, 1.0
    rig.attempt(lambda step: squeeze)
    np.testing.assert_allclose(rig.servo.command, rig.task.start_q)
    np.testing.assert_allclose(rig.world.joints(), rig.task.start_q, atol=0.06)


def test_the_horizon_ends_an_undecided_attempt(rig):
    episode = rig.attempt(judge=PatientJudge(steps=10_000))
    assert (episode.outcome, episode.failure_mode, episode.steps) == ("failure", "timeout", 40)


def test_the_judge_names_why_it_failed(rig):
    episode = rig.attempt(judge=PatientJudge(says="failure"))
    assert (episode.outcome, episode.failure_mode) == ("failure", "miss_grasp")


def test_an_attempt_that_cannot_be_written_down_does_not_move(rig):
    def full(facts):
        raise OSError(errno.ENOSPC, "no space left on device")

    policy = ScriptedPolicy(rig.contract, sway)
    with pytest.raises(OSError, match="no space"):
        rig.runtime.run_attempt(policy, rig.task, PatientJudge(), full, rig)
    assert policy.steps == 0
    assert rig.attempt().outcome == "success"


def test_two_arms_are_one_robot():
    rig = Rig("openarm-v2-bimanual")
    push = np.zeros((1, 16))
    push[0, [4, 12]] = 0.5, -0.5
    episode = rig.attempt(lambda step: push, trace=True)
    assert episode.outcome == "success"
    q, command = episode.trace
    assert command.shape == (10, 16)
    np.testing.assert_allclose(q[-1, 4], -q[-1, 12], atol=0.02)
    np.testing.assert_allclose(rig.servo.command, rig.task.start_q)
    rig.close()


def test_the_whole_order_on_the_twin_from_home_to_home(rig):
    """Every port writes one log: motions of the servo, scene, policy, attempt, judge."""
    servo, log = rig.servo, rig.log
    move_to = servo.move_to

    def moved(goal, *args, **options):
        opens = abs(goal[7] - servo.command[7]) > 0.05
        home = np.allclose(goal, rig.task.start_q)
        log.append("home" if home else "release" if opens else "move")
        return move_to(goal, *args, **options)

    servo.move_to = moved

    class Judge(PatientJudge):
        def outcome(self):
            found = super().outcome()
            if found:
                log.append("judged")
            return found

    def answer(step):
        log.append("act")
        squeeze = np.zeros((1, 8))
        squeeze[0, [0, 7]] = 0.5, 1.0
        return squeeze

    rig.attempt(answer, Judge(steps=3))
    assert log == [
        "home", "scene", "reset", "opened", "act", "act", "act", "judged", "release", "home",
    ]  # fmt: skip


def test_demo_station_and_agent_run_attempts_by_this_runtime_alone():
    """Each builds its robot by `ci.rig.build_rig`, which makes the one `Runtime` there is."""
    import ast
    from pathlib import Path

    import ci

    room = Path(ci.__file__).parent
    makes = set()
    for room_path in (room, room.parent / "harness", room.parent / "fleet"):
        for path in room_path.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Runtime":
                    makes.add(path.relative_to(room.parent).as_posix())
    assert makes == {"ci/rig.py"}
    for user in ("agent.py", "station.py"):
        names = {n.id for n in ast.walk(ast.parse((room / user).read_text()))
                 if isinstance(n, ast.Name)}  # fmt: skip
        assert "build_rig" in names
        assert "Servo" not in names
