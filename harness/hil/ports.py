"""What the engine needs from outside, one small protocol each. Times are seconds.

The robot is the fleet's runtime on the station's arm, real or twin; the engine knows neither bus
nor physics. `run_attempt` homes the arm, asks `scene.prepare()`, resets the policy, calls
`open_attempt(facts)` durably before the first motion of the attempt, runs, judges, homes again. A
rig fault leaves it as `InfraError`, or as an episode with the outcome `void`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from fleet.attempt import Episode, Judge, Scene, SceneCheck
from fleet.camera import Pose
from harness.hil.model import Goal, TaskSpec


class Clock(Protocol):
    """Time as the station's people live it; a test's clock jumps."""

    def now(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class Robot(Protocol):
    """The arm of the station, as the trial sees it."""

    @property
    def name(self) -> str: ...
    @property
    def robot_class(self) -> str: ...
    @property
    def engine(self) -> str:
        """Fingerprint of what moves and measures; part of the evidence."""
        ...

    def hold(self) -> None:
        """Stops motion and keeps the arm where it is. Safe at any time, any number of times."""
        ...

    @property
    def stop_reason(self) -> str:
        """Why the arm stands still until a person lets it move again; "" when it does not."""
        ...

    def resume(self) -> None:
        """Lets it move again, and takes it home. Only after a person at the arm said so."""
        ...

    def object_pose(self) -> Pose | None:
        """The newest pose of the object, or None where nothing sees it."""
        ...

    def run_attempt(
        self,
        policy: Any,
        task: TaskSpec,
        judge: Judge,
        open_attempt: Callable[[Mapping[str, Any]], None],
        scene: Scene,
    ) -> Episode: ...


@runtime_checkable
class SelfResetting(Protocol):
    """A robot that can make its own scene ready (a replayed motion, or a reset policy)."""

    def reset_scene(self, goal: Goal) -> SceneCheck: ...


@runtime_checkable
class TruthSource(Protocol):
    """A rig that knows what really happened (a twin's physics). Scores judges, never is one."""

    def truth(self) -> str | None: ...


class Fence(Protocol):
    """The right to move, asked before each command."""

    @property
    def token(self) -> int: ...
    def check(self) -> None:
        """Raises InfraError E_LEASE_LOST once the right is gone, and from then on always."""
        ...


class Stock(Protocol):
    """How many disposable pieces lie at the station."""

    def count(self, item: str) -> int | None: ...
    def take(self, item: str, amount: int, key: str, initial: int | None) -> int:
        """Takes pieces once per `key` and returns what is left. Raises Refused when there are
        too few."""
        ...
