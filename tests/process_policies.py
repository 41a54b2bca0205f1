"""Policies that misbehave in a process of their own; found there by the names of these loaders."""

from __future__ import annotations

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


def load(folder: Path) -> Told:
    return Told()


def refuse(folder: Path) -> Told:
    raise ConfigError("no weights", where=str(folder), field="policy.safetensors", hint="train")


def explode(folder: Path) -> Told:
    raise MemoryError("too large")
