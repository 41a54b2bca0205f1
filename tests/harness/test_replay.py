"""An episode again: many in one environment, and whatever of the record differs is seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sim_policies import ExpertPolicy, write_overflowing

from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.grid import Grid
from harness.sim.replay import Replay, Replayer, compared
from harness.sim.results import Row, pack, row
from harness.sim.runner import play
from policies.loading import load_policy
from registry.errors import Corrupt, NotFound

GRID = Grid.of("box-grasp", {"friction": (0.5, 1.5), "delay": (0, 3)}, 1)
RECORD = EpisodeRecord(
    GRID.spec(0), False, "dropped", 90, {"lift_m": 0.1}, {"shape_clip": 2, "speed": 0}, "d" * 64,
    np.zeros((90, 8), dtype=np.float32).tobytes(),
)  # fmt: skip
ROW = row(GRID, 0, RECORD)
Case = tuple[EpisodeSpec, Row]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """Every episode of the grid, played four at a time by a policy that acts."""
    policy = ExpertPolicy()
    numbers = {GRID.spec(number): number for number in range(GRID.population)}
    records = play(BatchEnv(policy.contract, 4), policy.act, numbers)
    return [(record.spec, row(GRID, numbers[record.spec], record)) for record in records]


@pytest.mark.slow
def test_one_environment_replays_episodes_in_any_order_to_the_bit(cases: list[Case]) -> None:
    player = Replayer(ExpertPolicy())
    for spec, kept in reversed(cases):
        by_log = player.replay_log(spec, kept, same_engine=True)
        asked = player.replay(spec, kept, same_engine=True)
        assert by_log is not None
        assert (by_log.by, by_log.identical) == ("actions", True)
        assert (asked.by, asked.identical) == ("inference", True)
        assert asked.record.digest == kept.digest


def test_another_log_is_not_the_recorded_bits_and_a_short_one_is_corrupt(
    cases: list[Case],
) -> None:
    spec, kept = cases[0]
    player = Replayer(ExpertPolicy())

    def played(steps: int) -> Replay | None:
        outputs = np.zeros((steps, 8), dtype=np.float32)
        return player.replay_log(
            spec, replace(kept, actions=pack(outputs.tobytes())), same_engine=True
        )

    found = played(1000)
    assert found is not None
    assert found.identical is False
    with pytest.raises(Corrupt, match="ends before the episode does"):
        played(5)


def test_a_watch_sees_its_own_episode_alone(cases: list[Case]) -> None:
    spec, kept = cases[0]
    player, ticks, looks = Replayer(ExpertPolicy()), [0], [0]

    def watch(env: BatchEnv) -> None:
        looks[0] += 1

        def tick() -> None:
            ticks[0] += 1

        env.on_tick = tick

    player.replay(spec, kept, same_engine=True, watch=watch)
    seen = ticks[0]
    assert (looks[0], seen) == (kept.steps + 1, 5 * kept.steps)
    player.replay_log(spec, kept, same_engine=True)
    assert (looks[0], ticks[0]) == (kept.steps + 1, seen)


def test_a_policy_that_answered_no_number_is_replayed_by_its_log(tmp_path: Path) -> None:
    policy = load_policy(write_overflowing(tmp_path))
    (record,) = play(BatchEnv(policy.contract, 1), policy.act, [GRID.spec(0)])
    kept = row(GRID, 0, record)
    assert kept.failure_mode == "policy_nan"
    player = Replayer(policy)
    assert player.replay(record.spec, kept, same_engine=True).identical
    by_log = player.replay_log(record.spec, kept, same_engine=True)
    assert by_log is not None
    assert by_log.identical


def test_without_a_log_another_engines_episode_cannot_be_played() -> None:
    player = Replayer(ExpertPolicy())
    bare = replace(ROW, actions="")
    assert player.replay_log(GRID.spec(0), bare, same_engine=True) is None
    with pytest.raises(NotFound, match="no action log was kept"):
        player.replay(GRID.spec(0), bare, same_engine=False)


def test_what_was_recorded_is_identical() -> None:
    for by in ("inference", "actions"):
        found = compared(RECORD, ROW, by, same_engine=True)
        assert (found.identical, found.same_outcome) == (True, True)
        assert found.words == f"bit-identical by {by}"


@pytest.mark.parametrize("by", ["inference", "actions"])
@pytest.mark.parametrize(
    "change",
    [
        {"digest": "e" * 64},
        {"success": True, "failure_mode": ""},
        {"failure_mode": "timeout"},
        {"steps": 91},
        {"metrics": {"lift_m": 0.2}},
        {"metrics": {}},
        {"interventions": {"shape_clip": 3}},
        {"interventions": {"shape_clip": 2, "speed": 1}},
    ],
)
def test_whatever_of_the_record_differs_is_seen(change: dict[str, Any], by: str) -> None:
    played: EpisodeRecord = replace(RECORD, **change)
    found = compared(played, ROW, by, same_engine=True)
    assert found.identical is False
    assert found.same_outcome is (not played.success)
    assert "not the recorded bits" in found.words
    elsewhere = compared(played, ROW, by, same_engine=False)
    assert elsewhere.identical is None


def test_a_log_cannot_tell_a_crash_from_no_number_and_inference_can() -> None:
    kept = replace(ROW, failure_mode="policy_crash")
    played = replace(RECORD, failure_mode="policy_nan")
    assert compared(played, kept, "actions", same_engine=True).identical is True
    assert compared(played, kept, "inference", same_engine=True).identical is False
