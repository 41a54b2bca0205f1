"""The channels of a log, by the names under which Foxglove knows their schemas.

Values are objects in the given JSON schema and Foxglove draws them as they are: joint positions and
speeds as plots, the object as a frame under "base", events in its log panel. What Foxglove does not
need it passes over: `time`, the exact seconds, and `float32`, the exact bytes of an action.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STATE, COMMAND = "/joint_states", "/joint_command"
OBJECT, EVENTS, ACTION = "/object_pose", "/events", "/policy_action"

_NUMBER = {"type": "number"}
_TEXT = {"type": "string"}
_STAMP = {
    "type": "object",
    "title": "time",
    "properties": {
        "sec": {"type": "integer", "minimum": 0},
        "nsec": {"type": "integer", "minimum": 0, "maximum": 999_999_999},
    },
}


def _object(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


def _vector(*names: str) -> dict[str, Any]:
    return _object(names, **dict.fromkeys(names, _NUMBER))


_JOINT = _object(("name",), name=_TEXT, position=_NUMBER, velocity=_NUMBER, effort=_NUMBER)
_FRAME = _object(
    ("timestamp", "parent_frame_id", "child_frame_id", "translation", "rotation"),
    timestamp=_STAMP,
    parent_frame_id=_TEXT,
    child_frame_id=_TEXT,
    translation=_vector("x", "y", "z"),
    rotation=_vector("x", "y", "z", "w"),
)
_LOG = ("timestamp", "level", "message", "name", "file", "line")

SCHEMAS: Mapping[str, dict[str, Any]] = {
    "foxglove.JointStates": _object(
        ("timestamp", "joints"),
        timestamp=_STAMP,
        joints={"type": "array", "items": _JOINT},
        time=_NUMBER,
    ),
    "foxglove.FrameTransforms": _object(
        ("transforms",), transforms={"type": "array", "items": _FRAME}, time=_NUMBER
    ),
    "foxglove.Log": _object(
        _LOG,
        timestamp=_STAMP,
        level={"type": "integer"},
        message=_TEXT,
        name=_TEXT,
        file=_TEXT,
        line={"type": "integer", "minimum": 0},
        time=_NUMBER,
    ),
    "policyctl.Action": _object(
        ("timestamp", "values", "float32"),
        timestamp=_STAMP,
        values={"type": "array", "items": {"type": ["number", "null"]}},
        float32={"type": "string", "contentEncoding": "base64"},
        time=_NUMBER,
    ),
}

CHANNELS: Mapping[str, str] = {
    STATE: "foxglove.JointStates",
    COMMAND: "foxglove.JointStates",
    OBJECT: "foxglove.FrameTransforms",
    EVENTS: "foxglove.Log",
    ACTION: "policyctl.Action",
}
