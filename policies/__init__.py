"""What is released: contracts, formats, loading, the policy's process, training recipes.

A `Policy` is a loaded version: observations in, network outputs out, no clock, no I/O. What the
numbers mean is in its contract; `observation` makes the input, `actions` shapes the output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from policies.contract import Contract
    from policies.space import SpaceContract


class Policy(Protocol):
    """A loaded version. A row's output does not depend on the batch it is asked in."""

    @property
    def contract(self) -> Contract: ...

    def reset(self) -> None:
        """Forget the last attempt."""
        ...

    def act(self, observation: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(B, N) observations to (B, J) outputs before shaping, K * J in rows where chunked."""
        ...


class SpacePolicy(Protocol):
    """A loaded version for a Gymnasium task, which no robot runs."""

    @property
    def contract(self) -> SpaceContract: ...

    def reset(self) -> None:
        """Forget the last episode."""
        ...

    def act(self, observation: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(B, N) observations to (B, outputs)."""
        ...
