"""One root over many documents: any change is seen, and short proofs lead to it."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.trust.merkle import proof, proves, root

LEAVES = st.lists(st.binary(max_size=6), min_size=1, max_size=40)


def test_the_tree_is_that_of_rfc_6962() -> None:
    """Known answers of certificate transparency's own test vectors."""
    leaves = [
        bytes.fromhex(one)
        for one in (
            "", "00", "10", "2021", "3031", "40414243",
            "5051525354555657", "606162636465666768696a6b6c6d6e6f",
        )
    ]  # fmt: skip
    assert root([]) == "sha256:" + hashlib.sha256(b"").hexdigest()
    assert root(leaves[:1]) == (
        "sha256:6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    )
    assert root(leaves[:2]) == (
        "sha256:fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
    )
    assert root(leaves) == (
        "sha256:5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    )


@given(LEAVES, st.data())
def test_every_leaf_is_proven_and_no_other(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    found, path = root(leaves), proof(leaves, index)
    assert len(path) <= max(len(leaves) - 1, 0).bit_length()
    assert proves(leaves[index], index, len(leaves), path, found)
    assert not proves(leaves[index] + b"x", index, len(leaves), path, found)
    assert not proves(leaves[index], index, len(leaves), [*path, "00" * 32], found)
    if path:
        assert not proves(leaves[index], index, len(leaves), path[:-1], found)
        assert not proves(leaves[index], index, len(leaves), ["zz", *path[1:]], found)


@given(LEAVES, st.data())
def test_a_leaf_changed_moved_or_left_out_changes_the_root(
    leaves: list[bytes], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    changed = [*leaves]
    changed[index] += b"!"
    assert root(changed) != root(leaves)
    assert root(leaves[:index] + leaves[index + 1 :]) != root(leaves)
    swapped = [*leaves[index:], *leaves[:index]]
    assert (root(swapped) == root(leaves)) == (swapped == leaves)


def test_a_leaf_that_is_not_there_has_no_proof() -> None:
    with pytest.raises(IndexError):
        proof([b"a"], 1)
    assert not proves(b"a", 1, 1, [], root([b"a"]))
