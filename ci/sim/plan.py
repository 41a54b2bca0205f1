"""`gate plan sim`: is every axis alive, how large is the full run, how soon will it be decided."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from typing import Any

from ci.pipeline import PolicyGates
from ci.sim.contest import baseline_of, bench, located, sim_gate
from harness.sim.plan import AxisReport, keep_alive, refuse_dead
from harness.simulations import simulation_of
from registry.errors import NotAllowed
from registry.service import Registry
from registry.statistics.grid import more_draws
from registry.versions import VersionRef

RATES = (0.99, 0.95, 0.90, 0.80, 0.60)
"""True means for which the plan says how many episodes a verdict takes."""


@dataclass(frozen=True)
class SimPlan:
    """`verdict_after` are episodes to a verdict, by true mean, if luck is average."""

    gate: str
    cells: int
    population: int
    baseline: str
    axes: tuple[AxisReport, ...]
    verdict_after: tuple[tuple[float, int], ...]
    late: str = ""
    """How the policy misses its control period here, which fails every episode; "" if not."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"alive": all(axis.alive for axis in self.axes)}


def plan_sim(
    registry: Registry, ref: VersionRef, gates: PolicyGates, *, suite: str | None = None
) -> SimPlan:
    """Raises ConfigError naming the dead axes of the gate. That there are none is kept: no run of
    it has to prove it again."""
    version = registry.version(ref)
    gate = sim_gate(registry, gates, version, suite)
    where = str(gates.path)
    with located(gates, suite), bench(registry) as table:
        who = table.contestant(version)
        simulation = simulation_of(gate, where, [who.folder])
        grid = simulation.grid
        found = simulation.examine(who)
        axes = simulation.try_axes(who)
        refuse_dead(axes, where)
    with contextlib.suppress(NotAllowed):  # a viewer's plan leaves nothing behind
        keep_alive(registry, found.axes_key, axes)
    baseline = baseline_of(registry, version, gate)
    return SimPlan(
        gate=gate.name,
        cells=len(grid.cells),
        population=grid.population,
        baseline=str(baseline) if baseline else "",
        axes=axes,
        verdict_after=tuple(
            (rate, _episodes(grid.population, gate.threshold, gate.alpha, rate)) for rate in RATES
        ),
        late=found.late,
    )


def _episodes(population: int, threshold: float, alpha: float, rate: float) -> int:
    """Episodes to a verdict where they succeed at just this rate."""
    seen = min(20, population)
    successes = round(rate * seen)
    return seen + more_draws(population, threshold, alpha, seen, successes)
