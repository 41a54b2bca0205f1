"""What tests of the simulation gate run it with: an executor without physics, a registry in memory.

Nothing here decides anything: the gate, its order, its rules and its rows are the real ones.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.sim.episode import EpisodeRecord, EpisodeSpec
from harness.sim.executors import Job
from harness.sim.executors.threads import LockStep
from harness.sim.gate import SimResult, SimRun, run_sim_gate
from harness.sim.simulation import Contestant
from harness.simulations import simulation_of
from registry.evidence import Subject
from registry.gates import GridGate

AXES = {"friction": (0.5, 1.5), "mass": (1.0, 2.0), "delay": (0, 3)}
GATE = GridGate("box-grasp", AXES, episodes_per_cell=50)


def subject(number: int) -> Subject:
    return Subject("box-grasp", number, "sha256:" + f"{number:x}" * 64)


class Coin:
    """An executor without physics: an episode succeeds with a rate, decided by its spec and `who`.

    `interrupt_after` raises ctrl-C's exception after so many episodes of one map.
    """

    def __init__(self, rate: float, *, who: int = 0, interrupt_after: int | None = None) -> None:
        self.rate, self.who, self.interrupt_after, self.played = rate, who, interrupt_after, 0

    def map(self, specs: Iterable[EpisodeSpec]) -> Generator[EpisodeRecord]:
        for here, spec in enumerate(specs):
            if here == self.interrupt_after:
                raise KeyboardInterrupt
            self.played += 1
            values = (round(100 * change.value) for change in spec.changes)
            draw = np.random.default_rng([self.who, spec.episode, *values]).random()
            success = bool(draw < self.rate)
            mode = "" if success else "dropped"
            digest = f"{self.who}-{draw:.6f}"
            outputs = np.float32(draw).tobytes()
            yield EpisodeRecord(spec, success, mode, 90, {"lift_m": 0.1}, {}, digest, outputs)


class Memory:
    """A registry's keeping of results and episodes, as dicts."""

    def __init__(self) -> None:
        self.results: dict[str, dict[str, Any]] = {}
        self.drawers: dict[str, dict[int, dict[str, Any]]] = {}

    def cached_result(self, key: str) -> dict[str, Any] | None:
        return self.results.get(key)

    def store_result(self, key: str, result: Mapping[str, Any]) -> None:
        self.results[key] = dict(result)

    def episodes(self, key: str) -> dict[int, dict[str, Any]]:
        return dict(self.drawers.get(key, {}))

    def keep_episodes(self, key: str, rows: Mapping[int, Mapping[str, Any]]) -> None:
        drawer = self.drawers.setdefault(key, {})
        for number, row in rows.items():
            drawer.setdefault(number, dict(row))

    @property
    def verdicts(self) -> int:
        """Results kept, but for the self-tests of axes."""
        return sum("evidence" in result for result in self.results.values())


def try_gate(
    checkpoint: Path, coins: Mapping[int, Coin], gate: GridGate = GATE, **options: Any
) -> SimResult:
    """Run a gate on version 2 of a checkpoint, with version 1 as baseline where it has a coin."""
    told = {name: options.pop(name) for name in ("progress", "keeper") if name in options}
    baseline = Contestant(checkpoint, subject(1)) if 1 in coins else None
    run = SimRun(
        Contestant(checkpoint, subject(2)), gate, options.pop("nonce", "a nonce"), baseline,
        **options,
    )  # fmt: skip
    by_digest = {subject(number).digest: coin for number, coin in coins.items()}

    def executor(job: Job) -> Coin:
        assert isinstance(job, LockStep)
        return by_digest[job.digest]

    return run_sim_gate(
        run, simulation_of(run.gate, run.where, run.folders), executor=executor, **told
    )
