"""Ticks that are protected together are what they are one after another, to the bit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.kinematics import load_arms
from fleet.limits import CONTACT_MAX_IN_SIM, SafetyLimits
from fleet.safety import Measured, SafetyState, interpolate, protect
from fleet.safety_ahead import protect_ahead, watch_ahead
from harness.sim.mirror import MIRROR

pytestmark = pytest.mark.slow

Floats = npt.NDArray[np.float64]
DT, TICKS = 0.004, 5
START = np.array([-0.04, 0.77, -0.66, 1.81, 1.12, 0.42, -0.70, -0.5])
LIMITS = {
    arms: SafetyLimits.for_arms(load_arms(arms), table_z=-0.445, contact_max=CONTACT_MAX_IN_SIM)
    for arms in ("openarm-v2-right", "openarm-v2-bimanual")
}
STARTS = {
    "openarm-v2-right": START,
    "openarm-v2-bimanual": np.concatenate([START, START * MIRROR]),
}
TOLD = ("command", "velocity", "counts", "_target")


def walk(rng: np.random.Generator, start: Floats, steps: int, sizes: Floats) -> Floats:
    """Policy commands (steps, B, J): calm, wild and frozen rows, also beyond all limits."""
    way = rng.normal(size=(steps, *start.shape)) * sizes[:, None]
    way[rng.random(way.shape) < 0.02] *= 30.0
    return np.asarray(start + np.cumsum(way, axis=0))


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.sampled_from(sorted(LIMITS)), st.integers(1, 12))
def test_protected_ahead_is_protected_tick_by_tick(seed: int, arms: str, batch: int) -> None:
    limits, rng = LIMITS[arms], np.random.default_rng(seed)
    start = np.tile(STARTS[arms], (batch, 1))
    together, alone = SafetyState(limits, start), SafetyState(limits, start)
    sizes = rng.choice([0.0, 0.002, 0.01, 0.03, 0.2], size=batch)
    before, rows = start, rng.permutation(batch)
    for after in walk(rng, start, 30, sizes):
        targets = np.stack([interpolate(before, after, k, TICKS) for k in range(1, TICKS + 1)])
        before = after
        if rng.random() < 0.1:
            targets[rng.integers(TICKS), rng.integers(batch), 0] = np.nan
        commands, part = protect_ahead(limits, together, rows, targets, DT)
        together.put(rows, part)
        for command, target in zip(commands, targets, strict=True):
            whole = np.empty_like(target)
            whole[rows] = target
            protect(limits, alone, whole, None, DT)
            assert command.tobytes() == alone.command[rows].tobytes()
        for name in TOLD:
            np.testing.assert_array_equal(getattr(together, name), getattr(alone, name), name)


def test_every_way_to_be_held_back_is_met_by_such_walks() -> None:
    """The property above is worth what its walks meet."""
    rng, limits = np.random.default_rng(5), LIMITS["openarm-v2-bimanual"]
    start = np.tile(STARTS["openarm-v2-bimanual"], (12, 1))
    state, rows = SafetyState(limits, start), np.arange(12)
    for after in walk(rng, start, 60, np.repeat([0.002, 0.03, 0.2], 4)):
        targets = np.repeat(after[None], TICKS, axis=0)
        state.put(rows, protect_ahead(limits, state, rows, targets, DT)[1])
    met = {name for row in range(12) for name in state.counted(row)}
    wanted = {"joint_limit", "velocity", "acceleration", "workspace", "self_collision"}
    assert wanted <= met


def test_a_stopped_row_is_not_protected_ahead() -> None:
    limits = LIMITS["openarm-v2-right"]
    state = SafetyState(limits, np.tile(START, (2, 1)))
    state.stop(np.array([1]))
    with pytest.raises(ValueError, match="stopped row"):
        protect_ahead(limits, state, np.arange(2), np.tile(START, (TICKS, 2, 1)), DT)
    protect_ahead(limits, state, np.array([0]), np.tile(START, (TICKS, 1, 1)), DT)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.floats(5.0, 60.0))
def test_torques_seen_afterwards_stop_what_they_would_have_stopped(seed: int, size: float) -> None:
    limits, rng = LIMITS["openarm-v2-right"], np.random.default_rng(seed)
    start = np.tile(START, (3, 1))
    later, now = SafetyState(limits, start), SafetyState(limits, start)
    nothing = np.zeros_like(start)
    for _ in range(10):
        tau = rng.normal(size=(TICKS, 3, 8)) * size + size / 2
        if rng.random() < 0.05:
            tau[rng.integers(TICKS), 0, 3] = np.nan
        for torque in tau:
            protect(limits, now, now.command.copy(), Measured(torque, nothing), DT)
        calm = watch_ahead(limits, later, tau, DT)
        assert calm == (not now.stopped.any())
        if not calm:
            return
        np.testing.assert_array_equal(later._load, now._load)
