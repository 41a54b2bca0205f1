"""Logs give back what was written, to the bit, and refuse what is no log."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import Writer

from harness.episodes.log import Event, MotionLog, read_log, write_log
from registry.errors import ConfigError, ServiceFailed

ARRAYS = (
    "time", "q", "dq", "tau", "command", "command_dq", "feedforward", "object_pose", "action_time",
)  # fmt: skip


def made(samples: int = 60, **changes: object) -> MotionLog:
    rng = np.random.default_rng(3)
    shape = (samples, 8)
    actions = rng.normal(size=(samples // 5, 8)).astype(np.float32)
    log = MotionLog(
        joints=(*(f"joint{i}" for i in range(1, 8)), "gripper"),
        time=np.arange(samples) * 0.005,
        q=rng.normal(size=shape),
        dq=rng.normal(size=shape) * 1e-7,
        tau=rng.normal(size=shape) * 1e9,
        command=rng.normal(size=shape),
        command_dq=np.zeros(shape),
        feedforward=rng.normal(size=shape),
        object_pose=rng.normal(size=(samples, 7)),
        action_time=np.arange(samples // 5) * 0.025,
        actions=actions,
        events=(Event(0.1, 'late, "again"\n'), Event(0.2, "stopped")),
        metadata={"key": "box-grasp:0,1:7", "engine": "mujoco 4.0.0", "digest": "sha256:ab"},
    )
    return replace(log, **changes)  # type: ignore[arg-type]


def same(one: MotionLog, other: MotionLog) -> None:
    for name in ARRAYS:
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        if a is not None:
            np.testing.assert_array_equal(a, b, err_msg=name)
            assert a.dtype == b.dtype
    assert one.actions.tobytes() == other.actions.tobytes()
    assert (one.joints, one.events, dict(one.metadata)) == (
        other.joints, other.events, dict(other.metadata),
    )  # fmt: skip


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "out.mcap"
    write_log(path, made())
    same(read_log(path), made())
    assert [p.name for p in tmp_path.iterdir()] == ["out.mcap"]
    first = path.read_bytes()
    write_log(path, made())
    assert path.read_bytes() == first


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    log = made(command_dq=None, feedforward=None, object_pose=None)
    write_log(tmp_path / "out.mcap", log)
    same(read_log(tmp_path / "out.mcap"), log)


def test_a_state_that_blew_up_and_an_action_that_is_nan_are_kept(tmp_path: Path) -> None:
    log = made()
    log.q[5, 2], log.dq[6, 1], log.tau[7, 0] = np.nan, np.inf, -np.inf
    log.q[8, 0] = -0.0
    log.actions[1] = [np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38, 0.1, 1.0]
    write_log(tmp_path / "out.mcap", log)
    back = read_log(tmp_path / "out.mcap")
    same(back, log)
    assert np.signbit(back.q[8, 0])


def test_foxglove_finds_its_own_schemas(tmp_path: Path) -> None:
    write_log(tmp_path / "out.mcap", made())
    with (tmp_path / "out.mcap").open("rb") as stream:
        reader = make_reader(stream)
        summary = reader.get_summary()
        assert summary is not None
        names = {c.topic: summary.schemas[c.schema_id] for c in summary.channels.values()}
        assert {chunk.compression for chunk in summary.chunk_indexes} == {"zstd"}
        rows = {
            channel.topic: json.loads(message.data)
            for _, channel, message in reader.iter_messages()
        }
    assert {topic: schema.name for topic, schema in names.items()} == {
        "/joint_states": "foxglove.JointStates",
        "/joint_command": "foxglove.JointStates",
        "/object_pose": "foxglove.FrameTransforms",
        "/events": "foxglove.Log",
        "/policy_action": "policyctl.Action",
    }
    assert {schema.encoding for schema in names.values()} == {"jsonschema"}
    import jsonschema

    for topic, schema in names.items():
        jsonschema.validate(rows[topic], json.loads(schema.data))
    assert set(rows["/joint_states"]["joints"][0]) == {"name", "position", "velocity", "effort"}


def test_a_truncated_log_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "cut.mcap"
    write_log(path, made())
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 997), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError) as caught:
            read_log(path)
        assert caught.value.where == str(path)


def test_a_log_with_a_flipped_byte_is_never_read_as_another_one(tmp_path: Path) -> None:
    path = tmp_path / "flipped.mcap"
    write_log(path, made())
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    read = 0
    for at in rng.integers(0, len(whole), 60):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            log = read_log(path)
        except ConfigError:
            continue
        read += 1  # a byte that nothing depends on, or a word of the metadata
        same(log, replace(made(), metadata=log.metadata))
    assert read < 30


def foreign(path: Path, topic: str, schema: str, message: bytes, encoding: str = "json") -> None:
    with path.open("wb") as stream:
        writer = Writer(stream)
        writer.start()
        number = writer.register_schema(schema, "jsonschema", b"{}")
        for name in (topic, "/joint_command"):
            channel = writer.register_channel(name, encoding, number)
            writer.add_message(channel, 0, message, 0)
        writer.finish()


JOINT = {"name": "joint1", "position": 0.0, "velocity": 0.0, "effort": 0.0}


@pytest.mark.parametrize(
    ("topic", "schema", "encoding", "message", "complaint"),
    [
        ("/camera", "foxglove.JointStates", "json", {}, "no joint states"),
        ("/joint_states", "sensor_msgs/JointState", "json", {}, "json of sensor_msgs"),
        ("/joint_states", "foxglove.JointStates", "protobuf", {}, "protobuf of"),
        ("/joint_states", "foxglove.JointStates", "json", [], "not an object"),
        ("/joint_states", "foxglove.JointStates", "json", {}, "not a log"),
        ("/joint_states", "foxglove.JointStates", "json", {"joints": [{}]}, "not a log"),
        ("/joint_states", "foxglove.JointStates", "json",
         {"joints": [{"name": "joint1", "position": 0.0}]}, "without velocity"),
        ("/joint_states", "foxglove.JointStates", "json",
         {"joints": [{**JOINT, "effort": "much"}]}, "not a log"),
        ("/joint_states", "foxglove.JointStates", "json",
         {"joints": [JOINT, {**JOINT, "name": "b", "effort": [1]}]}, "not a log"),
    ],
)  # fmt: skip
def test_a_foreign_file_is_refused_with_what_is_wrong(
    tmp_path: Path, topic: str, schema: str, encoding: str, message: object, complaint: str
) -> None:
    path = tmp_path / "foreign.mcap"
    foreign(path, topic, schema, json.dumps(message).encode(), encoding)
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_log(path)
    assert caught.value.where == str(path)


def test_a_foreign_log_with_both_channels_is_read(tmp_path: Path) -> None:
    path = tmp_path / "other.mcap"
    foreign(path, "/joint_states", "foxglove.JointStates", json.dumps({"joints": [JOINT]}).encode())
    log = read_log(path)
    assert (log.joints, log.q.shape, dict(log.metadata)) == (("joint1",), (1, 1), {})


def test_no_file_and_no_mcap_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mcap").write_text("hello, this is no log at all")
    for name in ("none.mcap", "text.mcap", ""):
        with pytest.raises(ConfigError):
            read_log(tmp_path / name)


def test_a_log_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(ServiceFailed, match="cannot be written"):
        write_log(tmp_path / "none" / "out.mcap", made())


@pytest.mark.parametrize(
    "changes",
    [
        {"q": np.zeros((59, 8))},
        {"actions": np.zeros((12, 8))},
        {"action_time": np.zeros(3)},
        {"object_pose": np.zeros((60, 6))},
        {"time": np.full(60, np.nan)},
    ],
)
def test_arrays_that_do_not_fit_are_refused_before_anything_is_written(
    changes: dict[str, object],
) -> None:
    with pytest.raises(ValueError):
        made(**changes)
