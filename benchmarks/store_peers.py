"""Our registry beside MLflow's and DVC, same checkpoint: add, add again unchanged, fetch.

Each runs in a process of its own with the library's own calls; the two peers in environments of
their own, built once into the user's cache. Each round another begins, medians count. Two times
are told: until the call returns, and until what it wrote is on the disk (`sync` after it), since
our calls return only then and the others' do not. Limits are on the second.

    benchmarks/store_peers.py [--megabytes N] [--rounds N]
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

from shared import synthetic
from shared.figures import line

from registry.home import Home
from registry.record.actors import Actor
from registry.service import Registry

PEERS = {"mlflow": "mlflow==3.17.2", "dvc": "dvc==3.67.1"}
VERBS = ("add", "again", "fetch")
FLOORS = {"add": 1.0, "again": 1.0, "fetch": 1.0}
SCRIPT = Path(__file__).parent / "shared" / "registry_peer.py"


def environment(name: str) -> Path:
    """The interpreter that has this peer, built where it is not there yet."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    recipe = f"{sys.version} {PEERS[name]}"
    home = (
        root / "policyctl" / "peers" / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    )
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", PEERS[name]], check=True)
        (home / "ready").touch()
    return python


class Peer:
    """A library in its own process."""

    def __init__(self, name: str, folder: Path, checkpoint: Path) -> None:
        folder.mkdir()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
        self._log = (folder / "said").open("w")
        self._process = subprocess.Popen(
            [str(environment(name)), str(SCRIPT), name, str(folder), str(checkpoint)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=kept | {"HOME": str(folder)},
        )
        self._answer()

    def run(self, verb: str) -> tuple[float, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{verb}\n")
        self._process.stdin.flush()
        returned, durable = map(float, self._answer().split())
        return returned, durable

    def close(self) -> None:
        self._process.communicate(timeout=60)
        self._log.close()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            self._log.flush()
            told = Path(self._log.name).read_text()[-2000:]
            raise SystemExit(f"the peer ended with {self._process.wait()}: {told}")
        return said


class Ours:
    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self._folder, self._checkpoint = folder, checkpoint

    def run(self, verb: str) -> tuple[float, float]:
        if verb == "fresh":
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir()
            return 0.0, 0.0
        with Registry.open(Home(self._folder / "home"), Actor("benchmark")) as registry:
            target = self._folder / "fetched"
            os.sync()
            began = time.perf_counter()
            if verb == "fetch":
                registry.materialize(registry.list_versions()[0].ref, target)
            else:
                registry.register(self._checkpoint, "synthetic")
            returned = time.perf_counter() - began
            os.sync()
            durable = time.perf_counter() - began
        if verb == "fetch":
            shutil.rmtree(target)
        return returned, durable


def touch_memory(size: int) -> None:
    """Uses so many bytes once and gives them back, so that who writes next finds them at hand."""
    with mmap.mmap(-1, size) as memory:
        for begin in range(0, size, mmap.PAGESIZE):
            memory[begin] = 1


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--megabytes", type=float, default=1000)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    taken: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="store-peers-") as temporary:
        place = Path(temporary)
        size = synthetic.write(place / "checkpoint", synthetic.transformer(given.megabytes), seed=1)
        peers = {name: Peer(name, place / name, place / "checkpoint") for name in PEERS}
        sides: dict[str, Ours | Peer] = {
            "ours": Ours(place / "ours", place / "checkpoint"),
            **peers,
        }
        for first in range(given.rounds):
            names = list(sides)
            for name in names[first % len(names) :] + names[: first % len(names)]:
                side = sides[name]
                side.run("fresh")
                for verb in VERBS:
                    touch_memory(2 * size)
                    taken[name, verb].append(side.run(verb))
                side.run("fresh")  # nobody's files fill the page cache of the next
        for peer in peers.values():
            peer.close()
    met = True
    for verb in VERBS:
        ours = [median(times) for times in zip(*taken["ours", verb], strict=True)]
        for name in PEERS:
            theirs = [median(times) for times in zip(*taken[name, verb], strict=True)]
            figure = f"{verb}, {size / 1e6:.0f} MB"
            line(f"{figure}, until it returns", ours[0], "s", PEERS[name], theirs[0],
                 less_is_better=True)  # fmt: skip
            met &= line(f"{figure}, until it is on the disk", ours[1], "s", PEERS[name], theirs[1],
                        FLOORS[verb], less_is_better=True)  # fmt: skip
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
