"""Bundles between sites with trust: a publisher that the receiving site lists has signed them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from record import Record

from registry.bundle import open_bundle
from registry.errors import Forged, NotSigned, PolicyctlError, WrongSigner
from registry.trust.bundles import sign_bundle, verify_bundle


def test_a_site_takes_over_what_a_publisher_it_lists_has_signed(tmp_path: Path) -> None:
    here, there = Record(tmp_path / "a", trust=True), Record(tmp_path / "b", trust=True)
    assert here.keys is not None
    assert there.keys is not None
    assert here.registry.trust is not None
    assert there.registry.trust is not None
    ref = here.register()
    check = partial(verify_bundle, there.registry.trust)
    sign = partial(sign_bundle, here.registry.trust)
    file, bare = tmp_path / "bundle", tmp_path / "bare"
    here.registry.export(ref, file, sign)
    again = tmp_path / "again"
    here.registry.export(ref, again, sign)
    assert file.read_bytes() == again.read_bytes()
    here.registry.export(ref, bare)

    def taken(path: Path) -> bool:
        with open_bundle(path, there.home.cache, check) as (content, _):
            return content.signed

    def refused(path: Path, kind: type[PolicyctlError]) -> str:
        with pytest.raises(kind) as caught:
            taken(path)
        return caught.value.hint

    assert "policyctl trust grant" in refused(bare, NotSigned)
    assert "policyctl trust grant" in refused(file, WrongSigner)
    granted = there.keys.keyring.with_key("publisher", here.keys.public["publisher"])
    there.keys.folder.write_keyring(granted)
    assert taken(file)
    other = here.register()
    mixed = tmp_path / "mixed"
    here.registry.export(
        other, mixed, lambda head: sign_bundle(here.registry.trust, head.replace(b"box", b"bag"))
    )
    with pytest.raises(Forged, match="is not the one that was signed"):
        taken(mixed)
    broken = tmp_path / "broken"
    here.registry.export(other, broken, lambda _: b"{")
    with pytest.raises(Forged, match="cannot be read"):
        taken(broken)
    # Without trust of its own a site takes over either.
    free = Record(tmp_path / "c")
    with open_bundle(bare, free.home.cache) as (content, _):
        assert not content.signed
