"""Whole attempts on a lock-step twin, as the fleet runs them: simulated seconds per core-second.

All of it is in: home, new box, observation, network, shaping, protection, weight, eight commands
and eight feedbacks a tick as CAN frames through the bus, the monitor that reads each of them, the
motors, physics at 1 ms, the judge, release, home. Two robots: the lab's with a policy that is good,
and one of the fleet's, whose boxes are heavy, with one that is not. Raw is mj_step in C on the same
robot at home. Interleaved; process time, medians over repeats.

A repeat begins with new worlds of the same seeds, so all repeats have to be the same attempts, and
`attempts` on stderr names them: joints, commands, outcomes, interventions and the largest share of
each bound that the monitor saw. What makes the twin faster must leave it as it was.

    benchmarks/attempt_speed.py [--attempts N] [--repeats N]
"""

from __future__ import annotations

import argparse
import copy
import gc
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import mujoco
from shared.figures import line

from ci.demo.robots import write_robot_files
from ci.rig import build_rig
from fleet.robot import load_robot
from harness.tasks import find_task
from policies.loading import load_policy

CHECKPOINTS = Path(__file__).parents[1] / "ci/demo/checkpoints"
TASK = "box-grasp"
NEEDED = 20.0
"""Simulated seconds a second of one core that a whole attempt has to reach."""
RAW_STEPS = 4000


class Run(NamedTuple):
    """Some attempts of one robot: simulated s per core-second, of raw physics too, and what
    happened, in one digest."""

    speed: float
    raw: float
    digest: str


def run(robot: Path, checkpoint: Path, attempts: int) -> Run:
    """Attempts of a robot switched on anew. RuntimeError if one is void or a bound was broken."""
    policy, task = load_policy(checkpoint), find_task(TASK)
    with build_rig(load_robot(robot)) as rig:
        world = rig.world
        assert world is not None
        judge, scene = rig.judge(TASK), rig.conveyor()
        seen, simulated, spent = hashlib.sha256(), 0.0, 0.0
        for _ in range(attempts):
            gc.collect()
            gc.disable()  # as the agent does
            began, since = time.process_time(), world.now()
            episode = rig.runtime.run_attempt(
                policy, task, judge, lambda _: None, scene, trace=True
            )
            spent += time.process_time() - began
            simulated += world.now() - since
            gc.enable()
            if episode.trace is None or episode.outcome == "void":
                raise RuntimeError(f"an attempt was void: {episode.detail}")
            for array in episode.trace:
                seen.update(array.tobytes())
            what = (episode.outcome, episode.failure_mode, sorted(episode.interventions.items()))
            seen.update(repr(what).encode())
        frames = rig.frames()
        if frames["violations"]:
            raise RuntimeError(f"the monitor saw a bound broken: {frames['examples'][:3]}")
        seen.update(json.dumps([frames["frames"], frames["worst"]], sort_keys=True).encode())
        model, data = world._model, copy.copy(world._data)
        began = time.process_time()
        mujoco.mj_step(model, data, RAW_STEPS)
        raw = RAW_STEPS * model.opt.timestep / (time.process_time() - began)
    return Run(simulated / spent, raw, seen.hexdigest()[:16])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--attempts", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lab, (robot,) = write_robot_files(Path(folder), 1)
        cases = {
            "a good policy in the lab": (lab, CHECKPOINTS / "v1"),
            "a weak policy in the fleet": (robot, CHECKPOINTS / "v2"),
        }
        runs: dict[str, list[Run]] = {name: [] for name in cases}
        for _ in range(options.repeats):
            for name, case in cases.items():
                runs[name].append(run(*case, options.attempts))
    met = []
    for name, found in runs.items():
        digests = {each.digest for each in found}
        print(f"attempts, {name}: {' '.join(sorted(digests))}", file=sys.stderr)
        if len(digests) > 1:
            print("the same attempts were not the same twice", file=sys.stderr)
            return 1
        speed, raw = median(each.speed for each in found), median(each.raw for each in found)
        unit = "simulated s / core s"
        met.append(line(f"whole attempts, {name}", speed, unit, "what is needed", NEEDED, 1.0))
        line(f"share of raw, {name}", speed, unit, "raw mj_step, arm at home", raw, None)
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
