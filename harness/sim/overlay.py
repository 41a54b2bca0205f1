"""Scene overlays: what a simulation changes in the model so that it moves like one real arm.

    schema: policyctl.overlay/1
    terms:
      joint3.damping: {target: joint3, field: damping, operation: scale, value: 1.23}

A term is one change at the reset, in the words of a gate's axes. Read strictly: unknown keys and
targets, values out of range, and two terms on the same field are errors with file and line. `set`
is in the field's unit, `scale` a multiple of the official model's value, `add` on top of it.

    target                              field        set        scale
    joint1..joint7, gripper, joints     friction     0..2 Nm    0..10
                                        damping      0..100     0..10
                                        armature     0..1       0..10
                                        kp, kd       0..500     0..10
    command                             latency_s    0..0.1 s

`joints` is all eight; `gripper` is the finger that the motor turns. Latency is the time from a
command's sending to its effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import Field, ValidationInfo, field_validator, model_validator

from fleet.can.motors import OPENARM_MOTORS
from harness.sim.episode import Change
from registry.errors import ConfigError
from registry.yaml_file import Strict, load_yaml, read_yaml

SCHEMA = "policyctl.overlay/1"
JOINTS = tuple(motor.joint for motor in OPENARM_MOTORS)
MAX_SCALE = 10.0
MAX_SET: Mapping[str, float] = {
    "friction": 2.0,
    "damping": 100.0,
    "armature": 1.0,
    "kp": 500.0,
    "kd": 500.0,
    "latency_s": 0.1,
}
_LATENCY = "latency_s"


class Term(Strict):
    """One change; see the table above."""

    target: str
    field: str
    operation: Literal["set", "scale", "add"]
    value: float = Field(allow_inf_nan=False)

    @field_validator("target")
    @classmethod
    def _known_target(cls, target: str) -> str:
        if target not in (*JOINTS, "joints", "command"):
            raise ValueError(
                f"target: there is no {target!r} (known: {', '.join(JOINTS)}, joints, command)"
            )
        return target

    @field_validator("field")
    @classmethod
    def _known_field(cls, field: str, info: ValidationInfo) -> str:
        target = info.data.get("target")
        known = [name for name in MAX_SET if (name == _LATENCY) == (target == "command")]
        if target is not None and field not in known:
            raise ValueError(f"field: {target} has no {field!r} (known: {', '.join(known)})")
        return field

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        high = MAX_SCALE if self.operation == "scale" else MAX_SET[self.field]
        low = -high if self.operation == "add" else 0.0
        if not low <= self.value <= high:
            raise ValueError(
                f"value: {self.operation} {self.field} takes {low:g} to {high:g}, "
                f"not {self.value:g}"
            )
        return self


class Overlay(Strict):
    """An overlay file."""

    schema_: Literal["policyctl.overlay/1"] = Field(alias="schema")
    terms: dict[str, Term]


def load_overlay(path: Path) -> tuple[Change, ...]:
    """The changes of an overlay file, in its order. Raises ConfigError with `path:line`."""
    overlay = load_yaml(path, Overlay)
    first: dict[tuple[str, str], str] = {}
    for name, term in overlay.terms.items():
        targets = JOINTS if term.target == "joints" else (term.target,)
        for target in targets:
            other = first.setdefault((target, term.field), name)
            if other != name:
                lines = read_yaml(path)[1]
                raise ConfigError(
                    f"{name} and {other} both change {target}'s {term.field}",
                    where=f"{path}:{lines['terms', name]}",
                    field=f"terms.{name}",
                    hint=f"keep one of them; the other is on line {lines['terms', other]}",
                )
    return tuple(
        Change(term.target, term.field, term.operation, term.value)
        for term in overlay.terms.values()
    )


def dump_overlay(changes: Iterable[Change], notes: Mapping[Change, str], head: str) -> str:
    """The text of an overlay file: `head` as its comment, a note behind each change."""
    lines = [f"# {line}" for line in head.splitlines()]
    lines += [f"schema: {SCHEMA}", "terms:"]
    for change in changes:
        term = {"target": change.target, "field": change.field,
                "operation": change.operation, "value": change.value}  # fmt: skip
        flow = yaml.safe_dump(term, default_flow_style=True, sort_keys=False, width=200).strip()
        note = f"  # {notes[change]}" if change in notes else ""
        lines.append(f"  {change.target}.{change.field}: {flow}{note}")
    return "\n".join(lines) + "\n"
