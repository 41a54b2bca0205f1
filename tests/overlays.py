"""Overlays as gates read them: a gates.yaml beside the file, and the grid that it makes."""

from __future__ import annotations

from pathlib import Path

from harness.sim.episode import Change
from harness.sim.grid import Grid
from registry.config import load_gates_yaml

GATES = """\
sim: {{task: box-grasp, axes: {{mass: [1]}}, episodes_per_cell: 1, overlay: {name}}}
hil: {{not_applicable: no lab here}}
"""


def overlay_of(path: Path) -> tuple[Change, ...]:
    """What an overlay changes in every episode of a gate that names it."""
    gates = path.parent / "gates.yaml"
    gates.write_text(GATES.format(name=path.name))
    sim = load_gates_yaml(gates).sim
    assert sim is not None
    where = str(gates)
    grid = Grid.of(sim.task, sim.axes, sim.episodes_per_cell, overlay=sim.overlay, where=where)
    return grid.overlay
