"""A task as a Gymnasium environment, alone or many in lock-step: the very episodes of a sim gate.

Rules
- Actions are what a policy's network answers (-1..1, one number per joint) and observations what
  its contract says, so an episode played here ends in the same bits as one that a gate plays.
- `reset(seed=n)` is scene n. These scenes are of a cell of their own: no gate's episodes can be
  trained on by accident. `options` are named axes (`friction`, `mass`, `delay`, …), for that
  episode; or `spec`, an `EpisodeSpec` to play again exactly.
- The reward is 1 where an episode ends in success, else 0. Success, failure and broken rules
  terminate, the task's horizon truncates; `info` says `is_success` at each step, and at the end
  `failure_mode`, `interventions` and `metrics`.
- Vector environments do not reset by themselves (`AutoresetMode.DISABLED`): one that has ended
  stands still, without reward, until `reset(options={"reset_mask": …})` names it.
- An action of another shape or type, or with a number that is not finite, is refused before
  anything moves (ConfigError): in a gate the policy would have failed by it, here whoever steps has
  a bug to find. What is told to an environment that has ended is not looked at.
- Nothing is rendered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from fleet.kinematics import load_arms
from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.randomization import changes
from harness.sim.signals import SCALES
from harness.tasks import find_task
from policies.contract import (
    ARM_TERMS,
    ROBOT_CLASSES,
    SCENE_TERMS,
    Contract,
    parse_contract,
    read_contract,
    term_width,
)
from registry.errors import ConfigError

Rows = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Info = dict[str, Any]
Space = gymnasium.Space[Rows]

GYM_CELL = (15_485_863,)
"""Cell of these scenes: neither a grid's nor a training round's."""
BOUND = 100.0
"""An observation is less than so many times its term's scale: further than anything measured."""
_LIMITS = {False: (0.04, 0.04, 0.06, 0.06, 0.06, 0.06, 0.06, 0.10), True: (0.021,) * 7 + (0.10,)}
"""Action limits [rad a step] where nobody gives a contract; slower where the task watches speed."""
_EMA = 0.7


def contract_for(task: str, robot_class: str = "openarm-v2-right") -> Contract:
    """A contract with every observation that the task has, delta actions at 50 Hz."""
    if robot_class not in ROBOT_CLASSES:
        raise ConfigError(
            f"there is no robot class '{robot_class}'",
            where="gymnasium.make",
            field="robot_class",
            hint=f"known: {', '.join(ROBOT_CLASSES)}",
        )
    robot = ROBOT_CLASSES[robot_class]
    names = [arm.name for arm in robot.arms]
    arms = load_arms(names)
    watched = find_task(task).watched
    terms = [t for t in (*ARM_TERMS, *SCENE_TERMS) if watched or not t.startswith("goal_")]
    return parse_contract(
        {
            "schema": "policyctl.contract/1",
            "task": task,
            "robot_class": robot.name,
            "arms": names,
            "joints": list(robot.joints),
            "rate_hz": 50,
            "observation": [{"name": t, "width": term_width(t, len(names))} for t in terms],
            "action": {
                "space": "delta",
                "limit": _LIMITS[watched] * len(names),
                "ema_alpha": _EMA,
                "low": [float(q) for arm in arms for q in arm.q_min],
                "high": [float(q) for arm in arms for q in arm.q_max],
            },
            "memory_mb": 64,
            "load_s": 5.0,
            "latency_ms": 10.0,
        }
    )


def _contract(task: str, robot_class: str, contract: Contract | str | Path | None) -> Contract:
    if contract is None:
        return contract_for(task, robot_class)
    return contract if isinstance(contract, Contract) else read_contract(Path(contract))


def _spaces(contract: Contract) -> tuple[Space, Space]:
    """Observation and action of one environment."""
    scale = [np.full(t.width, SCALES.get(t.name, 1.0)) for t in contract.observation]
    high = (BOUND * np.concatenate(scale)).astype(np.float32)
    joints = (len(contract.joints),)
    return (
        gymnasium.spaces.Box(-high, high, dtype=np.float32),
        gymnasium.spaces.Box(-1.0, 1.0, joints, dtype=np.float32),
    )


def _spec(
    task: str, seed: int | None, rng: np.random.Generator, options: Mapping[str, Any]
) -> EpisodeSpec:
    """The episode that a reset means."""
    if (given := options.get("spec")) is not None:
        if not isinstance(given, EpisodeSpec) or len(options) > 1:
            raise ConfigError(
                "'spec' is an EpisodeSpec and stands alone", where="reset", field="options"
            )
        return given
    episode = int(rng.integers(2**31)) if seed is None else seed
    return EpisodeSpec(GYM_CELL, episode, changes(options), task)


def _action(action: Any, shape: tuple[int, ...] | None) -> Rows:
    """What was given to `step` as outputs of a network."""
    given = np.asarray(action)
    if given.dtype.kind not in "fiu":
        raise _refused(f"its numbers are {given.dtype}, real numbers are needed")
    if given.shape != shape:
        raise _refused(f"its shape is {given.shape}, {shape} is needed")
    return given.astype(np.float32)


def _refuse_not_finite(outputs: Rows, running: Bools) -> None:
    """Of the environments that are running, (n, J) and (n,)."""
    bad = np.flatnonzero(~np.isfinite(outputs).all(axis=1) & running)
    if bad.size:
        where = "" if len(running) == 1 else f" for environment {', '.join(map(str, bad))}"
        raise _refused(f"it holds a number that is not finite{where}")


def _refused(why: str) -> ConfigError:
    return ConfigError(
        "the action is none that this environment takes",
        where="step",
        field=f"action: {why}",
        hint="one number from -1 to 1 for each joint, as env.action_space.sample() gives",
    )


def _told(record: EpisodeRecord) -> Info:
    return {
        "is_success": record.success,
        "failure_mode": record.failure_mode,
        "interventions": dict(record.interventions),
        "metrics": dict(record.metrics),
    }


class TaskEnv(gymnasium.Env[Rows, Rows]):
    """One task, one episode at a time."""

    def __init__(
        self,
        task: str,
        robot_class: str = "openarm-v2-right",
        contract: Contract | str | Path | None = None,
        render_mode: str | None = None,
    ) -> None:
        _refuse_rendering(render_mode)
        self.render_mode = None
        self.contract = _contract(task, robot_class, contract)
        self.observation_space, self.action_space = _spaces(self.contract)
        self._env = BatchEnv(self.contract, 1)
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Rows, Info]:
        super().reset(seed=seed)
        spec = _spec(self.contract.task, seed, self.np_random, options or {})
        self._env.reset([0], [spec])
        self._over = False
        return self._env.observe([0])[0], {"is_success": False}

    def step(self, action: Rows) -> tuple[Rows, float, bool, bool, Info]:
        if self._over:
            raise gymnasium.error.ResetNeeded("the episode has ended, or was never begun: reset()")
        told = _action(action, self.action_space.shape)[None]
        _refuse_not_finite(told, np.array([True]))
        done = bool(self._env.step([0], told)[0])
        self._over = done
        record = self._env.record(0)
        late = done and not record.success and record.steps >= self._env.horizon
        info = _told(record) if done else {"is_success": False}
        seen = self._env.observe([0])[0]
        return seen, float(record.success), done and not late, late, info

    def record(self) -> EpisodeRecord:
        """How the episode stands, as a gate would record it."""
        return self._env.record(0)


class TaskVectorEnv(gymnasium.vector.VectorEnv[Rows, Rows, npt.NDArray[Any]]):
    """`num_envs` episodes of one task, one compiled scene, physics on `threads` threads."""

    def __init__(
        self,
        task: str,
        num_envs: int = 1,
        robot_class: str = "openarm-v2-right",
        contract: Contract | str | Path | None = None,
        threads: int = 1,
        render_mode: str | None = None,
    ) -> None:
        _refuse_rendering(render_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.DISABLED}
        self.num_envs, self.render_mode = num_envs, None
        self.contract = _contract(task, robot_class, contract)
        self.single_observation_space, self.single_action_space = _spaces(self.contract)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._env = BatchEnv(self.contract, num_envs, threads=threads)
        self._seen = np.zeros((num_envs, self.contract.width), dtype=np.float32)
        self._late = np.zeros(num_envs, dtype=bool)
        self._ended = np.ones(num_envs, dtype=bool)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Rows, Info]:
        """`seed` n gives environment i scene n + i. `specs`, one per environment, may stand in
        `options`; axes there are for all that are reset."""
        chosen = dict(options or {})
        slots = np.flatnonzero(self._mask(chosen.pop("reset_mask", None)))
        seeds = self._seeds(seed)
        specs = chosen.pop("specs", None)
        if specs is not None and (chosen or len(specs) != self.num_envs):
            raise ConfigError(
                "'specs' stands alone, one EpisodeSpec per environment",
                where="reset",
                field="options",
            )
        given = [chosen if specs is None else {"spec": specs[slot]} for slot in slots]
        todo = [
            _spec(self.contract.task, seeds[slot], self.np_random, each)
            for slot, each in zip(slots, given, strict=True)
        ]
        self._env.reset([int(slot) for slot in slots], todo)
        self._ended[slots] = self._late[slots] = False
        self._seen[slots] = self._env.observe(slots)
        return self._seen.copy(), _infos(self.num_envs, {int(s): {} for s in slots})

    def step(self, actions: Rows) -> tuple[Rows, npt.NDArray[np.float64], Bools, Bools, Info]:
        outputs, running = _action(actions, self.action_space.shape), ~self._ended
        _refuse_not_finite(outputs, running)
        slots = np.flatnonzero(running)
        rewards = np.zeros(self.num_envs)
        told: dict[int, Info] = {}
        if len(slots):
            done = self._env.step(slots, outputs[slots])
            self._seen[slots] = self._env.observe(slots)
            for slot in slots[done]:
                record = self._env.record(int(slot))
                rewards[slot] = float(record.success)
                self._late[slot] = not record.success and record.steps >= self._env.horizon
                told[int(slot)] = _told(record)
            self._ended[slots[done]] = True
        infos = _infos(self.num_envs, told)
        ended, late = self._ended & ~self._late, self._late.copy()
        return self._seen.copy(), rewards, ended, late, infos

    def record(self, index: int) -> EpisodeRecord:
        """How the episode of one environment stands, as a gate would record it."""
        return self._env.record(index)

    def _mask(self, mask: Any) -> Bools:
        """Which environments a reset is for; all where nobody says."""
        if mask is None:
            return np.ones(self.num_envs, dtype=bool)
        if not (
            isinstance(mask, np.ndarray)
            and mask.dtype == np.bool_
            and mask.shape == (self.num_envs,)
            and mask.any()
        ):
            raise ConfigError(
                "'reset_mask' names no environments",
                where="reset",
                field="options.reset_mask",
                hint=f"a numpy array of {self.num_envs} bools, one of them true",
            )
        return mask

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if isinstance(seed, int | np.integer):
            super().reset(seed=int(seed))
            return [int(seed) + i for i in range(self.num_envs)]
        seeds: list[int | None] = [None] * self.num_envs if seed is None else list(seed)
        if len(seeds) != self.num_envs:
            raise ConfigError(
                f"{len(seeds)} seeds for {self.num_envs} environments", where="reset", field="seed"
            )
        return seeds


def _infos(count: int, told: Mapping[int, Info]) -> Info:
    """Gymnasium's form: an array per name, and a mask of the environments that say it."""
    infos: Info = {"is_success": np.zeros(count, dtype=bool), "_is_success": np.ones(count, bool)}
    for index, info in told.items():
        for name, value in info.items():
            if name not in infos:
                infos[name] = np.full(count, None, dtype=object)
                infos[f"_{name}"] = np.zeros(count, dtype=bool)
            infos[name][index], infos[f"_{name}"][index] = value, True
    return infos


def _refuse_rendering(mode: str | None) -> None:
    if mode is not None:
        raise ConfigError(
            f"these environments do not render '{mode}'",
            where="gymnasium.make",
            field="render_mode",
            hint="leave it out",
        )
