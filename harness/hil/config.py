"""A suite as a YAML file, read strictly: unknown keys, wrong values and unknown hooks are errors
that name file, line and field, before anybody walks to the arm.

    suite: lift
    robot_class: openarm-v2-right
    audit_fraction: 0.1                 # share of trials a second person judges too
    tasks:
      - name: lift-box                  # what reports call it
        task: box-grasp                 # whose judge and horizon apply
        instruction: pick up the box    # what the policy is told
        scene:
          setup: one box in the taped rectangle
          x: [0.18, 0.32]               # start pose, drawn per trial: m, m, rad in frame "base"
          y: [-0.30, -0.06]
          yaw: [-0.7, 0.7]
          check: {hook: object_pose, args: {tolerance_m: 0.02}}
        reset: {kind: technician, args: {say: Put the box on the mark}}
        success: {judge: joints}
        timeout_s: 120                  # policy time; the technician's time does not count

`reset.kind` is `robot | technician | disposable`, or a hook of an installed distribution. A suite's
digest names its meaning, not its spelling: comments and key order do not change it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from harness.hil import hooks
from harness.hil.model import Hook, Range, ResetSpec, SceneSpec, Suite, TaskSpec
from registry.errors import ConfigError
from registry.versions import digest_of
from registry.yaml_file import Strict, load_yaml, read_yaml

DEFAULT_TIMEOUT_S = 120.0
ATTEMPTS = {"robot": 3}
DEFAULT_ATTEMPTS = 5
FALLBACK = {"robot": "technician"}

Pair = tuple[float, float]


class _Check(Strict):
    hook: str
    args: dict[str, Any] = Field(default_factory=dict)


class _Success(Strict):
    judge: str
    args: dict[str, Any] = Field(default_factory=dict)


class _Scene(Strict):
    setup: str = Field(min_length=1)
    x: Pair
    y: Pair
    yaw: Pair = (0.0, 0.0)
    check: _Check

    @field_validator("x", "y", "yaw")
    @classmethod
    def _rising(cls, value: Pair) -> Pair:
        if value[0] > value[1]:
            raise ValueError(f"a range is [low, high], not [{value[0]}, {value[1]}]")
        return value


class _Reset(Strict):
    kind: str
    args: dict[str, Any] = Field(default_factory=dict)
    attempts: int | None = Field(default=None, ge=1, le=20)
    fallback: str | None = None


class _Task(Strict):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    task: str = Field(min_length=1)
    instruction: str = Field(min_length=1)
    scene: _Scene
    reset: _Reset
    success: _Success
    timeout_s: float = Field(default=DEFAULT_TIMEOUT_S, gt=0, le=3600)


class SuiteFile(Strict):
    suite: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    robot_class: str = Field(min_length=1)
    audit_fraction: float = Field(default=0.0, ge=0, le=1)
    tasks: list[_Task] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> SuiteFile:
        names = [task.name for task in self.tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"two tasks are called {twice[0]!r}; reports could not tell them apart"
            )
        return self


def load_suite(path: Path) -> Suite:
    """The suite of a file. Raises ConfigError with `path:line`, the field and a hint."""
    file = load_yaml(path, SuiteFile)
    _, lines = read_yaml(path)
    for index, task in enumerate(file.tasks):
        for kind, name, args, place in _hooks_of(task):
            where: tuple[str | int, ...] = ("tasks", index, *place)
            try:
                hooks.check_arguments(kind, name, args)
            except (hooks.UnknownHookError, hooks.BadArgumentError) as error:
                at = (*where[:-1], "args", getattr(error, "field", ""))
                at = at if at in lines else where
                raise ConfigError(
                    error.what,
                    where=f"{path}:{lines.get(at, lines.get(where[:-1], 1))}",
                    field=".".join(map(str, at)),
                    hint=error.hint,
                ) from None
    digest = digest_of(file.model_dump(mode="json"))
    tasks = tuple(_task(task) for task in file.tasks)
    return Suite(file.suite, file.robot_class, file.audit_fraction, tasks, digest)


def _hooks_of(task: _Task) -> Iterator[tuple[str, str, dict[str, Any], tuple[str, ...]]]:
    """Every hook a task names: kind, name, arguments, and its place in the task."""
    yield "reset", task.reset.kind, task.reset.args, ("reset", "kind")
    if task.reset.fallback:
        yield "reset", task.reset.fallback, {}, ("reset", "fallback")
    yield "scene", task.scene.check.hook, task.scene.check.args, ("scene", "check", "hook")
    yield "judge", task.success.judge, task.success.args, ("success", "judge")


def _task(task: _Task) -> TaskSpec:
    reset, scene = task.reset, task.scene
    spec = ResetSpec(
        kind=reset.kind,
        args=reset.args,
        attempts=reset.attempts or ATTEMPTS.get(reset.kind, DEFAULT_ATTEMPTS),
        fallback=reset.fallback or FALLBACK.get(reset.kind),
    )
    return TaskSpec(
        name=task.name,
        task=task.task,
        instruction=task.instruction,
        scene=SceneSpec(
            setup=scene.setup,
            x=Range(*scene.x),
            y=Range(*scene.y),
            yaw=Range(*scene.yaw),
            check=Hook(scene.check.hook, scene.check.args),
        ),
        reset=spec,
        success=Hook(task.success.judge, task.success.args),
        timeout_s=task.timeout_s,
    )
