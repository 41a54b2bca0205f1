"""The task's judge and detector: blind to versions, honest about noise, right about the box."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from sim_policies import world

from fleet.kinematics import ArmKinematics
from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeSpec
from harness.tasks.box_grasp import BOX_GRASP, JointJudge
from harness.tasks.detector import Detector, DetectorModel
from policies.loading import load_policy

CHECKPOINTS = Path(__file__).parents[2] / "ci" / "demo" / "checkpoints"
KINEMATICS = ArmKinematics.load("right")
DT = 0.02


class Hand:
    """A judge fed with a gripper and a height; kinematics that read the height from joint 1."""

    def __init__(self) -> None:
        self.judge = JointJudge(self)

    def fk(
        self, q: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        return np.stack([0 * q[:, 0], 0 * q[:, 0], q[:, 0]], axis=1), np.zeros((len(q), 6))

    def show(self, seconds: float, height: float, angle: float, torque: float) -> str | None:
        q, tau = np.zeros(8), np.zeros(8)
        q[0], q[7], tau[7] = height, angle, torque
        for _ in range(round(seconds / DT)):
            self.judge.update(q, np.zeros(8), tau, DT)
        return self.judge.outcome()


def test_a_box_lifted_and_held_for_a_second_is_a_success() -> None:
    hand = Hand()
    assert hand.show(0.5, -0.41, -0.267, 2.4) is None
    assert hand.show(0.9, -0.27, -0.267, 2.4) is None
    assert hand.show(0.2, -0.27, -0.267, 2.4) == "success"
    assert hand.judge.failure_mode() == ""


@pytest.mark.parametrize(
    ("angle", "torque", "why"),
    [(-0.02, 0.0, "closed on nothing"), (-0.267, 0.2, "no torque"), (-0.5, 0.0, "open")],
)
def test_height_without_a_grip_is_a_failure(angle: float, torque: float, why: str) -> None:
    hand = Hand()
    hand.show(0.5, -0.41, angle, torque)
    assert hand.show(8.0, -0.25, angle, torque) == "failure", why
    assert hand.judge.failure_mode() == "miss_grasp"


def test_a_box_that_slips_out_and_is_not_caught_again_is_a_failure() -> None:
    hand = Hand()
    hand.show(0.5, -0.41, -0.267, 2.4)
    hand.show(0.8, -0.27, -0.267, 2.4)
    assert hand.show(7.0, -0.27, -0.19, 0.0) == "failure"
    assert hand.judge.failure_mode() == "dropped"


def test_a_lift_of_nine_centimetres_is_not_enough() -> None:
    hand = Hand()
    hand.show(0.5, -0.41, -0.267, 2.4)
    assert hand.show(8.0, -0.32, -0.267, 2.4) == "failure"


def test_a_grip_in_mid_air_counts_from_where_it_began() -> None:
    hand = Hand()
    assert hand.show(8.0, -0.2, -0.267, 2.4) == "failure"


def test_an_outcome_latches() -> None:
    hand = Hand()
    hand.show(0.1, -0.41, -0.267, 2.4)
    assert hand.show(1.5, -0.27, -0.267, 2.4) == "success"
    assert hand.show(9.0, -0.41, 0.0, 0.0) == "success"


def wrong(version: str, mass: tuple[float, float], count: int) -> tuple[float, float]:
    """Shares of episodes that the judge wrongly calls success, and wrongly failure, against the
    simulator's truth, each given the whole horizon."""
    policy = load_policy(CHECKPOINTS / version)
    env = BatchEnv(policy.contract, count)
    u = np.random.default_rng(9).random(count)
    low, high = mass
    specs = [
        EpisodeSpec((61,), i, world(friction=0.5, mass=float(low + (high - low) * u[i])))
        for i in range(count)
    ]
    env.reset(list(range(count)), specs)
    judges = [JointJudge(KINEMATICS) for _ in specs]
    truth = np.zeros(count, dtype=bool)
    slots = np.arange(count)
    for _ in range(round(BOX_GRASP.horizon_s * 50)):
        done = env.step(slots, policy.act(env.observe(slots)))
        m = env.measure(slots)
        keep = []
        for row, slot in enumerate(slots):
            judges[slot].update(m.q[row], m.dq[row], m.tau[row], DT)
            truth[slot] |= env.record(int(slot)).success
            both = truth[slot] and judges[slot].outcome() == "success"
            broken = bool(done[row]) and not truth[slot]
            if not (both or broken):
                keep.append(slot)
        slots = np.array(keep, dtype=np.intp)
        if not len(slots):
            break
    judged = np.array([judge.outcome() == "success" for judge in judges])
    return float(np.mean(judged & ~truth)), float(np.mean(~judged & truth))


@pytest.mark.slow
def test_the_judge_agrees_with_the_simulator() -> None:
    assert wrong("v1", (0.2, 1.0), 64) == (0.0, 0.0)


@pytest.mark.slow
def test_where_boxes_slip_and_grasps_fail_the_judge_errs_towards_failure() -> None:
    rates = [wrong(v, mass, 128) for v in ("v2", "v3") for mass in ((0.2, 0.2), (0.8, 1.0))]
    assert max(success for success, _ in rates) <= 0.02
    assert max(failure for _, failure in rates) <= 0.10


def follow(model: DetectorModel, seed: int, seconds: float = 6.0) -> npt.NDArray[np.float64]:
    """(T, 6): time, pose error of 4, age, of a detector that looks at a still box at 50 Hz."""
    detector = Detector(1, model)
    position, yaw = np.array([[0.25, -0.2, -0.42]]), np.array([0.3])
    detector.reset([0], [np.random.default_rng(seed)], position, yaw)
    rows = []
    for step in range(round(seconds / DT)):
        now = np.array([step * DT])
        at, turn, age = detector.read(np.array([0]), now, position, yaw)
        rows.append([now[0], *(at - position)[0], turn[0] - yaw[0], age[0]])
    return np.array(rows)


def test_the_detectors_noise_rate_and_delay_are_those_of_its_model() -> None:
    seen = np.concatenate([follow(DetectorModel(), seed) for seed in range(12)])
    fresh = np.append(True, (np.diff(seen[:, 1]) != 0))
    assert seen[fresh, 1:4].std() == pytest.approx(0.002, rel=0.1)
    assert seen[fresh, 4].std() == pytest.approx(0.02, rel=0.1)
    assert seen[:, 5].min() >= 0.03
    assert 0.05 < seen[:, 5].mean() < 0.09
    assert fresh.sum() / (12 * 6.0) == pytest.approx(29.4, abs=2.5)


def test_dropped_frames_make_poses_older_not_wrong() -> None:
    seen = follow(DetectorModel(dropout=0.9), 1)
    assert seen[:, 5].max() > 0.2
    assert np.abs(seen[:, 1:4]).max() < 0.012


def test_a_moving_box_is_seen_where_it_was() -> None:
    detector = Detector(1, DetectorModel(position_sigma=0.0, yaw_sigma=0.0))
    detector.reset([0], [np.random.default_rng(4)], np.zeros((1, 3)), np.zeros(1))
    for step in range(100):
        now = step * DT
        truth = np.array([[0.1 * now, 0.0, 0.0]])
        at, _, age = detector.read(np.array([0]), np.array([now]), truth, np.zeros(1))
        assert at[0, 0] == pytest.approx(max(0.0, 0.1 * (now - age[0])), abs=1e-9)


def test_detectors_of_any_size_say_the_same() -> None:
    model, steps = DetectorModel(), 80
    position, yaw = np.random.default_rng(1).random((3, 3)), np.zeros(3)
    many = Detector(3, model)
    many.reset([0, 1, 2], [np.random.default_rng(s) for s in range(3)], position, yaw)
    together = [many.read(np.arange(3), np.full(3, k * DT), position, yaw) for k in range(steps)]
    for row in range(3):
        one = Detector(1, model)
        one.reset([0], [np.random.default_rng(row)], position[row : row + 1], yaw[:1])
        for k in range(steps):
            alone = one.read(np.array([0]), np.array([k * DT]), position[row : row + 1], yaw[:1])
            for a, b in zip(alone, together[k], strict=True):
                np.testing.assert_array_equal(a[0], b[row])


def test_placements_lie_in_the_tasks_region_and_follow_their_seed() -> None:
    places = [BOX_GRASP.place(np.random.default_rng(seed)) for seed in range(200)]
    for name in ("x", "y", "yaw"):
        low, high = getattr(BOX_GRASP, name)
        values = np.array([getattr(place, name) for place in places])
        assert low <= values.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < values.max() <= high
    start = np.array([place.start_q for place in places])
    assert np.abs(start - BOX_GRASP.start_q).max() <= BOX_GRASP.start_noise
    assert (start[:, 7] == BOX_GRASP.start_q[7]).all()
    again = BOX_GRASP.place(np.random.default_rng(7))
    assert (again.x, again.yaw) == (places[7].x, places[7].yaw)
