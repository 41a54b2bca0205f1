"""One attempt on one robot, from a checked scene to a judged outcome, the same for twin and arm.

Rules
- Order: home, check the scene, reset the policy, open the attempt durably (`open_attempt` returns
  only when it is on disk), then the first motion of the attempt; judge until an outcome or the
  horizon; release, home.
- `should_stop` is asked at every policy step, all along the motions that no policy makes, and last
  before the attempt is opened. Its reason is a protective stop at once: `void` before the attempt
  is opened, `failure` under the policy; an outcome that was there before stays.
- What fails before the attempt is opened is the rig's: `void`. After it, a protective stop, an
  operator's stop, a policy that raises, is late or not finite, and a motor that reports a fault are
  `failure`; only lost communication with the arm, a servo or another service of the rig that
  failed, and a pose source that has died or is frozen, still void. Whatever it is, the attempt is
  closed here and now.
- Safety events (class A) end the attempt by a protective stop; after one, nothing moves until
  `resume`, a person's decision, and attempts are void before they are opened. A motor near its peak
  (`torque`) ends the attempt too, but the arm then lets go and goes home by itself.
- The judge sees measured joints and torques, never the policy or its version. The policy sees what
  `policies.observation` makes of measured joints and of the pose source. Both once per policy step.
- Speed scale slows every motion, also those that no policy makes.
- Works for any number of arms; arrays are (J,), J = 8 per arm. Time is the bus clock's [s].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

import numpy as np

from fleet.attempt import Array, Episode, Judge, Scene, Task
from fleet.camera import PoseSource
from fleet.can.faults import ArmFault
from fleet.kinematics import ArmKinematics
from fleet.limits import JOINTS
from fleet.safety import CLASS_A
from fleet.servo_port import ServoPort
from fleet.sight import Sight
from fleet.steps import End, RigFailed, Steps, rig_failures
from policies import Policy
from registry.errors import Refused, ServiceFailed

T = TypeVar("T")
ShouldStop = Callable[[], str | None]

HOME_SPEED = 0.5
"""Of the velocity limits, for moves that no policy makes, at speed scale 1."""
HOME_WITHIN = 0.15
"""[rad] of measured joints from home beyond which the rig is at fault."""
HOLD_TICKS = 20
"""At 200 Hz the fastest joint rests after 7."""
SETTLE_S = 0.6
RETREAT_M = 0.10
"""[m] the hand rises before it goes home, so that it does not sweep over the table."""
RELEASE_S = 0.3
COOL_S = 1.0
"""Held before a motor that was too warm is judged again."""


class Stopped(Exception):  # noqa: N818
    """`should_stop` had a reason in a motion that no policy makes; the arm was told to stop."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"stopped: {reason}")
        self.reason = reason


class Runtime:
    """Runs attempts on one robot. `servo` is started and its arms are enabled before the first."""

    def __init__(
        self,
        servo: ServoPort,
        kinematics: Sequence[ArmKinematics],
        poses: PoseSource,
        *,
        speed_scale: float = 1.0,
        async_inference: bool = False,
    ) -> None:
        """`async_inference`: policies are processes; a chunk is asked for while the arm goes on."""
        self.servo = servo
        self._kinematics = tuple(kinematics)
        self._sight = Sight(servo, kinematics, poses)
        self._speed_scale = speed_scale
        self._async_inference = async_inference

    def run_attempt(
        self,
        policy: Policy,
        task: Task,
        judge: Judge,
        open_attempt: Callable[[Mapping[str, Any]], None],
        scene: Scene,
        *,
        should_stop: ShouldStop = lambda: None,
        trace: bool = False,
    ) -> Episode:
        """One attempt. `should_stop` is asked whenever the arm moves; a reason ends it by a stop.

        Raises what `open_attempt`, `judge` or `should_stop` raise, NamedFailure and bugs of
        `scene`, the arm holding.
        """
        void, facts, reset_fault = self._prepare(policy, task, scene, should_stop)
        if void is not None:
            return Episode("void", void.mode, judge.version, opened=False, detail=void.detail)
        open_attempt(facts)
        servo = self.servo
        began, late = servo.now(), _known(lambda: servo.overruns)
        run = Steps(
            servo, self._sight, policy, judge, should_stop, task.horizon_s,
            speed_scale=self._speed_scale, async_inference=self._async_inference, trace=trace,
        )  # fmt: skip
        end = self._guarded(run, reset_fault)
        duration = servo.now() - began
        counts = Counter(run.counts)
        counts.update(_known(servo.interventions) or {})
        events = tuple(servo.events)
        end = self._leave(end, task, should_stop)
        later = _known(lambda: servo.overruns)
        return Episode(
            outcome=end.outcome,
            failure_mode=end.mode,
            judge=judge.version,
            opened=True,
            duration_s=duration,
            steps=run.steps,
            interventions=dict(counts),
            safety_events=tuple(name for name in events if name in CLASS_A),
            scene=facts,
            overruns=0 if late is None or later is None else later - late,
            detail=end.detail,
            cause=end.cause,
            trace=run.traced(),
        )

    def home(self, q: Array, should_stop: ShouldStop = lambda: None) -> str:
        """Rise, then move to q (J,); "" or why the arm is not there. Raises ArmFault, Stopped."""
        servo = self.servo
        if servo.stopped:
            return f"stopped: {servo.stop_reason}"
        servo.wake()
        near = bool(np.abs(servo.command - q).max() < HOME_WITHIN)
        if not near:
            self._rise(q, should_stop)
        if not self._move(q, should_stop):
            return "protection did not let the arm go home"
        return "" if self._settled(q) else "the arm did not come to rest at home"

    def hold(self) -> None:
        """Stop and stay; safe at any time, any number of times. An arm in fault is held by its
        motors, and says so at the next attempt."""
        with suppress(ArmFault):
            self.servo.wake()
        with suppress(ArmFault):
            self.servo.hold(HOLD_TICKS)

    def resume(self) -> None:
        """Let the robot move again after a stop; a person at the arm decides this."""
        self.servo.resume()

    # -- before and after

    def _prepare(
        self, policy: Policy, task: Task, scene: Scene, should_stop: ShouldStop
    ) -> tuple[End | None, Mapping[str, Any], str]:
        """Why no attempt can be opened, the scene's facts, and why the policy was not reset.

        Raises NamedFailure, what `should_stop` raises, and bugs.
        """
        try:
            with rig_failures():
                void, facts = self._ready(task, scene, should_stop)
            if void is not None:
                return void, {}, ""
            reset_fault = _fault_of(policy.reset)  # it may take seconds: a process is started
            self._go_on(should_stop)
        except ArmFault as fault:
            return End("void", "rig_fault", str(fault)), {}, ""
        except RigFailed as failed:
            return End("void", "rig_fault", str(failed.cause)), {}, ""
        except Stopped as stopped:
            return End("void", stopped.reason), {}, ""
        return None, facts, reset_fault

    def _ready(
        self, task: Task, scene: Scene, should_stop: ShouldStop
    ) -> tuple[End | None, Mapping[str, Any]]:
        if self.servo.stopped:
            return End("void", "protective_stop", self.servo.stop_reason), {}
        if why := self.home(np.array(task.start_q), should_stop):
            return End("void", "home", why), {}
        check = scene.prepare()
        if not check.ok:
            return End("void", "scene", check.why), {}
        if self.servo.hot:
            self.servo.hold(round(COOL_S / self.servo.period_s))  # temperatures come by ticks
        if hot := self.servo.hot:
            return End("void", "motor_hot", hot), {}
        if why := self._sight.unseen():
            return End("void", "no_pose", why), {}
        return None, check.facts

    def _guarded(self, run: Steps, reset_fault: str) -> End:
        """The run; whatever ends it, the arm holds before this returns or raises. A policy that was
        not reset does not run."""
        try:
            with rig_failures():
                self.servo.begin()
            if reset_fault:
                return End("failure", "policy_fault", reset_fault)
            return run.loop()
        except ArmFault as fault:
            with suppress(ServiceFailed, Refused):  # that fault again, after the others have braked
                self.servo.protective_stop(f"{fault.what}: {fault.evidence}")
            return End(fault.rule.outcome, fault.rule.mode, str(fault))
        except RigFailed as failed:
            # what cannot be told to stop is held by its guardian or by its motors
            with suppress(ServiceFailed, Refused):
                self.servo.protective_stop("rig_fault")
            return End("void", "rig_fault", str(failed.cause))
        except BaseException:
            self.servo.protective_stop("interrupted")
            raise

    def _leave(self, end: End, task: Task, should_stop: ShouldStop) -> End:
        """Open the gripper and go home; trouble here is found again by the next attempt."""
        try:
            if self.servo.stopped:
                if not self.servo.stop_reason == end.detail == "torque":
                    return end  # also where something else stopped it after the torque did
                self._go_on(should_stop)
                self.servo.resume()
            home = np.array(task.start_q)
            goal = self.servo.command.copy()
            goal[JOINTS - 1 :: JOINTS] = home[JOINTS - 1 :: JOINTS]
            self.servo.hold(1)
            if self._move(goal, should_stop):
                self.servo.hold(round(RELEASE_S / self.servo.period_s))
                self.home(home, should_stop)
        except (ServiceFailed, Refused, Stopped) as fault:
            if end.outcome == "void":
                return end
            detail = f"{end.detail}; then {fault}" if end.detail else f"after the outcome: {fault}"
            return replace(end, detail=detail)
        return end

    def _go_on(self, should_stop: ShouldStop) -> None:
        """Raises Stopped where `should_stop` has a reason."""
        reason = should_stop()
        if reason is not None:
            self._stop(reason)

    def _stop(self, reason: str) -> NoReturn:
        self.servo.wake()
        self.servo.protective_stop(reason)
        raise Stopped(reason)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """What is raised inside, and is no fault, leaves the arm stopped instead of under way."""
        try:
            yield
        except (ServiceFailed, Refused, Stopped):
            raise
        except BaseException:
            with suppress(ServiceFailed, Refused):
                self.servo.protective_stop("interrupted")
            raise

    def _move(self, goal: Array, should_stop: ShouldStop) -> bool:
        """To goal (J,); False where protection did not let the arm. Raises Stopped."""
        reasons: list[str] = []

        def keep_going() -> bool:
            reason = should_stop()
            if reason is not None:
                reasons.append(reason)
            return not reasons

        speed = HOME_SPEED * self._speed_scale
        with self._interruptible():
            arrived = keep_going() and self.servo.move_to(goal, speed, keep_going=keep_going)
        if reasons:
            self._stop(reasons[0])
        return arrived

    def _rise(self, home: Array, should_stop: ShouldStop) -> None:
        """Straight up, at most to the height the hands have at home and by `RETREAT_M`."""
        servo, steps, ticks = self.servo, round(25 / self._speed_scale), 4
        q = servo.command.copy()
        moves = []
        for i, arm in enumerate(self._kinematics):
            part = slice(JOINTS * i, JOINTS * i + 7)
            here = float(arm.fk(q[None, part])[0][0, 2])
            there = float(arm.fk(home[None, part])[0][0, 2])
            moves.append((arm, part, min(max(there - here, 0.0), RETREAT_M) / steps))
        if not any(rise for _, _, rise in moves):
            return
        for _ in range(steps):
            with self._interruptible():
                self._go_on(should_stop)
            for arm, part, rise in moves:
                jacobian = arm.jacobian(q[None, part])[0, :3]
                square = jacobian @ jacobian.T + 1e-4 * np.eye(3)
                q[part] += jacobian.T @ np.linalg.solve(square, [0.0, 0.0, rise])
            q = np.clip(q, servo.limits.q_min, servo.limits.q_max)
            servo.follow(q.copy(), ticks)
        servo.hold(4)

    def _settled(self, q: Array) -> bool:
        servo = self.servo
        arm = np.arange(q.size) % JOINTS != JOINTS - 1
        for _ in range(round(SETTLE_S / servo.period_s)):
            slow = np.abs(servo.dq[0, arm]).max() < 0.1
            if slow and np.abs(servo.q[0, arm] - q[arm]).max() < HOME_WITHIN / 3:
                return True
            servo.tick(q)
        return bool(np.abs(servo.q[0, arm] - q[arm]).max() < HOME_WITHIN)


def _known(ask: Callable[[], T]) -> T | None:
    """What a servo says of an attempt; None where it is gone, which another sees and tells."""
    try:
        return ask()
    except (ServiceFailed, Refused):
        return None


def _fault_of(call: Callable[[], object]) -> str:
    """Run foreign code; what it raised, as text."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 a policy's code is foreign: any crash is its failure
        return f"{type(error).__name__}: {error}"
    return ""
