"""Logs of what an arm did, as MCAP: an episode or any other motion, one sample per servo tick.

- What is read is what was written, to the bit: numbers are the shortest decimals that give the same
  float64 back, a policy's actions travel as the bytes of their float32. NaN and infinities too: a
  log of a simulation that blew up is worth most.
- `q, dq, tau` are measured at `time`; `command`, `command_dq` and `feedforward` are what the motors
  were sent then. Actions have their own times, since a policy is slower than its servo.
- A file appears whole and durable, or not. It is JSON under Foxglove's schema names, compressed by
  zstd (`schemas`), and opens in Foxglove and every other MCAP tool.
- Logs of other programs are read where they have both joint channels, sampled at the same times.
  Everything else that is no such file raises ConfigError with the file and what is wrong.

Units rad, rad/s, Nm, s, m; object pose in frame "base": position, then quaternion w x y z.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from mcap.reader import SeekingReader
from mcap.writer import CompressionType, Writer

from harness.episodes.schemas import ACTION, CHANNELS, COMMAND, EVENTS, OBJECT, SCHEMAS, STATE
from registry.errors import ConfigError
from registry.storage import disk_errors, write_whole

Floats = npt.NDArray[np.float64]

MAX_BYTES = 1 << 30
METADATA = "policyctl"
"""Name of the metadata record that holds a log's `metadata`."""
BASE_FRAME, OBJECT_FRAME = "base", "object"
_INFO = 2


@dataclass(frozen=True)
class Event:
    """Something that happened, in words."""

    time: float
    text: str


@dataclass(frozen=True, eq=False)
class MotionLog:
    """A motion of T samples of J joints. Arrays are checked for shape, not for sense."""

    joints: tuple[str, ...]
    time: Floats
    """(T,) seconds from any start, not negative."""
    q: Floats
    dq: Floats
    tau: Floats
    command: Floats
    """(T, J) desired positions; each joint array has this shape."""
    command_dq: Floats | None = None
    """Desired speeds; None where the servo asks for none, which means 0."""
    feedforward: Floats | None = None
    """Torques sent along; None where the simulator carries the arm's weight."""
    object_pose: Floats | None = None
    """(T, 7)"""
    action_time: Floats = field(default_factory=lambda: np.zeros(0))
    actions: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """(N, A) a policy's raw outputs at `action_time` (N,)."""
    events: tuple[Event, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What made it: key, engine, digest, arm."""

    def __post_init__(self) -> None:
        shape = (len(self.time), len(self.joints))
        for name in ("q", "dq", "tau", "command", "command_dq", "feedforward"):
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, not {shape}")
        if self.object_pose is not None and self.object_pose.shape != (shape[0], 7):
            raise ValueError(f"object_pose has shape {self.object_pose.shape}, not ({shape[0]}, 7)")
        if self.actions.dtype != np.float32 or self.actions.ndim != 2:
            raise ValueError(f"actions are {self.actions.dtype}{self.actions.shape}, not float32")
        if len(self.actions) != len(self.action_time):
            raise ValueError(f"{len(self.actions)} actions at {len(self.action_time)} times")
        times = (*self.time.tolist(), *self.action_time.tolist(), *(e.time for e in self.events))
        if not all(0.0 <= t < 1e9 for t in times):
            raise ValueError("times are seconds from 0 on")


# -- writing


def write_log(path: Path, log: MotionLog) -> None:
    """Writes `log` to `path`, whole and durable. Raises ServiceFailed where the disk says no."""
    with disk_errors(path):
        write_whole(path, to_bytes(log))


def to_bytes(log: MotionLog) -> bytes:
    """The MCAP file of a log; equal logs give equal bytes."""
    out = io.BytesIO()
    writer: Any = Writer(out, compression=CompressionType.ZSTD)
    writer.start(profile="", library="policyctl")
    writer.add_metadata(METADATA, dict(log.metadata))
    schemas = {
        name: writer.register_schema(name, "jsonschema", json.dumps(schema).encode())
        for name, schema in SCHEMAS.items()
    }
    channels = {
        topic: writer.register_channel(topic, "json", schemas[name])
        for topic, name in CHANNELS.items()
    }
    for time, topic, body in sorted(_messages(log), key=lambda message: message[0]):
        ns = round(time * 1e9)
        data = f"{body},{stamp(ns)},{pair('time', time)}}}".encode()
        writer.add_message(channels[topic], log_time=ns, data=data, publish_time=ns)
    writer.finish()
    return out.getvalue()


def _messages(log: MotionLog) -> list[tuple[float, str, str]]:
    """(time, topic, JSON object left open) of everything in a log."""
    names = [json.dumps(name) for name in log.joints]
    state = joint_rows(names, {"position": log.q, "velocity": log.dq, "effort": log.tau})
    sent = {"position": log.command, "velocity": log.command_dq, "effort": log.feedforward}
    command = joint_rows(names, sent)
    times = log.time.tolist()
    found = [(t, STATE, text) for t, text in zip(times, state, strict=True)]
    found += [(t, COMMAND, text) for t, text in zip(times, command, strict=True)]
    if log.object_pose is not None:
        poses = log.object_pose.tolist()
        found += [(t, OBJECT, _transform(t, pose)) for t, pose in zip(times, poses, strict=True)]
    for t, action in zip(log.action_time.tolist(), log.actions, strict=True):
        found.append((t, ACTION, _action(action)))
    for event in log.events:
        text = json.dumps(event.text)
        rest = '"name":"policyctl","file":"","line":0'
        found.append((event.time, EVENTS, f'{{"level":{_INFO},"message":{text},{rest}'))
    return found


def joint_rows(names: Sequence[str], fields: Mapping[str, Floats | None]) -> list[str]:
    """One open JSON object per sample, with the joints and those fields that there are."""
    given = {name: array.tolist() for name, array in fields.items() if array is not None}
    rows = []
    for tick in range(len(next(iter(given.values())))):
        joints = (
            f'{{"name":{name},'
            + ",".join(pair(field, array[tick][i]) for field, array in given.items())
            + "}"
            for i, name in enumerate(names)
        )
        rows.append(f'{{"joints":[{",".join(joints)}]')
    return rows


def _transform(time: float, pose: Sequence[float]) -> str:
    x, y, z, *turn = pose
    place = ",".join(pair(n, v) for n, v in zip("xyz", (x, y, z), strict=True))
    rotation = ",".join(pair(n, v) for n, v in zip("wxyz", turn, strict=True))
    return (
        f'{{"transforms":[{{{stamp(round(time * 1e9))},"parent_frame_id":"{BASE_FRAME}",'
        f'"child_frame_id":"{OBJECT_FRAME}","translation":{{{place}}},"rotation":{{{rotation}}}}}]'
    )


def _action(action: npt.NDArray[np.float32]) -> str:
    shown = ",".join(_number(v) if np.isfinite(v) else "null" for v in action.tolist())
    exact = base64.b64encode(action.astype("<f4").tobytes()).decode()
    return f'{{"values":[{shown}],"float32":"{exact}"'


def stamp(ns: int) -> str:
    return f'"timestamp":{{"sec":{ns // 10**9},"nsec":{ns % 10**9}}}'


def pair(name: str, value: float) -> str:
    return f'"{name}":{_number(value)}'


def _number(value: float) -> str:
    """JSON knows no NaN and no infinity: null, and a number beyond every float64."""
    text = repr(value)
    return {"nan": "null", "inf": "1e999", "-inf": "-1e999"}.get(text, text)


# -- reading


def read_log(path: Path) -> MotionLog:
    """The log at `path`. Raises ConfigError where it is no log of a motion, or not whole."""
    messages, metadata = _read(path)
    if not messages[STATE]:
        _refuse(path, f"{path.name} has no joint states", STATE)
    if not messages[COMMAND]:
        _refuse(path, f"{path.name} has no joint commands", COMMAND)
    try:
        return _build(path, messages, metadata)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        _refuse(path, f"{path.name} is not a log of a motion", f"{type(error).__name__}: {error}")


def _read(path: Path) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Decoded messages by topic in order of the log, and the metadata."""
    found: dict[str, list[dict[str, Any]]] = {topic: [] for topic in CHANNELS}
    try:
        with path.open("rb") as stream:
            if stream.seek(0, io.SEEK_END) > MAX_BYTES:
                _refuse(path, f"{path.name} is larger than 1 GiB")
            stream.seek(0)
            reader = SeekingReader(stream, validate_crcs=True, record_size_limit=MAX_BYTES)
            if reader.get_summary() is None:
                _refuse(path, f"{path.name} is not whole: it has no summary")
            raw = list(reader.iter_messages(topics=list(CHANNELS)))
            metadata = [record for record in reader.iter_metadata() if record.name == METADATA]
    except OSError as error:
        _refuse(path, f"cannot read {path.name}: {error.strerror}")
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 damaged bytes make the library raise anything
        _refuse(path, f"{path.name} is not a whole MCAP file", f"{type(error).__name__}: {error}")
    for schema, channel, message in raw:
        wanted = CHANNELS[channel.topic]
        if channel.message_encoding != "json" or schema is None or schema.name != wanted:
            name = schema.name if schema is not None else "no schema"
            _refuse(
                path,
                f"{channel.topic} is {channel.message_encoding or 'no encoding'} of {name}",
                f"it has to be json of {wanted}",
            )
        try:
            data = json.loads(message.data)
        except ValueError as error:
            _refuse(path, f"a message is not JSON: {error}", channel.topic)
        if not isinstance(data, dict):
            _refuse(path, "a message is not an object", channel.topic)
        data.setdefault("time", message.log_time * 1e-9)
        found[channel.topic].append(data)
    return found, dict(metadata[0].metadata) if metadata else {}


def _build(
    path: Path, messages: Mapping[str, list[dict[str, Any]]], metadata: Mapping[str, str]
) -> MotionLog:
    states, commands = messages[STATE], messages[COMMAND]
    joints = tuple(str(joint["name"]) for joint in states[0]["joints"])
    time = np.array([float(m["time"]) for m in states])
    if not np.array_equal(time, np.array([float(m["time"]) for m in commands])):
        _refuse(path, "states and commands are not of the same times", f"{STATE}, {COMMAND}")
    state, sent = _table(path, STATE, joints, states), _table(path, COMMAND, joints, commands)
    for name in ("position", "velocity", "effort"):
        if state[name] is None:
            _refuse(path, f"{STATE} has joints without {name}")
    position = sent["position"]
    if position is None:
        _refuse(path, f"{COMMAND} has joints without position")
    actions = messages[ACTION]
    return MotionLog(
        joints=joints,
        time=time,
        q=_given(state["position"]),
        dq=_given(state["velocity"]),
        tau=_given(state["effort"]),
        command=position,
        command_dq=sent["velocity"],
        feedforward=sent["effort"],
        object_pose=_poses(path, messages[OBJECT], time),
        action_time=np.array([float(m["time"]) for m in actions]),
        actions=_actions(actions),
        events=tuple(Event(float(m["time"]), str(m["message"])) for m in messages[EVENTS]),
        metadata=metadata,
    )


def _given(array: Floats | None) -> Floats:
    assert array is not None
    return array


def _table(
    path: Path, topic: str, joints: tuple[str, ...], messages: list[dict[str, Any]]
) -> dict[str, Floats | None]:
    """(T, J) of each field that all joints of all messages have, else None."""
    table: dict[str, Floats | None] = {}
    for tick, message in enumerate(messages):
        names = tuple(joint["name"] for joint in message["joints"])
        if names != joints:
            _refuse(path, f"sample {tick} is of other joints: {', '.join(names)}", topic)
    for name in ("position", "velocity", "effort"):
        rows = [[joint.get(name, "") for joint in message["joints"]] for message in messages]
        flat = [value for row in rows for value in row]
        missing = sum(value == "" for value in flat)
        if missing and missing < len(flat):
            _refuse(path, f"{missing} of {len(flat)} values have no {name}", topic)
        table[name] = None if missing else np.array([[_float(v) for v in row] for row in rows])
    return table


def _float(value: Any) -> float:
    return np.nan if value is None else float(value)


def _poses(path: Path, messages: list[dict[str, Any]], time: Floats) -> Floats | None:
    if not messages:
        return None
    if not np.array_equal(time, np.array([float(m["time"]) for m in messages])):
        _refuse(path, "object poses are not of the states' times", OBJECT)
    rows = []
    for message in messages:
        frame = message["transforms"][0]
        place, turn = frame["translation"], frame["rotation"]
        values = [place[axis] for axis in "xyz"] + [turn[axis] for axis in "wxyz"]
        rows.append([_float(value) for value in values])
    return np.array(rows)


def _actions(messages: list[dict[str, Any]]) -> npt.NDArray[np.float32]:
    if not messages:
        return np.zeros((0, 0), np.float32)
    try:
        rows = [base64.b64decode(message["float32"], validate=True) for message in messages]
    except binascii.Error as error:
        raise ValueError(f"an action is not base64: {error}") from None
    return np.array([np.frombuffer(row, "<f4") for row in rows]).astype(np.float32)


def _refuse(path: Path, what: str, field: str = "") -> NoReturn:
    raise ConfigError(
        what,
        where=str(path),
        field=field,
        hint="name a log that policyctl wrote, or one with joint states and commands at each tick",
    )
