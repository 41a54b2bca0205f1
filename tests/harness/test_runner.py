"""The run of a gate: bit-equal however it is spread, judged in drawn order, whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_policies import ExpertPolicy, contract, world, write_overflowing

from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.executors import InProcess
from harness.sim.gate import Progress, SimResult, run_sim_gate
from harness.sim.grid import Grid
from harness.sim.results import digest_rows, row, to_csv
from harness.sim.runner import Guard, in_order, play
from registry.errors import ConfigError, Interrupted
from registry.evidence import Subject, evidence_from_json
from registry.gates import GridGate
from registry.statistics.grid import order
from registry.verdicts import Outcome, judge

AXES = {"friction": (0.5, 1.5), "mass": (1.0, 2.0), "delay": (0, 3)}
SUBJECT = Subject("box-grasp", 1, "sha256:" + "1" * 64)
GATE = GridGate("box-grasp", AXES, episodes_per_cell=50)


class Coin:
    """An executor without physics: an episode succeeds with a rate, decided by its spec alone."""

    def __init__(self, rate: float, *, interrupt_after: int | None = None) -> None:
        self.rate, self.interrupt_after, self.played = rate, interrupt_after, 0

    def map(self, specs: Iterable[EpisodeSpec]) -> Generator[EpisodeRecord]:
        for spec in specs:
            if self.played == self.interrupt_after:
                raise KeyboardInterrupt
            self.played += 1
            seed = [spec.episode, *(round(100 * change.value) for change in spec.changes)]
            success = bool(np.random.default_rng(seed).random() < self.rate)
            yield EpisodeRecord(spec, success, "" if success else "dropped", 90, {}, {}, "00")


class Cache:
    """The registry's result cache, as a dict."""

    def __init__(self) -> None:
        self.results: dict[str, dict[str, Any]] = {}

    def cached_result(self, key: str) -> dict[str, Any] | None:
        return self.results.get(key)

    def store_result(self, key: str, result: dict[str, Any]) -> None:
        self.results[key] = result


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_overflowing(tmp_path / "checkpoint")


def run(checkpoint: Path, rate: float, **options: Any) -> SimResult:
    gate = options.pop("gate", GATE)
    return run_sim_gate(checkpoint, SUBJECT, gate, "a nonce", executor=Coin(rate), **options)


# -- equal results ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_results_do_not_depend_on_slots_threads_or_order() -> None:
    grid = Grid.of("box-grasp", AXES, 3)
    numbers = list(range(grid.population))
    shuffled = [int(n) for n in np.random.default_rng(3).permutation(numbers)]
    digests = set()
    for slots, threads, played in ((5, 1, numbers), (24, 2, numbers), (16, 2, shuffled)):
        specs = [grid.spec(number) for number in played]
        records = {
            r.spec: r for r in InProcess(ExpertPolicy(), slots=slots, threads=threads).map(specs)
        }
        digests.add(digest_rows([row(grid, n, records[grid.spec(n)]) for n in numbers]))
        assert any(record.success for record in records.values())
    assert len(digests) == 1


def test_a_refilled_slot_remembers_nothing_of_its_last_episode() -> None:
    specs = [EpisodeSpec((), e, world(delay=e % 4, mass=0.2 + 0.1 * e)) for e in range(4)]
    alone = {r.spec: r for s in specs for r in InProcess(ExpertPolicy(), slots=1).map([s])}
    after = {r.spec: r for r in InProcess(ExpertPolicy(), slots=1).map(specs)}
    assert alone == after
    assert {r.digest for r in alone.values()} == {r.digest for r in after.values()}


# -- order -----------------------------------------------------------------------------------------

SPECS = [EpisodeSpec((), episode) for episode in range(12)]


def ended(spec: EpisodeSpec) -> EpisodeRecord:
    return EpisodeRecord(spec, True, "", 1)


@given(st.permutations(SPECS))
def test_results_always_come_in_the_drawn_order(finished: list[EpisodeSpec]) -> None:
    released = list(in_order((ended(spec) for spec in finished), SPECS))
    assert [record.spec for record in released] == SPECS


@given(st.permutations(SPECS), st.integers(0, 11))
def test_nothing_is_released_before_what_was_drawn_before_it(
    finished: list[EpisodeSpec], seen: int
) -> None:
    taken: list[EpisodeSpec] = []

    def records() -> Generator[EpisodeRecord]:
        for spec in finished:
            taken.append(spec)
            yield ended(spec)

    released = in_order(records(), SPECS)
    for _ in range(seen + 1):
        next(released)
    assert set(SPECS[: seen + 1]) <= set(taken)


def test_an_executor_that_loses_an_episode_is_a_bug_not_a_verdict() -> None:
    with pytest.raises(RuntimeError, match="ended without"):
        list(in_order((ended(spec) for spec in SPECS[:5]), SPECS))


# -- policies that fail by themselves --------------------------------------------------------------


def test_a_policy_that_raises_fails_in_its_rows_only() -> None:
    def act(observation: np.ndarray) -> np.ndarray:
        if (observation[:, 0] < 0).any():
            raise ZeroDivisionError
        return np.ones((len(observation), 8), dtype=np.float32)

    answer = Guard(act, 8)(np.array([[1.0], [-1.0], [2.0]], dtype=np.float32))
    assert np.isnan(answer).all(axis=1).tolist() == [False, True, False]


def test_a_policy_that_answers_another_shape_has_failed() -> None:
    answer = Guard(lambda rows: np.zeros((len(rows), 7), np.float32), 8)(
        np.zeros((3, 2), np.float32)
    )
    assert answer.shape == (3, 8)
    assert np.isnan(answer).all()


def test_a_policy_without_answers_fails_every_episode_at_once(checkpoint: Path) -> None:
    gate = replace(GATE, axes={"friction": (0.5,)}, episodes_per_cell=100)
    result = run_sim_gate(checkpoint, SUBJECT, gate, "a nonce", threads=1)
    assert result.verdict.outcome is Outcome.FAIL
    assert set(result.failure_modes) == {"policy_nan"}
    assert {each.steps for each in result.rows} == {1}


def test_physics_that_blows_up_is_a_failure_of_its_own_kind() -> None:
    env = BatchEnv(contract(), 2)
    specs = [EpisodeSpec((), 0), EpisodeSpec((), 1)]
    env.reset([0, 1], specs)
    env.world.batch.bind("qvel")[0] = 1e12
    still = np.zeros((2, 8), dtype=np.float32)
    assert env.step([0, 1], still).tolist() == [True, False]
    assert env.record(0).failure_mode == "unstable"
    env.reset([0], [specs[1]])
    for _ in range(3):
        env.step([0, 1], still)
    assert env.record(0).failure_mode != "unstable"
    clean = BatchEnv(contract(), 1)
    clean.reset([0], [specs[1]])
    for _ in range(3):
        clean.step([0], still[:1])
    assert env.record(0).digest == clean.record(0).digest


# -- the verdict -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "outcome"), [(0.99, Outcome.PASS), (0.4, Outcome.FAIL)])
def test_a_clear_verdict_takes_a_fraction_of_the_population(
    checkpoint: Path, rate: float, outcome: Outcome
) -> None:
    result = run(checkpoint, rate)
    assert result.verdict.outcome is outcome
    assert result.evidence.drawn < 150 < result.evidence.population == 400


@pytest.mark.parametrize("rate", [0.99, 0.9, 0.8, 0.4])
def test_the_early_verdict_is_that_of_the_full_run(checkpoint: Path, rate: float) -> None:
    early, full = run(checkpoint, rate), run(checkpoint, rate, full=True)
    assert full.evidence.drawn == full.evidence.population
    assert early.verdict.outcome is full.verdict.outcome
    assert full.rows[: len(early.rows)] == early.rows


def test_the_verdict_follows_from_the_stored_evidence(checkpoint: Path) -> None:
    result = run(checkpoint, 0.95)
    stored = evidence_from_json(result.evidence.to_json())
    assert judge(GATE, stored) == result.verdict
    assert result.evidence.attempts_digest == digest_rows(result.rows) == result.digest
    assert result.evidence.successes == sum(each.success for each in result.rows)
    assert result.evidence.robot_class == "openarm-v2-right"
    assert result.evidence.engine.startswith("mujoco ")


def test_episodes_are_drawn_as_the_nonce_says(checkpoint: Path) -> None:
    result = run(checkpoint, 0.95)
    grid = Grid.of(GATE.task, GATE.axes, GATE.episodes_per_cell)
    drawn = order("a nonce", grid.population)[: len(result.rows)]
    assert [each.key for each in result.rows] == [grid.key(int(number)) for number in drawn]


def test_progress_ends_with_the_counts_of_the_evidence(checkpoint: Path) -> None:
    told: list[Progress] = []
    result = run(checkpoint, 0.95, progress=told.append)
    assert told[-1].drawn == result.evidence.drawn
    assert told[-1].verdict.outcome is result.verdict.outcome
    assert told[0].population == 400


def test_the_csv_has_one_line_an_episode_and_a_column_an_axis(checkpoint: Path) -> None:
    result = run(checkpoint, 0.7)
    grid = Grid.of(GATE.task, GATE.axes, GATE.episodes_per_cell)
    lines = list(csv.DictReader(io.StringIO(to_csv(grid, result.rows))))
    assert len(lines) == result.evidence.drawn
    assert {(line["friction"], line["mass"]) for line in lines} <= {
        (friction, mass) for friction in ("0.5", "1.5") for mass in ("1", "2")
    }
    failed = [line for line in lines if line["outcome"] == "failure"]
    assert {line["failure_mode"] for line in failed} == {"dropped"}
    assert result.failure_modes == {"dropped": len(failed)}


# -- the cache, refusals, interruption -------------------------------------------------------------


def test_the_same_gate_again_is_a_look_up(checkpoint: Path) -> None:
    cache = Cache()
    first = run(checkpoint, 0.95, cache=cache)
    again = run(checkpoint, 0.0, cache=cache)
    assert not first.cached
    assert again == replace(first, cached=True)


@pytest.mark.parametrize(
    "change",
    [
        {"gate": replace(GATE, threshold=0.8)},
        {"subject": replace(SUBJECT, digest="sha256:" + "2" * 64)},
        {"nonce": "another"},
        {"full": True},
    ],
)
def test_whatever_makes_a_result_is_in_its_key(checkpoint: Path, change: dict[str, Any]) -> None:
    cache = Cache()
    given_: dict[str, Any] = {"subject": SUBJECT, "gate": GATE, "nonce": "a nonce", **change}
    run(checkpoint, 0.95, cache=cache)
    full = given_.pop("full", False)
    again = run_sim_gate(checkpoint, **given_, executor=Coin(0.95), cache=cache, full=full)
    assert not again.cached
    assert len(cache.results) == 2


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 40))
def test_an_interrupted_run_leaves_nothing(tmp_path_factory: Any, after: int) -> None:
    folder = write_overflowing(tmp_path_factory.mktemp("checkpoint"))
    cache = Cache()
    with pytest.raises(Interrupted, match="interrupted"):
        run_sim_gate(
            folder, SUBJECT, GATE, "a nonce",
            executor=Coin(0.95, interrupt_after=after), cache=cache,
        )  # fmt: skip
    assert cache.results == {}


def test_a_task_that_is_not_there_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="there is no task 'juggling'") as caught:
        run(checkpoint, 0.9, gate=replace(GATE, task="juggling"), where="gates.yaml:3")
    assert caught.value.where == "gates.yaml:3"


def test_a_policy_for_another_task_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    folder = write_overflowing(tmp_path / "checkpoint")
    text = (folder / "contract.json").read_text()
    (folder / "contract.json").write_text(text.replace('"box-grasp"', '"pick-place"'))
    with pytest.raises(ConfigError, match="does not fit: task"):
        run_sim_gate(folder, SUBJECT, GATE, "a nonce")


def test_play_yields_each_spec_once() -> None:
    env = BatchEnv(contract(), 2)

    def fails(observation: np.ndarray) -> np.ndarray:
        return np.full((len(observation), 8), np.nan, dtype=np.float32)

    specs = [EpisodeSpec((), episode) for episode in range(7)]
    assert sorted(r.spec.episode for r in play(env, fails, specs)) == list(range(7))
