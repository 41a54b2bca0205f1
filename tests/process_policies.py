"""Policies that misbehave in a process of their own; found there by the names of these loaders."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from contract_data import contract_json

from policies.contract import Contract, parse_contract
from registry.errors import ConfigError

Rows = npt.NDArray[np.float32]


class Told:
    """Does what the first number of each observation says: see `act`."""

    def __init__(self) -> None:
        self._resets = 0

    @property
    def contract(self) -> Contract:
        return parse_contract(contract_json())

    def reset(self) -> None:
        self._resets += 1

    def act(self, observation: Rows) -> Rows:
        what, value = float(observation[0, 0]), float(observation[0, 1])
        if what == 1:
            raise RuntimeError("boom")
        if what == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if what == 3:
            return np.full((len(observation), 8), np.nan, dtype=np.float32)
        if what == 4:
            time.sleep(value)
        if what == 5:
            return np.zeros((len(observation), 7), dtype=np.float32)
        if what == 6:
            return np.full((len(observation), 8), os.getpid(), dtype=np.float32)
        return np.full((len(observation), 8), value, dtype=np.float32)


CHUNK_S = 0.06
"""What `SlowChunks` takes for an answer."""


class SlowChunks:
    """Swings a wrist by chunks, each of which takes longer than a policy step."""

    def __init__(self) -> None:
        data = contract_json() | {
            "latency_ms": 140.0,
            "chunk": {"rows": 40, "every": 12, "blend": 5},
        }
        data["action"] |= {"low": [-1.35, -0.14, -1.5, 0.04, -1.5, -0.7, -1.5, -0.75],
                           "high": [3.45, 3.27, 1.5, 2.40, 1.5, 0.7, 1.5, -0.01]}  # fmt: skip
        self.contract = parse_contract(data)
        self._turn = 0

    def reset(self) -> None:
        self._turn = 0

    def act(self, observation: Rows) -> Rows:
        time.sleep(CHUNK_S)
        rows = np.zeros((40, 8), dtype=np.float32)
        rows[:, 4] = 0.2 * (-1) ** (self._turn // 3)
        self._turn += 1
        return rows.reshape(1, -1)


def load_slow_chunks(folder: Path) -> SlowChunks:
    return SlowChunks()


def load(folder: Path) -> Told:
    return Told()


def refuse(folder: Path) -> Told:
    raise ConfigError("no weights", where=str(folder), field="policy.safetensors", hint="train")


def explode(folder: Path) -> Told:
    raise MemoryError("too large")


SWAYING_HZ = 10


class Swaying:
    """Moves joint 1 a little, and can be told to die or hang at a step."""

    def __init__(self, folder: Path) -> None:
        body = contract_json()
        body["action"] |= {"low": [-3.4] * 8, "high": [3.4] * 8}
        self.contract = parse_contract(body | {"rate_hz": SWAYING_HZ, "latency_ms": 80.0})
        self._plan = json.loads((folder / "plan.json").read_text())
        self.reset()

    def reset(self) -> None:
        self.step = 0

    def act(self, observation: np.ndarray) -> np.ndarray:
        self.step += 1
        if self.step == self._plan.get("dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.step == self._plan.get("stops"):
            os.kill(os.getpid(), signal.SIGSTOP)
        out = np.zeros((1, 8), np.float32)
        out[0, 0] = 0.5
        return out


def swaying(folder: Path) -> Swaying:
    return Swaying(folder)
