"""A foreign environment held at arm's length: made, reset and stepped, its whims made errors.

- An axis is a reset option: `low` is `options={"low": value}`, `config.duration` is
  `options={"config": {"duration": value}}`. Numbers that are whole go in as int, since an option
  that counts things takes no float.
- What an environment prints goes to stderr: stdout carries policyctl's own data.
- Traces are compared by `feed`, which covers values and never addresses: an object that is no
  number, text, array or container counts by its type alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from registry.errors import ConfigError

if TYPE_CHECKING:
    import gymnasium

    Env = gymnasium.Env[Any, Any]

HORIZON = 10_000
"""Steps after which an episode without an end of its own is a timeout."""


def make(name: str, *, where: str) -> Env:
    """The environment of that id. Raises ConfigError with the reason where there is none."""
    try:
        import gymnasium
    except ImportError as error:
        raise ConfigError(
            "gymnasium is not installed here",
            where=where,
            field="sim.task.gymnasium",
            hint="install it beside policyctl: pip install 'policyctl[sim]'",
        ) from error
    try:
        with aside():
            return gymnasium.make(name, disable_env_checker=True)
    except Exception as error:
        top = name.rpartition(":")[0].partition(".")[0]
        missing = bool(top) and find_spec(top) is None
        if missing or isinstance(error, gymnasium.error.UnregisteredEnv):
            raise ConfigError(
                f"there is no Gymnasium environment '{name}' here",
                where=where,
                field=f"sim.task.gymnasium: {error}",
                hint="install what registers it, or write `module:Name-v0` to import that first",
            ) from error
        raise ConfigError(
            f"the Gymnasium environment '{name}' cannot be made",
            where=where,
            field=f"sim.task.gymnasium: {type(error).__name__}: {error}",
            hint="make it by gymnasium.make in Python first; it gets no arguments",
        ) from error


class _Aside(contextlib.AbstractContextManager[None]):
    """stdout is the process's, and threads that play overlap: the first to come turns it aside, the
    last to leave turns it back."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._turned = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._turned.enter_context(contextlib.redirect_stdout(sys.stderr))
            self._inside += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._turned.close()


_ASIDE = _Aside()


def aside() -> contextlib.AbstractContextManager[None]:
    """While this is open in any thread, what is printed goes to stderr."""
    return _ASIDE


def options_of(values: Mapping[str, float]) -> dict[str, Any] | None:
    """Reset options from option paths and their values; None where there are none."""
    options: dict[str, Any] = {}
    for path, value in sorted(values.items()):
        *folders, last = path.split(".")
        inner = options
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = int(value) if float(value).is_integer() else float(value)
    return options or None


@dataclass(frozen=True)
class Trace:
    """What an environment did from one reset, under actions drawn from its seed."""

    states: str
    """Digest of observations, rewards and ends."""
    infos: str
    """Digest of the infos, which may hold times of day and the like."""
    ended: bool
    info: Mapping[str, Any]
    """The last one."""


def trace(env: Env, seed: int, values: Mapping[str, float], steps: int) -> Trace:
    """Plays to the episode's end or for `steps`, by random actions that the seed names."""
    states, infos = hashlib.sha256(), hashlib.sha256()
    with aside():
        observation, info = env.reset(seed=seed, options=options_of(values))
        env.action_space.seed(seed)  # after the reset, which may make the spaces anew
        feed(states, observation)
        feed(infos, info)
        ended = False
        for _ in range(steps):
            seen = env.step(env.action_space.sample())
            observation, _, terminated, truncated, info = seen
            feed(states, seen[:4])
            feed(infos, info)
            ended = bool(terminated or truncated)
            if ended:
                break
    return Trace(states.hexdigest(), infos.hexdigest(), ended, dict(info))


def feed(whole: hashlib._Hash, value: object) -> None:
    """Adds a value to a digest: equal values of equal types, and no others, are equal."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        array = np.ascontiguousarray(value)
        whole.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
    elif isinstance(value, Mapping):
        whole.update(f"{{{len(value)}".encode())
        for key in sorted(value, key=str):
            whole.update(str(key).encode() + b":")
            feed(whole, value[key])
    elif isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes):
        whole.update(f"[{len(value)}".encode())
        for each in value:
            feed(whole, each)
    elif value is None or isinstance(value, bool | int | float | str | bytes):
        whole.update(f"{type(value).__name__} {value!r};".encode())
    else:
        whole.update(type(value).__qualname__.encode())
