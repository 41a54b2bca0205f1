"""`policyctl train`: a checkpoint from a recipe. Composes recipe, simulation and expert.

The checkpoint appears whole or not at all: it is written beside `--out` and moved there when the
last round is trained and tried. recipe.json inside says what it was made from; it holds nothing
that differs between two equal runs, so equal runs give equal files.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ci.output import emit, narrate
from registry.errors import Refused
from registry.storage import disk_errors

if TYPE_CHECKING:
    from policies import Policy
    from policies.training.recipe import Recipe

TRIAL_CELL = (104_729,)
"""Cell of the episodes played after training; no grid and no training round uses it."""


@click.command("train")
@click.argument("recipe", metavar="RECIPE.yaml", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option("--episodes", default=64, show_default=True, type=click.IntRange(0))
def command(recipe: Path, out: Path, threads: int, episodes: int) -> None:
    """Train a checkpoint from a recipe and write it to --out.

    Afterwards it plays --episodes scenes that training has not seen, in the task's nominal physics.
    """
    from policies.training.recipe import Recipe
    from registry.yaml_file import load_yaml

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Refused(
            "the output folder is not empty",
            evidence=str(out),
            hint="name another folder with --out; a checkpoint is never overwritten",
        )
    plan = load_yaml(recipe, Recipe)
    began = time.perf_counter()
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists():  # one that cannot give way is told now, and not after hours of training
            out.rmdir()
            out.mkdir()
    scratch = out.parent / f".{out.name}-{uuid.uuid4().hex}"
    try:
        with disk_errors(out):
            scratch.mkdir()
        policy = _train(plan, scratch, threads)
        success = _try(policy, episodes, threads) if episodes else None
        with disk_errors(out):
            if out.exists():
                out.rmdir()
            scratch.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    seconds = round(time.perf_counter() - began, 1)
    tried = "" if success is None else f", {success:.1%} of {episodes} unseen scenes succeeded"
    emit(
        {
            "checkpoint": str(out),
            "policy": plan.policy,
            "seconds": seconds,
            "episodes": episodes,
            "success": success,
            "next": f"policyctl register {out} --policy {plan.policy}",
        },
        f"{out}: trained in {seconds:.0f} s{tried}; next: "
        f"policyctl register {out} --policy {plan.policy}",
    )


def _train(plan: Recipe, folder: Path, threads: int) -> Policy:
    from harness.sim.teacher import SimClassroom
    from policies.formats.native import load, save
    from policies.training.imitation import contract_of, train

    trained = train(plan, SimClassroom(plan, threads=threads), narrate)
    made: dict[str, Any] = {
        "schema": "policyctl.recipe/1",
        "recipe": plan.model_dump(mode="json"),
        "rounds": list(trained.rounds),
        "made_with": {
            name: version(name) for name in ("mujoco", "numpy", "openarm-mujoco", "torch")
        },
    }
    text = json.dumps(made, indent=2, sort_keys=True)
    with disk_errors(folder):
        save(folder, contract_of(plan), trained.network)
        (folder / "recipe.json").write_text(text + "\n", encoding="utf-8")
    return load(folder)


def _try(policy: Policy, episodes: int, threads: int) -> float:
    """Success rate on unseen scenes."""
    from harness.sim.env import BatchEnv
    from harness.sim.episode import EpisodeSpec
    from harness.sim.runner import play

    env = BatchEnv(policy.contract, min(64, episodes), threads=threads)
    task = policy.contract.task
    specs = [EpisodeSpec(TRIAL_CELL, episode, task=task) for episode in range(episodes)]
    return sum(record.success for record in play(env, policy.act, specs)) / episodes
