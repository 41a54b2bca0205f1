"""Jobs that tests give to executors; workers in other processes import them from here."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sim_policies import ExpertPolicy, Rows

from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.executors import Player
from harness.sim.runner import play
from registry.errors import ConfigError


class Faulty(ExpertPolicy):
    """The expert, but for a `fault` at one observation in some hundred, whatever its batch."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def act(self, observation: Rows) -> Rows:
        answer = super().act(observation)
        bad = np.sin(1e4 * observation[:, 0]) > 0.999
        if not bad.any():
            return answer
        match self.fault:
            case "raise":
                raise RuntimeError("out of ideas")
            case "nan":
                return np.where(bad[:, None], np.float32(np.nan), answer)
            case _:
                return answer[:, :3]


@dataclass(frozen=True)
class ExpertJob:
    """The expert, or one that fails in some episodes."""

    slots: int = 8
    fault: str = ""

    @property
    def digest(self) -> str:
        return f"expert {self.fault}"

    def make_player(self) -> Player:
        policy = Faulty(self.fault) if self.fault else ExpertPolicy()
        env = BatchEnv(policy.contract, self.slots)
        return lambda specs: play(env, policy.act, specs)


@dataclass(frozen=True)
class ScriptedJob:
    """No physics. Each worker leaves its process id in `folder`.

    Episode `dies_at` ends its process by SIGKILL, `deaths` times in all; `raises_at`
    raises; `waits_at` plays until its worker is ended.
    """

    folder: Path
    dies_at: int = -1
    deaths: int = 1
    waits_at: int = -1
    raises_at: int = -1
    digest: str = "scripted"

    def make_player(self) -> Player:
        (self.folder / f"worker-{os.getpid()}").touch()
        return self._play

    def workers(self) -> list[int]:
        return sorted(int(path.name.split("-")[1]) for path in self.folder.glob("worker-*"))

    def _play(self, specs: Iterable[EpisodeSpec]) -> Iterator[EpisodeRecord]:
        for spec in specs:
            if spec.episode == self.dies_at and self._once_more():
                os.kill(os.getpid(), signal.SIGKILL)
            if spec.episode == self.waits_at:
                (self.folder / "waiting").touch()
                while True:
                    time.sleep(60)
            if spec.episode == self.raises_at:
                raise ConfigError("it does not fit", where="contract.json", field="rate_hz")
            (self.folder / f"played-{spec.episode}-{os.getpid()}").touch()
            yield EpisodeRecord(spec, spec.episode % 3 > 0, "", 1, digest=f"{spec.episode:x}")

    def _once_more(self) -> bool:
        deaths = len(list(self.folder.glob("death-*")))
        if deaths < self.deaths:
            (self.folder / f"death-{deaths}").touch()
        return deaths < self.deaths
