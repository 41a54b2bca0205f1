"""A gate's task as something that can be simulated: what is played, by what, and judged how.

Two kinds answer the same questions: ours (`RobotSimulation`), and a Gymnasium environment of
somebody else (`harness/gym/simulation.py`). The gate, its plan and a comparison know no more;
`harness/simulations.py` says which of them a gate asks for.
"""

from __future__ import annotations

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
from harness.tasks.task import Task
from policies.contract import ROBOT_CLASSES, Contract
from policies.loading import load_policy
from registry.errors import ConfigError
from registry.evidence import Subject
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
