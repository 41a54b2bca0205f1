from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fleet.can import frames
from fleet.can.frames import ArmCodec, Special
from fleet.can.motors import MOTOR_TYPES, OPENARM_MOTORS

GOLDEN: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[2] / "data" / "openarm_golden.yaml").read_text()
)


@pytest.mark.parametrize("vector", GOLDEN["mit"], ids=lambda v: f"{v[0]}-{v[-1]}")
def test_mit_encodes_as_the_vendor_does(vector: list[Any]) -> None:
    motor, q, dq, kp, kd, tau, data = vector
    encoded = frames.encode_mit(MOTOR_TYPES[motor].ranges, q=q, dq=dq, kp=kp, kd=kd, tau=tau)
    assert encoded.hex() == data


@pytest.mark.parametrize("vector", GOLDEN["mit"], ids=lambda v: f"{v[0]}-{v[-1]}")
def test_the_vector_path_encodes_mit_alike(vector: list[Any]) -> None:
    motor, *fields, data = vector
    codec = ArmCodec([MOTOR_TYPES[motor].ranges] * 8)
    columns = [np.full(8, value) for value in fields]
    assert codec.encode_mit(*columns).hex() == data * 8


@pytest.mark.parametrize("vector", GOLDEN["feedback"], ids=lambda v: v[1])
def test_feedback_decodes_as_the_vendor_does(vector: list[Any]) -> None:
    motor, data, low_id, status, q, dq, tau, temp_mos, temp_rotor = vector
    expected = (low_id, status, q, dq, tau, temp_mos, temp_rotor)
    ranges = MOTOR_TYPES[motor].ranges
    assert frames.decode_feedback(ranges, bytes.fromhex(data)) == expected
    state = ArmCodec([ranges] * 8).decode_feedback(bytes.fromhex(data) * 8)
    assert all(tuple(column[i] for column in state) == expected for i in range(8))


def test_special_and_register_frames_are_byte_exact() -> None:
    built = {
        "disable_id8": (8, frames.special(Special.DISABLE)),
        "set_zero_id8": (8, frames.special(Special.SET_ZERO)),
        "clear_error_id8": (8, frames.special(Special.CLEAR_ERROR)),
        "refresh_id8": (frames.PARAMETER_ID, frames.refresh(8)),
        "read_reg_23_tmax_id8": (frames.PARAMETER_ID, frames.read_register(8, 23)),
        "vel_2p5_id8": (8 + frames.VEL_OFFSET, frames.encode_vel(2.5)),
        "posforce_q_m1p0472_dq_5_i_0p5_id8": (
            8 + frames.POS_FORCE_OFFSET,
            frames.encode_pos_force(-1.0472, 5.0, 0.5),
        ),
        "write_ctrl_mode_1_mit_id1": (frames.PARAMETER_ID, frames.write_register(1, 10, 1)),
        "write_ctrl_mode_4_pos_force_id8": (frames.PARAMETER_ID, frames.write_register(8, 10, 4)),
        "write_can_br_9_5m_id3": (frames.PARAMETER_ID, frames.write_register(3, 35, 9)),
        "save_params_id3": (frames.PARAMETER_ID, frames.save_registers(3)),
    }
    reply = "reply_read_vmax_10p0_from_id4_on_0x14"
    assert set(built) == set(GOLDEN["frames"]) - {reply}
    for name, (identifier, data) in built.items():
        assert [identifier, data.hex()] == GOLDEN["frames"][name], name
    assert frames.decode_register(bytes.fromhex(GOLDEN["frames"][reply][1])) == (4, 0x33, 22, 10.0)


@pytest.mark.parametrize("vector", GOLDEN["registers"], ids=lambda v: v[0])
def test_register_replies_decode_as_the_vendor_does(vector: list[Any]) -> None:
    data, register, value = vector
    reply = frames.decode_register(bytes.fromhex(data))
    assert (reply.register, reply.value) == (register, value)


def test_position_with_speed_limit_is_two_little_endian_floats() -> None:
    assert frames.encode_pos_vel(1.0, 2.0).hex() == "0000803f00000040"


@given(
    esc_id=st.integers(1, 8),
    register=st.integers(0, 81),
    command=st.sampled_from([0x33, 0x55, 0xAA, 0xCC]),
    value=st.binary(min_size=4, max_size=4),
)
def test_no_register_frame_is_taken_for_feedback(
    esc_id: int, register: int, command: int, value: bytes
) -> None:
    data = bytes((esc_id, 0, command, register)) + value
    assert frames.is_register_reply(data, esc_id)


@given(
    esc_id=st.integers(1, 8),
    status=st.sampled_from([0, 1, 8, 9, 10, 11, 12, 13, 14]),
    q=st.floats(-12.3, 12.5),
    rest=st.binary(min_size=5, max_size=5),
)
def test_no_feedback_inside_the_limits_is_taken_for_a_register_frame(
    esc_id: int, status: int, q: float, rest: bytes
) -> None:
    position = int((q + 12.5) / 25.0 * 65535)
    data = bytes((status << 4 | esc_id,)) + position.to_bytes(2, "big") + rest
    assert not frames.is_register_reply(data, esc_id)


finite = st.floats(-1e6, 1e6)


@given(rows=st.lists(st.tuples(finite, finite, finite, finite, finite), min_size=8, max_size=8))
def test_scalar_and_vector_paths_agree_on_every_bit(rows: list[tuple[float, ...]]) -> None:
    ranges = [motor.type.ranges for motor in OPENARM_MOTORS]
    codec = ArmCodec(ranges)
    scalar = b"".join(
        frames.encode_mit(r, q=q, dq=dq, kp=kp, kd=kd, tau=tau)
        for r, (q, dq, kp, kd, tau) in zip(ranges, rows, strict=True)
    )
    vector = codec.encode_mit(*np.array(rows).T)
    assert bytes(vector) == scalar
    decoded = codec.decode_mit(vector)
    again = codec.encode_mit(*(decoded + 1e-9))
    assert bytes(again) == scalar


@pytest.mark.slow
@given(rows=st.lists(st.tuples(finite, finite, finite), min_size=8, max_size=8))
def test_a_motor_and_the_arm_agree_on_feedback(rows: list[tuple[float, float, float]]) -> None:
    ranges = [motor.type.ranges for motor in OPENARM_MOTORS]
    codec = ArmCodec(ranges)
    header = np.array([frames.feedback_header(i + 1, 1, 35.0, 32.9) for i in range(8)], np.uint64)
    data = codec.encode_feedback(header, *np.array(rows).T)
    state = codec.decode_feedback(data)
    for i, r in enumerate(ranges):
        one = frames.decode_feedback(r, data[8 * i : 8 * i + 8])
        assert one == tuple(column[i] for column in state)
        assert (one.motor, one.status, one.temp_mos, one.temp_rotor) == (i + 1, 1, 35, 32)
        q = min(max(rows[i][0], -r.pmax), r.pmax)
        assert 0.0 <= q - one.q <= 25.0 / 65535 + 1e-12


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", range(5))
def test_a_command_that_is_not_finite_is_refused(bad: float, field: int) -> None:
    columns = [np.zeros(8) for _ in range(5)]
    columns[field][3] = bad
    with pytest.raises(ValueError, match="not finite"):
        ArmCodec([motor.type.ranges for motor in OPENARM_MOTORS]).encode_mit(*columns)
    scalars = dict.fromkeys(("q", "dq", "kp", "kd", "tau"), 0.0)
    scalars[tuple(scalars)[field]] = bad
    with pytest.raises(ValueError, match="not finite"):
        frames.encode_mit(MOTOR_TYPES["DM4310"].ranges, **scalars)


def test_a_full_scale_command_is_known_to_collide() -> None:
    full = frames.encode_mit(
        MOTOR_TYPES["DM4310"].ranges, q=12.5, dq=30.0, kp=500.0, kd=5.0, tau=10.0
    )
    assert frames.collides_with_special(full)
    near = frames.encode_mit(
        MOTOR_TYPES["DM4310"].ranges, q=12.5, dq=30.0, kp=500.0, kd=5.0, tau=9.99
    )
    assert frames.special_code(near) in tuple(Special)
    safe = frames.encode_mit(
        MOTOR_TYPES["DM4310"].ranges, q=12.5, dq=30.0, kp=499.0, kd=5.0, tau=10.0
    )
    assert not frames.collides_with_special(safe)
