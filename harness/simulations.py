"""Which simulation a gate asks for: a task of ours, or a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.sim.grid import Grid
from harness.sim.simulation import RobotSimulation, Simulation
from harness.tasks import TASKS
from policies.contract import read_contract
from registry.errors import ConfigError
from registry.gates import GridGate


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
