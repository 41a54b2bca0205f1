"""The native format: damaged files are named, and a row's bits depend on nothing but the row."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from contract_data import contract_json
from safetensors.numpy import load_file, save_file

from policies.contract import parse_contract
from policies.formats.native import FORMAT, Network, load, save
from policies.loading import detect, load_policy
from registry.errors import ConfigError

WEIGHTS = "policy.safetensors"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    sizes = (11, 256, 256, 128, 8)
    layers = tuple(
        (
            (rng.standard_normal((b, a)) / np.sqrt(a)).astype(np.float32),
            rng.standard_normal(b).astype(np.float32),
        )
        for a, b in pairwise(sizes)
    )
    mean = rng.standard_normal(11).astype(np.float32)
    save(
        tmp_path / "ck",
        parse_contract(contract_json()),
        Network(layers, mean, np.full(11, 0.5, dtype=np.float32)),
    )
    return tmp_path / "ck"


def rewrite(folder: Path, tensors: dict[str, np.ndarray], tag: str = FORMAT) -> None:
    save_file(tensors, folder / WEIGHTS, metadata={"format": tag})


def test_a_rows_bits_do_not_depend_on_its_batch(checkpoint: Path) -> None:
    policy = load(checkpoint)
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((61, 11)).astype(np.float32)
    together = policy.act(rows)
    order = rng.permutation(61)
    np.testing.assert_array_equal(policy.act(rows[order]), together[order])
    for size in (0, 1, 2, 7, 16, 33):
        np.testing.assert_array_equal(policy.act(rows[:size]), together[:size])


def test_it_computes_the_network_it_stores(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / WEIGHTS)
    rows = np.random.default_rng(3).standard_normal((5, 11)).astype(np.float32)
    x = np.clip((rows - tensors["norm.mean"]) / tensors["norm.scale"], -8, 8).astype(np.float64)
    for i in range(4):
        x = x @ tensors[f"layer{i}.weight"].T.astype(np.float64) + tensors[f"layer{i}.bias"]
        x = np.maximum(x, 0) if i < 3 else x
    np.testing.assert_allclose(load(checkpoint).act(rows), x, atol=1e-4)


def test_a_truncated_file_is_named(checkpoint: Path) -> None:
    path = checkpoint / WEIGHTS
    content = path.read_bytes()
    for keep in (0, 4, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:keep])
        with pytest.raises(ConfigError) as caught:
            load_policy(checkpoint)
        assert str(path) in caught.value.evidence


def test_a_tampered_header_is_named(checkpoint: Path) -> None:
    path = checkpoint / WEIGHTS
    content = bytearray(path.read_bytes())
    content[10] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(ConfigError, match=WEIGHTS):
        load_policy(checkpoint)


def test_wrong_tensors_are_named(checkpoint: Path) -> None:
    good = load_file(checkpoint / WEIGHTS)
    nan = good["layer1.bias"].copy()
    nan[3] = np.nan
    cases = {
        "layer2.bias": {k: v for k, v in good.items() if k != "layer2.bias"},
        "secret": {**good, "secret": good["norm.mean"]},
        "layer1.bias": {**good, "layer1.bias": nan},
        "layer0.weight": {**good, "layer0.weight": good["layer0.weight"][:, :10].copy()},
        "layer3.bias": {**good, "layer3.bias": good["layer3.bias"][:7].copy()},
        "norm.scale": {**good, "norm.scale": np.zeros(11, dtype=np.float32)},
        "norm.mean": {**good, "norm.mean": good["norm.mean"].astype(np.float64)},
    }
    for name, tensors in cases.items():
        rewrite(checkpoint, tensors)
        with pytest.raises(ConfigError) as caught:
            load_policy(checkpoint)
        assert name in caught.value.field
    rewrite(checkpoint, good, tag="other/1")
    with pytest.raises(ConfigError, match="native format"):
        load_policy(checkpoint)


def test_formats_are_known_by_content_and_pickles_are_refused(checkpoint: Path) -> None:
    assert detect(checkpoint) == "native"
    (checkpoint / "extra.pkl").write_bytes(b"x")
    with pytest.raises(ConfigError, match="pickle"):
        detect(checkpoint)
    (checkpoint / "extra.pkl").unlink()
    (checkpoint / WEIGHTS).unlink()
    with pytest.raises(ConfigError, match=WEIGHTS):
        detect(checkpoint)
    with pytest.raises(ConfigError, match="not a folder"):
        detect(checkpoint / "contract.json")


def test_the_contract_has_to_fit_the_weights(checkpoint: Path) -> None:
    data = contract_json()
    data["observation"].append({"name": "object_yaw", "width": 2})
    (checkpoint / "contract.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError) as caught:
        load_policy(checkpoint)
    assert "the contract needs (13,)" in caught.value.field
