"""A Gymnasium environment as the simulation of a gate; see `harness.sim.simulation.Simulation`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np

from harness.gym.engine import fingerprint
from harness.gym.player import GymJob
from harness.gym.tasks import GymTask, dead_axes
from harness.sim.executors import Job
from harness.sim.grid import Grid
from harness.sim.plan import AxisReport, ends
from harness.sim.runner import Guard
from harness.sim.simulation import Contestant, Examined
from policies import SpacePolicy
from policies.space import ROBOT_CLASS
from registry.gates import GridGate
from registry.versions import digest_of

WARM_UP, ANSWERS = 5, 25
"""Answers that lateness is measured by, after those of the warm-up."""


@dataclass(frozen=True)
class GymSimulation:
    """One environment, its axes being options of its reset."""

    task: GymTask
    grid: Grid

    @classmethod
    def of(cls, gate: GridGate, where: str) -> GymSimulation:
        """Raises ConfigError where the environment, its success or an axis is not there."""
        success = (gate.gymnasium or {}).get("success")
        task = GymTask.of(gate.task, success, gate.axes, where=where)
        grid = Grid.of_options(gate.task, gate.axes, gate.episodes_per_cell, task.option)
        return cls(task, grid)

    @property
    def engine(self) -> str:
        return fingerprint(self.task)

    @property
    def judge(self) -> str:
        return self.task.judge

    @property
    def task_digest(self) -> str:
        return self.task.digest

    def examine(self, who: Contestant) -> Examined:
        with contextlib.closing(GymJob(who.folder, self.task).make_player()) as player:
            late = lateness(player.policy)
        axes = {name: term.to_json() for name, term in self.grid.randomization.terms}
        key = digest_of({"axes": axes, "task": self.task_digest, "engine": self.engine})
        return Examined(ROBOT_CLASS, late, key)

    def try_axes(self, who: Contestant) -> tuple[AxisReport, ...]:
        terms = self.grid.randomization.terms
        dead = dead_axes(self.task, {name: term.range or term.values for name, term in terms})
        return tuple(
            AxisReport(name, *ends(term), () if name in dead else ("observation",), None)
            for name, term in terms
        )

    def job(self, who: Contestant) -> Job:
        return GymJob(who.folder, self.task)


def lateness(policy: SpacePolicy, clock: Callable[[], float] = time.perf_counter) -> str:
    """How a policy misses its control period, in words; "" where it keeps it.

    As on a robot it is asked for one row at a time; the median counts. One that cannot be asked is
    not late: it fails by itself in every episode.
    """
    contract = policy.contract
    guard, took = Guard(policy.act, contract.outputs), []
    for _ in range(WARM_UP + ANSWERS):
        began = clock()
        guard(np.zeros((1, contract.width), dtype=np.float32))
        took.append(clock() - began)
        if guard.failed:
            return ""
    typical, period = median(took[WARM_UP:]), 1.0 / contract.rate_hz
    if typical <= period:
        return ""
    return f"{1e3 * typical:.1f} ms an answer, the control period is {1e3 * period:.1f} ms"
