"""Versions are what their bytes are; names of versions are read strictly."""

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from registry.errors import UsageError
from registry.versions import (
    FileEntry,
    Manifest,
    Provenance,
    VersionRef,
    canonical,
    digest_of,
    is_digest,
    is_policy_name,
    parse_ref,
)

DIGEST = "sha256:" + "ab" * 32


def manifest_of(*paths: str, contract: dict[str, object] | None = None) -> Manifest:
    files = tuple(FileEntry(path, DIGEST, 10) for path in paths)
    return Manifest("box-grasp", files, contract or {"rate_hz": 50}, "lock-1")


def test_the_order_of_files_and_keys_does_not_make_a_version() -> None:
    one = manifest_of("a", "b", contract={"x": 1, "y": [1.5, 2]})
    two = manifest_of("b", "a", contract={"y": (1.5, 2.0), "x": 1})
    assert one.digest == two.digest
    assert is_digest(one.digest)


def test_any_change_makes_another_version() -> None:
    base = manifest_of("a", "b")
    assert manifest_of("a").digest != base.digest
    assert manifest_of("a", "b", contract={"rate_hz": 25}).digest != base.digest
    other = Manifest("box-grasp", base.files, base.contract, "lock-2")
    assert other.digest != base.digest


def test_a_manifest_survives_its_json() -> None:
    one = manifest_of("weights/policy.safetensors", "contract.json")
    assert Manifest.from_json(one.to_json()) == one
    assert Manifest.from_json(one.to_json()).canonical() == one.canonical()
    with pytest.raises(ValueError, match="schema"):
        Manifest.from_json({**one.to_json(), "schema": "other"})


def test_provenance_survives_its_json() -> None:
    one = Provenance(commit="abc", recipe={"steps": 3}, note="by hand")
    assert Provenance.from_json(one.to_json()) == one


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a\\b", "./a"])
def test_a_file_never_lies_outside_its_checkpoint(path: str) -> None:
    with pytest.raises(ValueError, match="relative path"):
        FileEntry(path, DIGEST, 1)


def test_bad_entries_are_refused() -> None:
    with pytest.raises(ValueError, match="digest"):
        FileEntry("a", "md5:1", 1)
    with pytest.raises(ValueError, match="size"):
        FileEntry("a", DIGEST, -1)
    with pytest.raises(ValueError, match="twice"):
        manifest_of("a", "a")


@pytest.mark.parametrize(
    ("text", "policy", "number"),
    [
        ("v12", None, 12),
        ("box-grasp v12", "box-grasp", 12),
        ("box-grasp/v12", "box-grasp", 12),
        ("box-grasp@v3", "box-grasp", 3),
        ("  v1 ", None, 1),
    ],
)
def test_names_of_versions(text: str, policy: str | None, number: int) -> None:
    assert parse_ref(text) == VersionRef(policy, number)


@pytest.mark.parametrize("text", ["", "12", "v0", "v-1", "V1", "v01", "box_grasp v1", "a-/v1", "x"])
def test_anything_else_is_a_usage_error_that_says_how_it_is_written(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_ref(text)
    assert caught.value.exit_status == 2
    assert "v12" in caught.value.evidence


@given(st.integers(1, 999_999_999), st.from_regex(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", fullmatch=True))
def test_a_printed_version_is_read_back(number: int, policy: str) -> None:
    assert parse_ref(str(VersionRef(policy, number))) == VersionRef(policy, number)
    assert parse_ref(str(VersionRef(None, number))) == VersionRef(None, number)
    assert is_policy_name(policy)


def test_canonical_json_has_one_spelling() -> None:
    assert canonical({"b": (1, 2.0), "a": None}) == b'{"a":null,"b":[1,2]}'
    assert digest_of([1, 2]) == digest_of((1.0, 2.0))


KEYS = st.text(max_size=4)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats() | st.sampled_from([0.0001, 1e-5, 1e16, 1e21])
JSON = st.recursive(
    st.none() | st.booleans() | st.text(max_size=6) | NUMBERS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
@example({"\ue000": 1, "\U00010000": 2})
@example({"a": -0.0, "b": 1e22, "c": 2.0**53, "d": "\x7f\x1f\u2028\ud800"})
@example([2**53, -(2**53) + 1, float("nan")])
def test_canonical_json_is_that_of_rfc_8785(value: object) -> None:
    """Ours is quick where both spell alike, and the library's own wherever they might not."""

    def said(write: object) -> object:
        try:
            return write(value)  # type: ignore[operator]
        except rfc8785.CanonicalizationError as error:
            return type(error)

    assert said(canonical) == said(rfc8785.dumps)
