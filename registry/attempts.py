"""One try at a task, as a robot reports it.

`number` is the robot's durable counter (1, 2, 3 … without gaps); `index` counts the attempts of
this stratum in this segment from 0 and decides the side. An attempt is opened durably before
motion; one that was opened and never closed is reported as failure `agent_lost`. A `void` attempt
is a rig fault, judged without knowing the side. Times are seconds: `opened_at` since the epoch by
the robot's clock (simulated time on a twin), `duration_s` from opening to outcome. `terms` are
those of the assignment it ran under (`registry.assignments`), empty from robots that do not know
them. Where trust is set up the robot signs its reports (`envelope`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

OUTCOMES: tuple[str, ...] = ("success", "failure", "void")
SIDES: tuple[str, ...] = ("candidate", "baseline", "only")


@dataclass(frozen=True)
class AttemptReport:
    robot: str
    number: int
    policy: str
    version: int
    side: str  # "candidate" | "baseline" | "only": outside any comparison
    generation: int
    segment: int
    stratum: str
    index: int
    task: str
    outcome: str
    failure_mode: str = ""
    judge: str = ""
    opened_at: float = 0.0
    duration_s: float = 0.0
    steps: int = 0
    interventions: Mapping[str, int] = field(default_factory=dict)
    safety_events: tuple[str, ...] = ()
    scene: Mapping[str, Any] = field(default_factory=dict)
    terms: str = ""
    envelope: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome {self.outcome!r} is none of {', '.join(OUTCOMES)}")
        if self.side not in SIDES:
            raise ValueError(f"side {self.side!r} is none of {', '.join(SIDES)}")
        if self.number < 1 or self.index < 0:
            raise ValueError(f"attempt number {self.number}, index {self.index}: from 1, from 0")

    def to_json(self) -> dict[str, Any]:
        data = {one.name: getattr(self, one.name) for one in fields(self) if one.compare}
        data["interventions"], data["scene"] = dict(self.interventions), dict(self.scene)
        data["safety_events"] = list(self.safety_events)
        if not self.terms:
            del data["terms"]
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> AttemptReport:
        return AttemptReport(**{**data, "safety_events": tuple(data.get("safety_events", ()))})
