"""Observations: the contract's terms in the contract's order, from measurements alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from contract_data import contract_json

from policies.contract import ARM_TERMS, SCENE_TERMS, parse_contract, term_width
from policies.observation import TERMS, Measurement, assemble
from registry.errors import ConfigError


def measurement(batch: int, arms: int) -> Measurement:
    rng = np.random.default_rng(3)
    joints = 8 * arms
    return Measurement(
        q=rng.standard_normal((batch, joints)),
        dq=rng.standard_normal((batch, joints)),
        tau=rng.standard_normal((batch, joints)),
        command=rng.standard_normal((batch, joints)),
        tcp=rng.standard_normal((batch, arms, 3)),
        tcp_command=rng.standard_normal((batch, arms, 3)),
        hand_axes=rng.standard_normal((batch, arms, 6)),
        object_position=rng.standard_normal((batch, 3)),
        object_yaw=rng.standard_normal(batch),
        object_age=rng.random(batch),
        goal_position=rng.standard_normal((batch, 3)),
        goal_yaw=rng.standard_normal(batch),
    )


def test_terms_come_in_the_contracts_order() -> None:
    data = contract_json()
    data["observation"] = [
        {"name": "object_position", "width": 3},
        {"name": "gripper_torque", "width": 1},
        {"name": "joint_command", "width": 8},
    ]
    m = measurement(5, 1)
    seen = assemble(parse_contract(data), m)
    assert seen.dtype == np.float32
    np.testing.assert_array_equal(
        seen, np.concatenate([m.object_position, m.tau[:, 7:8], m.command], 1).astype(np.float32)
    )


def test_every_term_has_its_declared_width_for_one_arm_and_two() -> None:
    assert set(TERMS) == {**ARM_TERMS, **SCENE_TERMS}.keys()
    for arms in (1, 2):
        m = measurement(4, arms)
        for name, term in TERMS.items():
            assert term(m).reshape(4, -1).shape[1] == term_width(name, arms)


def test_a_cubes_quarter_turn_looks_the_same() -> None:
    m = measurement(2, 1)
    turned = dataclasses.replace(m, object_yaw=m.object_yaw + np.pi / 2)
    np.testing.assert_allclose(TERMS["object_yaw"](m), TERMS["object_yaw"](turned), atol=1e-12)


def test_a_policy_that_asks_for_a_goal_where_there_is_none_is_refused() -> None:
    data = contract_json()
    data["observation"] = [{"name": "goal_position", "width": 3}]
    contract = parse_contract(data)
    m = measurement(2, 1)
    assert m.goal_position is not None
    np.testing.assert_array_equal(assemble(contract, m), m.goal_position.astype(np.float32))
    with pytest.raises(ConfigError, match="goal"):
        assemble(contract, dataclasses.replace(m, goal_position=None, goal_yaw=None))


def test_offset_is_from_the_hand_to_the_object() -> None:
    m = measurement(2, 2)
    offset = TERMS["object_offset"](m).reshape(2, 2, 3)
    np.testing.assert_allclose(offset + m.tcp, m.object_position[:, None].repeat(2, 1))


def test_images_enter_row_by_row_as_shares_of_white() -> None:
    data = contract_json()
    data["cameras"] = [{"name": "front", "width": 3, "height": 2}]
    data["observation"] = [
        {"name": "joint_position", "width": 8},
        {"name": "image_front", "width": 18},
        {"name": "depth_front", "width": 6},
    ]
    contract, m = parse_contract(data), measurement(2, 1)
    with pytest.raises(ConfigError) as caught:
        assemble(contract, m)
    assert "front" in caught.value.field
    pixels = np.arange(36, dtype=np.uint8).reshape(2, 2, 3, 3) * 7
    depths = np.linspace(0.1, 1.2, 12, dtype=np.float32).reshape(2, 2, 3)
    m = dataclasses.replace(m, images={"front": pixels}, depths={"front": depths})
    seen = assemble(contract, m)
    np.testing.assert_allclose(seen[1, 8:26], pixels[1].reshape(-1) / 255.0, rtol=1e-6)
    assert seen[0, 8 + 4] == pytest.approx(pixels[0, 0, 1, 1] / 255.0)
    np.testing.assert_array_equal(seen[:, 26:], depths.reshape(2, 6))
