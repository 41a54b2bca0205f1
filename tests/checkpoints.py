"""Safetensors files for tests, written without the library, so that they may also be wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from record import POLICY, Record

from registry.checkpoint import scan
from registry.errors import ConfigError, Refused
from registry.ledger.tables import versions


def header_of(tensors: Mapping[str, bytes], metadata: Mapping[str, str] | None = None) -> bytes:
    """The 8 bytes and the JSON before the data; each tensor is a row of U8."""
    said: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    begin = 0
    for name, data in tensors.items():
        end = begin + len(data)
        said[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [begin, end]}
        begin = end
    return with_length(json.dumps(said).encode())


def with_length(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


def write_tensors(path: Path, tensors: Mapping[str, bytes], **metadata: str) -> bytes:
    """Writes the file; its bytes."""
    content = header_of(tensors, metadata) + b"".join(tensors.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return content


def noise(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def write_checkpoint(folder: Path, tensors: Mapping[str, bytes], task: str = "box-grasp") -> Path:
    """A checkpoint that the record takes; no policy loads it."""
    write_tensors(folder / "policy.safetensors", tensors)
    contract = {"robot_class": "openarm-v2-right", "task": task}
    (folder / "contract.json").write_text(json.dumps(contract))
    return folder


def register_in_files(record: Record, folder: Path) -> str:
    """A version as a registry of whole files made it."""
    made = record.registry.register(folder, POLICY)
    manifest = record.registry.manifest(made.version.ref).in_files()
    with record.registry._ledger.write() as connection:
        text = manifest.canonical().decode()
        connection.execute(versions.update().values(manifest=text, digest=manifest.digest))
    for found in folder.iterdir():
        record.registry.blobs.put(found.read_bytes())
    return manifest.digest


TENSORS = {"a": noise(1000, 1), "b": noise(2000, 2)}


def refused(folder: Path, words: str) -> None:
    """The checkpoint is not taken, and the error says so in these words."""
    with pytest.raises((Refused, ConfigError)) as caught:
        scan(folder)
    assert words in str(caught.value)


class Trap:
    """Runs when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self._canary),)
