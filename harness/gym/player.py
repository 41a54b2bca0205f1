"""Episodes of one policy in one Gymnasium environment.

Rules
- An episode follows from its spec and the policy alone: the environment is reset with a seed drawn
  from (task, cell, episode), and the spec's changes are its reset options. An environment may keep
  options that an earlier reset gave, so one is used only for specs that give the same ones.
- How an episode fails: `timeout` (truncated, or never ending), `terminated` (ended otherwise),
  `policy_crash | policy_shape | policy_nan`, `unstable` (an observation that is not a number). What
  the environment raises is nobody's failure: the run ends with ServiceFailed.
- No clock is read: whether a policy is late is a matter of the gate (`harness/gym/simulation.py`).
- The digest covers every observation, action, reward and end, bit by bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.gym import spaces
from harness.gym.engine import fingerprint
from harness.gym.tasks import GymTask, succeeded
from harness.gym.worlds import HORIZON, aside, feed, options_of
from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.seeds import SCENE, rng
from policies import SpacePolicy
from policies.contract import FILE_NAME as CONTRACT_FILE
from policies.formats.native import WEIGHTS_FILE
from policies.loading import load_space_policy
from policies.process import PolicyFailedError
from registry.errors import ConfigError, ServiceFailed
from registry.versions import digest_bytes, digest_of

if TYPE_CHECKING:
    from harness.gym.worlds import Env


@dataclass(frozen=True)
class GymJob:
    """Plays the checkpoint in `folder` at `task`: plain values, so that it travels to workers."""

    folder: Path
    task: GymTask

    def make_player(self) -> GymPlayer:
        """Raises ConfigError where the checkpoint is not sound, or not for this environment."""
        policy = load_space_policy(self.folder)
        return GymPlayer(self.task, policy, where=str(self.folder / CONTRACT_FILE))

    @property
    def digest(self) -> str:
        """Names what is played: equal ones play equal specs to equal records."""
        files = {
            name: digest_bytes((self.folder / name).read_bytes())
            for name in (CONTRACT_FILE, WEIGHTS_FILE)
        }
        return digest_of(
            {"files": files, "task": self.task.digest, "engine": fingerprint(self.task)}
        )


class GymPlayer:
    """One policy and one environment of its own, until it is closed."""

    def __init__(self, task: GymTask, policy: SpacePolicy, *, where: str = CONTRACT_FILE) -> None:
        self._task, self.policy = task, policy
        self._env: Env = task.make()
        self._given: frozenset[str] | None = None
        try:
            spaces.fit(policy.contract, self._env, task.name, where=where)
        except ConfigError:
            self.close()
            raise

    def __call__(self, specs: Iterable[EpisodeSpec]) -> Iterator[EpisodeRecord]:
        """One record for each spec, in their order."""
        for spec in specs:
            values = _values(spec)
            used = self._given is not None
            if used and (self._task.remade or self._given != values.keys()):
                self._env.close()
                self._env = self._task.make()
            self._given = frozenset(values)
            yield _Episode(self._task, self.policy, self._env, spec).play(values)

    def close(self) -> None:
        self._env.close()


def seed_of(spec: EpisodeSpec) -> int:
    """The seed of an episode's reset."""
    return int(rng(spec.task, spec.cell, spec.episode, SCENE).integers(2**31))


def _values(spec: EpisodeSpec) -> dict[str, float]:
    for change in spec.changes:
        if (change.target, change.operation, change.at_s) != ("reset", "set", 0.0):
            raise ConfigError(
                "a Gymnasium task varies by what its reset is given, and by nothing else",
                where="gates.yaml",
                field=f"{change.operation} {change.target}.{change.field} at {change.at_s:g} s",
                hint="name reset options as axes, with values or a range",
            )
    return {change.field: change.value for change in spec.changes}


class _Episode:
    """One episode under way."""

    def __init__(self, task: GymTask, policy: SpacePolicy, env: Env, spec: EpisodeSpec) -> None:
        self._task, self._policy, self._env, self._spec = task, policy, env, spec
        self._digest = hashlib.sha256()
        self._steps, self._return = 0, 0.0

    def play(self, values: dict[str, float]) -> EpisodeRecord:
        with aside():
            observation, _ = self._ask(
                lambda: self._env.reset(seed=seed_of(self._spec), options=options_of(values))
            )
            feed(self._digest, observation)
            try:
                self._forget()
                while True:
                    seen = self._seen(observation)
                    if seen is None:
                        return self._failed("unstable", "an observation is not a number")
                    action = self._answer(seen)
                    observation, ended = self._step(action)
                    if ended is not None:
                        return ended
            except PolicyFailedError as error:
                return self._failed(f"policy_{error.mode}", error.detail)

    def _step(self, action: Any) -> tuple[Any, EpisodeRecord | None]:
        result = self._ask(lambda: self._env.step(action))
        observation, reward, terminated, truncated, info = result
        feed(self._digest, (action, *result[:4]))
        self._steps += 1
        if not np.isfinite(float(reward)):
            return observation, self._failed("unstable", f"the reward is {float(reward)}")
        self._return += float(reward)
        if not (terminated or truncated) and self._steps < HORIZON:
            return observation, None
        over = bool(terminated), bool(truncated)
        if succeeded(self._task, info, *over, self._return):
            return observation, self._record(success=True)
        return observation, self._failed("terminated" if terminated else "timeout")

    def _seen(self, observation: Any) -> spaces.Rows | None:
        contract, space = self._policy.contract, self._env.observation_space
        seen = self._ask(lambda: spaces.observe(contract, space, observation))
        return None if np.isnan(seen).any() else seen

    def _forget(self) -> None:
        try:
            self._policy.reset()
        except Exception as error:
            raise PolicyFailedError("crash", f"reset: {error!r}") from error

    def _answer(self, seen: spaces.Rows) -> Any:
        """The policy's action. Raises PolicyFailedError."""
        contract = self._policy.contract
        try:
            answer = np.asarray(self._policy.act(seen))
        except Exception as error:
            raise PolicyFailedError("crash", repr(error)) from error
        if answer.shape != (1, contract.outputs):
            raise PolicyFailedError("shape", f"{answer.shape}, expected {(1, contract.outputs)}")
        if not np.isfinite(answer).all():
            raise PolicyFailedError("nan", "the output holds numbers that are not finite")
        return spaces.act(contract, self._env.action_space, answer[0])

    def _ask(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            place = " ".join(f"{c.field}={c.value:g}" for c in self._spec.changes) or "nominal"
            raise ServiceFailed(
                f"the environment '{self._task.name}' broke",
                evidence=f"episode {self._spec.episode} at {place}, step {self._steps}: {error!r}",
                hint="mend the environment and run the same command again",
            ) from error

    def _failed(self, mode: str, detail: str = "") -> EpisodeRecord:
        return self._record(success=False, mode=mode, detail=detail)

    def _record(self, *, success: bool, mode: str = "", detail: str = "") -> EpisodeRecord:
        return EpisodeRecord(
            spec=self._spec,
            success=success,
            failure_mode=mode,
            steps=self._steps,
            metrics={"return": self._return},
            digest=self._digest.hexdigest(),
            detail=detail,
        )
