"""Hooks by name: how a scene is reset, how it is checked, who judges.

A name is looked up in the tables below, then among the entry points `policyctl.hil.reset`,
`policyctl.hil.scene` and `policyctl.hil.judge` of the installed distributions; the code is imported
when it is first used. A suite brings names and arguments, never code.

    reset hook   (ctx, *, args…) -> Result     ready, or why not, and whether a person is needed
    scene hook   (ctx, *, args…) -> SceneCheck what the scene is, measured
    judge        (task, *, args…) -> Judge     None where a person judges after the run

Arguments are keyword-only and typed: a suite with a wrong one is refused when it is loaded. An
exception that a hook does not type is the rig's (`E_HOOK`), for hooks run before arming.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from harness.hil.model import TaskSpec, TrialSpec
from harness.hil.ports import Clock, Robot, Stock
from harness.hil.prompts.broker import Answer, Choice

TABLES: Final[Mapping[str, Mapping[str, str]]] = {
    "reset": {
        "robot": "harness.hil.hooks.reset:robot",
        "technician": "harness.hil.hooks.reset:technician",
        "disposable": "harness.hil.hooks.reset:disposable",
    },
    "scene": {
        "object_pose": "harness.hil.hooks.scene:object_pose",
        "technician": "harness.hil.hooks.scene:technician",
        "assumed": "harness.hil.hooks.scene:assumed",
    },
    "judge": {
        "joints": "harness.hil.judges:joints",
        "technician": "harness.hil.judges:technician",
    },
}


class UnknownHookError(LookupError):
    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        near = difflib.get_close_matches(name, known, n=1)
        self.what = f"there is no {kind} hook {name!r}"
        self.hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        super().__init__(self.what)


class BadArgumentError(ValueError):
    """`field` is the argument's name, "" where one is missing."""

    def __init__(self, what: str, field: str, hint: str) -> None:
        self.what, self.field, self.hint = what, field, hint
        super().__init__(what)


@dataclass(frozen=True)
class Result:
    """What a reset hook did. `needs_person` ends the robot's own tries at once."""

    ready: bool
    why: str = ""
    needs_person: bool = False


@dataclass(frozen=True)
class Context:
    """What a hook may use. `why` is what was wrong with the scene last time, "" at first."""

    attempt: int
    task: TaskSpec
    trial: TrialSpec
    robot: Robot
    clock: Clock
    stock: Stock
    ask: Callable[[str, str, str, tuple[Choice, ...]], Answer]
    run: str
    why: str = ""


def resolve(kind: str, name: str) -> Callable[..., Any]:
    """The hook of that name. Raises UnknownHookError with the nearest known name."""
    table = TABLES[kind]
    if name in table:
        module, _, attribute = table[name].partition(":")
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        return found
    others = {entry.name: entry for entry in entry_points(group=f"policyctl.hil.{kind}")}
    if name not in others:
        raise UnknownHookError(kind, name, sorted([*table, *others]))
    loaded: Callable[..., Any] = others[name].load()
    return loaded


def check_arguments(kind: str, name: str, args: Mapping[str, Any]) -> None:
    """Whether a hook takes these arguments. Raises UnknownHookError or BadArgumentError."""
    hook = resolve(kind, name)
    hints = typing.get_type_hints(hook)
    takes = {
        parameter.name: parameter
        for parameter in inspect.signature(hook).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for key, value in args.items():
        if key not in takes:
            near = difflib.get_close_matches(key, takes, n=1)
            hint = (
                f"did you mean {near[0]!r}?" if near else f"it takes: {', '.join(takes) or 'none'}"
            )
            raise BadArgumentError(f"the {kind} hook {name!r} takes no {key!r}", key, hint)
        try:
            TypeAdapter(hints[key]).validate_python(value, strict=False)
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            raise BadArgumentError(f"{kind} hook {name!r}, {key}: {reason}", key, "") from None
    for key, parameter in takes.items():
        if parameter.default is inspect.Parameter.empty and key not in args:
            raise BadArgumentError(f"the {kind} hook {name!r} needs {key!r}", "", f"add `{key}:`")
