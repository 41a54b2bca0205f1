"""`compare v10 v11 v13`: several versions on the same scenes, all pairs, one stated error.

A fixed number of episodes, the same for every version: the first of one random order of the gate's
population, drawn from the digests of the versions and the gate, so that nobody chooses it. Each
pair is judged by the exact McNemar test on its discordant episodes; p-values are corrected by Holm,
so the chance that any pair is called different wrongly is at most `alpha`. Nothing is recorded but
the episodes: comparing is not a gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from ci.pipeline import PolicyGates
from ci.sim.contest import Hands, bench, sim_gate
from harness.sim.population import Population
from harness.sim.simulation import drawer
from harness.simulations import simulation_of
from registry.errors import Interrupted, Refused, UsageError
from registry.service import Registry
from registry.statistics.compare import Comparison, compare_all
from registry.statistics.grid import order
from registry.versions import VersionRef, digest_of

EPISODES = 500
MOST = 6


@dataclass(frozen=True)
class Standing:
    version: str
    successes: int
    episodes: int


@dataclass(frozen=True)
class Compared:
    """Standings in the order asked for, and every pair of them."""

    standings: tuple[Standing, ...]
    pairs: tuple[Comparison, ...]
    alpha: float
    engine: str

    def to_json(self) -> dict[str, Any]:
        return {
            "standings": [asdict(each) for each in self.standings],
            "pairs": [asdict(each) for each in self.pairs],
            "alpha": self.alpha,
            "engine": self.engine,
        }


def compare(
    registry: Registry,
    refs: Sequence[VersionRef],
    gates: PolicyGates,
    *,
    hands: Hands,
    episodes: int = EPISODES,
    alpha: float = 0.05,
) -> Compared:
    """Plays what is not known yet and compares. UsageError for fewer than two versions."""
    versions = [registry.version(ref) for ref in refs]
    if len({version.digest for version in versions}) != len(versions):
        raise UsageError("a version is compared with itself", hint="name each version once")
    if not 2 <= len(versions) <= MOST:
        raise UsageError(f"{len(versions)} versions cannot be compared", hint=f"name 2 to {MOST}")
    gate, *others = (sim_gate(registry, gates, version) for version in versions)
    if any(other != gate for other in others):
        raise UsageError(
            "the versions are tried by different gates, so their scenes differ",
            evidence="some see images and some do not",
            hint="compare versions that see alike, or set sim.rendered_per_cell aside",
        )
    drawn = digest_of({"compare": sorted(v.digest for v in versions), "gate": gate.digest})
    numbers = [int(n) for n in order(drawn, gate.population)][: min(episodes, gate.population)]
    outcomes: dict[str, list[bool]] = {}
    engines = set()
    with bench(registry) as table:
        for version in versions:
            who = table.contestant(version)
            simulation = simulation_of(gate, str(gates.path), [who.folder])
            if late := simulation.examine(who).late:
                raise Refused(
                    f"{version} is slower than its control period on this machine",
                    evidence=late,
                    hint="every episode of it would fail by that alone; compare on a faster one",
                )
            job, key = simulation.job(who), drawer(simulation, version.digest)
            population = Population(simulation.grid, key, partial(hands.of, job), registry)
            try:
                rows = list(population.rows(numbers))
            except KeyboardInterrupt as interrupt:
                raise Interrupted(
                    f"the comparison was interrupted at {version}",
                    hint="run the same command to go on from here",
                ) from interrupt
            engines.add(simulation.engine)
            outcomes[str(version)] = [row.success for row in rows]
    standings = tuple(Standing(name, sum(won), len(won)) for name, won in outcomes.items())
    return Compared(standings, compare_all(outcomes, alpha), alpha, "; ".join(sorted(engines)))
