"""One attempt, edge by edge: what is done, who is to blame, what it counts as.

    LEASED → RESET → VERIFY_SCENE → POLICY_RESET → START_POSE → ARMED → RUN → JUDGE → EVIDENCE →
    RECORD

- Each edge is on the disk before it is acted upon. RESET and VERIFY_SCENE repeat until the scene
  is measured to be right, first by the suite's own reset, then by its fallback.
- Before ARMED nothing moves towards the task. The edge ARMED is written from inside the runtime's
  `open_attempt`, so motion without a record cannot be.
- The rig's typed faults make void, the policy's faults make failure, an operator's stop after
  arming is failure. A fault that is none of these ends the run and is settled when it goes on.
- Whatever ends an attempt early, the arm is told to hold first.

The engine knows no bus, no simulator, no test framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fleet.attempt import Episode, SceneCheck
from harness.hil import hooks
from harness.hil.guards import Blame, Cause, GuardedJudge, WatchedPolicy
from harness.hil.journal import Journal, Record
from harness.hil.model import (
    FALLBACK_ATTEMPTS,
    OPERATOR_STOP,
    ORDER,
    Attempt,
    InfraCode,
    InfraError,
    OperatorStopError,
    PolicyError,
    State,
    Suite,
    TaskSpec,
    TrialSpec,
)
from harness.hil.ports import Clock, Fence, Robot, Stock, TruthSource
from harness.hil.prompts.broker import (
    AUDIT_ESCALATION,
    FAILURE,
    PROBLEM,
    RESUME,
    SUCCESS,
    Answer,
    Broker,
    Choice,
    Escalation,
    Question,
    Unanswered,
)
from registry.errors import Interrupted, PolicyctlError


class _Verified:
    """The scene as the engine left it: measured to be right while the arm was out of the way."""

    def prepare(self) -> SceneCheck:
        return SceneCheck(True)


@dataclass
class TrialEngine:
    """Runs attempts on one robot, writing every edge to one journal."""

    suite: Suite
    robot: Robot
    policy: Any
    broker: Broker
    journal: Journal
    clock: Clock
    fence: Fence
    stock: Stock
    run: str
    stop_requested: Callable[[], bool] = lambda: False

    def attempt(self, number: int, trial: TrialSpec) -> Attempt:
        """One attempt from LEASED to RECORD.

        Raises what ends the run instead of the attempt: Unanswered, Refused, KeyboardInterrupt, a
        bug. The journal then says where the attempt stood.
        """
        task = self.suite.task(trial.task)
        blank = Attempt(number, trial.index, trial.task, "")
        try:
            record = self._try(blank, task, trial)
        except KeyboardInterrupt:
            self.robot.hold()
            if self._armed:
                self.conclude(self._blamed(blank, OperatorStopError("ctrl-C")), fresh=False)
            else:
                self.journal.append("stopped", attempt=number, why="ctrl-C")
            raise
        except PolicyctlError as error:
            self.robot.hold()
            self.journal.append("paused", attempt=number, why=error.what)
            raise
        except BaseException:
            self.robot.hold()
            raise
        return self.conclude(record, audit=trial.audit)

    def _try(self, blank: Attempt, task: TaskSpec, trial: TrialSpec) -> Attempt:
        """Up to the end of the episode. Typed faults become the record they count as."""
        blame = Blame()
        try:
            self._edge(State.LEASED, blank, goal=vars(trial.goal), token=self.fence.token)
            self._may_move()
            self._prepare(blank, task, trial)
            return self._run(blank, task, blame)
        except (InfraError, PolicyError, OperatorStopError) as error:
            self.robot.hold()
            cause = blame.first or error
            if isinstance(cause, OperatorStopError) and not self._armed:
                raise stopped() from None
            return self._blamed(blank, cause)

    @property
    def _armed(self) -> bool:
        """Whether the attempt under way has been armed."""
        for record in reversed(self.journal.records):
            if record.kind == "edge":
                return ORDER.index(State(record.data["state"])) >= ORDER.index(State.ARMED)
        return False

    def _edge(self, state: State, attempt: Attempt, **data: Any) -> Record:
        return self.journal.append(
            "edge",
            state=state,
            attempt=attempt.number,
            trial=attempt.trial,
            task=attempt.task,
            **data,
        )

    def _may_move(self) -> None:
        self.fence.check()
        if self.stop_requested():
            raise OperatorStopError("stop was requested at the station")

    # RESET, VERIFY_SCENE

    def _prepare(self, attempt: Attempt, task: TaskSpec, trial: TrialSpec) -> None:
        """Resets and checks the scene until it is right. Raises InfraError E_SCENE when no one
        gets it right."""
        self._clear_stop(self._context(attempt, task, trial, ""))
        kinds = [task.reset.kind] * task.reset.attempts
        if task.reset.fallback:
            kinds += [task.reset.fallback] * FALLBACK_ATTEMPTS
        why, tries = "", 0
        while kinds:
            kind, tries = kinds.pop(0), tries + 1
            self._edge(State.RESET, attempt, hook=kind, tries=tries)
            args = task.reset.args if kind == task.reset.kind else {}
            context = self._context(attempt, task, trial, why)
            done = self._hook("reset", kind, args, context)
            why = done.why
            if done.needs_person:
                kinds = [other for other in kinds if other != kind]
            if not done.ready:
                continue
            check = self._check_scene(attempt, task, trial)
            if check.ok:
                return
            why = check.why
        raise InfraError(InfraCode.SCENE, f"after {tries} resets: {why}")

    def _clear_stop(self, context: hooks.Context) -> None:
        """After a protective stop a person at the arm decides that it may move again."""
        reason = self.robot.stop_reason
        if not reason:
            return
        answer = context.ask(
            "ack", "The arm stopped itself", f"Reason: {reason}.", (RESUME, PROBLEM)
        )
        if answer.choice != RESUME.name:
            why = answer.note or f"{answer.actor} did not let the arm move again"
            raise InfraError(InfraCode.ESTOP, f"{reason}; {why}")
        self.robot.resume()

    def _check_scene(self, attempt: Attempt, task: TaskSpec, trial: TrialSpec) -> SceneCheck:
        hook = task.scene.check
        context = self._context(attempt, task, trial, "")
        self._edge(State.VERIFY_SCENE, attempt, hook=hook.name)
        check: SceneCheck = self._hook("scene", hook.name, hook.args, context)
        self.journal.append("scene", attempt=attempt.number, ok=check.ok, why=check.why)
        return check

    def _hook(self, kind: str, name: str, args: Any, context: hooks.Context) -> Any:
        self._may_move()
        try:
            return hooks.resolve(kind, name)(context, **args)
        except PolicyctlError:
            raise
        except Exception as error:
            why = f"the {kind} hook {name} broke: {type(error).__name__}: {error}"
            raise InfraError(InfraCode.HOOK, why) from error

    def _context(
        self, attempt: Attempt, task: TaskSpec, trial: TrialSpec, why: str
    ) -> hooks.Context:
        def ask(kind: str, title: str, detail: str, choices: tuple[Choice, ...]) -> Answer:
            title = f"Trial {trial.index + 1}: {title}"
            question = Question(kind, attempt.number, title, detail, choices, trial.goal)
            return self.broker.ask(self.journal, question)

        return hooks.Context(
            attempt=attempt.number,
            task=task,
            trial=trial,
            robot=self.robot,
            clock=self.clock,
            stock=self.stock,
            ask=ask,
            run=self.run,
            why=why,
        )

    # POLICY_RESET, START_POSE, ARMED, RUN

    def _run(self, attempt: Attempt, task: TaskSpec, blame: Blame) -> Attempt:
        policy = WatchedPolicy(self.policy, blame)
        self._edge(State.POLICY_RESET, attempt)
        policy.reset()
        judge = hooks.resolve("judge", task.success.name)(task, self.robot, **task.success.args)
        guarded = GuardedJudge(judge, blame, self._may_move, task.timeout_s)
        self._edge(State.START_POSE, attempt)
        opened = False

        def open_attempt(facts: Mapping[str, Any]) -> None:
            nonlocal opened
            guarded.check()
            self.journal.reserve()
            self._edge(State.ARMED, attempt, scene=dict(facts))
            self._edge(State.RUN, attempt)
            opened = True

        try:
            episode = self.robot.run_attempt(policy, task, guarded, open_attempt, _Verified())
        except Exception as error:
            if blame.first is not None:
                raise blame.first from error
            raise
        if not opened:
            self._may_move()  # who was stopped on the way home has no attempt
        if isinstance(episode.cause, InfraError | PolicyError):
            blame.note(episode.cause)
        if blame.first is not None:
            self.robot.hold()
            return replace(self._blamed(attempt, blame.first), **_facts(episode))
        return _judged(attempt, episode, guarded, opened)

    def _blamed(self, attempt: Attempt, cause: Cause) -> Attempt:
        """What an attempt counts as that ended by `cause`."""
        if isinstance(cause, InfraError):
            return attempt.settled("void", cause.infra, cause.why)
        if isinstance(cause, PolicyError):
            return attempt.settled("failure", cause.mode, cause.why)
        return attempt.settled("failure", OPERATOR_STOP, str(cause))

    # JUDGE, EVIDENCE, RECORD

    def conclude(self, record: Attempt, *, audit: bool = False, fresh: bool = True) -> Attempt:
        """From the end of the episode to RECORD; also where a resumed run takes an attempt up.

        Asks a person where the judge did not decide. Raises Unanswered, the episode being on the
        disk; the question is asked again when the run goes on. `fresh`: the rig still stands as
        the episode left it, so truth and a second opinion can be had.
        """
        self._edge(State.JUDGE, record, record=record.to_json())
        asked = not record.outcome
        if asked:
            try:
                answer = self._label("judge", record)
            except (Unanswered, Interrupted) as error:
                self.journal.append("paused", attempt=record.number, why=error.what)
                raise
            record = record.settled(answer.choice, answer.note, "")
        if fresh and record.outcome != "void":
            truth = self.robot.truth() if isinstance(self.robot, TruthSource) else None
            opinion = self._second_opinion(record) if audit and not asked else None
            record = replace(record, truth=truth, audit=opinion)
        self._edge(State.EVIDENCE, record, record=record.to_json())
        self._edge(State.RECORD, record, record=record.to_json())
        return record

    def _second_opinion(self, record: Attempt) -> str | None:
        """A person judges too, not knowing what the judge said. Nobody waits long for it."""
        try:
            return self._label("audit", record, AUDIT_ESCALATION).choice
        except Unanswered:
            return None

    def _label(self, kind: str, record: Attempt, escalation: Escalation | None = None) -> Answer:
        task = self.suite.task(record.task)
        question = Question(
            kind,
            record.number,
            f"Trial {record.trial + 1}: did the robot do it?",
            f"{task.instruction}: success only if it held to the end.",
            (SUCCESS, FAILURE),
        )
        return self.broker.ask(self.journal, question, escalation)


def stopped() -> Interrupted:
    """What a run ends with that a person stopped."""
    return Interrupted(
        "stopped at the station",
        evidence="the arm holds, the journal is whole",
        hint="run the same command again to go on",
    )


def _facts(episode: Episode) -> dict[str, Any]:
    return {
        "judge": episode.judge,
        "duration_s": round(float(episode.duration_s), 6),
        "steps": int(episode.steps),
        "interventions": {k: int(v) for k, v in sorted(episode.interventions.items())},
        "safety_events": tuple(str(event) for event in episode.safety_events),
    }


def _judged(attempt: Attempt, episode: Episode, judge: GuardedJudge, opened: bool) -> Attempt:
    """The runtime's episode as a record. An outcome of "" means that a person must say."""
    record = replace(attempt, **_facts(episode))
    mode, why = episode.failure_mode or "", episode.detail
    if episode.outcome == "void" or not opened:
        code = mode if mode in set(InfraCode) else InfraCode.RIG
        return record.settled("void", code, why or mode or "the attempt was never opened")
    if judge.asks_person and mode in {"", "timeout"}:
        return record.settled("", "", "")
    if episode.outcome == "success":
        return record.settled("success", "", "")
    return record.settled("failure", "timeout" if judge.timed_out else mode, why)
