"""What a gate says of a Gymnasium task, checked against the environment itself.

Rules
- `success` is one of: an info key, true at the step that ends the episode (what an info said
  before does not count); the word `terminated` or `truncated`, the way in which the episode ended;
  `{return: 195}`, at least so much reward in all.
- An axis of the gate moves the reset option that its term names as `field`, else that of its name.
- A task has to follow from its seed, or nothing can be played again: two fresh environments that do
  not do the same from one seed are refused. One that remembers earlier episodes is made anew for
  each (`remade`), which is slower and as exact.
- An axis is alive when moving it, with all else equal, changes what is observed, rewarded or told
  in an episode of random actions. An option that the environment ignores never does.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.gym.worlds import HORIZON, Trace, make, trace
from policies.space import SpaceContract
from registry.errors import ConfigError
from registry.gates import Term
from registry.versions import digest_of

if TYPE_CHECKING:
    from harness.gym.worlds import Env

SEEDS = (0, 1, 2)
"""The episodes that an axis is tried in."""
PROBE_STEPS = 20
"""Steps in which two runs from one seed are compared, and a first look at an axis is taken."""
WHOLE_STEPS = 1_000
"""Steps of an episode that a second look at an axis takes."""
CORNERS = 64
"""How many corners of a grid are tried."""


@dataclass(frozen=True)
class Success:
    """When an episode has succeeded."""

    kind: Literal["info", "terminated", "truncated", "return"]
    key: str = ""
    at_least: float = 0.0

    @staticmethod
    def of(data: object, *, where: str) -> Success:
        """From what gates.yaml says. Raises ConfigError."""
        if data == "terminated" or data == "truncated":
            return Success("terminated" if data == "terminated" else "truncated")
        if isinstance(data, str) and data:
            return Success("info", data)
        if isinstance(data, Mapping) and set(data) == {"return"}:
            bound = data["return"]
            if isinstance(bound, int | float) and math.isfinite(bound) and bound is not True:
                return Success("return", at_least=float(bound))
        raise ConfigError(
            f"{data!r} does not say when an episode has succeeded",
            where=where,
            field="sim.task.success",
            hint="an info key, `terminated`, `truncated`, or {return: 195}",
        )

    def __str__(self) -> str:
        return f"return>={self.at_least:g}" if self.kind == "return" else self.key or self.kind


@dataclass(frozen=True)
class GymTask:
    """One environment as a task: plain values, the same in every process."""

    name: str
    """Gymnasium's id, with its module where one is imported first."""
    success: Success
    options: tuple[tuple[str, str], ...] = ()
    """Axes that are not called as the reset options that they move, with these."""
    remade: bool = False
    """Each episode needs an environment of its own."""
    where: str = "gates.yaml"

    @staticmethod
    def of(name: str, success: object, axes: Mapping[str, Term], *, where: str) -> GymTask:
        """What a gate of `where` asks for, tried on the environment. Raises ConfigError."""
        for axis, term in axes.items():
            if term.target and (term.target, term.operation) != ("reset", "set"):
                raise _no_option(axis, f"{term.operation} {term.target}.{term.field}", where)
            if term.when != "reset":
                raise _no_option(axis, f"at {term.when:g} s", where)
        options = tuple(sorted((axis, term.field) for axis, term in axes.items() if term.field))
        said = Success.of(success, where=where)
        return _examined(GymTask(name, said, options, where=where))

    def make(self) -> Env:
        """A fresh environment."""
        return make(self.name, where=self.where)

    def contract(self, **numbers: float) -> SpaceContract:
        """The contract of a policy that sees all of it; see `spaces.contract_for`."""
        from harness.gym.spaces import contract_for

        with contextlib.closing(self.make()) as env:
            return contract_for(env, self.name, **numbers)

    def option(self, axis: str) -> str:
        """The reset option that an axis moves."""
        return dict(self.options).get(axis, axis)

    @property
    def digest(self) -> str:
        """Names the task by all that its outcomes follow from, but for the environment's code."""
        data = {"name": self.name, "success": asdict(self.success), "remade": self.remade}
        return digest_of(data)

    @property
    def judge(self) -> str:
        """The judge that evidence names."""
        return f"gymnasium/1 {self.success}"


def dead_axes(task: GymTask, axes: Mapping[str, Sequence[float]]) -> tuple[str, ...]:
    """The axes that change nothing: with equal seeds, each of their values plays the same.

    The others stand at their first value meanwhile; an axis of one value is compared with its
    option left out. Raises ConfigError where the environment breaks at values, naming them.
    """
    with contextlib.ExitStack() as stack:
        envs = _Envs(task, stack)
        start = {axis: values[0] for axis, values in axes.items()}
        for _ in envs.corners(axes):
            pass
        return tuple(axis for axis in axes if not _alive(envs, axis, axes[axis], start))


class _Envs:
    """Environments to try axes on, one for each set of options: they may keep what they got."""

    def __init__(self, task: GymTask, stack: contextlib.ExitStack) -> None:
        self.task = task
        self._stack = stack
        self._made: dict[frozenset[str], Env] = {}

    def play(self, values: Mapping[str, float], seed: int, steps: int) -> Trace:
        """`values` by axis. Raises ConfigError where the environment does not take them."""
        task, axes = self.task, frozenset(values)
        options = {task.option(axis): value for axis, value in values.items()}
        env = self._made.get(axes)
        if env is None or task.remade:
            env = self._stack.enter_context(contextlib.closing(task.make()))
            self._made[axes] = env
        try:
            return trace(env, seed, options, steps)
        except Exception as error:
            said = ", ".join(f"{axis} = {value:g}" for axis, value in values.items())
            field = "sim.axes" + (f".{min(axes)}" if len(axes) == 1 else "")
            raise ConfigError(
                f"'{task.name}' refuses {said}",
                where=task.where,
                field=f"{field}: {type(error).__name__}: {error}",
                hint=f"they are its reset options {', '.join(options)}",
            ) from error

    def corners(self, axes: Mapping[str, Sequence[float]]) -> Iterator[Trace]:
        """A reset at each corner of the grid, where options that exclude each other show."""
        ends = [sorted({min(values), max(values)}) for values in axes.values()]
        for corner in itertools.islice(itertools.product(*ends), CORNERS):
            yield self.play(dict(zip(axes, corner, strict=True)), SEEDS[0], 0)


def _alive(envs: _Envs, axis: str, values: Sequence[float], start: Mapping[str, float]) -> bool:
    """First by a glance at each value, infos included, then by an episode of each.

    Some infos hold the time of day or a random number. They count only where they were the same
    each time that the first value was played.
    """
    points = [{**start, axis: value} for value in dict.fromkeys(values)]
    if len(points) == 1:
        points.insert(0, {other: value for other, value in start.items() if other != axis})
    glances = [_plays(envs, points, seed, PROBE_STEPS) for seed in SEEDS]
    states = any(one.states != alike[0].states for alike, others in glances for one in others)
    steady = all(one.infos == alike[0].infos for alike, _ in glances for one in alike)
    infos = any(one.infos != alike[0].infos for alike, others in glances for one in others)
    if states or (steady and infos):
        return True
    alike, others = _plays(envs, points, SEEDS[0], WHOLE_STEPS)
    return any(one.states != alike[0].states for one in others)


def _plays(
    envs: _Envs, points: Sequence[Mapping[str, float]], seed: int, steps: int
) -> tuple[list[Trace], list[Trace]]:
    """The first point played three times, and each of the others."""
    alike = [envs.play(points[0], seed, steps) for _ in range(3)]
    if len({one.states for one in alike}) > 1:
        raise _unsteady(envs.task, "it differs when it is played again with the same options")
    return alike, [envs.play(point, seed, steps) for point in points[1:]]


def _examined(task: GymTask) -> GymTask:
    """The task as its environment turns out to be. Raises ConfigError where it will not do."""
    with (
        contextlib.closing(task.make()) as env,
        contextlib.closing(task.make()) as other,
    ):
        from harness.gym.spaces import contract_for  # needs gymnasium, which `make` has found

        contract_for(env, task.name)
        length = HORIZON if task.success.kind == "info" else WHOLE_STEPS
        try:
            first, fresh = (trace(each, SEEDS[0], {}, PROBE_STEPS) for each in (env, other))
            end = trace(env, SEEDS[1], {}, length)
            again = trace(env, SEEDS[0], {}, PROBE_STEPS)
        except Exception as error:
            raise ConfigError(
                f"the Gymnasium environment '{task.name}' breaks when it is played",
                where=task.where,
                field=f"sim.task.gymnasium: {type(error).__name__}: {error}",
                hint="gymnasium.utils.env_checker.check_env says more",
            ) from error
    if first.states != fresh.states:
        raise _unsteady(task, f"two of it differ within {PROBE_STEPS} steps from one seed")
    if task.success.kind == "info" and task.success.key not in end.info:
        told = ", ".join(sorted(map(str, end.info))) or "none"
        raise ConfigError(
            f"'{task.name}' tells no info '{task.success.key}' when an episode ends",
            where=task.where,
            field=f"sim.task.success: its info keys are {told}",
            hint="name one of them, `terminated`, `truncated`, or {return: 195}",
        )
    remade = again.states != first.states
    return replace(task, remade=remade)


def _no_option(axis: str, found: str, where: str) -> ConfigError:
    return ConfigError(
        "a Gymnasium task varies by what its reset is given, and by nothing else",
        where=where,
        field=f"sim.axes.{axis}: {found}",
        hint="give values or a range; a field only with {target: reset, operation: set}",
    )


def _unsteady(task: GymTask, found: str) -> ConfigError:
    return ConfigError(
        f"'{task.name}' does not follow from its seed: no episode could be played again",
        where=task.where,
        field=f"sim.task.gymnasium: {found}",
        hint="draw from self.np_random alone, and call super().reset(seed=seed)",
    )


def succeeded(
    task: GymTask, info: Mapping[str, Any], terminated: bool, truncated: bool, total: float
) -> bool:
    """Whether an episode that ended so has succeeded. Raises ConfigError without the info key."""
    match task.success.kind:
        case "terminated":
            return terminated
        case "truncated":
            return truncated
        case "return":
            return total >= task.success.at_least
    value = np.asarray(info.get(task.success.key))
    if value.size != 1 or value.dtype.kind not in "biuf":
        raise ConfigError(
            f"'{task.name}' ended an episode without a yes or no at info '{task.success.key}'",
            where=task.where,
            field=f"sim.task.success: {info.get(task.success.key)!r}",
            hint="the environment has to tell it at the end of each episode",
        )
    return bool(value.item() > 0)
