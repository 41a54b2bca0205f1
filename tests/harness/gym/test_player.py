"""Whole episodes in environments of other people: outcomes, failures, and bit-exact replay.

CartPole and MountainCar are Gymnasium's, exit-v1 is highway-env's. Their policies are linear, by
construction: one balances, one rocks a car uphill, one keeps changing to the right lane.
"""

import contextlib
import multiprocessing
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gym_policies import write_constant, write_linear

from harness.gym.player import GymJob, GymPlayer
from harness.gym.tasks import GymTask
from harness.sim.episode import Change, EpisodeRecord, EpisodeSpec
from policies.space import SpaceContract
from registry.errors import ConfigError, ServiceFailed

pytestmark = pytest.mark.slow

Rows = npt.NDArray[np.float32]

POLE = {"gymnasium": "CartPole-v1", "success": {"return": 475}}
CAR = {"gymnasium": "MountainCarContinuous-v0", "success": "terminated"}
EXIT = {"gymnasium": "highway_env:exit-v1", "success": "is_success"}
TRAFFIC = "config.vehicles_count"
LEFT, RIGHT = [1.0, 0, 0, 0, 0], [0, 0, 1.0, 0, 0]  # exit-v1's lane changes among its five actions
BALANCE = [[0.0] * 4, [0.1, 0.5, 3.0, 1.0]]


def task(data: dict[str, Any]) -> GymTask:
    return GymTask.of(data["gymnasium"], data["success"], {}, where="gates.yaml")


def specs(task: GymTask, count: int, **options: float) -> list[EpisodeSpec]:
    changes = tuple(Change("reset", option, "set", value) for option, value in options.items())
    return [EpisodeSpec((), episode, changes, task.name) for episode in range(count)]


def rate(records: Sequence[EpisodeRecord]) -> float:
    return sum(record.success for record in records) / len(records)


def balancer(folder: Path, task: GymTask) -> GymJob:
    return GymJob(write_linear(folder, task.contract(), BALANCE, [0, 0]), task)


def played(job: GymJob, wanted: list[EpisodeSpec]) -> list[EpisodeRecord]:
    """What a worker does."""
    with contextlib.closing(job.make_player()) as player:
        return list(player(wanted))


def test_a_linear_balancer_passes_and_its_mirror_image_fails(tmp_path: Path) -> None:
    pole = task(POLE)
    mirrored = write_linear(tmp_path / "bad", pole.contract(), BALANCE[::-1], [0, 0])
    good = played(balancer(tmp_path / "good", pole), specs(pole, 10))
    bad = played(GymJob(mirrored, pole), specs(pole, 10))
    assert rate(good) == 1.0
    assert {(record.steps, record.metrics["return"]) for record in good} == {(500, 500.0)}
    assert rate(bad) == 0.0
    assert {record.failure_mode for record in bad} == {"terminated"}


def test_a_reset_option_is_an_axis_that_makes_the_task_harder(tmp_path: Path) -> None:
    pole = task(POLE)
    job = balancer(tmp_path, pole)
    near = played(job, specs(pole, 30, low=-0.05, high=0.05))
    far = played(job, specs(pole, 30, low=-0.3, high=0.3))
    assert rate(near) == 1.0
    assert 0.3 < rate(far) < 0.9


def test_array_actions_are_cut_to_their_bounds_and_standing_still_is_a_timeout(
    tmp_path: Path,
) -> None:
    car = task(CAR)
    contract = car.contract()
    rocking = write_linear(tmp_path / "good", contract, [[0.0, 1000.0]], [0.0])
    still = write_constant(tmp_path / "bad", contract, [0.0])
    assert rate(played(GymJob(rocking, car), specs(car, 5))) == 1.0
    bad = played(GymJob(still, car), specs(car, 2))
    assert [(r.success, r.failure_mode, r.steps) for r in bad] == [(False, "timeout", 999)] * 2


def test_another_distributions_task_by_its_own_success_key_and_options(tmp_path: Path) -> None:
    lane = task(EXIT)
    contract = lane.contract()
    right = GymJob(write_constant(tmp_path / "good", contract, RIGHT), lane)
    left = GymJob(write_constant(tmp_path / "bad", contract, LEFT), lane)
    assert rate(played(right, specs(lane, 8, **{TRAFFIC: 0}))) == 1.0
    assert rate(played(left, specs(lane, 2, **{TRAFFIC: 0}))) == 0.0
    busy = played(right, specs(lane, 8, **{TRAFFIC: 5}))
    assert 0.0 < rate(busy) < 1.0
    assert {r.failure_mode for r in busy if not r.success} == {"terminated"}


def everything(records: Sequence[EpisodeRecord]) -> dict[EpisodeSpec, tuple[Any, ...]]:
    return {r.spec: (r.success, r.failure_mode, r.steps, r.metrics, r.digest) for r in records}


@pytest.mark.parametrize("which", ["pole", "exit"])
def test_an_episode_follows_from_its_spec_alone(tmp_path: Path, which: str) -> None:
    if which == "pole":
        one = task(POLE)
        job = balancer(tmp_path, one)
        wanted = specs(one, 4, low=-0.3, high=0.3) + specs(one, 2) + specs(one, 2, high=0.2)
    else:
        one = task(EXIT)
        job = GymJob(write_constant(tmp_path, one.contract(), RIGHT), one)
        wanted = specs(one, 2, **{TRAFFIC: 3}) + specs(one, 2, **{TRAFFIC: 5})
    first = everything(played(job, wanted))
    assert len({digest for *_, digest in first.values()}) == len(wanted)
    assert everything(played(job, wanted[::-1])) == first
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        elsewhere = other.submit(played, job, wanted[1::2] + wanted[::2]).result()
    assert everything(elsewhere) == first


def test_the_digest_covers_actions_and_rewards(tmp_path: Path) -> None:
    pole = task(POLE)
    contract = pole.contract()
    right = GymJob(write_constant(tmp_path / "right", contract, [0, 1]), pole)
    left = GymJob(write_constant(tmp_path / "left", contract, [1, 0]), pole)
    (one,), (other,) = played(right, specs(pole, 1)), played(left, specs(pole, 1))
    assert one.digest != other.digest


def test_a_worker_plays_portions_as_if_they_were_one(tmp_path: Path) -> None:
    pole = task(POLE)
    job: GymJob = pickle.loads(pickle.dumps(balancer(tmp_path, pole)))  # noqa: S301
    wanted = specs(pole, 2, high=0.2) + specs(pole, 2)
    with contextlib.closing(job.make_player()) as player:
        portions = [*player(wanted[::2]), *player(wanted[1::2])]
    assert everything(portions) == everything(played(job, wanted))


def test_what_is_played_is_named_by_weights_and_task(tmp_path: Path) -> None:
    pole = task(POLE)
    job = balancer(tmp_path / "one", pole)
    assert balancer(tmp_path / "two", pole).digest == job.digest
    other = write_constant(tmp_path / "three", pole.contract(), [0, 1])
    names = {job.digest, GymJob(other, pole).digest}
    names.add(GymJob(job.folder, task(POLE | {"success": {"return": 400}})).digest)
    assert len(names) == 3


class Scripted:
    """A policy for CartPole that does what `act` does."""

    def __init__(self, contract: SpaceContract, act: Callable[[Rows], Any]) -> None:
        self.contract = contract
        self._act = act

    def reset(self) -> None:
        """Nothing to forget."""

    def act(self, observation: Rows) -> Any:
        return self._act(observation)


def broken(_: Rows) -> Rows:
    raise ZeroDivisionError("inside the policy")


@pytest.mark.parametrize(
    ("act", "mode", "detail"),
    [
        (broken, "policy_crash", "inside the policy"),
        (lambda _: np.zeros((1, 3)), "policy_shape", "(1, 3), expected (1, 2)"),
        (lambda _: np.array([[0.0, np.nan]]), "policy_nan", "not finite"),
    ],
)
def test_a_policy_that_misbehaves_fails_its_episode_in_its_own_mode(
    act: Callable[[Rows], Any], mode: str, detail: str
) -> None:
    pole = task(POLE)
    records = list(GymPlayer(pole, Scripted(pole.contract(), act))(specs(pole, 2)))
    assert [(r.success, r.failure_mode, r.steps) for r in records] == [(False, mode, 0)] * 2
    assert detail in records[0].detail


def lever(name: str = "Lever-v0", success: Any = "is_success") -> GymTask:
    return task({"gymnasium": f"gym_worlds:{name}", "success": success})


PUSH = [[1.0, 0.0, 0.0]]  # goal, then side one-hot; the text is not seen


def test_a_users_own_environment_with_a_dict_observation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = lever()
    contract = own.contract()
    assert [(term.name, term.width) for term in contract.observation] == [("goal", 1), ("side", 2)]
    job = GymJob(write_linear(tmp_path, contract, PUSH, [0.0]), own)
    assert rate(played(job, specs(own, 5, far=3))) == 1.0
    (stiff,) = played(job, specs(own, 1, **{"spring.stiff": 1.0}))
    assert stiff.failure_mode == "timeout"
    said = capsys.readouterr()
    assert said.out == ""
    assert "a new lever" in said.err


def test_what_breaks_in_the_environment_is_not_the_policys_failure(tmp_path: Path) -> None:
    own = lever("BreaksWhenStill-v0")
    job = GymJob(write_constant(tmp_path, own.contract(), [0.0]), own)
    with pytest.raises(ServiceFailed, match="broke") as error:
        played(job, specs(own, 1, far=3))
    assert "episode 0 at far=3, step 30" in error.value.evidence
    assert "the lever came off" in error.value.evidence


def test_an_observation_that_is_no_number_ends_the_episode(tmp_path: Path) -> None:
    own = lever("BlowsUp-v0")
    job = GymJob(write_constant(tmp_path, own.contract(), [0.0]), own)
    (record,) = played(job, specs(own, 1))
    assert (record.success, record.failure_mode, record.steps) == (False, "unstable", 30)


def test_an_environment_that_remembers_is_made_anew_for_each_episode(tmp_path: Path) -> None:
    own = lever("Remembers-v0")
    assert own.remade
    job = GymJob(write_linear(tmp_path, own.contract(), PUSH, [0.0]), own)
    wanted = specs(own, 3)
    assert everything(played(job, wanted[::-1])) == everything(played(job, wanted))


def test_a_change_that_is_no_reset_option_is_refused(tmp_path: Path) -> None:
    pole = task(POLE)
    odd = EpisodeSpec((), 0, (Change("box", "mass", "scale", 2.0),), pole.name)
    with pytest.raises(ConfigError, match="its reset is given") as error:
        played(balancer(tmp_path, pole), [odd])
    assert "scale box.mass" in error.value.field


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"task": "Acrobot-v1"}, "task is Acrobot-v1, the gate's is CartPole-v1"),
        ({"action": {"kind": "discrete", "n": 3}}, "action is kind=discrete n=3"),
        (
            {"observation": [{"shape": [4], "dtype": "float64", "width": 4}]},
            "observation is shape=(4,) dtype=float64",
        ),
        (
            {"observation": [{"name": "pole", "shape": [4], "dtype": "float32", "width": 4}]},
            "observation.pole is not among what it observes",
        ),
    ],
)
def test_a_contract_for_another_environment_is_refused_before_an_episode(
    tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    pole = task(POLE)
    contract = SpaceContract.model_validate(pole.contract().to_json() | change)
    outputs = [0.0] * contract.outputs
    job = GymJob(write_constant(tmp_path, contract, outputs), pole)
    with pytest.raises(ConfigError, match="does not fit the environment") as error:
        job.make_player()
    assert field in error.value.field
    assert error.value.where == str(tmp_path / "contract.json")
