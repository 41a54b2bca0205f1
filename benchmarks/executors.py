"""What an executor costs: processes and Ray actors against threads of this process.

Episodes/s of the demo's first policy on the gate's own grid, in its drawn order, two workers each.
All take turns; figures are medians over the turns. Start-up (processes, cluster, loading) is
kept out by a difference: the seconds of a map of all episodes less those of one of `SHORT`, over
the episodes that it has more. Start-up is a figure of its own: the seconds of the short map.

    benchmarks/executors.py [--checkpoint DIR] [--workers N] [--episodes N] [--repeats N]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

from shared.figures import line

from harness.sim.episode import EpisodeSpec
from harness.sim.executors import EXECUTORS, Executor, executor
from harness.sim.executors.threads import InProcess, LockStep
from harness.sim.grid import Grid
from policies.loading import load_policy
from registry.config import load_gates_yaml
from registry.statistics.grid import order

ROOT = Path(__file__).parents[1]
SHORT = 32
"""Episodes of the short map: a first chunk for each of two workers."""
AIM = 0.95


def seconds(player: Executor, specs: list[EpisodeSpec]) -> float:
    began = time.perf_counter()
    played = {record.spec for record in player.map(specs)}
    assert played == set(specs)
    return time.perf_counter() - began


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--checkpoint", type=Path, default=ROOT / "ci/demo/checkpoints/v1")
    options.add_argument("--gates", type=Path, default=ROOT / "policies/box_grasp/gates.yaml")
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--episodes", type=int, default=320)
    options.add_argument("--repeats", type=int, default=3)
    given = options.parse_args()
    gate = load_gates_yaml(given.gates).sim
    assert gate is not None
    grid = Grid.of(gate.task, gate.grid, gate.episodes_per_cell)
    specs = [grid.spec(int(number)) for number in order("a nonce", grid.population)]
    specs = specs[: given.episodes]
    job = LockStep(given.checkpoint.resolve(), "sha256:" + "0" * 64)
    players = {name: executor(name, job, workers=given.workers) for name in EXECUTORS}
    policy = load_policy(given.checkpoint)
    players["one batch"] = InProcess(policy, threads=given.workers, parts=1)
    starts: dict[str, list[float]] = {name: [] for name in players}
    rates: dict[str, list[float]] = {name: [] for name in players}
    for _ in range(given.repeats):
        for name, player in players.items():
            start = seconds(player, specs[:SHORT])
            starts[name].append(start)
            rates[name].append((len(specs) - SHORT) / (seconds(player, specs) - start))
    threads, start = median(rates["threads"]), median(starts["threads"])
    figure = f"episodes/s of threads in two half-batches, threads: {given.workers}"
    line(figure, threads, "1/s", "one batch on as many native threads", median(rates["one batch"]))
    for name in ("ray", "processes"):
        figure = f"episodes/s of {name}, workers: {given.workers} (aim {AIM})"
        line(figure, median(rates[name]), "1/s", "threads of this process, as many", threads)
        figure = f"seconds of a map of {SHORT} episodes on {name}, start-up included"
        against = "threads of this process, started and loaded"
        line(figure, median(starts[name]), "s", against, start, less_is_better=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
