"""What moves the arms, as the runtime sees it.

`fleet.servo.Servo` is one, and `fleet.servo_client.ServoClient`, whose servo is another process.
What each of these means is said there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fleet.limits import SafetyLimits

Array = NDArray[np.float64]


class ServoPort(Protocol):
    """Arrays are (1, J) measured and (J,) commanded; rad, rad/s, Nm, s."""

    limits: SafetyLimits
    period_s: float

    @property
    def now(self) -> Callable[[], float]: ...

    @property
    def q(self) -> Array: ...

    @property
    def dq(self) -> Array: ...

    @property
    def tau(self) -> Array: ...

    @property
    def command(self) -> Array: ...

    @property
    def stopped(self) -> bool: ...

    @property
    def stop_reason(self) -> str: ...

    @property
    def hot(self) -> str: ...

    @property
    def overruns(self) -> int: ...

    @property
    def events(self) -> list[str]: ...

    def interventions(self) -> dict[str, int]: ...

    def wake(self) -> None: ...

    def begin(self) -> None: ...

    def tick(self, target: Array) -> Array: ...

    def follow(self, command: Array, ticks: int, *, age_s: float = 0.0) -> None: ...

    def hold(self, ticks: int) -> None: ...

    def move_to(
        self, goal: Array, speed: float = 0.5, *, keep_going: Callable[[], bool] | None = None
    ) -> bool: ...

    def protective_stop(self, reason: str) -> None: ...

    def resume(self) -> None: ...
