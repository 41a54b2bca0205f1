"""The native format: a small MLP as safetensors beside contract.json, run in numpy.

Rules
- Two files make a checkpoint: contract.json and policy.safetensors with float32 tensors
  `layer0.weight` (out, in), `layer0.bias`, …, `norm.mean` and `norm.scale` (N,). Other files
  (recipe.json) are carried along and not read. Hidden layers are ReLU, the output is linear.
- input = clip((observation - mean) / scale, ±CLIP): a reading far outside training cannot drive
  the network further than one at its edge.
- Inference is one matrix product per layer and block of `BLOCK` rows, the last block filled up, so
  that a row's bits depend neither on how many rows are asked for nor on their order nor on BLAS's
  threads. Larger blocks do not give that: BLAS picks its kernel by shape and by the row's place in
  a block (measured: in blocks of 16, 22 of 40 rows differed by place; in blocks of 4 none did). A
  layer with a single output is no such product, and older processors sum it by place.
- Whatever is wrong with the files (missing, truncated, tampered, other shapes, not finite) is a
  ConfigError that names file and tensor, before anything is run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from policies.contract import FILE_NAME as CONTRACT_FILE
from policies.contract import Contract, read_contract
from policies.space import SpaceContract
from registry.errors import ConfigError

Rows = npt.NDArray[np.float32]

FORMAT = "policyctl.native/1"
WEIGHTS_FILE = "policy.safetensors"
CLIP = 8.0
MAX_BYTES = 64 * 2**20
BLOCK = 4
"""Rows of one matrix product, always: its shape decides in which order a product sums."""


@dataclass(frozen=True)
class Network:
    """Weights (out, in) and biases (out,) layer by layer, and the input's normalization (N,)."""

    layers: tuple[tuple[Rows, Rows], ...]
    mean: Rows
    scale: Rows


class Mlp:
    """A network ready to be asked."""

    def __init__(self, network: Network) -> None:
        self._mean, self._scale = network.mean, network.scale
        self._layers = [(np.ascontiguousarray(w.T), b) for w, b in network.layers]

    def __call__(self, observation: Rows) -> Rows:
        """(B, N) to (B, outputs), bit-identical per row whatever B is."""
        rows, width = observation.shape
        blocks = -(-rows // BLOCK)
        padded = np.zeros((blocks * BLOCK, width), dtype=np.float32)
        padded[:rows] = np.clip((observation - self._mean) / self._scale, -CLIP, CLIP)
        x = padded.reshape(blocks, BLOCK, width)
        last = len(self._layers) - 1
        for index, (weight, bias) in enumerate(self._layers):
            x = np.matmul(x, weight)
            x += bias
            if index < last:
                np.maximum(x, 0.0, out=x)
        return np.asarray(x.reshape(blocks * BLOCK, x.shape[2])[:rows], dtype=np.float32)


class NativePolicy:
    """A loaded native checkpoint; see policies.Policy."""

    def __init__(self, contract: Contract, network: Network) -> None:
        self._contract, self._network = contract, Mlp(network)

    @property
    def contract(self) -> Contract:
        return self._contract

    def reset(self) -> None:
        """Nothing to forget: the network has no memory."""

    def act(self, observation: Rows) -> Rows:
        """(B, N) to (B, outputs), bit-identical per row whatever B is."""
        return self._network(observation)


def save(folder: Path, contract: Contract | SpaceContract, network: Network) -> None:
    """Write a checkpoint; the folder is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"norm.mean": network.mean, "norm.scale": network.scale}
    for index, (weight, bias) in enumerate(network.layers):
        tensors[f"layer{index}.weight"] = np.ascontiguousarray(weight, dtype=np.float32)
        tensors[f"layer{index}.bias"] = np.ascontiguousarray(bias, dtype=np.float32)
    content = safetensors_bytes(tensors, metadata={"format": FORMAT})
    (folder / WEIGHTS_FILE).write_bytes(content)
    text = json.dumps(contract.to_json(), indent=2, sort_keys=True)
    (folder / CONTRACT_FILE).write_text(text + "\n", encoding="utf-8")


def load(folder: Path) -> NativePolicy:
    """Read and check a checkpoint."""
    contract = read_contract(folder)
    return NativePolicy(contract, read_network(folder, contract.width, contract.outputs))


def read_network(folder: Path, inputs: int, outputs: int) -> Network:
    """The weights of a checkpoint, checked; `inputs` and `outputs` are its contract's numbers."""
    path = folder / WEIGHTS_FILE
    return _network(path, inputs, outputs, _read(path))


def _read(path: Path) -> dict[str, Rows]:
    hint = "fetch or export the checkpoint again; `policyctl verify` names a damaged version"
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(
                "the weights file is too large for the native format",
                where=str(path),
                field=f"{size} bytes, at most {MAX_BYTES}",
            )
        with safe_open(path, framework="numpy") as file:
            found = (file.metadata() or {}).get("format")
            if found != FORMAT:
                raise ConfigError(
                    "the weights are not in the native format",
                    where=str(path),
                    field=f"metadata format is {found!r}, expected {FORMAT!r}",
                    hint=hint,
                )
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise ConfigError("the checkpoint has no weights", where=str(path), hint=hint) from error
    except (SafetensorError, ValueError, TypeError, OSError) as error:
        raise ConfigError(
            "the weights file is damaged", where=str(path), field=str(error), hint=hint
        ) from error


def _network(path: Path, inputs: int, outputs: int, tensors: dict[str, Rows]) -> Network:
    count = sum(1 for name in tensors if name.endswith(".weight"))
    names = [f"layer{i}.{part}" for i in range(count) for part in ("weight", "bias")]
    expected = {*names, "norm.mean", "norm.scale"}
    if count == 0 or set(tensors) != expected:
        odd = ", ".join(sorted(set(tensors) ^ expected)) or "no layers"
        raise _wrong(path, "the checkpoint's tensors are not those of the native format", odd)
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32:
            raise _wrong(path, "a tensor has the wrong type", f"{name} is {tensor.dtype}")
        if not np.isfinite(tensor).all():
            raise _wrong(path, "a tensor holds numbers that are not finite", name)
    hidden = [tensors[f"layer{i}.bias"].size for i in range(count - 1)]
    widths = [inputs, *hidden, outputs]
    shapes: dict[str, tuple[int, ...]] = {"norm.mean": (widths[0],), "norm.scale": (widths[0],)}
    for i in range(count):
        shapes[f"layer{i}.weight"] = (widths[i + 1], widths[i])
        shapes[f"layer{i}.bias"] = (widths[i + 1],)
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            odd = f"{name} is {tensors[name].shape}, the contract needs {shape}"
            raise _wrong(path, "a tensor does not fit the contract", odd)
    if not (tensors["norm.scale"] > 0).all():
        raise _wrong(path, "a normalization scale is not positive", "norm.scale")
    layers: Sequence[tuple[Rows, Rows]] = [
        (tensors[f"layer{i}.weight"], tensors[f"layer{i}.bias"]) for i in range(count)
    ]
    return Network(tuple(layers), tensors["norm.mean"], tensors["norm.scale"])


def _wrong(path: Path, what: str, field: str) -> ConfigError:
    return ConfigError(
        what, where=str(path), field=field, hint="export the checkpoint again from its recipe"
    )
