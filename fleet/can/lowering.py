"""Letting a raised arm down without knowing its weight.

Each joint is held by a soft spring. It begins where the motor's last command was, with the
feed-forward that makes up what the motor gives now; the feed-forward fades, and the spring's rest
position creeps towards the measured one. So neither command nor torque jumps, a loaded joint sinks
slowly whatever it carries, and a supported one comes to rest with no torque left. Then switching
off drops nothing.

Units: rad, rad/s, Nm, s; arrays (N,) in motor order.
"""

from __future__ import annotations

import numpy as np

from fleet.can.frames import Status
from fleet.can.gains import SOFT
from fleet.can.link import MotorLink

SPEED_RAD_S, PER_RAD = 0.4, 4.0
"""A rest position creeps at most so fast, and at so much per second of its distance."""
FADE_S, GENTLY_S = 1.0, 0.3
PERIOD_S = 0.005
AT_REST_RAD_S, CARRIED_NM, REST_S = 0.08, 1.0, 0.25
"""At rest: slower than this, carrying less than this (friction holds as much), for this long."""
GONE_AFTER = 40
"""Passes without any answer after which there is nobody to lower."""


def lower(link: MotorLink, window_s: float, most_s: float) -> bool:
    """Let the arm sink until it carries nothing, at most `most_s`; True once it rests.

    Motors that are off, in fault or silent do nothing or go on as they were. Raises BUS_ERRORS.
    """
    zero, kp, kd = np.zeros(8), SOFT.kp, SOFT.kd
    state = link.state()
    rest = state.q.copy() if (told := link.commanded()) is None else told
    given = np.where(state.status == Status.ENABLED, state.tau, 0.0) - kp * (rest - state.q)
    began = due = link.now()
    rested_since = None
    while link.now() - began < most_s and link.quiet < GONE_AFTER:
        since = link.now() - began
        speed = SPEED_RAD_S * min(since / GENTLY_S, 1.0)
        rest = rest + PERIOD_S * np.clip(PER_RAD * (state.q - rest), -speed, speed)
        carried = given * max(1.0 - since / FADE_S, 0.0)
        link.send_mit(rest, zero, kp, kd, carried)
        link.collect(window_s)
        state = link.state()
        on = state.status == Status.ENABLED
        if not on.any():
            return True
        calm = np.abs(state.dq[on]).max() < AT_REST_RAD_S
        calm = calm and np.abs(kp * (rest - state.q) + carried)[on].max() < CARRIED_NM
        if not calm:
            rested_since = None
        elif rested_since is None:
            rested_since = link.now()
        elif link.now() - rested_since >= REST_S:
            return True
        due += PERIOD_S
        link.wait(due - link.now())
    return False
