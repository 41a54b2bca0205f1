"""Metadata that whoever had the store wrote over: found by `trust status`, and put right by what it
says to type, without a backup. Robots that trusted the old root go on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from said import Said
from trust import Line
from tuf.api.metadata import Metadata, TargetFile, Timestamp
from typed_trust import (
    Run,
    done,
    hardened,
    keys_of,
    name_of,
    people,
    promote,
    robot,
    signing,
    tried,
)

from registry.errors import Corrupt, PolicyctlError
from registry.trust.client import TrustClient
from registry.trust.keys import signer
from registry.trust.published import Published

pytestmark = pytest.mark.slow

THEIRS = "box-grasp/v66.json"
APPROVED = "box-grasp/v1.json"
Forge = Callable[[Path, Metadata[Any]], bytes]


def metadata(folder: Path) -> Path:
    return folder / ".policyctl" / "trust" / "metadata"


def newest(folder: Path, role: str) -> Path:
    if role == "timestamp":
        return metadata(folder) / "timestamp.json"
    return max(metadata(folder).glob(f"*.{role}.json"), key=lambda one: int(one.name.split(".")[0]))


def altered(_: Path, found: Metadata[Any]) -> bytes:
    """It parses, and what it says is not what was signed."""
    said = found.to_dict()
    said["signed"]["expires"] = "2099-01-01T00:00:00Z"
    if "targets" in said["signed"]:
        info = TargetFile.from_data(THEIRS, b"theirs", ["sha256"])
        said["signed"]["targets"] = {THEIRS: info.to_dict()}
    return json.dumps(said).encode()


def signed_by_the_thief(folder: Path, found: Metadata[Any]) -> bytes:
    """Well signed, by a key that root does not name."""
    theirs = Metadata(deepcopy(found.signed))
    if not isinstance(found.signed, Timestamp) and hasattr(found.signed, "targets"):
        theirs.signed.targets[THEIRS] = TargetFile.from_data(THEIRS, b"theirs", ["sha256"])
    theirs.sign(signer(f"file:{folder}/people/thief"))
    return theirs.to_bytes()


def nonsense(_: Path, __: Metadata[Any]) -> bytes:
    return b"\x00 nothing"


def replayed(folder: Path, _: Metadata[Any]) -> bytes:
    """Well signed once, and older than its name says."""
    return (metadata(folder) / f"{newest_number(folder) - 1}.targets.json").read_bytes()


def without_bins(folder: Path, found: Metadata[Any]) -> bytes:
    """Well signed, by thieves of the approvers' keys, and nothing that a robot can look up in."""
    found.signed.delegations = None
    found.signatures.clear()
    for person in ("dora", "emil"):
        found.sign(signer(f"file:{folder}/people/{person}"), append=True)
    return found.to_bytes()


FORGERIES = [altered, signed_by_the_thief, nonsense]


def newest_number(folder: Path) -> int:
    return int(newest(folder, "targets").name.split(".")[0])


def forge(folder: Path, role: str, how: Forge) -> None:
    path = newest(folder, role)
    path.write_bytes(how(folder, Metadata.from_bytes(path.read_bytes())))


def approved_and_seen(run: Run, folder: Path) -> TrustClient:
    """A hardened home with one approved version, and a robot that has seen it."""
    hardened(run)
    people(run, "thief")
    ref = tried(folder)
    assert promote(run, ref).status == 8
    done(run("approve", str(ref), *signing("dora", "emil")))
    done(promote(run, ref))
    client = robot(folder)
    client.refresh()
    assert client.find(APPROVED) is not None
    return client


def newcomer(folder: Path) -> TrustClient:
    """A robot that has seen the first root and nothing else."""
    anchor = (metadata(folder) / "1.root.json").read_bytes()
    return TrustClient(folder / "newcomer", Line(metadata(folder).parent), anchor)


def told_to_type(said: Said, beginning: str) -> list[str]:
    """The words of the first such command that `trust status` names, where something is forged."""
    assert said.status == 9
    (command,) = [
        one
        for one in re.findall(r"`(policyctl [^`]+)`", said.data["error"]["hint"])
        if one.startswith(f"policyctl {beginning}") and "KEY" not in one.split()
    ][:1]
    return command.split()[1:]


def holds_again(run: Run, folder: Path, seen: TrustClient) -> None:
    """Nothing is forged; robots old and new see what is approved, and nothing of a thief's."""
    state = done(run("trust", "status"))
    assert state["forged"] == {}
    assert state["approved"] == [APPROVED]
    thief = name_of(run, "thief")
    assert thief not in json.dumps(done(run("trust", "roles"))["keyring"])
    for client in (seen, newcomer(folder)):
        client.refresh()
        assert client.find(APPROVED) is not None
        assert client.find(THEIRS) is None
        assert thief not in client.file("keyring.json").read_text()


@pytest.mark.parametrize("how", [*FORGERIES, replayed, without_bins])
def test_a_home_whose_targets_are_forged_recovers(run: Run, tmp_path: Path, how: Forge) -> None:
    seen = approved_and_seen(run, tmp_path)
    online = keys_of(run, "online")
    forge(tmp_path, "targets", how)
    with pytest.raises(Corrupt):
        newcomer(tmp_path).find(APPROVED)
    said = run("trust", "status")
    assert list(said.data["forged"]) == ["targets"]
    assert "targets" in said.data["error"]["what"]
    recover = told_to_type(said, "trust recover")
    assert online[0].startswith(recover[2])
    assert run(*recover).status == 8
    waits = run("trust", "status")
    assert waits.status == 9  # robots still refuse it
    assert "trust sign --key KEY" in waits.data["error"]["hint"]
    first = run("trust", "sign", *signing("anna", "dora"))
    assert first.status == 8
    assert APPROVED in first.err
    assert THEIRS not in first.err
    done(run("trust", "sign", *signing("ben", "emil")))
    holds_again(run, tmp_path, seen)
    assert keys_of(run, "online") != online
    assert online[0] not in json.dumps(done(run("trust", "roles"))["keyring"])


def test_a_recovery_is_signed_where_no_home_is(run: Run, tmp_path: Path) -> None:
    seen = approved_and_seen(run, tmp_path)
    forge(tmp_path, "targets", altered)
    assert run(*told_to_type(run("trust", "status"), "trust recover")).status == 8
    carried = tmp_path / "stick"
    shutil.copytree(metadata(tmp_path).parent / "drafts", carried)
    files = sorted(str(one) for one in carried.iterdir())
    for people_there, status in ((("anna", "dora"), 8), (("ben", "emil"), 0)):
        for person in people_there:
            shown = run("trust", "sign", *files, *signing(person), "--home", str(carried))
            assert "+ keyring.json sha256:" in shown.err
            done(shown)
        assert run("trust", "add", *files).status == status
    holds_again(run, tmp_path, seen)


def test_an_approvers_key_was_stolen_and_targets_are_forged(run: Run, tmp_path: Path) -> None:
    seen = approved_and_seen(run, tmp_path)
    people(run, "ida")
    dora = name_of(run, "dora")
    forge(tmp_path, "targets", altered)
    assert "trust recover KEY --new KEY.pub" in run("trust", "status").data["error"]["hint"]
    assert run("trust", "recover", dora, "--new", "people/ida.pub").status == 8
    done(run("trust", "sign", *signing("anna", "ben", "emil", "ida")))
    holds_again(run, tmp_path, seen)
    assert dora not in keys_of(run, "approver")


def test_a_forged_bin_is_made_again_from_the_ledger(run: Run, tmp_path: Path) -> None:
    seen = approved_and_seen(run, tmp_path)
    name = Published(metadata(tmp_path).parent).bin_of(APPROVED)
    forge(tmp_path, name, altered)
    said = run("trust", "status")
    assert list(said.data["forged"]) == [name]
    assert run(*told_to_type(said, "trust recover")).status == 8
    done(run("trust", "sign", *signing("anna", "ben", "dora", "emil")))
    holds_again(run, tmp_path, seen)


@pytest.mark.parametrize("role", ["targets", "bin"])
def test_the_newest_was_taken_away(run: Run, tmp_path: Path, role: str) -> None:
    """What is left was well signed once, and robots ask for what is gone."""
    seen = approved_and_seen(run, tmp_path)
    name = Published(metadata(tmp_path).parent).bin_of(APPROVED) if role == "bin" else role
    newest(tmp_path, name).unlink()
    with pytest.raises(PolicyctlError):
        newcomer(tmp_path).find(APPROVED)
    said = run("trust", "status")
    assert name in said.data["forged"]
    assert run("trust", "freshen").status == 9  # what is old would pass for the newest
    assert run(*told_to_type(said, "trust recover")).status == 8
    done(run("trust", "sign", *signing("anna", "ben", "dora", "emil")))
    holds_again(run, tmp_path, seen)


@pytest.mark.parametrize("role", ["snapshot", "timestamp"])
@pytest.mark.parametrize("how", FORGERIES)
@pytest.mark.parametrize("with_key", ["freshen", "recover"])
def test_what_the_online_key_signed_is_forged(
    run: Run, tmp_path: Path, role: str, how: Forge, with_key: str
) -> None:
    """The key signs it again; where it was stolen, another does."""
    seen = approved_and_seen(run, tmp_path)
    forge(tmp_path, role, how)
    with pytest.raises(Corrupt):
        newcomer(tmp_path).refresh()
    said = run("trust", "status")
    assert list(said.data["forged"]) == [role]
    mend = told_to_type(said, f"trust {with_key}")
    if with_key == "freshen":
        done(run(*mend))
    else:
        assert run(*mend).status == 8
        done(run("trust", "sign", *signing("anna", "ben", "dora", "emil")))
    holds_again(run, tmp_path, seen)


def test_everything_but_root_is_forged_or_gone(run: Run, tmp_path: Path) -> None:
    seen = approved_and_seen(run, tmp_path)
    forge(tmp_path, "targets", nonsense)
    forge(tmp_path, "snapshot", nonsense)
    newest(tmp_path, "timestamp").unlink()
    for copy in (metadata(tmp_path).parent / "targets").iterdir():
        copy.write_bytes(b"no keyring")
    said = run("trust", "status")
    assert set(said.data["forged"]) == {"targets", "snapshot", "timestamp"}
    assert run("trust", "freshen").status == 9
    assert run(*told_to_type(said, "trust recover")).status == 8
    done(run("trust", "sign", *signing("anna", "ben", "dora", "emil")))
    holds_again(run, tmp_path, seen)


def test_a_young_home_whose_targets_are_forged_recovers_at_once(run: Run, tmp_path: Path) -> None:
    done(run("trust", "init"))
    people(run, "thief")
    ref = tried(tmp_path)
    done(promote(run, ref))
    seen = robot(tmp_path)
    seen.refresh()
    forge(tmp_path, "targets", altered)
    done(run(*told_to_type(run("trust", "status"), "trust recover")))
    holds_again(run, tmp_path, seen)


def test_a_root_that_nobody_signed_is_named_and_not_gone_on_from(run: Run, tmp_path: Path) -> None:
    seen = approved_and_seen(run, tmp_path)
    (online,) = keys_of(run, "online")
    true = newest(tmp_path, "root")
    theirs = Metadata.from_bytes(true.read_bytes())
    theirs.signed.version += 1
    theirs.signatures.clear()
    theirs.sign(signer(f"file:{tmp_path}/people/thief"))
    forged = true.with_name(f"{theirs.signed.version}.root.json")
    forged.write_bytes(theirs.to_bytes())
    for words in (("status",), ("recover", online), ("rotate", online)):
        said = run("trust", *words)
        assert said.status == 9
        assert forged.name in said.data["error"]["hint"]
    forged.unlink()
    holds_again(run, tmp_path, seen)


def test_a_draft_that_is_no_draft_is_dropped(run: Run, tmp_path: Path) -> None:
    seen = approved_and_seen(run, tmp_path)
    draft = metadata(tmp_path).parent / "drafts" / "targets.json"
    for command in (("trust", "drop"), ("trust", "recover", *keys_of(run, "online"))):
        draft.write_bytes(b"no draft")
        said = run("trust", "status")
        assert said.status == 9
        assert "policyctl trust drop" in said.data["error"]["hint"]
        assert run(*command).status in (0, 8)
        assert not draft.exists() or draft.read_bytes() != b"no draft"
    done(run("trust", "sign", *signing("anna", "ben", "dora", "emil")))
    holds_again(run, tmp_path, seen)


def test_nothing_is_shown_to_be_signed_where_it_is_forged(run: Run, tmp_path: Path) -> None:
    """An approval waits when targets are forged: what says whose signatures count does not hold."""
    hardened(run)
    people(run, "thief")
    assert promote(run, tried(tmp_path)).status == 8
    forge(tmp_path, "targets", altered)
    said = run("trust", "status")
    assert list(said.data["forged"]) == ["targets"]
    assert said.data["pending"] == []
    assert run("trust", "sign", *signing("dora", "emil")).status == 9
    assert run(*told_to_type(said, "trust recover")).status == 8
    done(run("trust", "sign", *signing("anna", "ben", "dora", "emil")))
    assert done(run("trust", "status"))["forged"] == {}
    robot(tmp_path).refresh()
