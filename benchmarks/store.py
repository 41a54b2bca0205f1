"""The store beside the limits of this machine: its disk, and sha256 on one core.

A synthetic checkpoint (`shared/synthetic.py`) is registered in a fresh home, registered again, and
fetched. The disk's limit is a file of as many random bytes written and fsynced just before and just
after each publish, as both vary from minute to minute; how fast four such files at once are written
is told beside it. sha256's limit is `hashlib.file_digest` of the same file. Update bytes are what a
transfer fetches of a fine-tune where the base is held.

Then processes that publish and fetch are killed (SIGKILL) at random moments; after each kill every
blob in the store is hashed, and what came over the line is held against what was kept of it.

    benchmarks/store.py [--megabytes N] [--repeats N] [--kills N] [--seed N]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from shared import synthetic
from shared.figures import check, line

from registry.blobs.folder import FolderBlobs
from registry.blobs.transfer import SEGMENT, WORKERS, transfer
from registry.home import Home
from registry.record.actors import Actor
from registry.service import Registry
from registry.versions import Manifest, digest_bytes

POLICY = "synthetic"
BLOCK = os.urandom(8 << 20)
MB = 1e6
MEMORY_MB = 256
WASTE = WORKERS * SEGMENT


def home(folder: Path) -> Registry:
    return Registry.open(Home(folder), Actor("benchmark"))


# -- speed -----------------------------------------------------------------------------------------


def raw_write(folder: Path, size: int, files: int = 1) -> float:
    """Bytes a second of fsynced random bytes, in one file or in several at once."""
    settle()
    paths = [folder / f"raw-{n}" for n in range(files)]
    began = time.perf_counter()
    with ThreadPoolExecutor(files) as pool:
        list(pool.map(lambda path: _write_fsynced(path, size // files), paths))
    took = time.perf_counter() - began
    for path in paths:
        path.unlink()
    return size / took


def _write_fsynced(path: Path, size: int) -> None:
    block = memoryview(BLOCK)
    with path.open("wb", buffering=0) as stream:
        for start in range(0, size, len(block)):
            stream.write(block[: min(len(block), size - start)])
        os.fsync(stream.fileno())


def sha256(path: Path) -> float:
    began = time.perf_counter()
    with path.open("rb") as stream:
        hashlib.file_digest(stream, "sha256")
    return path.stat().st_size / (time.perf_counter() - began)


def settle() -> None:
    """What others left to be written is written, so that nobody pays for it twice."""
    os.sync()
    time.sleep(0.5)


def speeds(folder: Path, megabytes: float, repeats: int) -> list[bool]:
    tensors = synthetic.transformer(megabytes)
    checkpoint = folder / "checkpoint"
    size = synthetic.write(checkpoint, tensors, seed=1)
    weights = checkpoint / "policy.safetensors"
    published, disk, four, again, hashed, written = [], [], [], [], [], 0
    disk.append(raw_write(folder, size))
    for _ in range(repeats):
        settle()
        with home(folder / "home") as registry:
            began = time.perf_counter()
            registry.register(checkpoint, POLICY)
            published.append(size / (time.perf_counter() - began))
            settle()
            began = time.perf_counter()
            written += registry.register(checkpoint, POLICY).written
            again.append(size / (time.perf_counter() - began))
            hashed.append(sha256(weights))
        shutil.rmtree(folder / "home")
        disk.append(raw_write(folder, size))
        four.append(raw_write(folder, size, files=4))
    about = f"{size / MB:.0f} MB in {len(tensors)} tensors, median of {repeats}"
    return [
        line(f"publish, {about}", median(published) / MB, "MB/s", "fsynced write of as many bytes",
             median(disk) / MB, 0.70),
        line(f"publish, {about}", median(published) / MB, "MB/s", "four such writes at once",
             median(four) / MB),
        line(f"publish again, {about}", median(again) / MB, "MB/s", "sha256 of the file",
             median(hashed) / MB, 0.85),
        check("bytes written when published again", written, "bytes", 0),
        check("peak memory of a process that publishes", peak_mb(folder, checkpoint), "MB",
              MEMORY_MB),
    ]  # fmt: skip


PUBLISH = """
import re, sys
from pathlib import Path
from registry.home import Home
from registry.record.actors import Actor
from registry.service import Registry
print("ready", flush=True)
with Registry.open(Home(Path(sys.argv[1])), Actor("benchmark")) as registry:
    for folder in sys.argv[2:]:
        registry.register(Path(folder), "synthetic")
print(re.search("VmHWM:\\\\s+(\\\\d+)", Path("/proc/self/status").read_text())[1])
"""


def peak_mb(folder: Path, checkpoint: Path) -> float:
    command = [sys.executable, "-c", PUBLISH, str(folder / "peak"), str(checkpoint)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    shutil.rmtree(folder / "peak")
    return int(said.split()[-1]) / 1024


# -- updates ---------------------------------------------------------------------------------------


def updates(folder: Path, megabytes: float) -> list[bool]:
    """What a robot that holds the base fetches, manifest and all, as a share of the base."""
    tensors = synthetic.transformer(megabytes)
    last = tuple(f"layers.{n:02d}." for n in range(synthetic.LAYERS - 2, synthetic.LAYERS))
    size = synthetic.write(folder / "base", tensors, seed=1)
    synthetic.write(folder / "tuned", tensors, seed=1, changed=last)
    synthetic.write(folder / "lora", synthetic.adapter(tensors), seed=2)
    robot = FolderBlobs(folder / "robot")
    met = []
    with home(folder / "home") as registry:
        base = registry.register(folder / "base", POLICY).version.ref
        transfer(registry.blobs, robot, registry.manifest(base).pieces)
        for name, limit in (("lora", 1.0), ("tuned", 12.5)):
            made = registry.register(
                folder / name, POLICY, base=base if name == "lora" else None
            ).version.ref
            manifest = registry.manifest(made)
            moved = transfer(registry.blobs, robot, manifest.pieces)
            share = 100 * (moved.fetched + len(manifest.canonical())) / size
            about = "r16 LoRA as an adapter" if name == "lora" else "last two of 18 layers"
            met.append(check(f"update bytes, {about}, of a base of {size / MB:.0f} MB", share,
                             "%", limit))  # fmt: skip
    return met


# -- kills -----------------------------------------------------------------------------------------

FETCH = r"""
import os, sys
from pathlib import Path
from registry.blobs.folder import FolderBlobs
from registry.blobs.transfer import transfer
from registry.versions import Manifest, digest_bytes
import json
class Counted(FolderBlobs):
    def stream(self, digest, start=0, length=None):
        for data in super().stream(digest, start, length):
            os.write(1, b"%d\n" % len(data))
            yield data
manifest = Manifest.from_json(json.loads(Path(sys.argv[3]).read_bytes()))
os.write(1, b"ready\n")
transfer(Counted(Path(sys.argv[1])), FolderBlobs(Path(sys.argv[2])), manifest.pieces)
"""


def run_and_kill(command: list[str], chance: random.Random, longest_s: float) -> tuple[bool, str]:
    """Kills it at some moment after it is ready; whether it ended first, and what it said."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n", "it did not start"
    time.sleep(chance.uniform(0, longest_s))
    process.send_signal(signal.SIGKILL)
    said = process.stdout.read().decode()
    process.wait()
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"it failed by itself: {process.returncode}")
    return process.returncode == 0, said


def duration(command: list[str]) -> float:
    """Seconds from being ready to the end, undisturbed."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    began = time.perf_counter()
    process.stdout.read()
    if process.wait():
        raise RuntimeError("it failed undisturbed")
    return time.perf_counter() - began


def damaged(store: FolderBlobs) -> int:
    return sum(_is_damaged(store, digest) for digest in store.digests())


def _is_damaged(store: FolderBlobs, digest: str) -> bool:
    return digest_bytes(store.path(digest).read_bytes()) != digest


def kill_publishers(folder: Path, kills: int, chance: random.Random) -> tuple[int, int]:
    """Blobs damaged and versions lost. Each publisher registers the next of a row of fine-tunes."""
    tensors = synthetic.transformer(12)
    folders = []
    for n in range(8):
        synthetic.write(folder / f"tune-{n}", tensors, seed=n // 2, changed=("head",) * (n % 2))
        folders.append(folder / f"tune-{n}")
    command = [sys.executable, "-c", PUBLISH, str(folder / "try"), *map(str, folders)]
    longest = duration(command)
    bad = lost = 0
    place = folder / "published"
    command[3] = str(place)
    known: set[str] = set()
    for _ in range(kills):
        ended, _ = run_and_kill(command, chance, longest)
        with home(place) as registry:
            found = {one.digest: one for one in registry.list_versions()}
            lost += len(known - found.keys())
            known |= found.keys()
            lost += sum(bool(registry.verify(one.ref)) for one in found.values())
        bad += damaged(FolderBlobs(Home(place).blobs))
        if ended:
            shutil.rmtree(place)
            known = set()
    return bad, lost


def kill_fetchers(folder: Path, kills: int, chance: random.Random) -> tuple[int, int, int]:
    """Blobs damaged, pieces lost, and the most bytes that one kill wasted."""
    synthetic.write(folder / "fetched", synthetic.transformer(60), seed=5)
    with home(folder / "source") as registry:
        made = registry.register(folder / "fetched", POLICY).version.ref
        manifest = registry.manifest(made)
    (folder / "manifest.json").write_bytes(manifest.canonical())
    source = Home(folder / "source").blobs
    command = [
        sys.executable, "-c", FETCH, str(source), str(folder / "there"),
        str(folder / "manifest.json"),
    ]  # fmt: skip
    longest = duration(command)
    there = FolderBlobs(folder / "there")
    bad = lost = waste = 0
    shutil.rmtree(there.root)
    for _ in range(kills):
        before = kept(there, manifest)
        ended, said = run_and_kill(command, chance, longest)
        sent = sum(int(word) for word in said.split())
        waste = max(waste, sent - (kept(there, manifest) - before))
        bad += damaged(there)
        if ended:
            lost += sum(not there.has(piece.sha256) for piece in manifest.pieces)
            shutil.rmtree(there.root)
    return bad, lost, waste


def kept(store: FolderBlobs, manifest: Manifest) -> int:
    """Bytes that the next transfer will not ask for."""
    size = 0
    for piece in manifest.pieces:
        partial = store.drafts / f"partial-{piece.sha256.removeprefix('sha256:')}"
        if store.has(piece.sha256):
            size += piece.size
        elif partial.is_file():
            size += partial.stat().st_size
    return size


def killed(folder: Path, kills: int, seed: int) -> list[bool]:
    """The same seed kills at the same moments: what is to be evidence of its own takes another."""
    chance = random.Random(seed)
    publishers, fetchers = kills // 2, kills - kills // 2
    bad, lost = kill_publishers(folder, publishers, chance)
    worse, less, waste = kill_fetchers(folder, fetchers, chance)
    about = f"{publishers} kills of publish and {fetchers} of fetch, seed {seed}"
    return [
        check(f"blobs damaged by {about}", bad + worse, "blobs", 0),
        check(f"versions and pieces lost by {about}", lost + less, "", 0),
        check(f"most bytes fetched in vain by one of {fetchers} kills, seed {seed}",
              waste / (1 << 20), "MiB", WASTE / (1 << 20)),
    ]  # fmt: skip


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--megabytes", type=float, default=2000)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--kills", type=int, default=40)
    options.add_argument("--seed", type=int, default=1, help="of the moments of kills")
    options.add_argument("--only", choices=("speed", "updates", "kills"))
    given = options.parse_args()
    met: list[bool] = []
    parts = {
        "speed": lambda place: speeds(place, given.megabytes, given.repeats),
        "updates": lambda place: updates(place, min(given.megabytes, 500)),
        "kills": lambda place: killed(place, given.kills, given.seed),
    }
    for name, part in parts.items():
        if given.only in (None, name):
            with tempfile.TemporaryDirectory(prefix="store-") as folder:
                met += part(Path(folder))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
