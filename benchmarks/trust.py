"""A robot's check of what is approved, with 1,000 and 10,000 approved artifacts, when it is warm.

Warm: the robot has looked before and nothing has changed, as at nearly every look. It reads root,
timestamp, snapshot, targets and one bin from the registry's files or its own, and verifies every
signature: two approvers of three, as after `trust harden`. Beside it the same check on one flat
list of targets without bins, by the same client from the same run.

    benchmarks/trust.py [--repeats N]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from shared.figures import check, line
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from registry.errors import NotFound
from registry.trust import ceremony
from registry.trust.approvals import Approvals, target_file, target_name
from registry.trust.client import TrustClient
from registry.trust.keys import new_key
from registry.trust.keys import signer as signer_of
from registry.trust.repository import Repository
from registry.trust.signers import Signers
from registry.versions import FileEntry, Manifest, VersionRef, digest_bytes

LIMIT_MS, AIM_MS = 50.0, 10.0
POLICIES = 10


def approved(count: int) -> list[TargetFile]:
    files = tuple(FileEntry(f"part-{i}", digest_bytes(bytes([i])), 1 << 20) for i in range(4))
    return [
        target_file(
            VersionRef(f"policy-{i % POLICIES}", i // POLICIES + 1),
            Manifest(f"policy-{i % POLICIES}", files, {"number": i}, "synthetic").canonical(),
            {gate: digest_bytes(f"{gate}{i}".encode()) for gate in ("sim", "hil")},
        )
        for i in range(count)
    ]


class Folder:
    """A source of files, and how many bytes it gave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bytes = 0

    def __call__(self, name: str, start: int) -> Iterator[bytes]:
        try:
            data = (self.folder / name).read_bytes()[start:]
        except FileNotFoundError:
            raise NotFound("no such file", evidence=name) from None
        self.bytes += len(data)
        yield data


def hardened(folder: Path, targets: list[TargetFile]) -> float:
    """A home with these approvals and thresholds of two in three; seconds of `trust init`."""
    repository = Repository(folder)
    began = time.perf_counter()
    ceremony.init(repository, None, targets)
    took = time.perf_counter() - began
    keys = [new_key(folder / "people" / f"{n}.pem") for n in range(6)]
    ceremony.harden(repository, keys[:3], 2, keys[3:], 2)
    places = [f"file:{folder / 'people' / f'{n}.pem'}" for n in range(6)]
    Approvals(Repository(folder, Signers(folder, places))).sign()
    return took


def flat(folder: Path, targets: list[TargetFile]) -> None:
    """The same approvals in one list: what a repository without bins would publish."""
    place = Repository(folder)
    keys = [new_key(folder / f"{n}.pem") for n in range(3)]
    signers = [signer_of(f"file:{folder / f'{n}.pem'}") for n in range(3)]
    root = Root(expires=place.expiry("root"), consistent_snapshot=True)
    for role in ("root", "targets", "snapshot", "timestamp"):
        for key in keys:
            root.add_key(key, role)
        root.roles[role].threshold = 2
    top = Targets(expires=place.expiry("targets"), targets={one.path: one for one in targets})
    snapshot = Snapshot(expires=place.expiry("snapshot"), meta={"targets.json": MetaFile(1)})
    made = {"1.root": root, "1.targets": top, "1.snapshot": snapshot,
            "timestamp": Timestamp(expires=place.expiry("timestamp"))}  # fmt: skip
    (folder / "metadata").mkdir(parents=True)
    for name, signed in made.items():
        metadata = Metadata(signed)
        for signer in signers[:2]:
            metadata.sign(signer, append=True)
        (folder / "metadata" / f"{name}.json").write_bytes(metadata.to_bytes())


def look(client: TrustClient, name: str) -> float:
    """Milliseconds of one whole check."""
    began = time.perf_counter()
    client.refresh()
    found = client.find(name)
    took = time.perf_counter() - began
    if found is None:
        raise RuntimeError(f"{name} was not found")
    return took * 1e3


def robot(home: Path, state: Path) -> tuple[TrustClient, Folder]:
    source = Folder(home)
    anchor = (home / "metadata" / "1.root.json").read_bytes()
    return TrustClient(state, source, anchor), source


def measure(count: int, repeats: int) -> bool:
    targets = approved(count)
    name = target_name(VersionRef("policy-3", 7))
    met = []
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "bins", Path(folder) / "flat"
        took = hardened(ours, targets)
        flat(theirs, targets)
        client, source = robot(ours, Path(folder) / "robot")
        other, _ = robot(theirs, Path(folder) / "other")
        cold = look(client, name)
        cold_bytes, source.bytes = source.bytes, 0
        look(other, name)
        mine, flats = [], []
        for _ in range(repeats):
            mine.append(look(client, name))
            flats.append(look(other, name))
        warm = median(mine)
        met.append(
            line(
                f"milliseconds of a warm trust check, {count} approved", warm, "ms",
                "a wait nobody notices", LIMIT_MS, 1.0, less_is_better=True,
            )
        )  # fmt: skip
        line(f"the same, to the aim, {count} approved", warm, "ms", "the aim", AIM_MS,
             less_is_better=True)  # fmt: skip
        line(f"the same beside one flat list, {count} approved", warm, "ms", "no bins",
             median(flats), less_is_better=True)  # fmt: skip
        line(f"bytes read of the registry when warm, {count} approved",
             source.bytes / repeats, "bytes", "cold", cold_bytes, less_is_better=True)  # fmt: skip
        line(f"milliseconds of a first check, {count} approved", cold, "ms", "warm", warm,
             less_is_better=True)  # fmt: skip
        met.append(check(f"seconds of `trust init` with {count} running versions", took, "s", 60.0))
    return all(met)


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--repeats", type=int, default=51)
    given = options.parse_args()
    return 0 if all([measure(1_000, given.repeats), measure(10_000, given.repeats)]) else 1


if __name__ == "__main__":
    sys.exit(main())
