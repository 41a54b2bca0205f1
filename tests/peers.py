"""LeRobot as its users have it: unmodified, in a virtual environment of its own, never in ours.

Rules
- The environment is built once into the user's cache and found again by its recipe: another recipe
  or another Python is another folder. A build that did not finish is begun anew; two processes
  that want the same one wait for each other.
- LeRobot 0.4.4 asks for older torch than ours and for packages that no arm needs (recorders,
  viewers): what its OpenArm follower imports is installed by name, LeRobot itself without
  dependencies. Nothing of it is patched.
- PyPI's torchvision is a CUDA build: beside a CPU torch its import misses two operators that no arm
  calls. `torchvision_ops`, which clients import first, declares them where they are missing.
- Where pip cannot build it, PeerError says what pip said. No test is skipped for it.

    python tests/peers.py    # builds where needed, prints the path of its interpreter
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

LEROBOT = "0.4.4"
NEEDED = (
    "torch==2.13.0",
    "numpy<3",
    "python-can==4.6.1",
    "msgpack",
    "pyserial",
    "draccus==0.10.0",
    "deepdiff>=7.0.1,<9",
    "huggingface-hub>=0.34.2,<0.36",
    "datasets>=4,<5",
    "accelerate>=1.10,<2",
    "safetensors",
    "einops",
    "packaging<26",
    "pillow",
    "av>=15,<16",
)
"""python-can as constraints.txt has it for us, so that a comparison compares the clients."""
ALONE = (f"lerobot=={LEROBOT}", "torchvision==0.28.0")
"""Installed without their dependencies."""
OPERATORS = "torchvision_ops"
OPERATORS_SOURCE = '''"""Declares the operators that a CUDA torchvision lacks beside a CPU torch."""
import importlib.machinery
import os

import torch

try:
    package = importlib.machinery.PathFinder.find_spec("torchvision")
    torch.ops.load_library(os.path.join(os.path.dirname(package.origin), "_C.so"))
except (OSError, AttributeError):
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
'''
PROBE = f"import {OPERATORS}, can, lerobot.robots.openarm_follower.openarm_follower"
BUILD_TIMEOUT_S = 900.0


class PeerError(RuntimeError):
    """LeRobot's environment could not be built; the text ends with pip's own words."""


def lerobot_python(cache: Path | None = None) -> Path:
    """The interpreter that has LeRobot, its environment built first where it is not there yet.

    Raises PeerError.
    """
    root = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    recipe = "\n".join((sys.version, *NEEDED, *ALONE, OPERATORS_SOURCE))
    name = f"lerobot-{LEROBOT}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    home = root / "policyctl" / "peers" / name
    home.parent.mkdir(parents=True, exist_ok=True)
    python = home / "bin" / "python"
    ready = home / "ready"
    with open(home.parent / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            shutil.rmtree(home, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(home)])
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            index = os.environ.get("TORCH_INDEX")
            if index:
                pip += ["--extra-index-url", index]
            _run([*pip, *NEEDED])
            _run([*pip, "--no-deps", *ALONE])
            (_site_packages(home) / f"{OPERATORS}.py").write_text(OPERATORS_SOURCE)
            _run([str(python), "-c", PROBE])
            ready.write_text(recipe)
    return python


def clean_environment(**more: str) -> dict[str, str]:
    """What a LeRobot process gets: no module path of ours, no model hub."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | more


def _site_packages(home: Path) -> Path:
    return next((home / "lib").glob("python3*")) / "site-packages"


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BUILD_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"LeRobot's environment was not built: {error}") from error
    if done.returncode:
        raise PeerError(
            f"LeRobot's environment was not built: {' '.join(command)}\n{done.stdout[-2000:]}"
        )


if __name__ == "__main__":
    sys.stdout.write(f"{lerobot_python()}\n")
