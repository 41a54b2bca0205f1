"""The expert succeeds where the task puts a box; with a softer grip it drops heavy ones."""

from __future__ import annotations

import numpy as np
import pytest
from sim_policies import contract, world

from fleet.kinematics import ArmKinematics
from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.expert import Expert, ExpertConfig

pytestmark = pytest.mark.slow

CELL = (47,)


def expert_records(close: float, specs: list[EpisodeSpec]) -> list[EpisodeRecord]:
    """Episodes driven by the expert, which sees the true pose."""
    made = contract(action=contract().action.model_dump() | {"ema_alpha": 0.7})
    env = BatchEnv(made, len(specs))
    expert = Expert(
        ArmKinematics.load("right"), np.array(made.action.limit), ExpertConfig(close=close)
    )
    env.reset(list(range(len(specs))), specs)
    slots = np.arange(len(specs))
    while len(slots):
        done = env.step(slots, expert.act(env.measure(slots), env.truth(slots)))
        slots = slots[~done]
    return [env.record(slot) for slot in range(len(specs))]


def rate(records: list[EpisodeRecord]) -> float:
    return sum(record.success for record in records) / len(records)


@pytest.mark.parametrize(
    ("friction", "mass", "delay"), [(0.8, 0.2, 0), (0.5, 1.0, 0), (0.3, 0.4, 3)]
)
def test_it_succeeds_where_the_gate_and_the_fleet_are(
    friction: float, mass: float, delay: int
) -> None:
    specs = [
        EpisodeSpec(CELL, i, world(friction=friction, mass=mass, delay=delay)) for i in range(48)
    ]
    records = expert_records(-0.03, specs)
    assert rate(records) == 1.0
    assert np.median([record.steps for record in records]) < 120


def test_a_softer_grip_holds_light_boxes_and_drops_heavy_ones() -> None:
    light = [EpisodeSpec(CELL, i, world(friction=0.5, mass=0.2)) for i in range(32)]
    heavy = [EpisodeSpec(CELL, i, world(friction=0.5, mass=0.95)) for i in range(32)]
    assert rate(expert_records(-0.1875, light)) == 1.0
    assert rate(expert_records(-0.1875, heavy)) < 0.5
    assert rate(expert_records(-0.03, heavy)) == 1.0
