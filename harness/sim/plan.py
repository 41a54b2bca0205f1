"""The inert-axis self-test: does moving an axis change anything that is simulated or seen?

A dead axis makes a grid smaller than it says: every cell along it is the same episode again. The
classic one is a friction that another geom's priority overrules. So before a gate is trusted, each
of its axes is moved from one end to the other on the same scenes, all else nominal, and both
episodes are followed step by step:

    contact      which finger touches the object, and the torque that the motors give
    state        joint and object positions and velocities
    observation  what a policy would be given, images included where the contract has cameras

An axis is alive where any of the three differs in any scene. The scripted expert drives where the
task has one and the contract fits it, since a policy that never touches the object would make all
contact look dead; else the policy itself does, and one that
gives no sound outputs proves nothing. Nothing here judges success.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from harness.sim.env import BatchEnv
from harness.sim.episode import Change, EpisodeSpec
from harness.sim.experts import expert_of
from harness.sim.grid import SHARED, Grid
from harness.sim.randomization import change
from harness.sim.runner import Asker
from policies import Policy
from registry.errors import ConfigError
from registry.gates import Term

Rows = npt.NDArray[np.float32]
Ints = npt.NDArray[np.intp]
LOOKS = ("contact", "state", "observation")
SCENES = 2
STEPS = 150
AFTER = 50
"""Policy steps that are looked at, and those after the last change in an episode."""
_NOTHING = Change("", "", "", 0.0)


@dataclass(frozen=True)
class AxisReport:
    """What moving one axis from `low` to `high` changed, and at which policy step first."""

    axis: str
    low: float | None
    """None: the nominal world."""
    high: float
    changed: tuple[str, ...]
    first_step: int | None
    """None where nothing changed, and where whole episodes were compared."""
    tested: bool = True
    """False where a policy that had to drive gave no sound outputs: nothing is proven then."""

    @property
    def alive(self) -> bool:
        return bool(self.changed)


def try_axes(policy: Policy, grid: Grid) -> tuple[AxisReport, ...]:
    """One report an axis, in the grid's order."""
    terms = [(name, term) for name, term in grid.randomization.terms]
    pairs = [(name, term, *ends(term)) for name, term in terms]
    specs = [
        EpisodeSpec(SHARED, scene, grid.overlay + _moved(name, term, value), grid.task)
        for name, term, low, high in pairs
        for scene in range(SCENES)
        for value in (low, high)
    ]
    if not specs:
        return ()
    traces, drove = _follow(policy, specs)
    reports = []
    for index, (name, _, low, high) in enumerate(pairs):
        first = 2 * SCENES * index
        scenes = [(traces[first + 2 * s], traces[first + 2 * s + 1]) for s in range(SCENES)]
        reports.append(replace(_compare(name, low, high, scenes), tested=drove))
    return tuple(reports)


def refuse_dead(reports: Sequence[AxisReport], where: str) -> None:
    """Raises ConfigError naming every axis that changes nothing."""
    dead = [report for report in reports if report.tested and not report.alive]
    if dead:
        raise ConfigError(
            "moving an axis changes nothing that is simulated or seen: "
            + ", ".join(report.axis for report in dead),
            where=where,
            field=", ".join(f"sim.axes.{report.axis}" for report in dead),
            hint="take the axis out, or give the policy what the axis changes",
        )


class ResultStore(Protocol):
    """The registry, as far as self-tests are concerned."""

    def store_result(self, key: str, result: dict[str, Any]) -> None: ...


def keep_alive(store: ResultStore, key: str, reports: Sequence[AxisReport]) -> None:
    """Keeps that all axes are alive under the key of what made it, so that it is proven once; where
    one was not tested, nothing is."""
    if all(report.tested for report in reports):
        store.store_result(key, {"axes": "alive"})


def _moved(name: str, term: Term, value: float | None) -> tuple[Change, ...]:
    return () if value is None else (change(name, term, value),)


def ends(term: Term) -> tuple[float | None, float]:
    """The ends of an axis; one with a single value is moved from the nominal world."""
    if term.range is not None:
        return term.range
    low, high = min(term.values), max(term.values)
    return (None, high) if low == high else (low, high)


Trace = dict[str, list[bytes]]


def _follow(policy: Policy, specs: Sequence[EpisodeSpec]) -> tuple[list[Trace], bool]:
    """Traces of all specs, played side by side past the last change, however their episodes end;
    and whether whoever drove them did drive."""
    env = BatchEnv(policy.contract, len(specs))
    slots: Ints = np.arange(len(specs))
    env.reset(list(slots), specs)
    traces: list[Trace] = [{look: [] for look in LOOKS} for _ in specs]
    drive = _driver(policy, env)
    latest = max(change.at_s for spec in specs for change in spec.changes or (_NOTHING,))
    steps = max(STEPS, round(latest * policy.contract.rate_hz) + AFTER)
    drove = True
    for _ in range(min(steps, env.horizon)):
        seen = env.observe(slots)
        _note(env, slots, seen, traces)
        raw = drive(slots)
        drove &= bool(np.isfinite(raw).all())
        env.step(slots, raw)
    return traces, drove


def _driver(policy: Policy, env: BatchEnv) -> Callable[[Ints], Rows]:
    """Who moves the arms: the expert by the truth, or the policy by what it sees."""
    expert = expert_of(policy.contract)
    if expert is not None:
        return lambda slots: expert.act(env.measure(slots), env.truth(slots))
    return Asker(env, policy.act)


def _note(env: BatchEnv, slots: Ints, seen: Rows, traces: list[Trace]) -> None:
    """One step of the traces, as hashes."""
    world, scene = env.world, env.scene
    for row, slot in enumerate(slots):
        touch = world.sensors[slot, scene.touch.ravel()] > 0
        found = {
            "contact": touch.tobytes() + world.force[slot, scene.ctrl].tobytes(),
            "state": world.qpos[slot].tobytes() + world.qvel[slot].tobytes(),
            "observation": seen[row].tobytes(),
        }
        for look, value in found.items():
            traces[slot][look].append(hashlib.sha256(value).digest()[:8])


def _compare(
    name: str, low: float | None, high: float, scenes: Sequence[tuple[Trace, Trace]]
) -> AxisReport:
    changed, first = [], []
    for look in LOOKS:
        steps = [_first_difference(one[look], other[look]) for one, other in scenes]
        found = [step for step in steps if step is not None]
        if found:
            changed.append(look)
            first.append(min(found))
    return AxisReport(name, low, high, tuple(changed), min(first) if first else None)


def _first_difference(one: list[bytes], other: list[bytes]) -> int | None:
    for step, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return step
    return None if len(one) == len(other) else min(len(one), len(other))
