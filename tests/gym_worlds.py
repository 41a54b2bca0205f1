"""Gymnasium environments as users write them: one that is sound, and some with a fault each.

`gymnasium.make("gym_worlds:Lever-v0")` imports this module, which registers them.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

Told = dict[str, Any]


class Lever(gymnasium.Env[Any, Any]):
    """Push a lever by the amounts seen: `goal` is what is left of the way, `side` where it is."""

    fault = ""
    metadata = {"render_modes": [], "render_fps": 10}  # noqa: RUF012 - Gymnasium's own manner

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            {
                "side": spaces.Discrete(2),
                "goal": spaces.Box(-10.0, 10.0, (1,), np.float64),
                "hint": spaces.Text(20),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.resets = 0

    def reset(self, *, seed: int | None = None, options: Told | None = None) -> tuple[Any, Told]:
        super().reset(seed=seed)
        print("a new lever")  # noqa: T201 - chatty, as some are
        options = options or {}
        far = float(options.get("far", 2.0))
        if far < 0:
            raise ValueError("a way is not negative")
        self.resets += 1
        self.stiff = float(options.get("spring", {}).get("stiff", 0.0))
        self.left = far + self.np_random.uniform(0.0, 1.0)
        if self.fault == "unseeded":
            self.left = far + np.random.default_rng().uniform(0.0, 1.0)
        if self.fault == "remembers" and self.resets > 1:
            self.left += 0.5
        self.moves = 0
        return self._seen(), {"far": far}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Told]:
        standing = float(action[0]) == 0.0 and self.moves == 30
        if self.fault == "breaks" or (self.fault == "breaks when still" and standing):
            raise RuntimeError("the lever came off")
        self.moves += 1
        self.left -= float(action[0]) * (1.0 - self.stiff)
        if self.fault == "blows up" and self.moves == 30:
            self.left = float("nan")
        there = bool(abs(self.left) < 0.05)
        info: Told = {"is_success": there} if there or self.fault != "silent" else {}
        return self._seen(), -abs(self.left), there, self.moves >= 40, info

    def _seen(self) -> Told:
        return {
            "side": int(self.left > 0),
            "goal": np.array([self.left]),
            "hint": "push",
        }


def _with(fault: str) -> type[Lever]:
    return type("Faulty", (Lever,), {"fault": fault})


FAULTS = {
    "Lever-v0": "",
    "Unseeded-v0": "unseeded",
    "Remembers-v0": "remembers",
    "Breaks-v0": "breaks",
    "BreaksWhenStill-v0": "breaks when still",
    "BlowsUp-v0": "blows up",
    "Silent-v0": "silent",
}
for _name, _fault in FAULTS.items():
    gymnasium.register(id=_name, entry_point=_with(_fault) if _fault else Lever)
