"""Protection: between the interpolated command and the motors, at servo rate. It can only restrict.

Rules, in this order, for every tick and every row of a batch
1. Finite: a target with any number that is not finite brakes the row (`non_finite`).
2. Joint limits: the target is clamped to them, and speed towards a limit is held low enough to
   stop before it (`joint_limit`). A joint measured beyond its limit starts where it is: its command
   moves in under rule 3, and never further out.
3. Velocity and acceleration per joint, always, braking included. A moving target is followed
   without lag once caught; a resting one is reached without overshoot. A target that moves too fast
   counts as `velocity`, a command that is still catching up as `acceleration`.
4. Workspace: where the arm would come to rest if it braked now must keep its TCP inside the box
   and above the table (`workspace`), off the robot's column and on its own side of the other arm
   (`self_collision`). A step that fails brakes all joints of the row instead; from outside, only
   steps that lead further in are let through.
5. Torque: a motor near its peak for about a tenth of a second (`torque`) stops the row: the arm
   pushes against something, or the motion is more than it can do. Torque beyond what weight,
   inertia and friction explain, above the force limit, is `contact_force`; measurements that are
   not finite are `protection_failure`; both stop the row too, also one that `torque` stopped,
   and are class A. A stop lasts until `resume`.

Speed scale is not here: it dilates time in `interpolate` (more ticks for one policy step), so a
slower robot runs the same path. Every row and tick that differs from its target counts at least
one intervention by name; limits pass in-range targets unchanged, to the bit.

Arrays are (B, J), J = 8 per arm, radians and seconds. The state is updated in place. A row's
result does not depend on the others: whole-batch shortcuts only skip work that would change
nothing. FK runs only for rows that may have come near a boundary since it last ran, by the bound
|TCP motion| <= sum reach_i |dq_i|.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fleet.limits import Array, Flags, SafetyLimits, TickLimits

Counts = NDArray[np.int64]

INTERVENTIONS = (
    "non_finite",
    "joint_limit",
    "velocity",
    "acceleration",
    "workspace",
    "self_collision",
    "torque",
    "contact_force",
    "protection_failure",
    "stopped",
)
CLASS_A = frozenset({"contact_force", "protection_failure", "workspace_breach"})
"""Events that stop a rollout at once; `workspace_breach` is found on the measured TCP."""
STOPPING = CLASS_A | {"torque"}
"""Interventions after which a row stays stopped."""

_BY_ROW = (
    "command", "velocity", "stopped", "counts", "_only_torque", "_target", "_checked", "_clear"
)  # fmt: skip
"""What `SafetyState` remembers of each row, the row first."""
FAR = 1e3
"""[rad] targets are cut to this first, so that arithmetic on them cannot overflow."""
EMPTY: Mapping[str, Counts] = {}


@dataclass(frozen=True)
class Measured:
    """What the motors report, and the torque that weight and motion explain: each (B, J)."""

    tau: Array
    explained: Array


class SafetyState:
    """What protection remembers of B robots. `command` is what the motors were last told."""

    def __init__(self, limits: SafetyLimits, q: Array) -> None:
        """Start at rest at the measured joints q (B, J) [rad]."""
        batch, joints = q.shape
        self.command: Array = np.empty((batch, joints))
        self.velocity: Array = np.empty((batch, joints))
        self.stopped: Flags = np.zeros(batch, dtype=np.bool_)
        self.counts: Counts = np.zeros((batch, len(INTERVENTIONS)), dtype=np.int64)
        """Interventions since the row was reset, in the order of `INTERVENTIONS`."""
        self._only_torque: Flags = np.zeros(batch, dtype=np.bool_)
        """Rows that `torque` stopped and nothing else."""
        self._target: Array = np.empty((batch, joints))
        self._checked: Array = np.empty((batch, joints))
        self._clear: Array = np.empty((batch, len(limits.arms)))
        self._load: Array = np.zeros((2, batch, joints))
        self._any_stopped = False
        self._allocate(batch, joints)
        self.reset(limits, slice(None), q)

    def _allocate(self, batch: int, joints: int) -> None:
        """Memory that a tick works in."""
        self._room: Array = np.empty((3, batch, joints))
        self._bites: Flags = np.empty((3, batch, joints), dtype=np.bool_)
        self._change: Array = np.empty((2, batch, joints))
        self._quick: Array = np.empty((4, batch, joints))
        self._parts = (*self._quick, *self._load, *self._change)
        """Views of the above, made once: a tick has no time to make them."""

    def reset(self, limits: SafetyLimits, rows: slice | NDArray[np.intp], q: Array) -> None:
        """Rows begin anew at rest at q (rows, J) [rad]; counts and stops are cleared."""
        if not np.isfinite(q).all():
            raise ValueError("protection cannot start from joints that are not finite")
        self.command[rows] = self._target[rows] = self._checked[rows] = q
        self.velocity[rows] = 0.0
        self.counts[rows] = 0
        self._load[:, rows] = 0.0
        inside, own = limits.clearance(q)
        self._clear[rows] = np.minimum(inside, own)
        self.resume(rows)

    def stop(self, rows: slice | NDArray[np.intp] | Flags = slice(None)) -> None:
        """Brake rows now and hold until `resume`."""
        self.stopped[rows] = True
        self._only_torque[rows] = False
        self._any_stopped = True

    def resume(self, rows: slice | NDArray[np.intp] | Flags = slice(None)) -> None:
        """Let rows move again; a person at the arm decides this."""
        self.stopped[rows] = self._only_torque[rows] = False
        self._load[:, rows] = 0.0
        self._any_stopped = bool(self.stopped.any())

    def take(self, rows: NDArray[np.intp]) -> SafetyState:
        """A state of its own of these rows."""
        part = SafetyState.__new__(SafetyState)
        for name in _BY_ROW:
            setattr(part, name, getattr(self, name)[rows])
        part._load = self._load[:, rows]
        part._allocate(*part.command.shape)
        part._any_stopped = bool(part.stopped.any())
        return part

    def put(self, rows: NDArray[np.intp], part: SafetyState) -> None:
        """These rows become those of a part."""
        for name in _BY_ROW:
            getattr(self, name)[rows] = getattr(part, name)
        self._load[:, rows] = part._load
        self._any_stopped = bool(self.stopped.any())

    def counted(self, row: int = 0) -> dict[str, int]:
        """Interventions of one row since its reset, those that happened."""
        return {n: int(c) for n, c in zip(INTERVENTIONS, self.counts[row], strict=True) if c}


def interpolate(previous: Array, command: Array, k: int, n: int) -> Array:
    """Target of servo tick k = 1..n on the way from the previous policy command to the new one.

    Linear, ends exactly on the command. Any shape. Speed scale s makes n ticks into n / s.
    """
    if k >= n:
        return command
    target: Array = previous + (command - previous) * (k / n)
    return target


def protect(
    limits: SafetyLimits,
    state: SafetyState,
    target: Array,
    measured: Measured | None,
    dt: float,
) -> tuple[SafetyState, Array, Mapping[str, Counts]]:
    """One tick: target (B,J) [rad] -> state, command (B,J), interventions {name: (B,) 0 or 1}.

    The command is `state.command`, valid until the next call; names that did not occur are left
    out. Without `measured` (simulation) rule 5 is not checked.
    """
    step = limits.per_tick(dt)
    events = _watch(limits, step, state, measured) if measured is not None else None
    at, speed, rest, hits = unobstructed(limits, step, state, target, dt)
    moved = np.abs(rest - state._checked) @ limits.reach
    if np.count_nonzero(moved < state._clear) < moved.size:
        at, speed, hits = _keep_inside(limits, step, state, (at, speed, rest, hits), moved, dt)
    if hits is None:
        state._target[:] = target
    state.command[:] = at
    state.velocity[:] = speed
    return state, state.command, _count(state, hits, events)


def unobstructed(
    limits: SafetyLimits, step: TickLimits, state: SafetyState, target: Array, dt: float
) -> tuple[Array, Array, Array, dict[str, Flags] | None]:
    """Rules 1 to 3: position, velocity, and where braking from there would end; and the rows that
    each rule changed, None where none did."""
    quick = state._quick
    speed, gain, lag, off, *_ = state._parts
    with np.errstate(over="ignore", invalid="ignore"):  # wild targets fail the test below
        np.subtract(target, state.command, out=speed)
        speed *= step.per_s
        rest = np.abs(speed)
        rest *= speed
        rest *= limits.stop
        rest += target
        np.subtract(speed, state.velocity, out=gain)
        np.subtract(state._target, state.command, out=lag)
        np.subtract(rest, limits.mid, out=off)
    within = np.abs(quick) <= step.quick
    if not state._any_stopped and np.count_nonzero(within) == quick.size:
        return target, speed, rest, None
    at, limited, hits = _restrict(limits, step, state, target, dt)
    if len(target) > 1:
        # a row that nothing restricts is what it would be alone, whatever its mates need
        free = np.all(within, axis=(0, 2)) & ~state.stopped
        at[free], limited[free], state._target[free] = target[free], speed[free], target[free]
        hits = {name: flags & ~free for name, flags in hits.items()}
    return at, limited, at + limited * np.abs(limited) * limits.stop, hits


def _restrict(
    limits: SafetyLimits, step: TickLimits, state: SafetyState, target: Array, dt: float
) -> tuple[Array, Array, dict[str, Flags]]:
    """Rules 1 to 3: position and velocity after this tick, and the rows each rule changed."""
    command, v = state.command, state.velocity
    finite = np.isfinite(target)
    hold = None
    wanted = _clip(target, -FAR, FAR)
    if state._any_stopped or np.count_nonzero(finite) < finite.size:
        hold = state.stopped | ~np.all(finite, axis=1)
        wanted = np.where(hold[:, None], command, wanted)
    goal = _clip(wanted, limits.q_min, limits.q_max)
    low, high = _reach_of(limits, command)
    lag = state._target - command
    room = state._room
    np.abs(lag, out=room[0])
    np.subtract(command, low, out=room[1])
    np.subtract(high, command, out=room[2])
    closing, down, up = step.brake(room)
    np.maximum(closing, step.adt, out=closing)
    free = (goal - command) * step.per_s
    ahead = (goal - state._target) * step.per_s
    eased = ahead + np.copysign(closing, lag)
    speed = np.where(room[0] * step.per_s <= closing, free, eased)
    reachable = _clip(_clip(speed, -limits.dq_max, limits.dq_max), v - step.adt, v + step.adt)
    new = _clip(reachable, -down, up)
    at = np.where(new == free, goal, command + new * dt)
    at = _clip(at, low, high)
    bites = state._bites
    np.not_equal(new, reachable, out=bites[0])
    bites[0] |= goal != wanted
    np.greater(np.abs(ahead), limits.dq_max * (1 + 1e-9), out=bites[1])
    np.not_equal(reachable, free, out=bites[2])
    bites[2] &= ~bites[1]
    bitten: Flags = np.any(bites, axis=2)
    hits = {"joint_limit": bitten[0], "velocity": bitten[1], "acceleration": bitten[2]}
    if hold is not None:
        held = hold[:, None]
        new = np.where(held, v - _clip(v, -step.adt, step.adt), new)
        at = np.where(held, _clip(command + new * dt, low, high), at)
        goal = np.where(held, at, goal)
        hits = {name: flags & ~hold for name, flags in hits.items()}
        hits["non_finite"] = ~np.all(finite, axis=1)
        hits["stopped"] = state.stopped.copy()
    state._target[:] = goal
    return at, new, hits


def _reach_of(limits: SafetyLimits, command: Array) -> tuple[Array, Array]:
    """Lowest and highest next command: the joint limits, and from beyond them no further out."""
    return np.minimum(command, limits.q_min), np.maximum(command, limits.q_max)


def _clip(x: Array, low: Array | float, high: Array | float) -> Array:
    """np.clip at a third of its cost on small arrays."""
    out: Array = np.maximum(x, low)
    return np.minimum(out, high, out=out)


def _keep_inside(
    limits: SafetyLimits,
    step: TickLimits,
    state: SafetyState,
    planned: tuple[Array, Array, Array, dict[str, Flags] | None],
    moved: Array,
    dt: float,
) -> tuple[Array, Array, dict[str, Flags] | None]:
    """Rule 4 for the rows whose resting point may have left the room they had."""
    at, speed, rest, hits = planned
    rows = np.flatnonzero(~(moved < state._clear).all(axis=1))
    inside, own = limits.clearance(rest[rows])
    clear = np.minimum(inside, own)
    allowed = np.minimum(state._clear[rows], 0.0) - 1e-9
    bad = (clear < allowed).any(axis=1)
    good = rows[~bad]
    state._checked[good] = rest[good]
    state._clear[good] = clear[~bad]
    if good.size == rows.size:
        return at, speed, hits
    refused = rows[bad]
    at, speed = at.copy(), speed.copy()
    v = state.velocity[refused]
    speed[refused] = v - _clip(v, -step.adt, step.adt)
    braked = state.command[refused] + speed[refused] * dt
    at[refused] = _clip(braked, *_reach_of(limits, state.command[refused]))
    if hits is None:
        hits = {}
        state._target[:] = at
    state._target[refused] = at[refused]
    box = (inside[bad] < allowed[bad]).any(axis=1)
    for name, which in (("workspace", box), ("self_collision", ~box)):
        flags = np.zeros(at.shape[0], dtype=np.bool_)
        flags[refused] = which
        hits[name] = flags
    return at, speed, hits


def _watch(
    limits: SafetyLimits, step: TickLimits, state: SafetyState, measured: Measured
) -> dict[str, Flags] | None:
    """Rule 5: low-passed torques against their limits; rows above them stop."""
    load, change = state._load, state._change
    *_, torque, force, more_torque, more_force = state._parts
    np.subtract(measured.tau, torque, out=more_torque)
    np.subtract(measured.tau, measured.explained, out=more_force)
    more_force -= force
    change *= step.mix
    load += change
    fine = np.abs(load) <= limits.tau
    if np.count_nonzero(fine) == fine.size:
        return None
    blind = ~np.isfinite(load).all(axis=(0, 2))
    rows: Flags = np.all(fine, axis=2)
    moving = ~state.stopped
    news = moving | state._only_torque
    torque, contact = ~rows[0] & moving & ~blind, ~rows[1] & news & ~blind
    events = {"torque": torque, "contact_force": contact, "protection_failure": blind & news}
    load[:, blind] = 0.0
    mild = state._only_torque & ~contact & ~blind
    state.stop(~np.all(rows, axis=0))
    state._only_torque[:] = mild | (torque & ~contact)
    return events


def _count(
    state: SafetyState, hits: dict[str, Flags] | None, events: dict[str, Flags] | None
) -> Mapping[str, Counts]:
    if hits is None and events is None:
        return EMPTY
    found: dict[str, Counts] = {}
    for name, flags in {**(hits or {}), **(events or {})}.items():
        if flags.any():
            found[name] = flags.astype(np.int64)
            state.counts[:, INTERVENTIONS.index(name)] += flags
    return found
