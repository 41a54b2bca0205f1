"""From a journal to where its run stands. Pure: the same records give the same state, always.

The interruption rule, for the attempt that a dead process left open:

    before ARMED       nothing of the policy was seen           void     E_INTERRUPTED
    ARMED or RUN       the arm may have moved, nobody saw how   failure  agent_lost
    JUDGE, EVIDENCE    the outcome was already on the disk      as it was judged

A run that was paused (nobody answered) or stopped before arming by ctrl-C put its attempt down in
good order: that attempt goes on, under its number, instead of being settled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.hil.journal import Record
from harness.hil.model import (
    AGENT_LOST,
    BREAKING,
    NOT_THE_BENCH,
    ORDER,
    VOIDS_IN_A_ROW,
    Attempt,
    InfraCode,
    State,
)


@dataclass(frozen=True)
class Open:
    """The attempt under way. `judged` is its record so far, once the episode is over."""

    number: int
    trial: int
    task: str
    state: State
    judged: Attempt | None = None
    put_down: bool = False


@dataclass(frozen=True)
class RunState:
    header: Mapping[str, Any] | None = None
    attempts: tuple[Attempt, ...] = ()
    open: Open | None = None
    broken: str = ""
    verdict: Mapping[str, Any] | None = None
    mended: int = 0
    """How many attempts there were when somebody last repaired the bench."""

    @property
    def next_number(self) -> int:
        """Attempts are numbered 1, 2, 3 … without gaps."""
        return len(self.attempts) + 1

    @property
    def next_trial(self) -> int:
        """The planned trial to try next: void trials are tried again."""
        return sum(attempt.outcome != "void" for attempt in self.attempts)

    @property
    def breaks(self) -> str:
        """Why the bench must be called broken now, "" where it need not be."""
        recent = self.attempts[self.mended :]
        if recent and recent[-1].mode in BREAKING:
            return f"{recent[-1].mode}: {recent[-1].why}"
        faults = []
        for attempt in reversed(recent):
            if attempt.outcome != "void":
                break
            if attempt.mode not in NOT_THE_BENCH:
                faults.append(attempt.mode)
        if len(faults) >= VOIDS_IN_A_ROW:
            return f"{len(faults)} void trials in a row ({', '.join(sorted(set(faults)))})"
        return ""


def replay(records: Iterable[Record]) -> RunState:
    state = RunState()
    for record in records:
        state = step(state, record.kind, record.data)
    return state


def step(state: RunState, kind: str, data: Mapping[str, Any]) -> RunState:
    """One record later. Kinds that change nothing about the run (prompts, answers) pass."""
    if kind == "run":
        return replace(state, header=data)
    if kind == "edge":
        return _edge(state, State(data["state"]), data)
    if kind in {"paused", "stopped"} and state.open is not None:
        return replace(state, open=replace(state.open, put_down=True))
    if kind == "broken":
        return replace(state, broken=str(data["why"]))
    if kind == "repaired":
        return replace(state, broken="", mended=len(state.attempts))
    if kind == "verdict":
        return replace(state, verdict=data)
    return state


def _edge(state: RunState, edge: State, data: Mapping[str, Any]) -> RunState:
    if edge is State.LEASED:
        opened = Open(data["attempt"], data["trial"], data["task"], edge)
        return replace(state, open=opened)
    if edge is State.RECORD:
        done = Attempt.from_json(data["record"])
        return replace(state, attempts=(*state.attempts, done), open=None)
    if state.open is None:
        return state
    judged = Attempt.from_json(data["record"]) if "record" in data else state.open.judged
    return replace(state, open=replace(state.open, state=edge, judged=judged, put_down=False))


def settle(left: Open) -> Attempt | None:
    """What an attempt left open counts as, or None when it goes on."""
    blank = Attempt(left.number, left.trial, left.task, "void")
    if left.state in {State.JUDGE, State.EVIDENCE} and left.judged is not None:
        return left.judged if left.judged.outcome else None
    if ORDER.index(left.state) < ORDER.index(State.ARMED):
        if left.put_down:
            return None
        return blank.settled("void", InfraCode.INTERRUPTED, "the run died before arming")
    return blank.settled("failure", AGENT_LOST, "the run died with the arm armed")
