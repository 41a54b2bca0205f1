"""Protection of several ticks at once, for simulations that know their targets beforehand.

`protect_ahead` gives the commands of T calls of `fleet.safety.protect` to the bit, and leaves the
state that they would leave, at a fraction of their cost: rows that nothing restricts are told in
one sweep over all ticks, only the others are taken tick by tick, and forward kinematics runs once.

Rule 5 needs torques, which are measured while the arm moves: `watch_ahead` looks at them
afterwards. Where it finds that a row would have been stopped on the way, what was moved since is
not what protection allows: the caller has to go back and take these ticks one by one.

Arrays are (T, B, J) and (B, J) as there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fleet.limits import Array, SafetyLimits, TickLimits
from fleet.safety import INTERVENTIONS, SafetyState, protect, unobstructed

Rows = NDArray[np.intp]


def protect_ahead(
    limits: SafetyLimits, state: SafetyState, rows: Rows, targets: Array, dt: float
) -> tuple[Array, SafetyState]:
    """Commands (T,n,J) [rad] of T ticks of dt [s] of some rows towards targets (T,n,J) [rad].

    `state` stays as it is; with them comes what these rows become by it, to be `put` there.
    Raises ValueError where one of the rows is stopped: it has no target to follow.
    """
    part = state.take(rows)
    if part.stopped.any():
        raise ValueError("a stopped row is not protected ahead")
    at, rest = targets.copy(), np.empty_like(targets)
    _advance(limits, limits.per_tick(dt), part, targets, dt, at, rest)
    moved = np.abs(rest - part._checked) @ limits.reach
    near = np.flatnonzero(~(moved < part._clear).all(axis=(0, 2)))
    if near.size:
        left = _leaving(limits, part, near, rest[:, near])
        if left.size:
            alone = state.take(rows[left])
            for tick, target in enumerate(targets[:, left]):
                _, at[tick, left], _ = protect(limits, alone, target, None, dt)
            part.put(left, alone)
    return at, part


def _advance(
    limits: SafetyLimits,
    step: TickLimits,
    state: SafetyState,
    targets: Array,
    dt: float,
    at: Array,
    rest: Array,
) -> None:
    """Rules 1 to 3 of all ticks: writes the commands `at` that are not the targets they hold, and
    where braking from each would end."""
    ticks = len(targets)
    with np.errstate(over="ignore", invalid="ignore"):  # wild targets fail the test below
        speed = targets.copy()
        speed[0] -= state.command
        speed[1:] -= targets[:-1]
        speed *= step.per_s
        np.abs(speed, out=rest)
        rest *= speed
        rest *= limits.stop
        rest += targets
        gain = speed.copy()
        gain[0] -= state.velocity
        gain[1:] -= speed[:-1]
        fast, hard, behind, far = step.quick
        within = np.abs(speed) <= fast
        within &= np.abs(gain) <= hard
        within &= np.abs(rest - limits.mid) <= far
        within[0] &= np.abs(state._target - state.command) <= behind
    free = within.all(axis=(0, 2))
    if free.all():
        state.command[:] = state._target[:] = targets[-1]
        state.velocity[:] = speed[-1]
        return
    state.command[free] = state._target[free] = targets[-1, free]
    state.velocity[free] = speed[-1, free]
    some = np.flatnonzero(~free)
    part = state.take(some)
    first, speed, stand, hits = unobstructed(limits, step, part, targets[0, some], dt)
    at[0, some], rest[0, some] = first, stand
    if hits is None:
        part._target[:] = targets[0, some]
    part.command[:], part.velocity[:] = first, speed
    for name, flags in (hits or {}).items():
        part.counts[:, INTERVENTIONS.index(name)] += flags
    if ticks > 1:
        to = targets[1:, some]
        later, ends = to.copy(), np.empty_like(to)
        _advance(limits, step, part, to, dt, later, ends)
        at[1:, some], rest[1:, some] = later, ends
    state.put(some, part)


def _leaving(limits: SafetyLimits, state: SafetyState, near: Rows, rest: Array) -> Rows:
    """Rule 4: which of the rows `near`, that would come to rest at `rest` (T,n,J), it refuses in
    any tick; the others have been looked at."""
    ticks, rows, joints = rest.shape
    inside, own = limits.clearance(rest.reshape(ticks * rows, joints))
    clear = np.minimum(inside, own).reshape(ticks, rows, -1)
    allowed = np.concatenate((state._clear[None, near], clear[:-1]))
    bad = (clear < np.minimum(allowed, 0.0) - 1e-9).any(axis=(0, 2))
    good = near[~bad]
    state._checked[good], state._clear[good] = rest[-1, ~bad], clear[-1, ~bad]
    refused: Rows = near[bad]
    return refused


def watch_ahead(limits: SafetyLimits, state: SafetyState, tau: Array, dt: float) -> bool:
    """Rule 5 of T ticks with motor torques tau (T,B,J) [Nm], of which nothing is explained.

    False where a row would stop in any of them; the state's filters are of no use then.
    """
    mix, load = limits.per_tick(dt).mix, state._load
    seen = np.empty((len(tau), *load.shape))
    change = state._change
    for now, torque in zip(seen, tau, strict=True):
        np.subtract(torque, load, out=change)
        change *= mix
        load += change
        now[:] = load
    return bool((np.abs(seen) <= limits.tau).all())
