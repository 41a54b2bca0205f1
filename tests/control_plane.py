"""A control plane in memory behind the agents' port: what a test writes, agents are told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripted_policies import POLICY

from policies.contract import parse_contract
from registry.assignments import Assignment
from registry.attempts import AttemptReport
from registry.checkpoint import Found, read_layout
from registry.errors import NotFound
from registry.versions import FileEntry, Manifest, Piece, TensorEntry, digest_bytes


class ControlPlane:
    def __init__(self) -> None:
        self.documents: dict[str, Assignment] = {}
        self.blobs: dict[str, bytes] = {}
        self.attempts: dict[str, dict[int, AttemptReport]] = {}
        self.heartbeats: list[tuple[str, int | None, int, Mapping[str, Any]]] = []
        self.fetched: list[str] = []
        self.endless = False  # a source that sends on after what it was asked for

    def publish(self, folder: Path, policy: str = POLICY, pieces: bool = False) -> str:
        """Stores a checkpoint's files and manifest; answers the manifest's digest."""
        entries = []
        for path in sorted(folder.iterdir()):
            data = path.read_bytes()
            if pieces and path.suffix == ".safetensors":
                entries.append(self.publish_tensors(path))
                continue
            self.blobs[digest_bytes(data)] = data
            entries.append(FileEntry(path.name, digest_bytes(data), len(data)))
        contract = parse_contract(json.loads((folder / "contract.json").read_text())).to_json()
        manifest = Manifest(policy, tuple(entries), contract, "test")
        self.blobs[manifest.digest] = manifest.canonical()
        return manifest.digest

    def publish_tensors(self, path: Path) -> FileEntry:
        """Stores a safetensors file in pieces."""
        data = path.read_bytes()
        found = Found(path.name, path, len(data))
        with path.open("rb") as stream:
            begin, tensors = read_layout(found, stream)
        parts = [data[:begin], *(data[begin + t.begin : begin + t.end] for t in tensors)]
        self.blobs |= {digest_bytes(part): part for part in parts}
        listed = tuple(
            TensorEntry(tensor.name, digest_bytes(part), len(part))
            for tensor, part in zip(tensors, parts[1:], strict=True)
        )
        header = Piece(digest_bytes(parts[0]), begin)
        return FileEntry(path.name, digest_bytes(data), len(data), header, listed)

    def assign(self, robot: str, **fields: Any) -> Assignment:
        """The next document of a robot: one generation higher than its last."""
        last = self.documents.get(robot)
        defaults: dict[str, Any] = {
            "robot": robot,
            "policy": POLICY,
            "generation": last.generation + 1 if last else 1,
            "candidate": None,
            "baseline": None,
            "ratio": "0",
            "salt": "",
            "segment": 0,
        }
        self.documents[robot] = Assignment(**{**defaults, **fields})
        return self.documents[robot]

    def assignment(self, robot: str) -> Assignment | None:
        return self.documents.get(robot)

    def fetch(self, digest: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        self.fetched.append(digest)
        if digest not in self.blobs:
            raise NotFound("no such blob", evidence=digest)
        data = self.blobs[digest][start:]
        if not self.endless:
            data = data[:length]
        for begin in range(0, len(data), 1000):
            yield data[begin : begin + 1000]

    def published(self, path: str) -> Iterator[bytes]:
        raise NotFound("trust is not set up", evidence=path)
        yield b""

    def report(self, robot: str, attempts: Sequence[AttemptReport]) -> int:
        stored = self.attempts.setdefault(robot, {})
        for attempt in attempts:
            assert stored.setdefault(attempt.number, attempt) == attempt, "a closed attempt changed"
        contiguous = 0
        while contiguous + 1 in stored:
            contiguous += 1
        return contiguous

    def heartbeat(
        self, robot: str, running: int | None, generation: int, status: Mapping[str, Any]
    ) -> None:
        self.heartbeats.append((robot, running, generation, status))

    def last_status(self, robot: str) -> Mapping[str, Any]:
        return next(status for name, _, _, status in reversed(self.heartbeats) if name == robot)
