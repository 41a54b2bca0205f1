"""A `policyctl twin run` process as a robot's camera and as its conveyor of boxes.

What it says of the box is what the twin's tag detector says: noise, rate, delay, lost frames. The
age grows by half of what asking took. Every question is one connection to the control socket.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fleet.attempt import SceneCheck
from fleet.camera import Pose
from harness.twin.control import ask
from registry.errors import ServiceFailed


@dataclass(frozen=True)
class RemoteTwin:
    """Asks the twin whose control socket is `control`."""

    control: Path

    def read(self) -> Pose | None:
        """The newest pose; None before the first, and while no twin answers."""
        asked = time.monotonic()
        try:
            found = ask(self.control, {"do": "pose"})
        except ServiceFailed:
            return None
        if found is None:
            return None
        late = 0.5 * (time.monotonic() - asked)
        return Pose(np.array(found["position"]), float(found["yaw"]), found["age_s"] + late)

    def prepare(self) -> SceneCheck:
        """A new box. Raises ServiceFailed where no twin answers."""
        return SceneCheck(True, facts=ask(self.control, {"do": "scene"}))
