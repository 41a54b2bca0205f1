"""Policies for Gymnasium tasks, good and bad by construction: one layer, weights set by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from policies.formats.native import Network
from policies.formats.space import save
from policies.space import SpaceContract


def write_linear(
    folder: Path, contract: SpaceContract, weight: Sequence[Sequence[float]], bias: Sequence[float]
) -> Path:
    """A checkpoint whose outputs are weight (outputs, N) times the observation, plus bias."""
    layer = (np.array(weight, dtype=np.float32), np.array(bias, dtype=np.float32))
    width = contract.width
    normal = np.zeros(width, dtype=np.float32), np.ones(width, dtype=np.float32)
    save(folder, contract, Network((layer,), *normal))
    return folder


def write_constant(folder: Path, contract: SpaceContract, outputs: Sequence[float]) -> Path:
    """A checkpoint that answers the same whatever it sees."""
    return write_linear(folder, contract, [[0.0] * contract.width] * len(outputs), outputs)
