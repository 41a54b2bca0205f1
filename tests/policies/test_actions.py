"""Shaping: nothing that is not finite, no step beyond its limit, the same for one row or many."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import numpy as np
from contract_data import contract_json
from hypothesis import given
from hypothesis import strategies as st

from policies.actions import ActionState, shape, start
from policies.contract import Contract, parse_contract


def shaped(space: str = "delta", alpha: float = 0.7) -> Contract:
    data = contract_json()
    data["action"] |= {"space": space, "ema_alpha": alpha}
    return parse_contract(data)


floats = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(
    raw=arrays.arrays(np.float32, (3, 8), elements=floats),
    space=st.sampled_from(["delta", "absolute"]),
)
def test_a_command_is_always_finite_within_range_and_limit(raw: np.ndarray, space: str) -> None:
    contract = shaped(space)
    state = ActionState(np.zeros((3, 8)))
    for _ in range(3):
        last = state.command
        state, command, faults, _ = shape(contract, state, raw)
        assert np.isfinite(command).all()
        assert (np.abs(command - last) <= np.array(contract.action.limit) + 1e-12).all()
        assert (command >= contract.action.low).all()
        assert (command <= contract.action.high).all()
        assert (faults == ~np.isfinite(raw).all(axis=1)).all()


def test_delta_moves_by_alpha_times_output_times_limit() -> None:
    contract = shaped()
    raw = np.full((1, 8), 0.5, dtype=np.float32)
    _, command, _, counts = shape(contract, ActionState(np.zeros((1, 8))), raw)
    np.testing.assert_allclose(command[0], 0.7 * 0.5 * 0.05)
    assert counts["delta"][0] == 0


def test_absolute_spans_the_range_and_is_limited_on_the_way() -> None:
    contract = shaped("absolute", alpha=1.0)
    state = ActionState(np.zeros((1, 8)))
    raw = np.ones((1, 8), dtype=np.float32)
    state, command, _, counts = shape(contract, state, raw)
    np.testing.assert_allclose(command[0], 0.05)
    assert counts["delta"][0] == 8
    for _ in range(30):
        state, command, _, _ = shape(contract, state, raw)
    np.testing.assert_allclose(command[0], contract.action.high)


def test_a_fault_holds_the_row_and_spares_its_mates() -> None:
    contract = shaped()
    raw = np.full((2, 8), 0.5, dtype=np.float32)
    raw[0, 3] = np.nan
    _, command, faults, _ = shape(contract, ActionState(np.zeros((2, 8))), raw)
    assert faults.tolist() == [True, False]
    np.testing.assert_array_equal(command[0], 0.0)
    assert (command[1] > 0).all()


def test_interventions_are_counted_in_joints() -> None:
    contract = shaped()
    raw = np.zeros((1, 8), dtype=np.float32)
    raw[0, :3] = 2.0
    _, _, _, counts = shape(contract, ActionState(np.ones((1, 8))), raw)
    assert counts["delta"][0] == 3
    assert counts["range"][0] == 3


def test_a_start_outside_the_range_begins_at_its_edge() -> None:
    assert (start(shaped(), np.full((1, 8), 5.0)).command == 1.0).all()
