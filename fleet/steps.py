"""The policy steps of one attempt: look, ask, follow, judge, until something ends it.

Rules are those of `fleet/runtime.py`, which opens the attempt before and leaves it after. What a
policy's answers become is in `fleet/answers.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np

from fleet.answers import AnswerFailed, Answers, answers_of
from fleet.attempt import Array, Judge, NamedFailure
from fleet.can.faults import ArmFault
from fleet.servo import ticks_per_step
from fleet.servo_port import ServoPort
from fleet.sight import FROZEN, POSE_AGE_S, Sight, stale
from policies import Policy
from policies.actions import ActionState, start
from registry.errors import PolicyctlError, Refused, ServiceFailed


@dataclass(frozen=True)
class End:
    """How an attempt ended: outcome, failure mode, a sentence for people, the policy's error."""

    outcome: str
    mode: str = ""
    detail: str = ""
    cause: BaseException | None = None


class RigFailed(Exception):  # noqa: N818
    """Something that the arm needs failed under the policy, and was no fault of an arm."""

    def __init__(self, cause: PolicyctlError) -> None:
        super().__init__(str(cause))
        self.cause = cause


@contextmanager
def rig_failures() -> Iterator[None]:
    """What fails inside, and is no fault of an arm nor has a name, becomes RigFailed."""
    try:
        yield
    except (ArmFault, NamedFailure):
        raise
    except (ServiceFailed, Refused) as error:
        raise RigFailed(error) from error


class Steps:
    """One attempt's; `speed_scale` and `async_inference` are the runtime's."""

    def __init__(
        self,
        servo: ServoPort,
        sight: Sight,
        policy: Policy,
        judge: Judge,
        should_stop: Callable[[], str | None],
        horizon_s: float,
        *,
        speed_scale: float,
        async_inference: bool,
        trace: bool,
    ) -> None:
        self.steps = 0
        self.counts: Counter[str] = Counter()
        self._servo, self._sight = servo, sight
        self._policy, self._judge = policy, judge
        self._should_stop = should_stop
        self._contract = policy.contract
        self._ticks = ticks_per_step(self._contract.rate_hz, servo.period_s, speed_scale)
        self._horizon = round(horizon_s * self._contract.rate_hz)
        self._async_inference = async_inference
        self._due = 0.0
        self._trace: list[tuple[Array, Array]] | None = [] if trace else None

    def loop(self) -> End:
        """Policy steps until an outcome; the arm is at rest at the command when it returns.

        Raises ArmFault, RigFailed, and what the judge and `should_stop` raise.
        """
        servo, judge = self._servo, self._judge
        judge.reset()
        state = start(self._contract, servo.command[None])
        period = 1.0 / self._contract.rate_hz
        step_s = self._ticks * servo.period_s
        answers = answers_of(
            self._policy, servo.now, step_s, state, async_inference=self._async_inference
        )
        try:
            while self.steps < self._horizon:
                reason = self._should_stop()
                if reason is not None:
                    servo.protective_stop(reason)
                    return End("failure", reason)
                with rig_failures():
                    state, end = self._step(state, answers, step_s)
                if end is not None:
                    return end
                judge.update(servo.q[0], servo.dq[0], servo.tau[0], period)
                outcome = judge.outcome()
                if outcome is not None:
                    mode = "" if outcome == "success" else judge.failure_mode() or "timeout"
                    return End(outcome, mode)
        except ArmFault:
            raise
        except BaseException as error:
            # before `close`, which waits for the policy
            why = "rig_fault" if isinstance(error, RigFailed) else "interrupted"
            with suppress(ServiceFailed, Refused):
                servo.protective_stop(why)
            raise
        finally:
            answers.close()
        return End("failure", "timeout")

    def _step(
        self, state: ActionState, answers: Answers, step_s: float
    ) -> tuple[ActionState, End | None]:
        servo = self._servo
        if servo.hot:
            servo.hold(self._ticks)
            return state, End("failure", "motor_hot", servo.hot)
        seen = self._sight.measure(state.command)
        if servo.limits.breached(seen.tcp)[0]:
            servo.events.append("workspace_breach")
            servo.protective_stop("workspace_breach")
            return state, End("failure", "collision", "the hand left the workspace")
        age_s = float(seen.object_age[0])
        if age_s > POSE_AGE_S:
            servo.hold(self._ticks)
            return state, End("void", "no_pose", stale(age_s))
        if self._sight.frozen:
            servo.hold(self._ticks)
            return state, End("void", "camera_frozen", FROZEN)
        # a servo process is asked for the next step a little before this one has ended
        self._due = max(self._due, servo.now()) + step_s
        try:
            state, counts = answers.next(state, seen, self._due)
        except AnswerFailed as failed:
            servo.hold(self._ticks)
            return state, End("failure", failed.mode, failed.detail, failed.__cause__)
        for name, count in counts.items():
            if count:
                self.counts[f"shape_{name}"] += count
        self.steps += 1
        servo.follow(state.command[0], self._ticks)
        if self._trace is not None:
            self._trace.append((servo.q[0].copy(), servo.command.copy()))
        if servo.stopped:
            servo.protective_stop(servo.stop_reason)
            stalled = servo.stop_reason == "loop_stalled"
            mode = "loop_stalled" if stalled else "collision"
            return state, End("failure", mode, servo.stop_reason)
        return state, None

    def traced(self) -> tuple[Array, Array] | None:
        """Measured joints and commands (T, J), where asked for."""
        if not self._trace:
            return None
        q, command = zip(*self._trace, strict=True)
        return np.array(q), np.array(command)
