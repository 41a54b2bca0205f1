"""What a person reads before signing a new root."""

from __future__ import annotations

from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Root

from registry.trust.changes import root_changes


def test_a_key_of_the_snapshot_alone_is_told_and_one_of_both_is_told_once() -> None:
    key = SSlibKey("ab" * 32, "ed25519", "ed25519", {"public": "00" * 32})
    before, after = Root(), Root()
    after.add_key(key, "snapshot")
    assert root_changes(before, after) == [f"+ key {key.keyid} as online"]
    assert root_changes(after, before) == [f"- key {key.keyid} as online"]
    after.add_key(key, "timestamp")
    assert root_changes(before, after) == [f"+ key {key.keyid} as online"]
