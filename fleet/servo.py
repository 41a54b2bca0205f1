"""The servo loop: one tick is interpolate, protect, carry the weight, exchange, wait.

Rules
- One servo drives all arms of a robot in lock-step: joints are concatenated in the order of the
  arms, and what stops one arm (a fault, a contact, a stop) holds both.
- A tick sends the protected command with the torque that holds the measured pose against gravity,
  desired speed 0, and reads one feedback from each motor. Then it waits for the next tick by the
  bus alone, so a real bus and a lock-step twin run the same loop. A tick that begins late is
  counted; time that was lost is not caught up.
- The period must be a whole number of physics steps where there is physics; else start-up refuses.
- While a motor has not answered for more than one period, no arm is told to go on: they brake, and
  go on when all have answered. Else whatever the target did meanwhile would be one step for a joint
  that heard nothing of it. After how long that is a fault, the arm says.
- A tick that takes `STALL_S` longer than its period stops the arms (`loop_stalled`): nobody knows
  what happened to them meanwhile. The time a policy takes between ticks is not the loop's.
- Nothing is sent in a tick that was paused before it came to that: whoever took the arms over
  meanwhile is found by the next (`before_tick`).
- A command older than `command_age_s` is not followed: the arm brakes and holds, event `late`.
- A protective stop brakes within the limits and holds. It is not an e-stop. After one, only
  `resume` (a person at the arm) lets the robot move again.
- Nothing here does I/O but through the arms.

Arrays are (J,), J = 8 per arm; rad, rad/s, Nm, s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fleet.can.faults import ArmFault, ArmState
from fleet.heat import HeatWatch
from fleet.limits import JOINTS, SafetyLimits
from fleet.safety import STOPPING, Measured, SafetyState, protect
from registry.errors import ConfigError, Refused

Array = NDArray[np.float64]

KP = (230.0, 230.0, 190.0, 190.0, 30.0, 30.0, 30.0, 30.0)
KD = (2.7, 2.7, 2.2, 2.2, 1.5, 1.5, 1.5, 0.2)
COMMAND_AGE_S = 0.1
STALL_S = 0.1
"""Beyond its period, what a tick may take before the loop counts as stalled."""
UNHEARD_PERIODS = 1.5
"""Age of a motor's last answer, right after a pass, from which on the arms wait for it."""
PEAK_OF_MIN_JERK = 1.875
"""Highest speed of a minimum-jerk move of unit length in unit time."""
PAUSED_S = 0.05
"""A tick that has not begun to send after this sends nothing: a guardian may have taken over."""
BRAKE_MARGIN = 50
"""Ticks a stop may take beyond braking from full speed."""


class ServoArm(Protocol):
    """What the servo needs of an arm: fleet.can.arm.Arm is one."""

    @property
    def now(self) -> Callable[[], float]: ...

    @property
    def state(self) -> ArmState: ...

    def refresh(self) -> ArmState: ...

    def exchange(self, q: Array, dq: Array, kp: Array, kd: Array, tau: Array) -> ArmState: ...

    def wait(self, seconds: float) -> None: ...


class Dynamics(Protocol):
    """What the servo needs of an arm's kinematics."""

    def dynamics(self, q: Array, dq: Array, ddq: Array) -> tuple[Array, Array]: ...


class Servo:
    """Drives the arms of one robot; not for use from two threads. Call `start` first."""

    def __init__(
        self,
        arms: Sequence[ServoArm],
        dynamics: Sequence[Dynamics],
        limits: SafetyLimits,
        *,
        period_s: float = 0.005,
        physics_s: float | None = None,
        command_age_s: float = COMMAND_AGE_S,
    ) -> None:
        """`physics_s` is the physics step of a twin. Raises ConfigError where rates do not fit."""
        if not len(arms) == len(dynamics) == len(limits.arms):
            raise ConfigError(
                f"{len(arms)} arm(s) but kinematics for {len(dynamics)}, limits {len(limits.arms)}",
                where="servo",
            )
        check_period(period_s, physics_s)
        self.arms = tuple(arms)
        self.limits = limits
        self.period_s = period_s
        self.command_age_s = command_age_s
        self.ticks = 0
        self.overruns = 0
        self.events: list[str] = []
        """What stopped or held the arms since `begin`: class A names, `torque`, `late`,
        `unheard`."""
        self.before_tick: Callable[[Servo], None] | None = None
        """Called first in every tick, such as a heartbeat; what it raises ends the tick unsent."""
        self.stop_reason = ""
        self.on_stop: Callable[[bool], None] = lambda stopped: None
        """Told True when the arms are stopped, before the next command, and False on `resume`."""
        self.now = self.arms[0].now
        joints = JOINTS * len(arms)
        self._dynamics = tuple(kin.dynamics for kin in dynamics)
        self._kp, self._kd = np.array(KP), np.array(KD)
        self._still: Array = np.zeros(JOINTS)
        self._q: Array = np.zeros((1, joints))
        self._dq: Array = np.zeros((1, joints))
        self._tau: Array = np.zeros((1, joints))
        self._weight: Array = np.zeros((1, joints))
        self._expected: Array = np.zeros((1, joints))
        self._measured = Measured(self._tau, self._expected)
        self._slices = tuple(slice(JOINTS * i, JOINTS * i + JOINTS) for i in range(len(arms)))
        self._heat = tuple(HeatWatch() for _ in arms)
        self._state: SafetyState | None = None
        brake_s = float(np.max(limits.dq_max / limits.ddq_max))
        self._brake_ticks = BRAKE_MARGIN + math.ceil(brake_s / period_s)
        self._unheard = False
        self._looked = [-np.inf] * len(arms)
        self._whole = [False] * len(arms)
        """Whether all motors of an arm were heard by the last look, and when that was."""
        self._due = 0.0
        self._goal: Array = np.zeros(joints)

    # -- what is known

    @property
    def q(self) -> Array:
        """Measured positions (1, J), overwritten by every tick."""
        return self._q

    @property
    def dq(self) -> Array:
        """Measured speeds (1, J), overwritten by every tick."""
        return self._dq

    @property
    def tau(self) -> Array:
        """Measured motor torques (1, J), overwritten by every tick."""
        return self._tau

    @property
    def command(self) -> Array:
        """What the motors were last told (J,), overwritten by every tick."""
        row: Array = self._protection.command[0]
        return row

    @property
    def stopped(self) -> bool:
        """True from a protective stop to `resume`."""
        return bool(self._protection.stopped[0])

    @property
    def _protection(self) -> SafetyState:
        if self._state is None:
            raise Refused("the servo has not started", hint="call start() first")
        return self._state

    @property
    def hot(self) -> str:
        """Which motors are too warm to begin or go on, "" if none; see `fleet.heat`."""
        return "; ".join(watch.hot for watch in self._heat if watch.hot)

    def told(self, i: int) -> tuple[Array, Array, Array, Array]:
        """What arm i's motors were last told: q, kp, kd, tau, (8,) each; valid until the tick."""
        part = self._slices[i]
        return self._protection.command[0, part], self._kp, self._kd, self._weight[0, part]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Interventions since `begin`, in the order of `fleet.safety.INTERVENTIONS`."""
        row: NDArray[np.int64] = self._protection.counts[0]
        return row

    def interventions(self) -> dict[str, int]:
        """Protection's interventions by name since `begin`."""
        return self._protection.counted()

    # -- control

    def start(self) -> None:
        """Take the arms over where they are now: the first command is the measured pose."""
        self._look()
        self._unheard = False
        self._state = SafetyState(self.limits, self._q)
        self._goal = self.command.copy()
        self._due = self.now()

    def wake(self) -> None:
        """Ticks begin again now: a pause in which the motors held their command is no overrun."""
        self._due = max(self._due, self.now())

    def begin(self) -> None:
        """Count interventions and events anew. Stops stay."""
        self.wake()
        self._protection.counts[:] = 0
        self.events.clear()

    def tick(self, target: Array) -> Array:
        """One period towards target (J,); returns `command`.

        Raises ArmFault after the other arms were told to brake; further ticks let them.
        """
        state, began = self._protection, self.now()
        if self.before_tick is not None:
            self.before_tick(self)
        self.ticks += 1
        wanted = target[None] if not self._unheard else state.command.copy()
        _, command, found = protect(self.limits, state, wanted, self._measured, self.period_s)
        if found:
            self._note(found)
        fault: ArmFault | None = None
        paused = self.now() - began > PAUSED_S
        unheard = paused and self._unheard
        for i, arm in enumerate(self.arms if not paused else ()):
            part = self._slices[i]
            try:
                answer = arm.exchange(
                    command[0, part], self._still, self._kp, self._kd, self._weight[0, part]
                )
            except ArmFault as error:
                fault = fault or error
            else:
                unheard |= self._take(i, answer, self.period_s) > UNHEARD_PERIODS * self.period_s
        if fault is not None:
            self.halt("arm_fault")
            with suppress(ArmFault):
                self._wait()
            raise fault
        if unheard and not self._unheard:
            self.events.append("unheard")
        self._unheard = unheard
        try:
            self._wait()
        except ArmFault:
            self.halt("arm_fault")
            raise
        if self.now() - began > self.period_s + STALL_S:
            if self._is_news("loop_stalled"):
                self.events.append("loop_stalled")
            self.halt("loop_stalled")
        return self.command

    def follow(self, command: Array, ticks: int, *, age_s: float = 0.0) -> None:
        """One policy step: from the last policy command to this one (J,) in `ticks` ticks.

        A command that was older than the limit on arrival is not followed: the arm holds.
        """
        if age_s > self.command_age_s:
            self.events.append("late")
            self.hold(ticks)
            return
        previous = self._goal
        step = (command - previous) / ticks
        for k in range(1, ticks):
            self.tick(previous + step * k)
        self.tick(command)
        self._goal = command

    def hold(self, ticks: int) -> None:
        """Stay at the present command."""
        goal = self.command.copy()
        for _ in range(ticks):
            self.tick(goal)
        self._goal = self.command.copy()

    def move_to(
        self, goal: Array, speed: float = 0.5, *, keep_going: Callable[[], bool] | None = None
    ) -> bool:
        """Minimum-jerk joint move to goal (J,) at `speed` of the velocity limits.

        Returns True when the command has arrived; False when protection or `keep_going` said no.
        """
        start = self.command.copy()
        way = goal - start
        seconds = PEAK_OF_MIN_JERK * float(np.max(np.abs(way) / self.limits.dq_max)) / speed
        ticks = max(1, round(seconds / self.period_s))
        k = 0
        while k < ticks:
            if self.stopped or (keep_going is not None and not keep_going()):
                self.hold(1)
                return False
            k += not self._unheard
            s = k / ticks
            self.tick(start + way * (s * s * s * (10.0 + s * (6.0 * s - 15.0))))
        for _ in range(self._brake_ticks):
            if np.array_equal(self.command, goal):
                break
            self.tick(goal)
        self._goal = self.command.copy()
        return bool(np.abs(self.command - goal).max() < 1e-6)

    def protective_stop(self, reason: str) -> None:
        """Brake within the limits and hold until `resume`: `halt`, then `rest`."""
        self.halt(reason)
        self.rest()

    def rest(self) -> None:
        """Brake within the limits. Returns when the command rests.

        Raises ArmFault, after the arms that are in none have braked.
        """
        fault: ArmFault | None = None
        for _ in range(self._brake_ticks):
            try:
                self.tick(self.command.copy())
            except ArmFault as error:
                fault = error
            if not self._protection.velocity.any():
                break
        self._goal = self.command.copy()
        if fault is not None:
            raise fault

    def resume(self) -> None:
        """Let the robot move again from where it is now; a person at the arm decides this."""
        self._look()
        self.stop_reason = ""
        self.on_stop(False)
        self._protection.reset(self.limits, slice(None), self._q)
        self._goal = self.command.copy()
        self._due = self.now()

    # -- parts of a tick

    def _look(self) -> None:
        """Ask the arms where they are: whoever switched them off or moved them said nothing."""
        for i, arm in enumerate(self.arms):
            self._take(i, arm.refresh())

    def halt(self, reason: str) -> None:
        """Stop from the next tick on, without waiting for it: braking is what ticks then do."""
        if self._is_news(reason):
            self._protection.stop()
            self.stop_reason = reason
            self.on_stop(True)

    def _is_news(self, reason: str) -> bool:
        """Whether this is the first reason, or one after `torque`, which alone ends by itself."""
        return not self.stop_reason or (self.stop_reason == "torque" != reason)

    def _note(self, found: Iterable[str]) -> None:
        for name in sorted(STOPPING.intersection(found)):
            self.events.append(name)
            if self._is_news(name):
                self.stop_reason = name
            self.on_stop(True)

    def _take(self, i: int, state: ArmState, since_s: float = np.inf) -> float:
        """Keep what arm i said; `since_s` after what it said before, inf where it moved unseen.

        Returns the age of what its most silent motor said. Weight and expected torque stay where a
        motor has said nothing new: old speeds are no acceleration.
        """
        part = self._slices[i]
        arm = slice(part.start, part.start + 7)
        age_s = float(state.age_s.max())
        missed = since_s < np.inf and 0.0 < state.time_s - self._looked[i] <= age_s
        acceleration = (state.dq[:7] - self._dq[0, arm]) / (since_s if self._whole[i] else np.inf)
        self._looked[i], self._whole[i] = state.time_s, not missed
        self._q[0, part] = state.q
        self._dq[0, part] = state.dq
        self._tau[0, part] = state.tau
        self._heat[i].see(state.temp_mos, state.temp_rotor)
        if missed:
            return age_s
        weight, motion = self._dynamics[i](state.q[:7], state.dq[:7], acceleration)
        self._weight[0, arm] = weight
        self._expected[0, arm] = motion
        return age_s

    def _wait(self) -> None:
        self._due += self.period_s
        left = self._due - self.now()
        if left > 0.0:
            self.arms[0].wait(left)
        elif left < -1e-9:
            self.overruns += 1
            self._due = self.now()


def check_period(period_s: float, physics_s: float | None) -> None:
    """ConfigError unless the servo period is a whole number of physics steps."""
    if physics_s is None:
        return
    steps = period_s / physics_s
    if round(steps) < 1 or abs(steps - round(steps)) > 1e-6:
        raise ConfigError(
            f"a servo period of {1e3 * period_s:g} ms is {steps:g} physics steps of "
            f"{1e3 * physics_s:g} ms; it has to be a whole number",
            where="servo",
            field="physics_hz",
            hint="use 1 ms physics at 200 Hz, or 2 ms at 250 Hz",
        )


def ticks_per_step(rate_hz: float, period_s: float, speed_scale: float = 1.0) -> int:
    """Servo ticks of one policy step; a speed scale below 1 dilates time, it does not clip.

    ConfigError unless that is a whole number, since rounding would run another rate.
    """
    ticks = 1.0 / (rate_hz * period_s * speed_scale)
    if not 0.0 < speed_scale <= 1.0 or round(ticks) < 1 or abs(ticks - round(ticks)) > 1e-6:
        raise ConfigError(
            f"a policy step at {rate_hz:g} Hz and speed {speed_scale:g} is {ticks:g} servo ticks",
            where="servo",
            field="speed_scale",
            hint="choose a speed scale in 0..1 that makes it a whole number, such as 1, .5 or .25",
        )
    return round(ticks)
