"""A run: trials one after the other until the gate has its answer, from a journal that may already
hold some of them.

- After each trial the evidence is handed to `registry.verdicts.judge`; PASS and FAIL end the run,
  and so does INCONCLUSIVE once going on would not help.
- Three voids in a row, or one fault that a person must look at, break the bench. It stays broken,
  for this run and for the next on the same journal, until somebody says by name that it is
  repaired; trials that were not run are not counted.
- The journal decides where a run stands. Running again takes it up: nothing is lost, nothing
  counted twice, and a finished run gives its result again without touching the arm.
- A journal belongs to one suite, gate, version and robot. Another is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.hil import plan
from harness.hil.engine import TrialEngine, stopped
from harness.hil.hooks.stock import StockFile
from harness.hil.journal import Journal, Record
from harness.hil.model import (
    Agreement,
    Attempt,
    InfraCode,
    PolicyError,
    Suite,
    agreement,
)
from harness.hil.ports import Clock, Fence, Robot, Stock
from harness.hil.prompts.broker import Broker
from harness.hil.replay import RunState, replay, settle
from registry.errors import PolicyctlError, Refused, ServiceFailed
from registry.evidence import Subject, Tally, TrialEvidence
from registry.gates import TrialGate
from registry.verdicts import Outcome, Verdict, judge
from registry.versions import digest_of

SCHEMA = "policyctl.hil/1"


@dataclass(frozen=True)
class HilResult:
    """What a run ended with. `broken`: why the bench broke, "" where it did not."""

    evidence: TrialEvidence
    verdict: Verdict
    attempts: tuple[Attempt, ...]
    broken: str
    judge_agreement: Agreement
    audit_agreement: Agreement


def run_suite(
    suite: Suite,
    gate: TrialGate,
    subject: Subject,
    policy_factory: Callable[[], Any],
    robot: Robot,
    prompts: Broker,
    journal_path: Path,
    clock: Clock,
    lease: AbstractContextManager[Fence],
    on_event: Callable[[Record], None] | None = None,
    *,
    stock: Stock | None = None,
    repaired: str | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> HilResult:
    """Runs, or goes on with, the trials of one version on one robot until the gate has its answer.

    `repaired` says who repaired a broken bench and how. Raises Refused (another run's journal, the
    station leased to somebody, nothing in stock), Unanswered (exit status 8), ServiceFailed (a
    bench still broken), Interrupted (`stop_requested`, asked at every edge, policy step and wait
    for a person); the run can be taken up after each.
    """
    if robot.robot_class != suite.robot_class:
        raise Refused(
            f"the suite {suite.name!r} is for {suite.robot_class}",
            evidence=f"{robot.name} is {robot.robot_class}",
            hint="choose a station of that robot class",
        )
    journal = Journal(journal_path, clock, on_event)
    try:
        header = _header(suite, gate, subject, robot)
        state = _take_up(journal, header, repaired)
        if state.verdict is not None:
            return _result(suite, gate, subject, header, journal, state)
        prompts.start()
        with lease as fence:
            try:
                engine = TrialEngine(
                    suite, robot, _loaded(policy_factory), prompts, journal, clock, fence,
                    stock or StockFile(journal_path.with_name("stock.json")),
                    str(header["run"]), stop_requested,
                )  # fmt: skip
                _trials(engine, gate, subject, header)
            finally:
                robot.hold()
        state = replay(journal.records)
        result = _result(suite, gate, subject, header, journal, state)
        if not result.broken:
            journal.append("verdict", **result.verdict.to_json())
        return result
    finally:
        journal.close()


class _Unloadable:
    """A policy that could not be made: each attempt finds that out at its reset, and fails."""

    def __init__(self, error: Exception) -> None:
        self._why = f"{type(error).__name__}: {error}"

    def reset(self) -> None:
        raise PolicyError("policy_load", self._why)

    def act(self, *_: Any) -> Any:
        raise RuntimeError(self._why)


def _loaded(factory: Callable[[], Any]) -> Any:
    """The policy. Our own errors (a tampered file, a misfit) end the run; any other is its own."""
    try:
        return factory()
    except PolicyctlError:
        raise
    except Exception as error:  # noqa: BLE001 - a policy that cannot be loaded has failed
        return _Unloadable(error)


def _header(suite: Suite, gate: TrialGate, subject: Subject, robot: Robot) -> dict[str, Any]:
    header: dict[str, Any] = {
        "schema": SCHEMA,
        "suite": suite.name,
        "suite_digest": suite.digest,
        "gate_digest": gate.digest,
        "subject": subject.to_json(),
        "robot": robot.name,
        "robot_class": robot.robot_class,
        "engine": robot.engine,
        "seed": str(plan.seed_of(suite, subject.digest)),
    }
    return {**header, "run": digest_of(header)[7:19]}


def _take_up(journal: Journal, header: dict[str, Any], repaired: str | None) -> RunState:
    """Where the run stands, its interrupted attempt settled by the rule of `replay`."""
    state = replay(journal.records)
    if state.header is None:
        journal.append("run", **header)
    elif dict(state.header) != header:
        differ = sorted(k for k in header if state.header.get(k) != header[k] and k != "run")
        raise Refused(
            "this journal belongs to another run",
            evidence=f"{journal.path}: {', '.join(differ)} differ",
            hint="give another journal, or run what this one was begun with",
        )
    elif state.verdict is None:
        journal.append("resumed", torn_bytes=journal.torn)
    if state.broken and repaired:
        journal.append("repaired", how=repaired)
    elif state.broken:
        raise ServiceFailed(
            f"the bench is broken: {state.broken}",
            evidence=str(journal.path),
            hint="look at the arm, then run again with `--repaired 'who did what'`",
        )
    left = state.open
    done = settle(left) if left is not None else None
    if left is not None and done is not None and done is not left.judged:
        journal.append(
            "edge",
            state="record",
            attempt=done.number,
            trial=done.trial,
            task=done.task,
            record=done.to_json(),
        )
    return replay(journal.records)


def _trials(engine: TrialEngine, gate: TrialGate, subject: Subject, header: dict[str, Any]) -> None:
    """Trials until the gate has its answer, the bench breaks, or there is no more to try."""
    seed = int(header["seed"])
    while True:
        state = replay(engine.journal.records)
        if state.open is not None and state.open.judged is not None:
            engine.conclude(state.open.judged, fresh=False)
            continue
        if state.open is None and _over(
            gate, _evidence(engine.suite, gate, subject, header, state)
        ):
            return
        if broken := state.broken or state.breaks:
            engine.journal.append("broken", why=broken)
            return
        if engine.stop_requested():
            raise stopped()
        number = state.open.number if state.open is not None else state.next_number
        done = engine.attempt(number, plan.trial(engine.suite, seed, state.next_trial))
        if done.mode == InfraCode.LEASE_LOST:
            raise Refused(
                "the station's lease was lost in the middle of a trial",
                evidence=f"{done.why}; the trial is void, the arm holds",
                hint="run the same command again to go on",
            )


def _over(gate: TrialGate, evidence: TrialEvidence) -> bool:
    """Whether the gate has its answer, or cannot get one from more trials."""
    verdict = judge(gate, evidence)
    if verdict.outcome is not Outcome.INCONCLUSIVE or verdict.final:
        return True
    share = gate.max_void_fraction
    hopeless = evidence.void * (1 - share) > share * gate.max_trials
    return hopeless or evidence.tally.n >= gate.max_trials


def _evidence(
    suite: Suite, gate: TrialGate, subject: Subject, header: Mapping[str, Any], state: RunState
) -> TrialEvidence:
    """The integers of the run, and the digests of what they were counted from."""
    tasks = tuple(
        (task.name, _tally(a for a in state.attempts if a.task == task.name))
        for task in suite.tasks
    )
    whole = _tally(state.attempts)
    judges = sorted({attempt.judge for attempt in state.attempts if attempt.judge})
    return TrialEvidence(
        subject=subject,
        gate_digest=gate.digest,
        robot_class=str(header["robot_class"]),
        engine=str(header["engine"]),
        judge="+".join(judges),
        attempts_digest=digest_of([attempt.to_json() for attempt in state.attempts]),
        success=whole.success,
        failure=whole.failure,
        void=whole.void,
        tasks=tasks,
    )


def _tally(attempts: Iterable[Attempt]) -> Tally:
    counts = Counter(attempt.outcome for attempt in attempts)
    return Tally(counts["success"], counts["failure"], counts["void"])


def _result(
    suite: Suite,
    gate: TrialGate,
    subject: Subject,
    header: Mapping[str, Any],
    journal: Journal,
    state: RunState,
) -> HilResult:
    evidence = _evidence(suite, gate, subject, header, state)
    verdict = judge(gate, evidence)
    if state.broken and verdict.outcome is Outcome.INCONCLUSIVE:
        verdict = replace(verdict, reason=f"the bench broke, {state.broken}; {verdict.reason}")
    return HilResult(
        evidence=evidence,
        verdict=verdict,
        attempts=state.attempts,
        broken=state.broken,
        judge_agreement=agreement([(a.outcome, a.truth) for a in state.attempts]),
        audit_agreement=agreement([(a.outcome, a.audit) for a in state.attempts]),
    )
