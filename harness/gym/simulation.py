"""A Gymnasium environment as the simulation of a gate; see `harness.sim.simulation.Simulation`."""

from __future__ import annotations

from dataclasses import dataclass

from harness.gym.engine import fingerprint
from harness.gym.player import GymJob
from harness.gym.tasks import GymTask, dead_axes
from harness.sim.executors import Job
from harness.sim.grid import Grid
from harness.sim.plan import AxisReport, ends
from harness.sim.simulation import Contestant, Examined
from policies.space import ROBOT_CLASS
from registry.gates import GridGate
from registry.versions import digest_of


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
        """A policy that is too slow is found out by its player, episode by episode."""
        GymJob(who.folder, self.task).make_player().close()
        axes = {name: term.to_json() for name, term in self.grid.randomization.terms}
        key = digest_of({"axes": axes, "task": self.task_digest, "engine": self.engine})
        return Examined(ROBOT_CLASS, "", key)

    def try_axes(self, who: Contestant) -> tuple[AxisReport, ...]:
        terms = self.grid.randomization.terms
        dead = dead_axes(self.task, {name: term.range or term.values for name, term in terms})
        return tuple(
            AxisReport(name, *ends(term), () if name in dead else ("observation",), None)
            for name, term in terms
        )

    def job(self, who: Contestant) -> Job:
        return GymJob(who.folder, self.task)
