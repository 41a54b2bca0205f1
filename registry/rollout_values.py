"""The nouns of a rollout: its phases, its state, what can happen to it, what it commands.

Values only; the rules are in `registry/rollouts.py`. A rollout is stored as its JSON, which goes
both ways exactly. Times are seconds by the registry's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from math import ceil
from typing import Any

from registry.evidence import CanaryEvidence
from registry.gates import CanaryGate, gate_from_json
from registry.stages import Stage
from registry.verdicts import Verdict


class Phase(StrEnum):
    QUEUED = "queued"
    CANARY = "canary"
    WAVE = "wave"
    PAUSED = "paused"
    HOLDING = "holding"
    DONE = "done"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"


TERMINAL: frozenset[Phase] = frozenset({Phase.DONE, Phase.ROLLED_BACK, Phase.ABORTED})
EXPOSING: frozenset[Phase] = frozenset({Phase.CANARY, Phase.WAVE})
STOPPED: frozenset[Phase] = frozenset({Phase.PAUSED, Phase.HOLDING})


@dataclass(frozen=True)
class Rollout:
    """One rollout. `robots` is in the order in which robots join; the cohort comes first."""

    id: str
    policy: str
    candidate: int
    baseline: int | None
    gate: CanaryGate
    cohort: tuple[str, ...]
    robots: tuple[str, ...]
    salt: str
    phase: Phase = Phase.QUEUED
    segment: int = 0
    wave: int = -1  # index into gate.waves, -1 before the first
    wave_segment: int = 0  # the segment that opened the present wave
    generation: int = 0
    opened_at: float | None = None
    deadline_at: float | None = None
    episodes_allowed: int = 0
    paused_from: Phase | None = None  # the phase that PAUSED or HOLDING interrupted
    prior_stage: Stage = Stage.HIL
    stop: str = ""  # "now": running episodes of versions no longer named are stopped
    reason: str = ""

    @property
    def open(self) -> bool:
        return self.phase not in TERMINAL and self.phase is not Phase.QUEUED

    @property
    def ratio(self) -> Fraction:
        """The candidate's share of attempts on the robots exposed in the present segment."""
        if self.baseline is None:
            return Fraction(1)
        return self.gate.wave_ratio if self.wave >= 0 else self.gate.ratio

    @property
    def exposed(self) -> tuple[str, ...]:
        """The robots that run the candidate in this phase."""
        if self.phase is Phase.CANARY:
            return self.cohort
        if self.phase is Phase.WAVE:
            return wave_robots(self, self.wave)
        return self.robots if self.phase is Phase.DONE else ()

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "policyctl.rollout/1",
            "id": self.id,
            "policy": self.policy,
            "candidate": self.candidate,
            "baseline": self.baseline,
            "gate": self.gate.to_json(),
            "cohort": list(self.cohort),
            "robots": list(self.robots),
            "salt": self.salt,
            "phase": str(self.phase),
            "segment": self.segment,
            "wave": self.wave,
            "wave_segment": self.wave_segment,
            "generation": self.generation,
            "opened_at": self.opened_at,
            "deadline_at": self.deadline_at,
            "episodes_allowed": self.episodes_allowed,
            "paused_from": None if self.paused_from is None else str(self.paused_from),
            "prior_stage": str(self.prior_stage),
            "stop": self.stop,
            "reason": self.reason,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Rollout:
        fields = dict(data)
        if fields.pop("schema", None) != "policyctl.rollout/1":
            raise ValueError(f"not a rollout: schema {data.get('schema')!r}")
        gate = gate_from_json(fields["gate"])
        if not isinstance(gate, CanaryGate):
            raise ValueError("a rollout is judged by a canary gate")
        paused = fields["paused_from"]
        return Rollout(
            **{
                **fields,
                "gate": gate,
                "cohort": tuple(fields["cohort"]),
                "robots": tuple(fields["robots"]),
                "phase": Phase(fields["phase"]),
                "paused_from": None if paused is None else Phase(paused),
                "prior_stage": Stage(fields["prior_stage"]),
            }
        )


def wave_robots(rollout: Rollout, wave: int) -> tuple[str, ...]:
    """The robots of a wave: its share of all, never fewer than the cohort."""
    share = Fraction(rollout.gate.waves[wave], 100) * len(rollout.robots)
    return rollout.robots[: max(ceil(share), len(rollout.cohort))]


# Events: what happened.


@dataclass(frozen=True)
class Opened:
    """The rollout's turn has come: no other of its policy is open."""


@dataclass(frozen=True)
class Observed:
    """A snapshot of evidence with the verdict that `verdicts.judge` gave on it."""

    evidence: CanaryEvidence
    verdict: Verdict


@dataclass(frozen=True)
class ClassA:
    """A class A safety event in a candidate attempt. Kinds that the gate does not list pass by."""

    robot: str
    kind: str


@dataclass(frozen=True)
class Pause:
    reason: str = ""


@dataclass(frozen=True)
class Resume:
    pass


@dataclass(frozen=True)
class Abort:
    reason: str
    now: bool = False


@dataclass(frozen=True)
class RollBack:
    reason: str
    now: bool = False


@dataclass(frozen=True)
class Superseded:
    """A newer candidate was queued; only a QUEUED rollout gives way."""

    by: int


@dataclass(frozen=True)
class Joined:
    """A robot was enrolled while the rollout is under way."""

    robot: str


@dataclass(frozen=True)
class Tick:
    pass


@dataclass(frozen=True)
class Repair:
    """Give the commands of the present phase again, with the generation they had."""


Event = (
    Opened
    | Observed
    | ClassA
    | Pause
    | Resume
    | Abort
    | RollBack
    | Superseded
    | Joined
    | Tick
    | Repair
)


# Commands: what is to be so. Each may be applied twice.


@dataclass(frozen=True)
class Assign:
    """The table in `registry/assignments.py` says what candidate and baseline mean together."""

    robot: str
    candidate: int | None
    baseline: int | None
    ratio: Fraction
    salt: str
    segment: int
    generation: int
    stop: str = ""


@dataclass(frozen=True)
class SetStage:
    number: int
    stage: Stage


@dataclass(frozen=True)
class Notify:
    text: str


Command = Assign | SetStage | Notify
