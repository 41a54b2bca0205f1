"""A process beside the servo that makes the arm safe when the servo dies. It can do nothing else.

Rules
- The servo beats once a tick: `Heartbeat` publishes what the motors were last told. The guardian
  only looks. A beat older than `DEAD_AFTER_S` (twelve ticks at 200 Hz) is a dead servo, whatever
  the reason: killed, stopped, stuck in a call.
- A look that itself came `LATE_S` late says that the whole computer stood still, and the servo with
  it: the beat before it is given `RECOVERY_S` from that look to be followed by another, once.
- Then it first repeats the last command, speed 0, so that motors whose host watchdog is on stay up
  (`holding`); after `hold_s` it lets the stiffness go over `lower_s` while damping stays, so that
  the arm sinks (`lowering`), and goes on damping (`lowered`). It never switches motors off and
  never moves a joint towards anything but where it was told to be.
- Taking over is for good. It is written to a block of its own, and the next beat of a servo that
  comes back raises before that tick commands a motor; a person starts both again.
- Before the first beat there is nothing to guard and nothing is sent. A servo that ends on purpose
  says so by its last beat, and is not mourned.
- It ends by itself after such a farewell, or where no servo begins to beat within `SERVO_WITHIN_S`.
  Told to end, it ends at once before the first beat, when the arm is lowered where it has taken
  over, and not while a servo beats: a supervisor tells all at once, and the arm still moves.
- A block that cannot be read whole counts as no beat.
- It writes its word at each step that its bus let it end: whoever reads one that is old knows that
  nobody watches.
- No bus ends it: what one raises is tried again at the next step, and one that fails for
  `REOPEN_AFTER` steps in a row is opened anew, again and again. Once it has taken over, neither
  does a driver that raises what it should not.

Units: rad, Nm, Nm/rad, Nm s/rad, s. One guardian for each bus: J = 8.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum

import can
import numpy as np
from numpy.typing import NDArray

from fleet.can.frames import Ranges
from fleet.can.health import BUS_ERRORS
from fleet.can.link import MotorLink
from fleet.can.motors import OPENARM_MOTORS
from fleet.shared_memory import Newest, Reading
from registry.errors import PolicyctlError, Refused

Array = NDArray[np.float64]

JOINTS = 8
BEAT = 1 + 7 * JOINTS
"""alive (0 or 1), then per joint: q, kp, kd, tau, PMAX, VMAX, TMAX."""
WORD = 1
"""The guardian's own block, written at each step: 1 once it has taken over, 0 before."""
DEAD_AFTER_S = 0.06
LATE_S, RECOVERY_S = 0.015, 0.015
HOLD_S, LOWER_S = 1.0, 3.0
LOWERING_KD = 2.0
PERIOD_S = 0.005
REOPEN_AFTER = 100
SERVO_WITHIN_S = 60.0


class Phase(StrEnum):
    WATCHING = "watching"
    HOLDING = "holding"
    LOWERING = "lowering"
    LOWERED = "lowered"


class Heartbeat:
    """The servo's side. Call `beat` before each tick's commands, `farewell` when it ends well."""

    def __init__(self, block: Newest, word: Newest, ranges: Sequence[Ranges]) -> None:
        """`block` is created by the servo, `word` by the guardian."""
        self._block, self._word = block, word
        self._values: Array = np.zeros(BEAT)
        self._rows = self._values[1:].reshape(7, JOINTS)
        self._rows[4:] = np.array([[r.pmax, r.vmax, r.tmax] for r in ranges]).T

    def beat(self, q: Array, kp: Array, kd: Array, tau: Array) -> None:
        """What the motors were last told, (8,) each. Refused once the guardian has taken over."""
        taken = self._word.read()
        if isinstance(taken, Reading) and taken.values[0] != 0.0:
            raise Refused(
                "the guardian has taken the arm over",
                evidence="the servo did not beat in time",
                hint="look at the arm, then start servo and guardian again",
            )
        self._values[0] = 1.0
        self._rows[0], self._rows[1], self._rows[2], self._rows[3] = q, kp, kd, tau
        self._block.write(self._values)

    def farewell(self) -> None:
        """The servo ends on purpose: the motors hold, nobody takes over."""
        self._values[0] = 0.0
        self._block.write(self._values)

    def close(self) -> None:
        """Let go of both blocks; what was said stays for whoever looks at it."""
        self._block.close()
        self._word.close()


class Guardian:
    """The guardian's side: call `step` every `PERIOD_S`."""

    def __init__(
        self,
        bus: can.BusABC,
        block: Newest,
        word: Newest,
        *,
        fd: bool = False,
        hold_s: float = HOLD_S,
        lower_s: float = LOWER_S,
        reopen: Callable[[], can.BusABC] | None = None,
    ) -> None:
        """`reopen` opens the bus once more, while the one before is still open."""
        self.phase = Phase.WATCHING
        self._fd, self._reopen = fd, reopen
        self._link = MotorLink(bus, OPENARM_MOTORS, fd=fd)
        self._block, self._word = block, word
        self._hold, self._lower = hold_s, lower_s
        self.refused = 0
        """Steps in which the bus failed."""
        self._in_a_row = 0
        self._last: Array | None = None
        self._farewell = False
        self._began = self._link.now()
        self._heard_at = self._taken_at = 0.0
        self._looked_at = self._began
        self._beat = 0
        self._waits_until: float | None = None
        self._say()

    def step(self) -> Phase:
        """Look once; command the motors where the servo no longer does. Raises BUS_ERRORS."""
        now = self._link.now()
        if self.phase is Phase.WATCHING:
            self._look(now)
        if self.phase is not Phase.WATCHING:
            self._command(now - self._taken_at)
        # replies are nobody's now, and a queue that fills up would hide the arm's state
        self._link.drain()
        self._say()
        return self.phase

    def run(self, told: Callable[[], bool] = lambda: False) -> None:
        """Steps until there is nothing to guard, whatever the bus raises; `told` is asked whether
        somebody wants it to end."""
        while True:
            try:
                if self._in_a_row and self._in_a_row % REOPEN_AFTER == 0:
                    self._open_anew()
                self.step()
                self._link.wait(PERIOD_S)
                self._in_a_row = 0
            except Exception as error:
                known = isinstance(error, (*BUS_ERRORS, PolicyctlError))
                if not known and self.phase is Phase.WATCHING:
                    raise  # the servo is there, and its program sees that the guardian is not
                self.refused += 1
                self._in_a_row += 1
                time.sleep(PERIOD_S)
            if self._is_over(told()):
                return

    def close(self) -> None:
        """Let go of the bus and of both blocks. Commands nothing."""
        with suppress(*BUS_ERRORS):
            self._link.bus.shutdown()
        self._block.close()
        self._word.close()

    def _is_over(self, told: bool) -> bool:
        if self.phase is not Phase.WATCHING:
            return told and self.phase is Phase.LOWERED
        if self._last is not None:
            return False
        return told or self._farewell or self._link.now() - self._began > SERVO_WITHIN_S

    def _open_anew(self) -> None:
        """Raises what opening raises; the bus before is kept then, it may come back."""
        if self._reopen is None:
            return
        old, bus = self._link, self._reopen()
        self._link = MotorLink(bus, OPENARM_MOTORS, fd=self._fd)
        self._link.set_ranges(old.ranges)
        old.bus.shutdown()

    def _look(self, now: float) -> None:
        late, self._looked_at = now - self._looked_at - PERIOD_S, now
        reading = self._block.read()
        if isinstance(reading, Reading):
            if reading.values[0] == 0.0:
                self._last, self._farewell = None, True
                return
            if reading.sequence != self._beat:
                self._beat, self._waits_until = reading.sequence, None
            self._last = reading.values
            self._heard_at = now - reading.age_s
        if late > LATE_S and self._waits_until is None:
            self._waits_until = now + RECOVERY_S
        if self._last is None or now - self._heard_at <= DEAD_AFTER_S:
            return
        if self._waits_until is None or now >= self._waits_until:
            rows = self._last[1:].reshape(7, JOINTS)
            self._link.set_ranges([Ranges(*map(float, scale)) for scale in rows[4:].T])
            self._taken_at = now
            self.phase = Phase.HOLDING
            self._say()

    def _say(self) -> None:
        self._word.write(np.full(WORD, float(self.phase is not Phase.WATCHING)))

    def _command(self, since: float) -> None:
        if self._last is None:
            return
        q, kp, kd, tau = self._last[1:].reshape(7, JOINTS)[:4]
        still = np.zeros(JOINTS)
        if since < self._hold:
            self._link.send_mit(q, still, kp, kd, tau)
            return
        left = max(0.0, 1.0 - (since - self._hold) / self._lower)
        self.phase = Phase.LOWERING if left > 0.0 else Phase.LOWERED
        damping = np.maximum(kd, LOWERING_KD)
        self._link.send_mit(q, still, kp * left, damping, tau * left)
