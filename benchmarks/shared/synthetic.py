"""Synthetic checkpoints: safetensors files with a transformer's tensors and random numbers in them.

They stand in for a fine-tune's files where sizes and which tensors changed are what is measured.
Nothing about compression can be read from them: real weights are not random.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LAYERS = 18
VOCABULARY = 4096
RANK = 16
BF16 = 2  # bytes
CHUNK = 8 << 20


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        size = BF16
        for length in self.shape:
            size *= length
        return size


def transformer(megabytes: float, layers: int = LAYERS) -> list[Tensor]:
    """The tensors of a decoder of so many megabytes: attention, gated MLP, norms, embedding."""
    width = 64
    while sum(one.size for one in _tensors(width, layers)) < megabytes * 1e6:
        width += 64
    return _tensors(width, layers)


def _tensors(width: int, layers: int) -> list[Tensor]:
    made = [Tensor("embedding.weight", (VOCABULARY, width))]
    for n in range(layers):
        at = f"layers.{n:02d}"
        made += [Tensor(f"{at}.attention.{name}.weight", (width, width)) for name in "qkvo"]
        made += [Tensor(f"{at}.mlp.{name}.weight", (4 * width, width)) for name in ("gate", "up")]
        made += [Tensor(f"{at}.mlp.down.weight", (width, 4 * width))]
        made += [Tensor(f"{at}.{name}.weight", (width,)) for name in ("norm_1", "norm_2")]
    return [*made, Tensor("norm.weight", (width,)), Tensor("head.weight", (VOCABULARY, width))]


def adapter(tensors: list[Tensor]) -> list[Tensor]:
    """A LoRA of rank 16 on the q and v projections."""
    made: list[Tensor] = []
    for one in tensors:
        if ".attention.q." in one.name or ".attention.v." in one.name:
            out, width = one.shape
            base = one.name.removesuffix(".weight")
            made += [Tensor(f"{base}.lora_a", (RANK, width)), Tensor(f"{base}.lora_b", (out, RANK))]
    return made


def write(folder: Path, tensors: list[Tensor], seed: int, changed: tuple[str, ...] = ()) -> int:
    """Writes a checkpoint; its bytes. Tensors whose names begin so have other numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    contract = {"robot_class": "synthetic", "task": "synthetic"}
    (folder / "contract.json").write_text(json.dumps(contract))
    header, begin = {}, 0
    for one in tensors:
        end = begin + one.size
        header[one.name] = {"dtype": "BF16", "shape": one.shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = folder / "policy.safetensors"
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for n, one in enumerate(tensors):
            other = any(one.name.startswith(prefix) for prefix in changed)
            for chunk in _numbers(one.size, (seed, n, int(other))):
                stream.write(chunk)
        stream.flush()
        os.fsync(stream.fileno())
    return path.stat().st_size


def _numbers(size: int, seed: tuple[int, ...]) -> Iterator[bytes]:
    chance = np.random.default_rng(seed)
    for start in range(0, size, CHUNK):
        yield chance.bytes(min(CHUNK, size - start))
