"""One file says where private keys are; the two of older homes become it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trusted import Keys
from world import Clock

from registry.errors import Corrupt, NotFound
from registry.home import Home
from registry.trust.authority import open_trust
from registry.trust.home_approvals import HomeApprovals
from registry.trust.keys import signer
from registry.trust.places import PLACES, Kept, SignerEntry, read_places, write_places
from registry.trust.sealing import IN_TOTO, seal
from registry.trust.signers import Signers


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(Home(tmp_path / "home"))


def as_of_old(keys: Keys) -> str:
    """The files of an older program, with an online key besides; that key's name."""
    root = keys.folder.root
    online = keys.make("online").keyid
    said = {
        role: {"uri": f"file:{keys.own(role)}", "keyid": key.keyid}
        for role, key in keys.public.items()
    }
    (root / "signers.json").write_text(json.dumps(said))
    (root / PLACES).write_text(json.dumps({online: "home:online.pem"}))
    return online


def test_an_older_home_goes_on_and_its_two_files_become_one(keys: Keys) -> None:
    before = keys.signers.all()
    online = as_of_old(keys)
    root = keys.folder.root
    assert keys.signers.all() == before
    assert Signers(root).places()[online] == "home:online.pem"
    assert seal(b"{}", IN_TOTO, keys.signers.signer("runner"))["signatures"]
    assert (root / "signers.json").is_file()  # reading changes nothing
    Signers(root).remember(signer(f"file:{keys.own('online')}").public_key, "env:ONLINE")
    assert not (root / "signers.json").exists()
    assert keys.signers.all() == before
    assert Signers(root).places()[online] == "env:ONLINE"
    assert set(json.loads((root / PLACES).read_bytes())) == {"places", "roles"}


def test_a_role_given_in_an_older_home_moves_the_files_too(keys: Keys) -> None:
    online = as_of_old(keys)
    entries = keys.signers.all()
    keys.signers.write({"runner": entries["runner"]})
    assert not (keys.folder.root / "signers.json").exists()
    assert keys.signers.all() == {"runner": entries["runner"]}
    assert online in read_places(keys.folder.root).places


def test_what_a_kill_left_of_the_second_file_undoes_no_change(keys: Keys) -> None:
    as_of_old(keys)
    left = keys.folder.root / "signers.json"
    before = left.read_bytes()
    made = keys.make("another")
    changed = {**keys.signers.all(), "runner": SignerEntry("env:RUNNER", made.keyid)}
    keys.signers.write(changed)
    left.write_bytes(before)  # killed before it was removed
    assert keys.signers.all() == changed


def test_an_empty_folder_knows_no_place(tmp_path: Path) -> None:
    assert read_places(tmp_path).places == {}
    assert read_places(tmp_path).roles == {}


@pytest.mark.parametrize("name", [PLACES, "signers.json"])
@pytest.mark.parametrize("content", ["", "[]", '{"runner": 1}', '{"runner": {"uri": 1}}'])
def test_nonsense_is_named(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(Corrupt) as caught:
        read_places(tmp_path)
    assert name in caught.value.evidence
    assert caught.value.hint


def test_a_key_that_goes_on_for_another_is_taken_from_where_it_was_moved_to(keys: Keys) -> None:
    """The key named for the role still waits for approvers, so that the one before it signs."""
    root = keys.folder.root
    trust = open_trust(root, HomeApprovals(root.parent, Clock()))
    assert trust is not None
    old, waits = keys.public["runner"].keyid, keys.make("second").keyid
    trust.use("runner", f"file:{keys.own('second')}", waits)
    held = trust.signer("runner")
    assert held.public_key.keyid == old
    assert trust.signer("runner") is held
    kept = read_places(root)
    write_places(root, Kept({**kept.places, old: "file:/nowhere/runner.pem"}, kept.roles))
    with pytest.raises(NotFound, match="no key file there"):
        trust.signer("runner")
    write_places(root, kept)
    assert trust.signer("runner").public_key.keyid == old
