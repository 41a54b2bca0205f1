"""The words of hardware in the loop, as values. Nothing here does I/O.

Outcomes are `success | failure | void`. Who is to blame decides, and only two types may say so:

    InfraError(code)    the rig: void, whatever the policy was about to do
    PolicyError(mode)   the policy: failure, even before the arm was armed

An operator's stop after arming is failure `operator_stop`; an attempt armed and never closed is
failure `agent_lost`. Every other exception is a bug of ours: it ends the run, counts for nothing
by itself, and the attempt it hit is settled by the interruption rule when the run goes on.

Lengths are metres, angles radians, times seconds; poses are in the frame "base".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from fleet.attempt import NamedFailure


class State(StrEnum):
    """The edges of one attempt, in order. Each is a journal record before it is acted upon."""

    LEASED = "leased"
    RESET = "reset"
    VERIFY_SCENE = "verify_scene"
    POLICY_RESET = "policy_reset"
    START_POSE = "start_pose"
    ARMED = "armed"
    RUN = "run"
    JUDGE = "judge"
    EVIDENCE = "evidence"
    RECORD = "record"


ORDER: Final = tuple(State)


class InfraCode(StrEnum):
    """Everything that may make a trial void. What is not in this list is somebody's fault."""

    BUS = "E_BUS"
    MOTOR = "E_MOTOR"
    CAMERA = "E_CAMERA"
    POSE = "E_POSE"
    HOME = "E_HOME"
    RESET = "E_RESET"
    SCENE = "E_SCENE"
    HOOK = "E_HOOK"
    LEASE_LOST = "E_LEASE_LOST"
    INTERRUPTED = "E_INTERRUPTED"
    EVIDENCE = "E_EVIDENCE"
    ESTOP = "E_ESTOP"
    RIG = "E_RIG"


BREAKING: Final = frozenset({InfraCode.BUS, InfraCode.MOTOR, InfraCode.ESTOP})
"""Codes after which the bench stays broken until a person says it is repaired."""

NOT_THE_BENCH: Final = frozenset({InfraCode.INTERRUPTED, InfraCode.LEASE_LOST})
"""Voids that say nothing about the bench."""

VOIDS_IN_A_ROW: Final = 3
"""So many voids of one trial, one after the other, are a broken bench whatever their codes."""

FALLBACK_ATTEMPTS: Final = 5
"""How often the fallback reset is tried before the trial is void."""

OPERATOR_STOP: Final = "operator_stop"
AGENT_LOST: Final = "agent_lost"
POLICY_MODES: Final = (
    "policy_load",
    "policy_reset",
    "policy_crash",
    "policy_nan",
    "policy_late",
    "policy_limits",
)


class InfraError(NamedFailure):
    """The rig failed, and how. The only exception that makes a trial void."""

    code = "rig_failed"

    def __init__(self, infra: InfraCode, why: str) -> None:
        super().__init__(
            f"{infra}: {why}", hint="look at the station: `policyctl station check STATION.yaml`"
        )
        self.infra = infra
        self.why = why


class PolicyError(Exception):
    """The policy failed by itself: NaN, crash, too late, outside its own limits."""

    def __init__(self, mode: str, why: str) -> None:
        super().__init__(f"{mode}: {why}")
        if mode not in POLICY_MODES:
            raise ValueError(f"{mode} is no policy fault")
        self.mode = mode
        self.why = why


class OperatorStopError(Exception):
    """A person at the station stopped the attempt."""


@dataclass(frozen=True)
class Range:
    low: float
    high: float


@dataclass(frozen=True)
class Hook:
    """A hook by its name in the tables of `hooks`, and its arguments."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ResetSpec:
    """How the scene is made ready: `kind`, tried `attempts` times, then `fallback`."""

    kind: str
    args: Mapping[str, Any]
    attempts: int
    fallback: str | None


@dataclass(frozen=True)
class SceneSpec:
    """What the scene must be before a trial: ranges of the drawn start pose, and who checks it."""

    setup: str
    x: Range
    y: Range
    yaw: Range
    check: Hook


@dataclass(frozen=True)
class TaskSpec:
    """One task of a suite. `task` names the task whose judge and horizon apply."""

    name: str
    task: str
    instruction: str
    scene: SceneSpec
    reset: ResetSpec
    success: Hook
    timeout_s: float


@dataclass(frozen=True)
class Suite:
    name: str
    robot_class: str
    audit_fraction: float
    tasks: tuple[TaskSpec, ...]
    digest: str

    def task(self, name: str) -> TaskSpec:
        return next(task for task in self.tasks if task.name == name)


@dataclass(frozen=True)
class Goal:
    """Where the object is to stand before the trial: x, y [m] and yaw [rad] in frame "base"."""

    x: float
    y: float
    yaw: float


@dataclass(frozen=True)
class TrialSpec:
    """One planned trial. A void trial is tried again with the same spec."""

    index: int
    block: int
    task: str
    goal: Goal
    audit: bool


@dataclass(frozen=True)
class Attempt:
    """One attempt as it was recorded. `mode` is a failure mode or an infra code, "" on success."""

    number: int
    trial: int
    task: str
    outcome: str
    mode: str = ""
    why: str = ""
    judge: str = ""
    duration_s: float = 0.0
    steps: int = 0
    interventions: Mapping[str, int] = field(default_factory=dict)
    safety_events: tuple[str, ...] = ()
    truth: str | None = None
    audit: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "trial": self.trial,
            "task": self.task,
            "outcome": self.outcome,
            "mode": self.mode,
            "why": self.why,
            "judge": self.judge,
            "duration_s": self.duration_s,
            "steps": self.steps,
            "interventions": dict(self.interventions),
            "safety_events": list(self.safety_events),
            "truth": self.truth,
            "audit": self.audit,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Attempt:
        values = dict(data)
        values["safety_events"] = tuple(values["safety_events"])
        return Attempt(**values)

    def settled(self, outcome: str, mode: str, why: str) -> Attempt:
        return replace(self, outcome=outcome, mode=mode, why=why)


@dataclass(frozen=True)
class Agreement:
    """How often the judge agreed with a source of truth (a twin's physics, or a second person).

    Reported beside the verdict so that judges can be improved; never part of it.
    """

    compared: int = 0
    agreed: int = 0
    false_success: int = 0
    false_failure: int = 0

    def to_json(self) -> dict[str, int]:
        return {
            "compared": self.compared,
            "agreed": self.agreed,
            "false_success": self.false_success,
            "false_failure": self.false_failure,
        }


def agreement(pairs: list[tuple[str, str | None]]) -> Agreement:
    """Agreement of (judged, true) outcomes; pairs without a truth, or void, do not count."""
    real = [(j, t) for j, t in pairs if t is not None and j != "void"]
    return Agreement(
        compared=len(real),
        agreed=sum(j == t for j, t in real),
        false_success=sum(j == "success" and t == "failure" for j, t in real),
        false_failure=sum(j == "failure" and t == "success" for j, t in real),
    )
