"""The simulation gate against MuJoCo itself, and the seconds to a verdict.

Runner: env steps/s of lock-step episodes at nominal physics with refill (policy, shaping, the
protection at servo rate, judge) over those of mj_step called in C, same threads, same number of
physics steps, from states saved along the very episodes that were run. The two are interleaved;
figures are medians over repeats. One env step is one policy step: 10 physics steps.

Verdict: wall seconds to the sequential verdict on the demo's first policy, against the full run at
the same rate; and the episodes/s of the gate, whose last episodes are thrown away undecided.

    benchmarks/sim_gate.py [--checkpoint DIR] [--threads N] [--repeats N]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
from mujoco.batch import Batch
from shared.figures import line

from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeSpec
from harness.sim.executors.threads import InProcess
from harness.sim.gate import SimRun, run_sim_gate
from harness.sim.runner import play
from harness.sim.simulation import Contestant
from policies import Policy
from policies.loading import load_policy
from registry.config import load_gates_yaml
from registry.evidence import Subject

ROOT = Path(__file__).parents[1]
SLOTS = 64
EPISODES = 256
SAVED = (10, 30, 50, 70)
"""Policy steps at which states are saved for the raw loop."""
RAW_STEPS = 100
PHYSICS_STEPS = 10


def saved_states(policy: Policy, threads: int) -> tuple[BatchEnv, list[npt.NDArray[np.float64]]]:
    """Full states of `SLOTS` running episodes at the steps `SAVED`."""
    env = BatchEnv(policy.contract, SLOTS, threads=threads)
    slots = list(range(SLOTS))
    env.reset(slots, [EpisodeSpec((1,), episode) for episode in slots])
    states, running = [], np.arange(SLOTS)
    for step in range(1, max(SAVED) + 1):
        done = env.step(running, policy.act(env.observe(running)))
        if step in SAVED:
            states.append(np.array(env.world.batch.state))
        running = running[~done]
    return env, states


def runner_speed(policy: Policy, env: BatchEnv, first: int) -> float:
    """Env steps/s of whole episodes, resets and refills included."""
    specs = [EpisodeSpec((2,), first + episode) for episode in range(EPISODES)]
    began = time.perf_counter()
    steps = sum(record.steps for record in play(env, policy.act, specs))
    return steps / (time.perf_counter() - began)


def raw_speed(env: BatchEnv, states: list[npt.NDArray[np.float64]], threads: int) -> float:
    """Env steps/s of nothing but mj_step, in C, controls held."""
    batch = Batch(env.scene.model, SLOTS, nthread=threads)
    seconds = 0.0
    for state in states:
        batch.state[:] = state
        began = time.perf_counter()
        batch.step(nstep=PHYSICS_STEPS * RAW_STEPS)
        seconds += time.perf_counter() - began
    return SLOTS * RAW_STEPS * len(states) / seconds


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--checkpoint", type=Path, default=ROOT / "ci/demo/checkpoints/v1")
    options.add_argument("--gates", type=Path, default=ROOT / "policies/box_grasp/gates.yaml")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--repeats", type=int, default=3)
    given = options.parse_args()
    policy = load_policy(given.checkpoint)
    met, raw = [], 1.0
    for threads in sorted({1, given.threads}):
        env, states = saved_states(policy, threads)
        pairs = [
            (runner_speed(policy, env, repeat), raw_speed(env, states, threads))
            for repeat in range(given.repeats)
        ]
        ours, raw = (median(speeds) for speeds in zip(*pairs, strict=True))
        figure = f"env steps/s of the gate's runner, threads: {threads}"
        met.append(line(figure, ours, "1/s", "mj_step called in C, same threads", raw, 0.60))

    gate = load_gates_yaml(given.gates).sim
    assert gate is not None
    subject = Subject("box-grasp", 1, "sha256:" + "0" * 64)
    runs = [
        run_sim_gate(
            SimRun(Contestant(given.checkpoint, subject), gate, f"order {repeat}"),
            executor=lambda job: InProcess.of(job, workers=given.threads),
        )
        for repeat in range(given.repeats)
    ]
    seconds = median(run.seconds for run in runs)
    rate = median(run.evidence.drawn / run.seconds for run in runs)
    steps = median(sum(row.steps for row in run.rows) / len(run.rows) for run in runs)
    outcomes = "/".join(sorted({str(run.verdict.outcome) for run in runs}))
    line(
        f"wall seconds to the verdict ({outcomes})", seconds, "s",
        f"the full run of {gate.population} at the same rate", gate.population / rate,
        less_is_better=True,
    )  # fmt: skip
    line("episodes/s of the gate", rate, "1/s", "mj_step called in C, same steps", raw / steps)
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
