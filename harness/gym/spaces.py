"""Between an environment's spaces and a policy's numbers.

Rules
- Terms are flattened by Gymnasium's own rule: arrays row by row, counted things one-hot. A space of
  no fixed size (text, graphs, sequences) cannot be a term; a contract may leave it out.
- A contract fits an environment when each of its terms is there with shape, dtype and width, and
  its actions are among the environment's. A contract may bound an action more tightly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from policies.contract import SPACE_SCHEMA
from policies.formats.space import action_of
from policies.space import Box, Discrete, SpaceContract, SpaceTerm, parse_space_contract
from registry.errors import ConfigError

if TYPE_CHECKING:
    from harness.gym.worlds import Env

Rows = npt.NDArray[np.float32]
FLAT = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
RATE_HZ = 50.0
"""The control rate of an environment that names no frames per second."""


def observe(contract: SpaceContract, space: spaces.Space[Any], observation: Any) -> Rows:
    """(1, N) what the policy sees of an observation, in the contract's term order."""
    flat = spaces.utils.flatten
    parts = [
        np.asarray(flat(_part(space, t.name), _value(observation, t.name)), dtype=np.float32)
        for t in contract.observation
    ]
    return np.concatenate(parts)[None]


def act(contract: SpaceContract, space: spaces.Space[Any], answer: Rows) -> Any:
    """The environment's action for one finite answer (outputs,) of the policy."""
    action = action_of(contract, answer)
    if isinstance(action, int):
        return action
    dtype = np.dtype(space.dtype)
    return (np.rint(action) if dtype.kind in "iu" else action).astype(dtype)


def contract_for(env: Env, task: str, **numbers: float) -> SpaceContract:
    """The contract of a policy that sees all of an environment that can be flattened.

    `numbers` are those of `SpaceContract` (rate_hz, latency_ms, memory_mb, load_s) where they are
    not the usual ones. Raises ConfigError where its observations or actions are of no kind here.
    """
    terms = _terms(env.observation_space)
    action = _action(env.action_space)
    if not terms or action is None:
        which, space = (
            ("actions", env.action_space) if terms else ("observations", env.observation_space)
        )
        raise ConfigError(
            f"the {which} of '{task}' are of a kind that no policy here can have",
            where=task,
            field=str(space),
            hint="observations: arrays, counted things or a Dict of them; actions: Discrete or Box",
        )
    rate = float(numbers.pop("rate_hz", env.metadata.get("render_fps") or RATE_HZ))
    usual = {"rate_hz": rate, "latency_ms": 1000.0 / rate, "memory_mb": 64, "load_s": 5.0}
    return parse_space_contract(
        {
            "schema": SPACE_SCHEMA,
            "task": task,
            "observation": [term.model_dump() for term in terms.values()],
            "action": action.model_dump(),
            **usual,
            **numbers,
        }
    )


def fit(contract: SpaceContract, env: Env, task: str, *, where: str) -> None:
    """Raises ConfigError naming the first field of a contract that is not the environment's."""
    if contract.task != task:
        raise _misfit(where, "task", f"task is {contract.task}, the gate's is {task}")
    terms = _terms(env.observation_space)
    for term in contract.observation:
        found = terms.get(term.name)
        field = f"observation.{term.name}" if term.name else "observation"
        if found is None:
            known = ", ".join(name or "one array" for name in terms)
            raise _misfit(where, field, f"{field} is not among what it observes: {known}")
        if found != term:
            raise _misfit(where, field, f"{field} is {_said(term)}, its own is {_said(found)}")
    action = _action(env.action_space)
    if action is None or not _within(contract.action, action):
        own = env.action_space
        raise _misfit(where, "action", f"action is {_said(contract.action)}, its own is {own}")


def _terms(space: spaces.Space[Any]) -> dict[str, SpaceTerm]:
    """What can be observed of a space, by name in order."""
    parts = space.spaces.items() if isinstance(space, spaces.Dict) else [("", space)]
    return {
        name: SpaceTerm(
            name=name,
            shape=part.shape or (),
            dtype=str(np.dtype(part.dtype)),
            width=spaces.utils.flatdim(part),
        )
        for name, part in sorted(parts)
        if isinstance(part, FLAT)
    }


def _action(space: spaces.Space[Any]) -> Discrete | Box | None:
    if isinstance(space, spaces.Discrete):
        return Discrete(kind="discrete", n=int(space.n), start=int(space.start))
    if isinstance(space, spaces.Box):
        low, high = (
            tuple(float(bound) if np.isfinite(bound) else None for bound in bounds.ravel())
            for bounds in (space.low, space.high)
        )
        return Box(kind="box", shape=space.shape, low=low, high=high)
    return None


def _within(action: Discrete | Box, own: Discrete | Box) -> bool:
    if isinstance(action, Discrete) or isinstance(own, Discrete):
        return action == own
    if action.shape != own.shape:
        return False
    low = zip(action.low, own.low, strict=True)
    high = zip(action.high, own.high, strict=True)
    return all(b is None or (a is not None and a >= b) for a, b in low) and all(
        b is None or (a is not None and a <= b) for a, b in high
    )


def _part(space: spaces.Space[Any], name: str) -> spaces.Space[Any]:
    return space[name] if isinstance(space, spaces.Dict) and name else space


def _value(observation: Any, name: str) -> Any:
    return observation[name] if name else observation


def _said(model: SpaceTerm | Discrete | Box) -> str:
    return " ".join(f"{key}={value}" for key, value in model.model_dump(exclude={"name"}).items())


def _misfit(where: str, field: str, found: str) -> ConfigError:
    return ConfigError(
        f"the policy's contract does not fit the environment: {field}",
        where=where,
        field=found,
        hint="choose the environment that the policy was trained for",
    )
