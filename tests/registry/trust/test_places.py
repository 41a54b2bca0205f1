"""One file says where private keys are; the two of older homes become it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trusted import Keys

from registry.errors import Corrupt
from registry.home import Home
from registry.trust.files import SignerEntry
from registry.trust.keys import signer
from registry.trust.places import PLACES, read_places
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
    before = keys.folder.signers()
    online = as_of_old(keys)
    root = keys.folder.root
    assert keys.folder.signers() == before
    assert Signers(root).places()[online] == "home:online.pem"
    assert seal(b"{}", IN_TOTO, keys.folder.signer("runner"))["signatures"]
    assert (root / "signers.json").is_file()  # reading changes nothing
    Signers(root).remember(signer(f"file:{keys.own('online')}").public_key, "env:ONLINE")
    assert not (root / "signers.json").exists()
    assert keys.folder.signers() == before
    assert Signers(root).places()[online] == "env:ONLINE"
    assert set(json.loads((root / PLACES).read_bytes())) == {"places", "roles"}


def test_a_role_given_in_an_older_home_moves_the_files_too(keys: Keys) -> None:
    online = as_of_old(keys)
    entries = keys.folder.signers()
    keys.folder.write_signers({"runner": entries["runner"]})
    assert not (keys.folder.root / "signers.json").exists()
    assert keys.folder.signers() == {"runner": entries["runner"]}
    assert online in read_places(keys.folder.root).places


def test_what_a_kill_left_of_the_second_file_undoes_no_change(keys: Keys) -> None:
    as_of_old(keys)
    left = keys.folder.root / "signers.json"
    before = left.read_bytes()
    made = keys.make("another")
    changed = {**keys.folder.signers(), "runner": SignerEntry("env:RUNNER", made.keyid)}
    keys.folder.write_signers(changed)
    left.write_bytes(before)  # killed before it was removed
    assert keys.folder.signers() == changed


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
