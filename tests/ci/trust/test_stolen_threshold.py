"""As many approvers' keys as it takes were stolen: what their thief signed is well signed, and a
recovery keeps of it only what a person names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tuf.api.metadata import TargetFile, Targets
from typed_trust import Run, done, hardened, name_of, opened, people, robot, signing, tried

from registry.trust.home_approvals import HomeApprovals
from registry.trust.keyring import Keyring
from registry.trust.keys import public_key
from registry.trust.published import TARGETS
from registry.trust.sealing import public_of
from registry.versions import VersionRef

pytestmark = pytest.mark.slow

BESIDE, IN_A_BIN = "box-grasp/v65.json", "box-grasp/v66.json"


def granted(run: Run, role: str, person: str) -> None:
    """By approvers who are who they say."""
    people(run, person)
    assert run("trust", "grant", role, f"people/{person}.pub").status == 8
    done(run("trust", "sign", *signing("dora", "emil")))


def thieves_sign(folder: Path) -> Keyring:
    """With the keys of dora and emil: their own runner, director, robot, and two versions."""
    thief = public_of(public_key(folder / "people" / "thief.pub"))
    robots = public_of(public_key(folder / "people" / "thiefs-robot.pub"))
    with opened(folder) as registry:
        home = registry.approvals
        places = [f"file:{folder}/people/{name}" for name in ("dora", "emil")]
        theirs = HomeApprovals(home.folder.parent, home.clock, places).open()
        keyring = registry.trust_folder.keyring()
        keyring = keyring.with_key("runner", thief).with_key("director", thief)
        keyring = replace(keyring.with_robot("robot-01", robots), since="999999:ff")

        def beside(targets: Targets) -> None:
            targets.targets[BESIDE] = TargetFile.from_data(BESIDE, b"theirs", ["sha256"])

        with theirs.repository.changing():
            theirs.repository.change(TARGETS, beside)
        theirs.put_file("keyring.json", keyring.canonical())
        theirs.approve(VersionRef("box-grasp", 66), b"{}", {})
        registry.settle_keyring()  # as the server does each minute
    return keyring


def test_what_thieves_of_the_approvers_granted_is_dropped(run: Run, tmp_path: Path) -> None:
    hardened(run)
    granted(run, "runner", "ci")
    people(run, "thief", "thiefs-robot", "ida", "jo")
    tried(tmp_path)
    since = done(run("trust", "roles"))["keyring"]["since"]
    thieves_sign(tmp_path)
    client = robot(tmp_path)
    client.refresh()
    theirs = [name_of(run, "thief"), name_of(run, "thiefs-robot")]
    assert theirs[0] in client.file("keyring.json").read_text()
    assert client.find(BESIDE)
    assert client.find(IN_A_BIN)
    ci = name_of(run, "ci")

    recover = ("trust", "recover", name_of(run, "dora"), "--new", "people/ida.pub")
    said = run(*recover)
    assert said.status == 8
    for line in (
        f"+ key {theirs[0]} as runner: DROPPED",
        f"+ key {theirs[0]} as director: DROPPED",
        f"+ key {theirs[1]} as robot robot-01: DROPPED",
        f"+ key {ci} as runner: DROPPED, only approvers signed it; if it is yours: "
        f"--keep {ci[:12]}",
        "unsigned up to audit 999999:ff: put back",
        f"stranger: {BESIDE}",
        f"stranger: {IN_A_BIN}",
    ):
        assert line in said.err
    said = run(*recover, "--keep", ci[:12])
    assert said.status == 8
    assert f"+ key {ci} as runner: kept" in said.err
    assert not any(ci in one for one in said.data["dropped"])
    shown = run("trust", "sign", *signing("anna", "ben", "fay", "ida"))
    done(shown)
    assert f"- key {theirs[0]} as runner" in shown.err
    assert f"+ key {ci} as runner" in shown.err  # people of root stand behind it from now on

    done(run("trust", "sign"))
    roles = done(run("trust", "roles"))["keyring"]
    assert ci in roles["roles"]["runner"]
    assert roles["since"] == since
    assert roles["roles"]["director"]
    client.refresh()
    believed = client.file("keyring.json").read_text()
    for keyid in theirs:
        assert keyid not in json.dumps(roles)
        assert keyid not in believed
    assert client.find(BESIDE) is None
    assert client.find(IN_A_BIN) is None

    said = run("trust", "recover", name_of(run, "emil"), "--new", "people/jo.pub")
    assert said.data["dropped"] == []
    done(run("trust", "sign", *signing("anna", "ben", "fay", "jo")))
    assert ci in done(run("trust", "roles"))["keyring"]["roles"]["runner"]


def test_only_what_would_be_dropped_can_be_kept(run: Run) -> None:
    hardened(run)
    people(run, "ida")
    recover = ("trust", "recover", name_of(run, "dora"), "--new", "people/ida.pub")
    assert run(*recover, "--keep", name_of(run, "fay")).status == 6
    stolen = done(run("trust", "status"))["roles"][2]["keys"][0]["key"]
    assert run("trust", "recover", stolen, "--keep", stolen).status == 2
    assert done(run("trust", "status"))["pending"] == []


def test_a_home_whose_root_names_no_keyring_keeps_its_own_key(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was hardened before root named one: root still says whose the home is."""
    with monkeypatch.context() as before:
        before.setattr("registry.trust.ceremony.name_keyring", lambda *_: None)
        hardened(run)
    granted(run, "runner", "ci")
    people(run, "ida")
    home = done(run("trust", "roles"))["keyring"]["roles"]["publisher"]
    said = run("trust", "recover", name_of(run, "dora"), "--new", "people/ida.pub")
    assert said.data["dropped"] == [f"{name_of(run, 'ci')} as runner"]
    done(run("trust", "sign", *signing("anna", "ben", "fay", "ida")))
    roles = done(run("trust", "roles"))["keyring"]["roles"]
    assert roles["publisher"] == roles["runner"] == roles["director"] == home


@pytest.mark.parametrize("forged", [False, True])
def test_a_keyring_that_was_written_over_in_the_store_is_not_gone_on_from(
    run: Run, tmp_path: Path, forged: bool
) -> None:
    """No approver signed it: it is only what this home holds."""
    hardened(run)
    people(run, "thief")
    thief = public_of(public_key(tmp_path / "people" / "thief.pub"))
    with opened(tmp_path) as registry:
        held = registry.trust_folder.keyring()
    theirs = replace(held.with_key("runner", thief), number=77)
    folder = tmp_path / ".policyctl" / "trust"
    (folder / "keyring.json").write_bytes(theirs.canonical())
    (folder / "targets" / f"{theirs.digest[7:]}.keyring.json").write_bytes(theirs.canonical())
    if forged:
        newest = max((folder / "metadata").glob("*.targets.json"))
        newest.write_bytes(newest.read_bytes().replace(b"keyring.json", b"keyring.jsom"))
    (online,) = run("trust", "status").data["roles"][2]["keys"]
    assert run("trust", "recover", online["key"]).status == 8
    done(run("trust", "sign", *signing("anna", "ben", "dora", "emil")))
    keyring = done(run("trust", "roles"))["keyring"]
    assert thief.keyid not in json.dumps(keyring)
    assert keyring["number"] > 77
    client = robot(tmp_path)
    client.refresh()
    assert json.loads(client.file("keyring.json").read_text()) == keyring
