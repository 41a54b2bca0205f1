"""A gate's task as something that can be simulated: what is played, by what, and judged how.

Two kinds answer the same questions: ours (`RobotSimulation`), and a Gymnasium environment of
somebody else (`harness/gym/simulation.py`). The gate, its plan and a comparison know no more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Protocol

from harness.sim.engine import JUDGE, fingerprint
from harness.sim.executors import Job
from harness.sim.executors.threads import LockStep
from harness.sim.experts import expert_of
from harness.sim.grid import Grid
from harness.sim.plan import AxisReport, try_axes
from harness.sim.population import episodes_key
from harness.sim.runner import lateness
from harness.tasks import TASKS
from harness.tasks.task import Task
from policies.contract import ROBOT_CLASSES, Contract, read_contract
from policies.loading import load_policy
from registry.errors import ConfigError
from registry.evidence import Subject
from registry.gates import GridGate
from registry.versions import digest_of


@dataclass(frozen=True)
class Contestant:
    """A version and the folder its files lie in."""

    folder: Path
    subject: Subject


@dataclass(frozen=True)
class Examined:
    """A policy that fits its gate. `late` says how it misses its control period, "" if not."""

    robot_class: str
    late: str
    axes_key: str
    """Names the self-test of the gate's axes by all that it follows from."""


class Simulation(Protocol):
    """See the module's docstring."""

    @property
    def grid(self) -> Grid: ...

    @property
    def engine(self) -> str:
        """Fingerprint of what plays."""
        ...

    @property
    def judge(self) -> str:
        """Name and version of what decides an outcome."""
        ...

    @property
    def task_digest(self) -> str:
        """Names the task by all that its outcomes follow from."""
        ...

    def examine(self, who: Contestant) -> Examined:
        """Looks at a policy. Raises ConfigError where it does not fit the gate."""
        ...

    def try_axes(self, who: Contestant) -> tuple[AxisReport, ...]:
        """What moving each axis of the gate changes."""
        ...

    def job(self, who: Contestant) -> Job:
        """What an executor plays."""
        ...


def drawer(simulation: Simulation, digest: str) -> str:
    """Names a version's episodes of a simulation (harness/sim/population.py)."""
    return drawer_at(simulation, digest, simulation.engine)


def drawer_at(simulation: Simulation, digest: str, engine: str) -> str:
    """The same for episodes that another engine played."""
    return episodes_key(digest, simulation.task_digest, simulation.grid, engine)


def simulation_of(
    gate: GridGate, where: str = "gates.yaml", folders: Iterable[Path] = ()
) -> Simulation:
    """The simulation that a gate asks for, for the policies in `folders`: where one of them sees
    images, what renders them is part of the engine. Raises ConfigError with `where`, the gate's
    file.
    """
    if gate.gymnasium is not None:
        from harness.gym.simulation import GymSimulation

        return GymSimulation.of(gate, where)
    if gate.task not in TASKS:
        raise ConfigError(
            f"there is no task '{gate.task}'",
            where=where,
            field="sim.task",
            hint=f"tasks: {', '.join(TASKS)}; or {{gymnasium: Name-v0, success: info key}}",
        )
    grid = Grid.of(gate.task, gate.axes, gate.episodes_per_cell, overlay=gate.overlay, where=where)
    for name, term in gate.axes.items():
        if not isinstance(term.when, str) and term.when >= TASKS[gate.task].horizon_s:
            raise ConfigError(
                f"'{name}' would act after {term.when:g} s, when the episode is over",
                where=where,
                field=f"sim.axes.{name}",
                hint=f"an episode of {gate.task} lasts {TASKS[gate.task].horizon_s:g} s",
            )
    images = any(read_contract(folder).cameras for folder in folders)
    return RobotSimulation(TASKS[gate.task], grid, where, images)


@dataclass(frozen=True)
class RobotSimulation:
    """One of our tasks on the official robot model."""

    task: Task
    grid: Grid
    where: str
    images: bool = False

    @property
    def engine(self) -> str:
        return fingerprint(images=self.images)

    @property
    def judge(self) -> str:
        return JUDGE

    @property
    def task_digest(self) -> str:
        return task_digest(self.task)

    def examine(self, who: Contestant) -> Examined:
        policy = load_policy(who.folder)
        contract = policy.contract
        if contract.task != self.task.name:
            raise ConfigError(
                "the policy's contract does not fit: task",
                where=self.where,
                field=f"sim.task is {self.task.name}, the policy was made for {contract.task}",
                hint="simulate the policy on the task it was trained for",
            )
        if contract.robot_class in ROBOT_CLASSES:
            contract.check(ROBOT_CLASSES[contract.robot_class], where=str(who.folder))
        key = self._axes_key(contract, who.subject.digest)
        return Examined(contract.robot_class, lateness(policy), key)

    def _axes_key(self, contract: Contract, digest: str) -> str:
        grid, expert = self.grid, expert_of(contract)
        return digest_of(
            {
                "axes": {name: term.to_json() for name, term in grid.randomization.terms},
                "overlay": [asdict(change) for change in grid.overlay],
                "contract": contract.to_json(),
                "driver": digest if expert is None else "expert",
                "task": self.task_digest,
                "engine": self.engine,
            }
        )

    def try_axes(self, who: Contestant) -> tuple[AxisReport, ...]:
        return try_axes(load_policy(who.folder), self.grid)

    def job(self, who: Contestant) -> Job:
        return LockStep(who.folder, who.subject.digest, engine=self.engine, images=self.images)


def task_digest(task: Task) -> str:
    """Names a task by its numbers."""
    if not is_dataclass(task) or isinstance(task, type):
        raise TypeError(f"{task.name} is no dataclass of numbers")
    return digest_of(asdict(task))
