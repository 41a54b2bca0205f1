"""A trust repository of its own, with people's keys on files, and a robot that reads it.

`Vault` is the registry's side: a folder, a clock, approvals. `Line` is the way to a robot, which
can serve what it likes, without end or cut; a `Thief` has the online key too. The robot's client is
the real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, MetaFile
from world import Clock

from registry.errors import NotFound
from registry.trust import ceremony
from registry.trust.approvals import Approvals
from registry.trust.client import TrustClient
from registry.trust.keys import new_key, signer
from registry.trust.repository import Repository
from registry.trust.signers import Signers
from registry.versions import Manifest, VersionRef

POLICY = "box-grasp"
GATES = {"sim": "sha256:" + "1" * 64}


def manifest(number: int, policy: str = POLICY) -> bytes:
    return Manifest(policy, (), {"number": number}, "test").canonical()


def ref(number: int) -> VersionRef:
    return VersionRef(POLICY, number)


class Vault:
    """HOME/trust and the people around it. `keys` holds everyone's private keys, by name."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.folder = folder / "trust"
        self.people = folder / "people"
        self.clock = clock or Clock()
        self.keys: dict[str, Key] = {}
        self.repository = self.opened()
        self.approvals = Approvals(self.repository)

    def opened(self, *names: str) -> Repository:
        """The repository with these people's keys at hand."""
        places = [f"file:{self.people / name}.pem" for name in names]
        return Repository(self.folder, Signers(self.folder, places), self.clock)

    def with_keys(self, *names: str) -> Approvals:
        return Approvals(self.opened(*names))

    def person(self, name: str) -> Key:
        self.keys[name] = new_key(self.people / f"{name}.pem")
        return self.keys[name]

    def init(self) -> Vault:
        ceremony.init(self.repository)
        return self

    def harden(self) -> Vault:
        """Root is 2 of anna, ben and cleo; approvals are 2 of dora, emil and fay."""
        roots = [self.person(name) for name in ("anna", "ben", "cleo")]
        approvers = [self.person(name) for name in ("dora", "emil", "fay")]
        ceremony.harden(self.repository, roots, 2, approvers, 2)
        self.with_keys("anna", "ben").sign()
        self.with_keys("dora", "emil").sign()
        return self

    def approve(self, number: int, *names: str) -> None:
        self.with_keys(*names).approve(ref(number), manifest(number), GATES)

    @property
    def anchor(self) -> bytes:
        return (self.folder / "metadata" / "1.root.json").read_bytes()


class Line:
    """A source of a vault's files. What is in `instead` is served in place of the real file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.instead: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.endless: set[str] = set()
        self.cut_after: dict[str, int] = {}

    def __call__(self, name: str, start: int) -> Iterator[bytes]:
        self.asked.append(name)
        path = self.folder / name
        if name in self.instead:
            data = self.instead[name]
        elif path.is_file():
            data = path.read_bytes()
        else:
            raise NotFound("no such file", evidence=name)
        yield data[start:]
        while name in self.endless:
            yield b" " * 4096

    def record(self) -> dict[str, bytes]:
        """Everything that is served now, to be replayed later."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in (self.folder / "metadata").glob("*.json")
        }


def robot(vault: Vault, folder: Path, line: Line | None = None) -> TrustClient:
    return TrustClient(folder, line or Line(vault.folder), vault.anchor, clock=vault.clock)


def sees(client: TrustClient, number: int) -> bool:
    """Whether a robot finds a version approved, with the right bytes."""
    client.refresh()
    info = client.find(f"{POLICY}/v{number}.json")
    if info is None:
        return False
    info.verify_length_and_hashes(manifest(number))
    return True


class Thief:
    """Holds the online key, and the line to the robot."""

    def __init__(self, vault: Vault, line: Line) -> None:
        self.vault = vault
        self.line = line
        self.key = signer(f"file:{vault.folder / 'keys' / 'home.pem'}")
        self.files = line.record()

    def newest(self, role: str) -> Metadata[Any]:
        names = [name for name in self.files if name.endswith(f".{role}.json")]
        newest = max(names, key=lambda name: int(name.split("/")[1].split(".")[0]))
        return Metadata.from_bytes(self.files[newest])

    def serve(self, bins: dict[str, Metadata[Any]], version: int | None = None) -> None:
        """Signs a snapshot and a timestamp that name these bins, newer than any before."""
        snapshot = self.newest("snapshot")
        timestamp = Metadata.from_bytes(self.files["metadata/timestamp.json"])
        snapshot.signed.version = version or snapshot.signed.version + 1
        timestamp.signed.version = version or timestamp.signed.version + 1
        for role, metadata in bins.items():
            data = metadata.to_bytes()
            snapshot.signed.meta[f"{role}.json"] = MetaFile(metadata.signed.version)
            self.line.instead[f"metadata/{metadata.signed.version}.{role}.json"] = data
        snapshot.sign(self.key)
        timestamp.signed.snapshot_meta = MetaFile(snapshot.signed.version)
        timestamp.sign(self.key)
        name = f"metadata/{snapshot.signed.version}.snapshot.json"
        self.line.instead[name] = snapshot.to_bytes()
        self.line.instead["metadata/timestamp.json"] = timestamp.to_bytes()
