"""The scene and who sees it: without a fresh pose nothing is opened, and nothing goes on."""

import numpy as np
import pytest
from twin_attempts import PatientJudge, sway

from fleet.attempt import SceneCheck
from fleet.camera import Pose
from fleet.sight import POSE_AGE_S
from harness.hil.model import InfraCode, InfraError
from harness.tasks.box_grasp import BOX_GRASP
from harness.tasks.detector import Detector, DetectorModel
from registry.errors import Refused, ServiceFailed


def test_a_scene_that_is_not_ready_opens_nothing(rig):
    rig.ready = SceneCheck(False, "no box in the rectangle")
    episode = rig.attempt()
    assert (episode.outcome, episode.failure_mode, episode.opened) == ("void", "scene", False)
    assert "rectangle" in episode.detail
    assert rig.log == ["scene"]


def test_without_a_pose_nothing_is_opened(rig):
    rig.poses = None
    episode = rig.attempt()
    assert (episode.outcome, episode.failure_mode, episode.opened) == ("void", "no_pose", False)


def test_a_pose_source_that_dies_in_mid_attempt_voids_it_and_the_arm_holds(rig):
    """The camera's fault is not the policy's: it would grope for where the object was."""
    moving = []

    def answer(step):
        if step == 5:
            rig.poses = None
        moving.append(rig.servo.now())
        return sway(step)

    episode = rig.attempt(answer, PatientJudge(steps=39, says="failure"))
    assert (episode.outcome, episode.failure_mode, episode.opened) == ("void", "no_pose", True)
    assert "ms old" in episode.detail
    assert moving[-1] - moving[4] < POSE_AGE_S + 0.02
    assert not rig.servo.stopped
    assert np.abs(rig.servo.q[0] - np.array(BOX_GRASP.start_q)).max() < 0.15
    assert rig.attempt().failure_mode == "no_pose", "the next one is not opened"
    assert rig.log.count("opened") == 1


def test_a_source_that_was_not_asked_for_long_is_asked_until_it_has_looked(rig):
    rig.prepare = lambda: (rig.servo.hold(400), rig.ready)[1]
    assert rig.attempt(sway).outcome == "success"


def test_the_detectors_normal_dropout_never_reaches_the_limit():
    """Hours of attempts: 512 cameras, each over two runs of its frames."""
    size, steps = 512, 1700
    detector = Detector(size, DetectorModel())
    slots, rngs = np.arange(size), [np.random.default_rng(seed) for seed in range(size)]
    place, yaw = np.zeros((size, 3)), np.zeros(size)
    detector.reset(slots, rngs, place, yaw)
    oldest = 0.0
    for step in range(steps):
        _, _, age = detector.read(slots, np.full(size, 0.02 * step), place, yaw)
        oldest = max(oldest, float(age.max()))
    assert 0.1 < oldest < 0.6 * POSE_AGE_S


@pytest.mark.parametrize("error", [ServiceFailed, Refused])
@pytest.mark.parametrize("where", ["scene", "eyes"])
def test_a_scene_or_a_camera_that_fails_before_the_attempt_voids_it_and_the_next_one_runs(
    rig, monkeypatch, error, where
):
    def breaks():
        raise error("no twin answers", evidence="twin.sock")

    with monkeypatch.context() as patch:
        patch.setattr(rig, "prepare" if where == "scene" else "read", breaks)
        episode = rig.attempt(sway)
    assert (episode.outcome, episode.failure_mode, episode.opened) == ("void", "rig_fault", False)
    assert "no twin answers" in episode.detail
    assert "opened" not in rig.log
    assert rig.attempt(sway).outcome == "success"


@pytest.mark.parametrize("where", ["prepare", "read"])
def test_a_failure_that_the_station_has_a_name_for_passes_as_it_is(rig, monkeypatch, where):
    def breaks():
        raise InfraError(InfraCode.POSE, "the lens is covered")

    monkeypatch.setattr(rig, where, breaks)
    with pytest.raises(InfraError, match="E_POSE: the lens is covered") as caught:
        rig.attempt(sway)
    assert caught.value.infra is InfraCode.POSE


def test_a_camera_that_repeats_one_frame_voids_the_attempt_and_the_next_is_not_opened(rig):
    real = rig.poses

    def answer(step):
        if step == 5:
            seen = real.read()
            rig.poses = type(
                "Frozen", (), {"read": lambda self: Pose(seen.position, seen.yaw, 0.04)}
            )()
        return sway(step)

    episode = rig.attempt(answer, PatientJudge(steps=39))
    assert (episode.outcome, episode.failure_mode, episode.opened) == (
        "void", "camera_frozen", True,
    )  # fmt: skip
    assert 5 < episode.steps < 15
    assert not rig.attempt().opened
    rig.poses = real
    assert rig.attempt(sway).outcome == "success"
