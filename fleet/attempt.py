"""What an attempt is made of, on a station and on a robot of the fleet alike.

Arrays are (J,), J = 8 per arm; rad, rad/s, Nm, s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from registry.errors import ServiceFailed

Array = NDArray[np.float64]


class Task(Protocol):
    """The numbers of a task that the runtime needs."""

    @property
    def horizon_s(self) -> float: ...

    @property
    def start_q(self) -> Sequence[float]:
        """(J,) where an attempt begins, gripper open."""
        ...


class Judge(Protocol):
    """Decides an outcome from measurements: see the task's judge."""

    @property
    def version(self) -> str: ...

    def reset(self) -> None: ...

    def update(self, q: Array, dq: Array, tau: Array, dt: float) -> None: ...

    def outcome(self) -> str | None:
        """ "success", "failure" or None while undecided."""
        ...

    def failure_mode(self) -> str: ...


@dataclass(frozen=True)
class SceneCheck:
    """A scene that is ready, or why not; facts are kept with the attempt."""

    ok: bool
    why: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


class NamedFailure(ServiceFailed):
    """A failure of the rig that whoever runs the attempt has a name for: it passes as it is."""


class Scene(Protocol):
    """What an attempt needs around the robot. A twin places a new box, a station runs its reset."""

    def prepare(self) -> SceneCheck:
        """Raises ServiceFailed, Refused where what makes the scene has failed."""
        ...


@dataclass(frozen=True)
class Episode:
    """What happened. `opened` tells a void that used an attempt's number from one that did not."""

    outcome: str
    failure_mode: str
    judge: str
    opened: bool
    duration_s: float = 0.0
    steps: int = 0
    interventions: Mapping[str, int] = field(default_factory=dict)
    """By name: shaping's with the prefix `shape_`, protection's without."""
    safety_events: tuple[str, ...] = ()
    scene: Mapping[str, Any] = field(default_factory=dict)
    overruns: int = 0
    detail: str = ""
    """A sentence for people where the mode does not say it all: the fault, the exception."""
    cause: BaseException | None = None
    """What the policy raised for an answer that the attempt took, and that ended it."""
    trace: tuple[Array, Array] | None = None
    """Measured joints and commands (T, J) at policy rate, where asked for."""
