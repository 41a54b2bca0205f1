"""The native format for a Gymnasium task: the files of `formats.native` under a space contract.

The network's outputs are the action as the contract reads it: the largest output's number where
the actions are counted, the outputs themselves cut to their bounds where they are an array. Nothing
else shapes them: no squashing, no smoothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from policies.formats.native import Mlp, Network, read_network, save
from policies.space import Discrete, SpaceContract, read_space_contract

Rows = npt.NDArray[np.float32]

__all__ = ["NativeSpacePolicy", "action_of", "load", "save"]


class NativeSpacePolicy:
    """A loaded checkpoint for a Gymnasium task; see policies.SpacePolicy."""

    def __init__(self, contract: SpaceContract, network: Network) -> None:
        self._contract, self._network = contract, Mlp(network)

    @property
    def contract(self) -> SpaceContract:
        return self._contract

    def reset(self) -> None:
        """Nothing to forget: the network has no memory."""

    def act(self, observation: Rows) -> Rows:
        """(B, N) to (B, outputs), bit-identical per row whatever B is."""
        return self._network(observation)


def load(folder: Path) -> NativeSpacePolicy:
    """Read and check a checkpoint; ConfigError where contract or weights are not sound."""
    contract = read_space_contract(folder)
    return NativeSpacePolicy(contract, read_network(folder, contract.width, contract.outputs))


def action_of(contract: SpaceContract, answer: Rows) -> npt.NDArray[np.float64] | int:
    """The action that one finite answer (outputs,) stands for."""
    action = contract.action
    if isinstance(action, Discrete):
        return action.start + int(np.argmax(answer))
    low = [-np.inf if bound is None else bound for bound in action.low]
    high = [np.inf if bound is None else bound for bound in action.high]
    return np.clip(answer.astype(np.float64), low, high).reshape(action.shape)
