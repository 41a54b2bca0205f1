"""The simulation gate: judged in drawn order, resumable, paired with the fleet's version."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_gate import AXES, GATE, Coin, Memory, subject, try_gate
from sim_policies import contract, write_overflowing, write_still
from vision_policies import write_camera_policy

from harness.sim.gate import Progress, SimRun, run_sim_gate
from harness.sim.gl import driver
from harness.sim.grid import Grid
from harness.sim.plan import AxisReport, try_axes
from harness.sim.population import without_log
from harness.sim.results import digest_rows, to_csv
from harness.sim.simulation import Contestant
from harness.simulations import simulation_of
from policies import Policy
from registry.errors import ConfigError, Interrupted
from registry.evidence import evidence_from_json
from registry.gates import Regression, Term
from registry.statistics.grid import order
from registry.verdicts import Outcome, judge

pytestmark = pytest.mark.slow

TRIED: dict[str, tuple[AxisReport, ...]] = {}
PAIRED = replace(GATE, regression=Regression(alpha=0.05, margin=0.02))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that stands still: the coin decides, the axes are proven by the expert."""
    return write_still(tmp_path_factory.mktemp("still"))


@pytest.fixture(autouse=True)
def axes_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-test of axes is the real one, but once for each grid in all tests of this file."""

    def tried(policy: Policy, grid: Grid) -> tuple[AxisReport, ...]:
        key = repr(grid)
        if key not in TRIED:
            TRIED[key] = try_axes(policy, grid)
        return TRIED[key]

    monkeypatch.setattr("harness.sim.simulation.try_axes", tried)


# -- the verdict -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "outcome"), [(0.99, Outcome.PASS), (0.4, Outcome.FAIL)])
def test_a_clear_verdict_takes_a_fraction_of_the_population(
    checkpoint: Path, rate: float, outcome: Outcome
) -> None:
    result = try_gate(checkpoint, {2: Coin(rate)})
    assert result.verdict.outcome is outcome
    assert result.evidence.drawn < 150 < result.evidence.population == 400


@pytest.mark.parametrize("rate", [0.99, 0.9, 0.8, 0.4])
def test_the_early_verdict_is_that_of_the_full_run(checkpoint: Path, rate: float) -> None:
    early = try_gate(checkpoint, {2: Coin(rate)})
    full = try_gate(checkpoint, {2: Coin(rate)}, full=True)
    assert full.evidence.drawn == full.evidence.population
    assert early.verdict.outcome is full.verdict.outcome
    assert full.rows[: len(early.rows)] == early.rows


def test_the_verdict_follows_from_the_stored_evidence(checkpoint: Path) -> None:
    result = try_gate(checkpoint, {2: Coin(0.95)})
    stored = evidence_from_json(result.evidence.to_json())
    assert judge(GATE, stored) == result.verdict
    assert result.evidence.attempts_digest == digest_rows(result.rows) == result.digest
    assert result.evidence.successes == sum(each.success for each in result.rows)
    assert result.evidence.robot_class == "openarm-v2-right"
    assert result.evidence.engine.startswith("mujoco ")


def test_episodes_are_drawn_as_the_nonce_says(checkpoint: Path) -> None:
    result = try_gate(checkpoint, {2: Coin(0.95)})
    grid = Grid.of(GATE.task, GATE.axes, GATE.episodes_per_cell)
    drawn = order("a nonce", grid.population)[: len(result.rows)]
    assert [each.key for each in result.rows] == [grid.key(int(number)) for number in drawn]


def test_progress_ends_with_the_counts_of_the_evidence(checkpoint: Path) -> None:
    told: list[Progress] = []
    result = try_gate(checkpoint, {2: Coin(0.95)}, progress=told.append)
    assert told[-1].drawn == result.evidence.drawn
    assert told[-1].verdict.outcome is result.verdict.outcome
    assert told[0].population == 400


def test_the_csv_has_one_line_an_episode_and_a_column_an_axis(checkpoint: Path) -> None:
    result = try_gate(checkpoint, {2: Coin(0.7)})
    lines = list(csv.DictReader(io.StringIO(to_csv(result.rows))))
    assert len(lines) == result.evidence.drawn
    assert {(line["friction"], line["mass"]) for line in lines} <= {
        (friction, mass) for friction in ("0.5", "1.5") for mass in ("1", "2")
    }
    failed = [line for line in lines if line["outcome"] == "failure"]
    assert {line["failure_mode"] for line in failed} == {"dropped"}
    assert result.failure_modes == {"dropped": len(failed)}


def test_a_drawn_term_is_a_column_and_the_same_in_every_cell(checkpoint: Path) -> None:
    gate = replace(GATE, axes={"mass": (1.0, 2.0), "kp": {"range": (0.7, 1.3)}})
    result = try_gate(checkpoint, {2: Coin(0.5)}, gate, full=True)
    drawn: dict[int, set[float]] = {}
    for row in result.rows:
        drawn.setdefault(row.episode, set()).add(row.values["kp"])
    assert all(len(values) == 1 and 0.7 <= min(values) <= 1.3 for values in drawn.values())
    assert len(set.union(*drawn.values())) == gate.episodes_per_cell


# -- against the fleet's version -------------------------------------------------------------------


def test_a_worse_version_fails_by_comparison_though_its_mean_would_pass(checkpoint: Path) -> None:
    result = try_gate(checkpoint, {1: Coin(1.0), 2: Coin(0.93, who=1)}, PAIRED)
    assert result.verdict.outcome is Outcome.FAIL
    assert "worse than v1" in result.verdict.reason
    paired = result.evidence.paired
    assert paired is not None
    assert paired.baseline == subject(1)
    assert paired.pairs == result.evidence.drawn
    assert paired.regressions == sum(not row.success for row in result.rows)
    alone = try_gate(checkpoint, {2: Coin(0.93, who=1)}, PAIRED)
    assert alone.verdict.outcome is Outcome.PASS


def test_equal_episodes_need_no_test_but_so_many_that_a_rare_loss_would_have_shown(
    checkpoint: Path,
) -> None:
    result = try_gate(checkpoint, {1: Coin(1.0), 2: Coin(1.0)}, PAIRED)
    assert result.verdict.outcome is Outcome.PASS
    assert result.evidence.paired is not None
    enough = result.evidence.drawn
    assert result.evidence.paired.identical == enough
    assert 0.98**enough <= 0.05 < 0.98 ** (enough - 1)
    assert try_gate(checkpoint, {2: Coin(1.0)}, PAIRED).evidence.drawn < enough


def test_the_baseline_plays_only_what_it_never_played(checkpoint: Path) -> None:
    memory, old = Memory(), Coin(0.99)
    first = try_gate(checkpoint, {1: old, 2: Coin(0.985, who=1)}, PAIRED, keeper=memory)
    played = old.played
    assert played >= first.evidence.drawn
    again = Coin(0.99)
    coins = {1: again, 2: Coin(0.985, who=1)}
    other = replace(PAIRED, threshold=0.80)
    second = try_gate(checkpoint, coins, other, keeper=memory)
    assert again.played <= max(0, second.evidence.drawn - first.evidence.drawn)
    assert second.baseline_rows.keys() == {row.key for row in second.rows}


def test_outputs_are_kept_of_failures_and_flips_alone(checkpoint: Path) -> None:
    memory = Memory()
    coins = {1: Coin(0.9), 2: Coin(0.9, who=1)}
    result = try_gate(checkpoint, coins, PAIRED, full=True, keeper=memory)
    assert {bool(row.actions) for row in result.rows} == {True, False}
    for row in result.rows:
        flipped = result.baseline_rows[row.key].success != row.success
        assert bool(row.actions) == (flipped or not row.success)
    kept = [row for drawer in memory.drawers.values() for row in drawer.values()]
    assert all(bool(row["actions"]) == (row["outcome"] == "failure") for row in kept)


# -- what is kept ----------------------------------------------------------------------------------


def test_the_same_gate_again_is_a_look_up(checkpoint: Path) -> None:
    memory = Memory()
    coins = {1: Coin(0.99), 2: Coin(0.985, who=1)}
    first = try_gate(checkpoint, coins, PAIRED, keeper=memory)
    again = try_gate(checkpoint, {1: Coin(0.0), 2: Coin(0.0)}, PAIRED, keeper=memory)
    assert not first.cached
    assert again.cached
    assert (again.evidence, again.verdict) == (first.evidence, first.verdict)
    assert again.rows == tuple(without_log(row) for row in first.rows)
    assert {key: without_log(row) for key, row in first.baseline_rows.items()} == (
        again.baseline_rows
    )


@pytest.mark.parametrize(
    "change",
    [
        {"gate": replace(GATE, threshold=0.8)},
        {"candidate": 3},
        {"nonce": "another"},
        {"full": True},
        {"baseline": 1},
    ],
)
def test_whatever_makes_a_verdict_is_in_its_key(checkpoint: Path, change: dict[str, Any]) -> None:
    def key(gate: Any = PAIRED, candidate: int = 2, baseline: int = 0, **options: Any) -> str:
        who = Contestant(checkpoint, subject(candidate))
        against = Contestant(checkpoint, subject(baseline)) if baseline else None
        nonce = options.pop("nonce", "a nonce")
        return SimRun(who, gate, nonce, against, **options).key("task", "engine")

    assert key() == key()
    assert key(**change) != key()
    assert key().startswith("sha256:")


@settings(max_examples=8)
@given(st.integers(0, 30))
def test_an_interrupted_run_goes_on_where_it_was(checkpoint: Path, after: int) -> None:
    memory = Memory()
    with pytest.raises(Interrupted, match="interrupted"):
        try_gate(checkpoint, {2: Coin(0.95, interrupt_after=after)}, keeper=memory)
    assert memory.verdicts == 0
    rest = Coin(0.95)
    resumed = try_gate(checkpoint, {2: rest}, keeper=memory)
    whole = try_gate(checkpoint, {2: Coin(0.95)})
    assert resumed.evidence == whole.evidence
    assert resumed.rows == whole.rows
    assert rest.played == resumed.played <= len(whole.rows) - after


def test_a_budget_ends_a_run_undecided_with_what_is_still_needed(checkpoint: Path) -> None:
    memory = Memory()
    result = try_gate(checkpoint, {2: Coin(0.86)}, budget_s=1e-9, keeper=memory)
    assert result.verdict.outcome is Outcome.INCONCLUSIVE
    assert result.evidence.drawn == 1
    assert result.verdict.more is not None
    assert result.verdict.more > 0
    assert memory.verdicts == 0
    assert try_gate(checkpoint, {2: Coin(0.86)}, keeper=memory).evidence.drawn > 1


def test_a_full_run_that_its_budget_ended_is_no_full_run(checkpoint: Path) -> None:
    memory = Memory()
    cut = try_gate(checkpoint, {2: Coin(0.4)}, full=True, budget_s=1e-9, keeper=memory)
    assert cut.evidence.drawn < cut.evidence.population
    whole = try_gate(checkpoint, {2: Coin(0.4)}, full=True, keeper=memory)
    assert (whole.cached, whole.evidence.drawn) == (False, whole.evidence.population)


# -- refusals --------------------------------------------------------------------------------------


def test_a_policy_without_answers_fails_every_episode_at_once(tmp_path: Path) -> None:
    folder = write_overflowing(tmp_path / "checkpoint")
    gate = replace(GATE, axes={"friction": (0.5,)}, episodes_per_cell=100)
    result = run_sim_gate(
        SimRun(Contestant(folder, subject(2)), gate, "a nonce"), simulation_of(gate)
    )
    assert result.verdict.outcome is Outcome.FAIL
    assert set(result.failure_modes) == {"policy_nan"}
    assert {each.steps for each in result.rows} == {1}


def test_a_policy_slower_than_its_period_fails_and_nothing_is_kept(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.sim.simulation.lateness", lambda policy: "31.0 ms a step")
    memory, coin = Memory(), Coin(1.0)
    result = try_gate(checkpoint, {2: coin}, keeper=memory)
    assert result.verdict.outcome is Outcome.FAIL
    assert {(row.failure_mode, row.detail) for row in result.rows} == {
        ("policy_late", "31.0 ms a step")
    }
    assert (coin.played, memory.verdicts, memory.drawers) == (0, 0, {})


def test_a_dead_axis_is_refused_before_anything_is_played(checkpoint: Path) -> None:
    axes = {**AXES, "strength": (1.9, 2.0)}  # more torque than the motion ever asks for
    coin = Coin(1.0)
    with pytest.raises(ConfigError, match=r"changes nothing .*: strength") as caught:
        try_gate(checkpoint, {2: coin}, replace(GATE, axes=axes), where="gates.yaml")
    assert caught.value.where == "gates.yaml"
    assert caught.value.field == "sim.axes.strength"
    assert coin.played == 0


def test_a_term_that_acts_late_is_followed_until_it_acts(checkpoint: Path) -> None:
    late = {"target": "joints", "field": "kp", "operation": "scale", "values": (0.5, 3.0)}
    gate = replace(GATE, axes={"soft": {**late, "when": 4.0}})
    assert try_gate(checkpoint, {2: Coin(0.99)}, gate).verdict.outcome is Outcome.PASS


def test_the_self_test_of_axes_runs_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, asked = Memory(), []
    monkeypatch.setattr("harness.sim.simulation.try_axes", lambda *given: asked.append(given) or ())
    for nonce in ("one", "another"):
        try_gate(checkpoint, {2: Coin(0.99)}, keeper=memory, nonce=nonce)
    assert len(asked) == 1


def test_the_self_test_of_axes_is_of_its_overlay_and_of_who_drives(tmp_path: Path) -> None:
    action = contract().action.model_dump()
    scripted = write_still(tmp_path / "scripted")
    driving = write_still(tmp_path / "driving", action={**action, "space": "absolute"})

    def key(folder: Path, number: int, **overlay: Term) -> str:
        who = Contestant(folder, subject(number))
        return simulation_of(replace(GATE, overlay=overlay)).examine(who).axes_key

    damping = {scale: Term((scale,), None, "joints", "damping", "scale") for scale in (1.1, 1.2)}
    assert key(scripted, 1) == key(scripted, 2)
    assert len({key(scripted, 1), *(key(scripted, 1, j=term) for term in damping.values())}) == 3
    assert key(driving, 1) != key(driving, 2)


def test_what_renders_is_of_the_engine_where_either_side_sees_images(
    checkpoint: Path, tmp_path: Path
) -> None:
    seeing = write_camera_policy(tmp_path / "seeing")

    def engine(*folders: Path) -> str:
        return simulation_of(GATE, folders=folders).engine

    assert engine(checkpoint, seeing) == engine(seeing, checkpoint) == engine(seeing)
    assert driver() in engine(checkpoint, seeing)
    assert driver() not in engine(checkpoint)


def test_a_task_that_is_not_there_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="there is no task 'juggling'") as caught:
        try_gate(checkpoint, {2: Coin(1.0)}, replace(GATE, task="juggling"), where="gates.yaml:3")
    assert caught.value.where == "gates.yaml:3"


def test_a_policy_for_another_task_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    folder = write_overflowing(tmp_path / "checkpoint")
    text = (folder / "contract.json").read_text()
    (folder / "contract.json").write_text(text.replace('"box-grasp"', '"juggling"'))
    coin = Coin(1.0)
    with pytest.raises(ConfigError, match="does not fit: task"):
        try_gate(folder, {2: coin})
    assert coin.played == 0
