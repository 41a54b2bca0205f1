"""One attempt on one robot, from a checked scene to a judged outcome, the same for twin and arm.

Rules
- Order: home, check the scene, reset the policy, open the attempt durably (`open_attempt` returns
  only when it is on disk), then the first motion of the attempt; judge until an outcome or the
  horizon; release, home.
- What fails before the attempt is opened is the rig's: `void`. After it, a protective stop, an
  operator's stop, a policy that raises, is late or not finite, and a motor that reports a fault are
  `failure`; only lost communication with the arm, and a pose source that has died or is
  frozen, still void.
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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from fleet.attempt import Array, Episode, Judge, Scene, Task
from fleet.camera import Pose, PoseSource
from fleet.can.faults import ArmFault
from fleet.frozen import FrozenWatch
from fleet.kinematics import ArmKinematics
from fleet.limits import JOINTS
from fleet.safety import CLASS_A
from fleet.servo import ticks_per_step
from fleet.servo_port import ServoPort
from policies import Policy
from policies.actions import ActionState, shape, start
from policies.observation import Measurement, assemble
from policies.process import PolicyFailedError

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
POSE_AGE_S = 0.5
"""Fifteen frames at 30 Hz: no run of lost ones is as long, so beyond it the source is dead, and
what follows would be judged as the policy's."""
COOL_S = 1.0
"""Held before a motor that was too warm is judged again."""
FROZEN = "the camera repeats one frame: new pictures, nothing new in them"
LOOK_S = 0.04
"""Between two looks before an attempt: a source may look only when it is asked."""


@dataclass(frozen=True)
class _End:
    outcome: str
    mode: str = ""
    detail: str = ""


class Runtime:
    """Runs attempts on one robot. `servo` is started and its arms are enabled before the first."""

    def __init__(
        self,
        servo: ServoPort,
        kinematics: Sequence[ArmKinematics],
        poses: PoseSource,
        *,
        speed_scale: float = 1.0,
    ) -> None:
        self.servo = servo
        self._kinematics = tuple(kinematics)
        self._poses = poses
        self._speed_scale = speed_scale
        self._pose: Pose | None = None
        self._pose_at = 0.0
        self._camera = FrozenWatch()

    def run_attempt(
        self,
        policy: Policy,
        task: Task,
        judge: Judge,
        open_attempt: Callable[[Mapping[str, Any]], None],
        scene: Scene,
        *,
        should_stop: Callable[[], str | None] = lambda: None,
        trace: bool = False,
    ) -> Episode:
        """One attempt. `should_stop` is asked every policy step; a reason ends it by a stop.

        Raises what `open_attempt`, `scene` or `judge` raise, the arm holding.
        """
        void, facts = self._prepare(task, scene)
        if void is not None:
            return Episode("void", void.mode, judge.version, opened=False, detail=void.detail)
        reset_fault = _fault_of(policy.reset)
        open_attempt(facts)
        servo = self.servo
        began, late = servo.now(), servo.overruns
        run = _Run(self, policy, judge, should_stop, task.horizon_s, trace)
        if reset_fault:
            end = _End("failure", "policy_fault", reset_fault)
        else:
            end = self._guarded(run)
        duration = servo.now() - began
        counts = Counter(run.counts)
        counts.update(servo.interventions())
        events = tuple(servo.events)
        end = self._leave(end, task)
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
            overruns=servo.overruns - late,
            detail=end.detail,
            trace=run.traced(),
        )

    def home(self, q: Array, keep_going: Callable[[], bool] | None = None) -> str:
        """Rise, then move to q (J,); "" or why the arm is not there. Raises ArmFault."""
        servo = self.servo
        if servo.stopped:
            return f"stopped: {servo.stop_reason}"
        servo.wake()
        near = bool(np.abs(servo.command - q).max() < HOME_WITHIN)
        if not near:
            self._rise(q)
        if not servo.move_to(q, HOME_SPEED * self._speed_scale, keep_going=keep_going):
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

    def _prepare(self, task: Task, scene: Scene) -> tuple[_End | None, Mapping[str, Any]]:
        if self.servo.stopped:
            return _End("void", "protective_stop", self.servo.stop_reason), {}
        try:
            if why := self.home(np.array(task.start_q)):
                return _End("void", "home", why), {}
            check = scene.prepare()
            if not check.ok:
                return _End("void", "scene", check.why), {}
            if self.servo.hot:
                self.servo.hold(round(COOL_S / self.servo.period_s))  # temperatures come by ticks
            if hot := self.servo.hot:
                return _End("void", "motor_hot", hot), {}
            if why := self._unseen():
                return _End("void", "no_pose", why), {}
        except ArmFault as fault:
            return _End("void", "rig_fault", str(fault)), {}
        return None, check.facts

    def _guarded(self, run: _Run) -> _End:
        """The run; whatever ends it, the arm holds before this returns or raises."""
        self.servo.begin()
        try:
            end = run.loop()
        except ArmFault as fault:
            return _End(fault.rule.outcome, fault.rule.mode, str(fault))
        except BaseException:
            self.servo.protective_stop("interrupted")
            raise
        return end

    def _leave(self, end: _End, task: Task) -> _End:
        """Open the gripper and go home; trouble here is found again by the next attempt."""
        if self.servo.stopped:
            if self.servo.stop_reason != "torque":
                return end
            self.servo.resume()
        try:
            home = np.array(task.start_q)
            goal = self.servo.command.copy()
            goal[JOINTS - 1 :: JOINTS] = home[JOINTS - 1 :: JOINTS]
            self.servo.hold(1)
            if self.servo.move_to(goal, HOME_SPEED * self._speed_scale):
                self.servo.hold(round(RELEASE_S / self.servo.period_s))
                self.home(home)
        except ArmFault as fault:
            detail = f"{end.detail}; then {fault}" if end.detail else f"after the outcome: {fault}"
            return _End(end.outcome, end.mode, detail)
        return end

    def _rise(self, home: Array) -> None:
        """Straight up, at most to the height the hands have at home and by `RETREAT_M`."""
        servo, steps, ticks = self.servo, 25, round(4 / self._speed_scale)
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

    # -- what is seen

    def _unseen(self) -> str:
        """ "" once a fresh pose is there, else why none came; the arm holds meanwhile."""
        servo = self.servo
        self._pose = None
        servo.wake()
        until = servo.now() + POSE_AGE_S
        while (pose := self._look()) is None or pose.age_s > POSE_AGE_S:
            if servo.now() > until:
                return "nothing sees the object" if pose is None else _stale(pose.age_s)
            servo.hold(round(LOOK_S / servo.period_s))
        return FROZEN if self._camera.frozen else ""

    def _look(self) -> Pose | None:
        """The newest pose with its age now; the last one grows older while nothing is seen."""
        now = self.servo.now()
        pose = self._poses.read()
        if pose is not None:
            self._pose, self._pose_at = pose, now
            self._camera.saw(pose.position.tobytes() + repr(pose.yaw).encode(), now - pose.age_s)
            return pose
        if self._pose is None:
            return None
        return Pose(self._pose.position, self._pose.yaw, self._pose.age_s + now - self._pose_at)

    def _measure(self, command: Array) -> Measurement:
        """What the policy may see now; command (1, J) is the last shaped one."""
        servo, pose = self.servo, self._look()
        if pose is None:
            raise RuntimeError("an attempt runs without a pose")
        count = len(self._kinematics)
        tcp = np.empty((2, count, 3))
        axes = np.empty((1, count, 6))
        both = np.concatenate((servo.q, command))
        for i, arm in enumerate(self._kinematics):
            at, hand = arm.fk(both[:, JOINTS * i : JOINTS * i + 7])
            tcp[:, i] = at
            axes[0, i] = hand[0]
        return Measurement(
            q=servo.q,
            dq=servo.dq,
            tau=servo.tau,
            command=command,
            tcp=tcp[:1],
            tcp_command=tcp[1:],
            hand_axes=axes,
            object_position=pose.position[None],
            object_yaw=np.array([pose.yaw]),
            object_age=np.array([pose.age_s]),
        )


class _Run:
    """The steps of one attempt."""

    def __init__(
        self,
        runtime: Runtime,
        policy: Policy,
        judge: Judge,
        should_stop: Callable[[], str | None],
        horizon_s: float,
        trace: bool,
    ) -> None:
        servo = runtime.servo
        self.steps = 0
        self.counts: Counter[str] = Counter()
        self._runtime, self._servo = runtime, servo
        self._policy, self._judge = policy, judge
        self._should_stop = should_stop
        self._contract = policy.contract
        self._ticks = ticks_per_step(self._contract.rate_hz, servo.period_s, runtime._speed_scale)
        self._horizon = round(horizon_s * self._contract.rate_hz)
        self._deadline_s = self._contract.latency_ms * 1e-3
        self._trace: list[tuple[Array, Array]] | None = [] if trace else None

    def loop(self) -> _End:
        """Policy steps until an outcome; the arm is at rest at the command when it returns."""
        servo, judge = self._servo, self._judge
        judge.reset()
        state = start(self._contract, servo.command[None])
        period = 1.0 / self._contract.rate_hz
        while self.steps < self._horizon:
            reason = self._should_stop()
            if reason is not None:
                servo.protective_stop(reason)
                return _End("failure", reason)
            state, end = self._step(state)
            if end is not None:
                return end
            judge.update(servo.q[0], servo.dq[0], servo.tau[0], period)
            outcome = judge.outcome()
            if outcome is not None:
                mode = "" if outcome == "success" else judge.failure_mode() or "timeout"
                return _End(outcome, mode)
        return _End("failure", "timeout")

    def _step(self, state: ActionState) -> tuple[ActionState, _End | None]:
        servo = self._servo
        if servo.hot:
            servo.hold(self._ticks)
            return state, _End("failure", "motor_hot", servo.hot)
        seen = self._runtime._measure(state.command)
        if servo.limits.breached(seen.tcp)[0]:
            servo.events.append("workspace_breach")
            servo.protective_stop("workspace_breach")
            return state, _End("failure", "collision", "the hand left the workspace")
        age_s = float(seen.object_age[0])
        if age_s > POSE_AGE_S:
            servo.hold(self._ticks)
            return state, _End("void", "no_pose", _stale(age_s))
        if self._runtime._camera.frozen:
            servo.hold(self._ticks)
            return state, _End("void", "camera_frozen", FROZEN)
        asked = servo.now()
        try:
            raw = np.asarray(self._policy.act(assemble(self._contract, seen)))
            if raw.shape != seen.q.shape:
                raise ValueError(f"the policy gave {raw.shape}, not {seen.q.shape}")
            state, command, faults, counts = shape(self._contract, state, raw)
        except Exception as error:  # noqa: BLE001 a policy's code is foreign: any crash is its failure
            servo.hold(self._ticks)
            late = isinstance(error, PolicyFailedError) and error.mode == "late"
            mode = "late" if late or isinstance(error, TimeoutError) else "policy_fault"
            return state, _End("failure", mode, f"{type(error).__name__}: {error}")
        taken = servo.now() - asked
        if taken > self._deadline_s:
            servo.hold(self._ticks)
            return state, _End("failure", "late", f"the policy took {1e3 * taken:.0f} ms")
        for name, count in counts.items():
            if count[0]:
                self.counts[f"shape_{name}"] += int(count[0])
        if faults[0]:
            servo.hold(self._ticks)
            return state, _End("failure", "policy_fault", "the policy's output is not finite")
        self.steps += 1
        servo.follow(command[0], self._ticks)
        if self._trace is not None:
            self._trace.append((servo.q[0].copy(), servo.command.copy()))
        if servo.stopped:
            servo.protective_stop(servo.stop_reason)
            stalled = servo.stop_reason == "loop_stalled"
            mode = "loop_stalled" if stalled else "collision"
            return state, _End("failure", mode, servo.stop_reason)
        return state, None

    def traced(self) -> tuple[Array, Array] | None:
        if not self._trace:
            return None
        q, command = zip(*self._trace, strict=True)
        return np.array(q), np.array(command)


def _stale(age_s: float) -> str:
    return f"the newest pose of the object is {1e3 * age_s:.0f} ms old"


def _fault_of(call: Callable[[], object]) -> str:
    """Run foreign code; what it raised, as text."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 a policy's code is foreign: any crash is its failure
        return f"{type(error).__name__}: {error}"
    return ""
