"""The simulation runner against MuJoCo itself and against Gymnasium, and the seconds of a gate.

Runner: env steps/s of whole lock-step episodes at nominal physics with refill (policy, shaping,
protection, judge) over those of mj_step called in C, same threads, in 64 episodes of that kind:
the states that they passed through and the controls that moved them were saved, and are stepped
again in stretches of half a hundred physics steps. Interleaved; medians over repeats. One env
step is one policy step: 10 physics steps. Protection at servo rate is what gates run. The runner
splits its 64 slots into as many batches as threads; a line says what 64 slots a thread give, which
is faster by the step and slower to a verdict, since more episodes are under way when it falls.

Peer: gymnasium's AsyncVectorEnv over the Gymnasium environment of the same scene with the same
policy, a process an environment, in the same run. Its resets count as steps.

Gate: wall seconds of all 1,000 episodes of a 5 x 5 x 4 grid with early exit; and of a verdict.

Replay: 200 failed episodes of a policy that fails, each played again alone, by inference, by its
action log, and by its action log in a fresh process, against what the gate recorded of it.

    benchmarks/sim_throughput.py [--checkpoint DIR] [--weak DIR] [--threads N] [--repeats N]
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from mujoco.batch import Batch
from shared.figures import line

from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeSpec
from harness.sim.executors.threads import InProcess
from harness.sim.executors.worker import one_thread
from harness.sim.gate import SimResult, SimRun, run_sim_gate
from harness.sim.grid import Grid
from harness.sim.gym_env import TaskEnv
from harness.sim.replay import Replayer
from harness.sim.results import Row, row
from harness.sim.simulation import Contestant
from harness.simulations import simulation_of
from policies import Policy
from policies.contract import Contract
from policies.loading import load_policy
from registry.config import load_gates_yaml
from registry.evidence import Subject
from registry.gates import GridGate

ROOT = Path(__file__).parents[1]
SLOTS = 64
EPISODES = 1_000
"""Of one run: those of the grid below. In a shorter one the tail, when slots stand empty, weighs
more than it does in any gate."""
STRETCH = 5
"""Policy steps that the raw loop takes in one call."""
PHYSICS_STEPS = 10
PEERS = 16
PEER_STEPS = 150
FAILURES = 200
FRICTION = (0.3, 0.5, 0.8, 1.0, 1.5)
MASS = (0.5, 0.75, 1.0, 1.5, 2.0)
DELAY = (0.0, 1.0, 2.0, 3.0)


FLOORS: dict[Literal["servo", "policy"], float] = {"policy": 0.80, "servo": 0.60}
"""Floors of the runner's share of raw speed, by the rate of protection."""


@dataclass(frozen=True)
class Stretch:
    """Physics of n episodes that were still running at its end."""

    state: npt.NDArray[np.float64]
    """(n, …) full states at its beginning."""
    ctrl: npt.NDArray[np.float64]
    """(n, physics steps, nu)."""


def saved_stretches(policy: Policy) -> tuple[Any, list[Stretch]]:
    """The model, and what `SLOTS` episodes went through from their beginning to their end."""
    env = BatchEnv(policy.contract, SLOTS, protection="policy")  # one control a policy step
    running = np.arange(SLOTS)
    env.reset(running.tolist(), [EpisodeSpec((1,), episode) for episode in range(SLOTS)])
    stretches = []
    while running.size:
        before, controls = np.array(env.world.batch.state), []
        for _ in range(STRETCH):
            done = env.step(running, policy.act(env.observe(running)))
            controls.append(np.array(env.world.ctrl))
            running = running[~done]
        ctrl = np.repeat(np.stack(controls, axis=1)[running], PHYSICS_STEPS, axis=1)
        stretches.append(Stretch(before[running], ctrl))
    return env.scene.model, [each for each in stretches if len(each.state)]


def runner_speed(executor: InProcess, first: int) -> float:
    """Env steps/s of whole episodes, resets and refills included."""
    specs = [EpisodeSpec((2,), first + episode) for episode in range(EPISODES)]
    began = time.perf_counter()
    steps = sum(record.steps for record in executor.map(specs))
    return steps / (time.perf_counter() - began)


def raw_speed(model: Any, stretches: list[Stretch], threads: int) -> float:
    """Env steps/s of nothing but mj_step, in C."""
    batch = Batch(model, SLOTS, nthread=threads)
    seconds = 0.0
    for stretch in stretches:
        rows = np.arange(len(stretch.state))
        batch.state[rows] = stretch.state
        began = time.perf_counter()
        batch.rollout(stretch.ctrl.shape[1], stretch.ctrl, record=(), ids=rows)
        seconds += time.perf_counter() - began
    return STRETCH * sum(len(stretch.state) for stretch in stretches) / seconds


def against_mujoco(policy: Policy, threads: int, repeats: int) -> tuple[bool, float]:
    """Both rates of protection against raw mj_step; and steps/s at servo rate."""
    model, stretches = saved_stretches(policy)
    slots = sorted({SLOTS, SLOTS * threads})
    runners = {
        (rate, count): InProcess(policy, slots=count, threads=threads, protection=rate)
        for count in slots
        for rate in FLOORS
    }
    raw: list[float] = []
    speeds: dict[tuple[str, int], list[float]] = {kind: [] for kind in runners}
    for repeat in range(repeats):
        for kind, runner in runners.items():
            raw.append(raw_speed(model, stretches, threads))
            speeds[kind].append(runner_speed(runner, repeat))
    met = [
        line(
            f"env steps/s, protection at {rate} rate, threads: {threads}, slots: {count}",
            median(speeds[rate, count]), "1/s",
            "mj_step called in C, same threads", median(raw), FLOORS[rate],
        )
        for rate, count in runners
    ]  # fmt: skip
    return all(met), median(speeds["servo", SLOTS])


def make_peer(contract: Contract) -> TaskEnv:
    """The scene that the runner plays, in a process of its own."""
    return TaskEnv(contract.task, contract=contract)


def against_gymnasium(policy: Policy, repeats: int, threads: int) -> bool:
    """Our runner against AsyncVectorEnv on the same environment and policy."""
    os.environ.update(one_thread())
    peer = AsyncVectorEnv(
        [partial(make_peer, policy.contract)] * PEERS,
        autoreset_mode=AutoresetMode.NEXT_STEP,
        context="spawn",
    )
    runner = InProcess(policy, slots=SLOTS, threads=threads)
    ours, theirs = [], []
    try:
        for repeat in range(repeats):
            observation, _ = peer.reset(seed=repeat)
            began, steps = time.perf_counter(), 0
            for _ in range(PEER_STEPS):
                observation, *_ = peer.step(policy.act(observation))
                steps += PEERS
            theirs.append(steps / (time.perf_counter() - began))
            ours.append(runner_speed(runner, 10_000 + repeat))
    finally:
        peer.close()
    return line(
        f"env steps/s, threads: {threads}", median(ours), "1/s",
        f"gymnasium AsyncVectorEnv of {PEERS} processes", median(theirs), 1.5,
    )  # fmt: skip


def judged(folder: Path, gate: GridGate, nonce: str, threads: int, *, full: bool) -> SimResult:
    subject = Subject("box-grasp", 1, "sha256:" + "0" * 64)
    run = SimRun(Contestant(folder, subject), gate, nonce, full=full)
    simulation = simulation_of(gate, run.where, run.folders)
    return run_sim_gate(run, simulation, executor=lambda job: InProcess.of(job, workers=threads))


def seconds_of_a_gate(folder: Path, gates: Path, threads: int, repeats: int) -> bool:
    gate = load_gates_yaml(gates).sim
    assert gate is not None
    small = replace(
        gate,
        axes={"friction": FRICTION, "mass": MASS, "delay": DELAY},
        episodes_per_cell=10,
    )
    full = [judged(folder, small, f"order {i}", threads, full=True) for i in range(repeats)]
    met = line(
        "wall seconds of 1,000 episodes on 5 x 5 x 4 cells", median(r.seconds for r in full), "s",
        "floor of 30 s", 30.0, 1.0, less_is_better=True,
    )  # fmt: skip
    runs = [judged(folder, gate, f"order {i}", threads, full=False) for i in range(repeats)]
    outcomes = "/".join(sorted({str(run.verdict.outcome) for run in runs}))
    rate = median(run.evidence.drawn / run.seconds for run in full)
    line(
        f"wall seconds to the verdict ({outcomes})", median(run.seconds for run in runs), "s",
        f"the full run of {gate.population} at the rate of the 1,000", gate.population / rate,
        less_is_better=True,
    )  # fmt: skip
    return met


Case = tuple[EpisodeSpec, Row]


def failures(folder: Path) -> list[Case]:
    """Episodes that a policy fails in, played as a gate plays them, with their action logs."""
    grid = Grid.of("box-grasp", {"friction": FRICTION, "mass": MASS, "delay": DELAY}, 20)
    numbers = {grid.spec(number): number for number in range(grid.population)}
    failed = []
    with contextlib.closing(InProcess(load_policy(folder), slots=SLOTS).map(numbers)) as records:
        for record in records:
            if not record.success:
                failed.append((record.spec, row(grid, numbers[record.spec], record)))
            if len(failed) == FAILURES:
                break
    if len(failed) < FAILURES:
        raise ValueError(f"{folder} fails in {len(failed)} of {grid.population} episodes only")
    return failed


def by_inference(folder: Path, cases: Sequence[Case]) -> int:
    """How many of the episodes give the recorded bits when the policy is asked again."""
    player = Replayer(load_policy(folder))
    return sum(player.replay(*case, same_engine=True).identical is True for case in cases)


def by_action_log(folder: Path, cases: Sequence[Case]) -> int:
    """The same of their action logs, without the policy."""
    player = Replayer(load_policy(folder))
    found = (player.replay_log(*case, same_engine=True) for case in cases)
    return sum(each is not None and each.identical is True for each in found)


def replays(folder: Path) -> bool:
    """Failures of a weak policy, each played again alone."""
    os.environ.update(one_thread())
    cases = failures(folder)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        elsewhere = fresh.submit(by_action_log, folder, cases)
        equal = {
            "inference": by_inference(folder, cases),
            "action log": by_action_log(folder, cases),
            "action log in a fresh process": elsewhere.result(),
        }
    met = [
        line(
            f"failures replayed bit-identically by {how}", count, "episodes",
            "failures replayed", FAILURES, 1.0,
        )
        for how, count in equal.items()
    ]  # fmt: skip
    return all(met)


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--checkpoint", type=Path, default=ROOT / "ci/demo/checkpoints/v1")
    options.add_argument("--weak", type=Path, default=ROOT / "ci/demo/checkpoints/v2")
    options.add_argument("--gates", type=Path, default=ROOT / "policies/box_grasp/gates.yaml")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--repeats", type=int, default=3)
    given = options.parse_args()
    policy = load_policy(given.checkpoint)
    met = [
        against_mujoco(policy, threads, given.repeats)[0] for threads in sorted({1, given.threads})
    ]
    met.append(against_gymnasium(policy, given.repeats, given.threads))
    met.append(seconds_of_a_gate(given.checkpoint, given.gates, given.threads, given.repeats))
    met.append(replays(given.weak))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
