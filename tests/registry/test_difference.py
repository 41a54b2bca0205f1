"""What changed between two versions, to the tensor."""

from __future__ import annotations

from pathlib import Path

from checkpoints import noise, write_checkpoint
from record import POLICY, Record

from registry.difference import Amount, difference
from registry.versions import FileEntry, Manifest

DIGESTS = ["sha256:" + str(n) * 64 for n in range(4)]


def test_tensors_that_changed_are_counted_and_named(tmp_path: Path) -> None:
    record = Record(tmp_path)
    kept = {"kept": noise(5000, 1), "also kept": noise(7000, 2)}
    first = write_checkpoint(tmp_path / "a", kept | {"tuned": noise(300, 3), "gone": noise(40, 4)})
    second = write_checkpoint(tmp_path / "b", kept | {"tuned": noise(300, 5), "new": noise(2, 6)})
    manifests = [
        record.registry.manifest(record.registry.register(folder, POLICY).version.ref)
        for folder in (first, second)
    ]
    found = difference(*manifests)
    assert found.tensors.same == Amount(2, 12_000)
    assert found.tensors.changed == Amount(1, 300)
    assert found.tensors.added == Amount(1, 2)
    assert found.tensors.removed == Amount(1, 40)
    assert found.tensors.names == (
        "+policy.safetensors: new", "-policy.safetensors: gone", "policy.safetensors: tuned"
    )  # fmt: skip
    header = manifests[1].files[1].header
    assert header is not None
    assert found.fetched == Amount(3, 300 + 2 + header.size)
    assert found.files == {"policy.safetensors": "changed"}
    assert difference(manifests[0], manifests[0]).nothing


def test_a_contract_is_compared_field_by_field() -> None:
    first = Manifest("p", (), {"rate_hz": 50, "action": {"limit": [1, 2], "space": "delta"}})
    second = Manifest(
        "p", (), {"rate_hz": 25, "action": {"limit": [1, 3], "space": "delta"}, "x": 1}
    )
    assert difference(first, second).contract == {
        "action.limit": ([1, 2], [1, 3]),
        "rate_hz": (50, 25),
        "x": (None, 1),
    }


def test_files_and_what_is_said_of_a_version_are_compared() -> None:
    first = Manifest("p", (FileEntry("a", DIGESTS[0], 1), FileEntry("b", DIGESTS[1], 2)), {}, "l1")
    second = Manifest(
        "p", (FileEntry("a", DIGESTS[2], 1), FileEntry("c", DIGESTS[1], 2)), {}, "l2", DIGESTS[3]
    )
    found = difference(first, second)
    assert found.files == {"a": "changed", "b": "removed", "c": "added"}
    assert found.about == {"environment": ("l1", "l2"), "base": ("", DIGESTS[3])}
    assert found.fetched == Amount(1, 1), "the bytes of b are c's"
