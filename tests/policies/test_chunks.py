"""Chunks are blended at their measured delay, and no change of chunks makes the target jump."""

from __future__ import annotations

import numpy as np
import pytest
from contract_data import contract_json
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.actions import ActionState, start
from policies.chunks import Blend, Chunk, unrolled
from policies.contract import parse_contract

STEP, TICK, BLEND = 0.05, 0.005, 0.1
REACH = 3.0


def chunk(seen_at: float, *values: float) -> Chunk:
    return Chunk(np.array(values)[:, None], seen_at, STEP)


def test_rows_of_the_past_are_not_followed() -> None:
    blend = Blend(np.zeros(1), BLEND)
    assert blend.offer(chunk(1.0, *(0.1 * k for k in range(20))), now=1.2)
    assert blend.target(1.4)[0] == pytest.approx(0.8)  # row 8: 0.4 s after the observation


def test_two_chunks_that_agree_are_followed_as_one() -> None:
    blend = Blend(np.zeros(1), BLEND)
    blend.offer(chunk(0.0, *(0.1 * k for k in range(20))), now=0.05)
    blend.offer(chunk(0.3, *(0.1 * (6 + k) for k in range(20))), now=0.4)
    for now in np.arange(0.4, 1.0, TICK):
        assert blend.target(float(now))[0] == pytest.approx(2.0 * now)


def test_a_chunk_out_of_order_is_refused() -> None:
    blend = Blend(np.zeros(1), BLEND)
    blend.offer(chunk(1.0, 1.0), now=1.1)
    assert not blend.offer(chunk(0.9, 5.0), now=1.2)
    assert blend.target(9.0)[0] == 1.0


def test_beyond_the_last_row_it_rests() -> None:
    blend = Blend(np.zeros(1), BLEND)
    blend.offer(chunk(0.0, 0.0, 1.0), now=0.01)
    assert blend.target(5.0)[0] == 1.0


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.lists(st.floats(-REACH, REACH), min_size=1, max_size=8),
            st.floats(0.0, 0.3),
            st.integers(1, 60),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_the_target_never_jumps(offers: list[tuple[list[float], float, int]]) -> None:
    """In dt it moves at most as fast as the steepest rows plus the steepest change."""
    blend, now = Blend(np.zeros(1), BLEND), 1.0
    bound = TICK * (2 * REACH / STEP + 1.5 * 2 * REACH / BLEND) + 1e-9
    last = blend.target(now)
    for values, delay, ticks in offers:
        before = blend.target(now)
        blend.offer(chunk(now - delay, *values), now)
        np.testing.assert_allclose(blend.target(now), before, atol=1e-12)
        for _ in range(ticks):
            now += TICK
            target = blend.target(now)
            assert abs(target - last)[0] <= bound
            assert abs(target)[0] <= REACH + 1e-9
            last = target


def test_answers_that_are_unrolled_together_are_those_unrolled_alone() -> None:
    """To the bit, interventions included; one that is not finite harms no other."""
    contract = parse_contract(contract_json() | {"chunk": {"rows": 12, "every": 6, "blend": 5}})
    rng = np.random.default_rng(6)
    seen = start(contract, rng.normal(0.0, 0.3, (5, 8)))
    raw = rng.normal(0.0, 1.5, (5, 12 * 8)).astype(np.float32)
    raw[3, 40] = np.nan
    together = unrolled(contract, seen, raw)
    assert together.rows.shape == (5, 13, 8)
    assert together.finite.tolist() == [True, True, True, False, True]
    assert together.interventions["delta"].any()
    for i in range(5):
        alone = unrolled(contract, ActionState(seen.command[i : i + 1]), raw[i : i + 1])
        np.testing.assert_array_equal(alone.rows[0], together.rows[i])
        assert alone.finite[0] == together.finite[i]
        for name, counts in together.interventions.items():
            np.testing.assert_array_equal(alone.interventions[name][0], counts[i])


@pytest.mark.parametrize("rows", [np.zeros((0, 8)), np.zeros(8), np.full((2, 8), np.nan)])
def test_what_is_no_chunk_is_refused(rows: np.ndarray) -> None:
    with pytest.raises(ValueError):
        Chunk(rows, 0.0, STEP)
