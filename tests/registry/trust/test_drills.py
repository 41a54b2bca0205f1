"""Attack drills on metadata: what a thief of a server, of its key or of the line can and cannot do.

The thief's tools are real: `Thief` signs with the stolen key, and the robot's client is the one
that agents use.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from trust import Line, Vault, manifest, ref, robot, sees
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, MetaFile, TargetFile, Targets
from world import Clock

from registry.errors import Corrupt, PolicyctlError
from registry.trust import ceremony
from registry.trust.approvals import target_file, target_name
from registry.trust.ceremony import Replacement
from registry.trust.client import Stale, TrustClient
from registry.trust.keys import signer

pytestmark = pytest.mark.slow

DECADE = 10 * 365.25 * 86400


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    """A hardened home with version 1 approved."""
    made = Vault(tmp_path).init().harden()
    made.approve(1, "dora", "emil")
    return made


@pytest.fixture
def line(vault: Vault) -> Line:
    return Line(vault.folder)


@pytest.fixture
def client(vault: Vault, tmp_path: Path, line: Line) -> TrustClient:
    made = robot(vault, tmp_path / "robot", line)
    assert sees(made, 1)
    return made


class Thief:
    """Holds the online key, and the line to the robot."""

    def __init__(self, vault: Vault, line: Line) -> None:
        self.vault = vault
        self.line = line
        self.key = signer(f"file:{vault.folder / 'keys' / 'home.pem'}")
        self.files = line.record()

    def newest(self, role: str) -> Metadata[Any]:
        names = [name for name in self.files if name.endswith(f".{role}.json")]
        newest = max(names, key=lambda name: int(name.split("/")[1].split(".")[0]))
        return Metadata.from_bytes(self.files[newest])

    def serve(self, bins: dict[str, Metadata[Any]], version: int | None = None) -> None:
        """Signs a snapshot and a timestamp that name these bins, newer than any before."""
        snapshot = self.newest("snapshot")
        timestamp = Metadata.from_bytes(self.files["metadata/timestamp.json"])
        snapshot.signed.version = version or snapshot.signed.version + 1
        timestamp.signed.version = version or timestamp.signed.version + 1
        for role, metadata in bins.items():
            data = metadata.to_bytes()
            snapshot.signed.meta[f"{role}.json"] = MetaFile(metadata.signed.version)
            self.line.instead[f"metadata/{metadata.signed.version}.{role}.json"] = data
        snapshot.sign(self.key)
        timestamp.signed.snapshot_meta = MetaFile(snapshot.signed.version)
        timestamp.sign(self.key)
        name = f"metadata/{snapshot.signed.version}.snapshot.json"
        self.line.instead[name] = snapshot.to_bytes()
        self.line.instead["metadata/timestamp.json"] = timestamp.to_bytes()


# -- a server or a line in other hands -------------------------------------------------------------


def test_replayed_metadata_is_refused(vault: Vault, client: TrustClient, line: Line) -> None:
    before = line.record()
    vault.approve(2, "dora", "emil")
    assert sees(client, 2)
    line.instead = before
    with pytest.raises(Corrupt, match="older or mixed"):
        client.refresh()
    line.instead = {}
    assert sees(client, 2)


def test_a_withdrawn_version_does_not_come_back_by_replay(
    vault: Vault, client: TrustClient, line: Line
) -> None:
    before = line.record()
    vault.with_keys("dora", "fay").withdraw([ref(1)])
    assert not sees(client, 1)
    line.instead = before
    with pytest.raises(Corrupt):
        sees(client, 1)


@pytest.mark.parametrize("old", ["snapshot", "bin"])
def test_states_are_never_mixed(vault: Vault, client: TrustClient, line: Line, old: str) -> None:
    """The newest timestamp beside a snapshot, or a bin, of the state before."""
    role = "snapshot" if old == "snapshot" else vault.repository.bin_of(target_name(ref(1)))
    before = vault.repository.version(role)
    held = (vault.folder / "metadata" / f"{before}.{role}.json").read_bytes()
    vault.with_keys("dora", "emil").withdraw([ref(1)])
    line.instead[f"metadata/{vault.repository.version(role)}.{role}.json"] = held
    with pytest.raises(Corrupt):
        sees(client, 1)


def forgeries() -> list[tuple[str, Callable[[dict[str, Any]], None]]]:
    def approve(said: dict[str, Any]) -> None:
        info = TargetFile.from_data(target_name(ref(66)), manifest(66), ["sha256"])
        said["signed"].setdefault("targets", {})[info.path] = info.to_dict()

    def later(said: dict[str, Any]) -> None:
        said["signed"]["version"] += 1

    def longer(said: dict[str, Any]) -> None:
        said["signed"]["expires"] = "2099-01-01T00:00:00Z"

    def unsigned(said: dict[str, Any]) -> None:
        said["signatures"] = []

    return [("approve", approve), ("later", later), ("longer", longer), ("unsigned", unsigned)]


@pytest.mark.parametrize(("how", "forge"), forgeries(), ids=lambda one: str(one)[:8])
@pytest.mark.parametrize("role", ["root", "targets", "bin", "snapshot", "timestamp"])
def test_a_stolen_server_forges_nothing(
    vault: Vault, client: TrustClient, line: Line, tmp_path: Path, role: str, how: str, forge: Any
) -> None:
    """Everything is newer and well-formed; only the signatures cannot be made."""
    vault.approve(2, "dora", "emil")
    name = vault.repository.bin_of(target_name(ref(66))) if role == "bin" else role
    path = "metadata/timestamp.json"
    if role != "timestamp":
        path = f"metadata/{vault.repository.version(name)}.{name}.json"
    said = json.loads((vault.folder / path).read_bytes())
    forge(said)
    if role == "root":
        said["signed"]["version"] = vault.repository.version("root") + 1
        path = f"metadata/{said['signed']['version']}.root.json"
    line.instead[path] = json.dumps(said).encode()
    newcomer = robot(vault, tmp_path / "new", line)
    for one in (client, newcomer):
        try:
            one.refresh()
            found = one.find(target_name(ref(66)))
        except PolicyctlError:
            found = None
        assert found is None
    assert path in line.asked
    with pytest.raises(PolicyctlError):
        sees(newcomer, 66)
    line.instead = {}
    assert sees(client, 2), "the robot goes on when the server is back"
    assert sees(newcomer, 2)


@pytest.mark.parametrize("name", ["timestamp", "snapshot", "bin", "root"])
@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b"null", b'{"signed": {}}', b"\xff\xfe" * 40])
def test_nonsense_is_an_error_and_nothing_else(
    vault: Vault, client: TrustClient, line: Line, name: str, junk: bytes
) -> None:
    vault.approve(2, "dora", "emil")
    role = vault.repository.bin_of(target_name(ref(2))) if name == "bin" else name
    path = "timestamp"
    if name != "timestamp":
        path = f"{vault.repository.version(role) + (name == 'root')}.{role}"
    line.instead[f"metadata/{path}.json"] = junk
    with pytest.raises(Corrupt):
        sees(client, 2)
    line.instead = {}
    assert sees(client, 2)


@pytest.mark.parametrize("role", ["timestamp", "root", "snapshot", "bin"])
def test_data_without_end_is_cut_off(
    vault: Vault, client: TrustClient, line: Line, role: str
) -> None:
    vault.approve(2, "dora", "emil")
    bin_name = vault.repository.bin_of(target_name(ref(2)))
    path = {
        "timestamp": "timestamp",
        "root": f"{vault.repository.version('root') + 1}.root",
        "snapshot": f"{vault.repository.version('snapshot')}.snapshot",
        "bin": f"{vault.repository.version(bin_name)}.{bin_name}",
    }[role]
    name = f"metadata/{path}.json"
    line.instead[name] = b"{"
    line.endless = {name}
    with pytest.raises(Corrupt, match="other bytes than announced"):
        sees(client, 2)
    line.endless, line.instead = set(), {}
    assert sees(client, 2)


# -- the online key in other hands -----------------------------------------------------------------


def test_a_stolen_timestamp_key_approves_nothing(
    vault: Vault, client: TrustClient, line: Line
) -> None:
    thief = Thief(vault, line)
    name = vault.repository.bin_of(target_name(ref(66)))
    forged = thief.newest(name)
    forged.signed.version += 1
    info = target_file(ref(66), manifest(66), {})
    forged.signed.targets[info.path] = info
    forged.sign(thief.key)
    thief.serve({name: forged})
    client.refresh()  # newer, and signed by the right online key
    with pytest.raises(Corrupt, match="not signed as it should be"):
        client.find(info.path)


def test_a_stolen_timestamp_key_brings_nothing_back(
    vault: Vault, client: TrustClient, line: Line
) -> None:
    name = vault.repository.bin_of(target_name(ref(1)))
    old = Metadata.from_bytes(vault.repository.targets(name).to_bytes())
    vault.with_keys("dora", "emil").withdraw([ref(1)])
    assert not sees(client, 1)
    thief = Thief(vault, line)
    thief.serve({name: old})  # well signed by the approvers, once
    with pytest.raises(Corrupt, match="older or mixed"):
        sees(client, 1)


def test_robots_that_were_sped_ahead_come_back_after_recovery(
    vault: Vault, client: TrustClient, line: Line
) -> None:
    """The thief signs absurdly high numbers, so that every honest one is "older"."""
    Thief(vault, line).serve({}, version=2**31)
    client.refresh()
    line.instead = {}
    vault.approve(2, "dora", "emil")
    with pytest.raises(Corrupt, match="older or mixed"):
        client.refresh()
    (_, online), = ceremony.holds(vault.repository, vault.repository.root().signed.roles[
        "timestamp"].keyids[0])  # fmt: skip
    fresh = vault.repository.signers.make_next()
    ceremony.recover(vault.repository, [Replacement("online", online, fresh)], {})
    with pytest.raises(Corrupt):
        client.refresh()  # root waits for its people; robots still refuse
    vault.with_keys("anna", "cleo").sign()
    assert sees(client, 1)
    assert sees(client, 2)
    Thief(vault, line).serve({}, version=2**31)  # the old key is worth nothing now
    with pytest.raises(Corrupt):
        client.refresh()


# -- approvers' keys in other hands ----------------------------------------------------------------


def test_one_stolen_approver_key_approves_nothing(vault: Vault, client: TrustClient) -> None:
    with pytest.raises(PolicyctlError):
        vault.approve(66, "dora")
    assert not sees(client, 66)


def test_what_stolen_approvers_approved_is_gone_after_recovery(
    vault: Vault, client: TrustClient
) -> None:
    vault.approve(66, "dora", "emil")  # both keys, and the server
    assert sees(client, 66)
    rightful = {target_name(ref(1)): target_file(ref(1), manifest(1), {})}
    (stranger,) = vault.approvals.strangers(rightful)
    assert stranger.startswith("stranger: box-grasp/v66.json sha256:")
    for stolen, fresh in (("dora", "gina"), ("emil", "hugo")):
        online = vault.repository.root().signed.roles["timestamp"].keyids[0]
        changed = [
            Replacement("approver", vault.keys[stolen].keyid, vault.person(fresh)),
            Replacement("online", online, vault.repository.signers.make_next()),
        ]
        ceremony.recover(vault.repository, changed, rightful)
        vault.with_keys("anna", "ben").sign()
        vault.with_keys("fay", fresh if fresh == "hugo" else "emil").sign()
        if vault.repository.missing():
            vault.with_keys("gina").sign()
    assert vault.repository.missing() == []
    assert sees(client, 1)
    assert not sees(client, 66)
    with pytest.raises(PolicyctlError):
        vault.approve(67, "dora", "emil")
    vault.approve(68, "gina", "hugo")
    assert sees(client, 68)


def test_recovery_works_on_forged_files(vault: Vault, tmp_path: Path) -> None:
    """Whoever had the server also wrote over what it publishes."""
    name = vault.repository.bin_of(target_name(ref(1)))
    newest = vault.folder / "metadata" / f"{vault.repository.version(name)}.{name}.json"
    said = json.loads(newest.read_bytes())
    said["signed"]["targets"] = {}
    newest.write_text(json.dumps(said))
    assert any(one.startswith("forged") for one in vault.approvals.strangers({}))
    online = vault.repository.root().signed.roles["timestamp"].keyids[0]
    changed = [
        Replacement("approver", vault.keys["dora"].keyid, vault.person("gina")),
        Replacement("online", online, vault.repository.signers.make_next()),
    ]
    rightful = {target_name(ref(1)): target_file(ref(1), manifest(1), {})}
    ceremony.recover(vault.repository, changed, rightful)
    vault.with_keys("anna", "ben", "gina", "emil").sign()
    assert sees(robot(vault, tmp_path / "new"), 1)


# -- rotation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["root", "approver", "online"])
def test_each_key_is_rotated_and_robots_follow(
    vault: Vault, client: TrustClient, role: str
) -> None:
    old = {
        "root": vault.keys["anna"].keyid,
        "approver": vault.keys["dora"].keyid,
        "online": vault.repository.root().signed.roles["timestamp"].keyids[0],
    }[role]
    assert ceremony.holds(vault.repository, old[:10]) == [(role, old)]
    fresh = vault.repository.signers.make_next() if role == "online" else vault.person("ida")
    ceremony.rotate(vault.repository, [Replacement(role, old, fresh)])
    vault.with_keys("anna", "ben", *(["ida"] if role != "online" else [])).sign()
    vault.with_keys("emil", "fay").sign() if role == "approver" else None
    assert vault.repository.missing() == []
    assert old not in vault.repository.root().signed.keys
    assert sees(client, 1)
    vault.approve(5, "emil", "fay")
    assert sees(client, 5)


def test_a_robot_that_slept_through_every_rotation_follows_the_roots(
    vault: Vault, tmp_path: Path
) -> None:
    sleeper = TrustClient(tmp_path / "sleeper", Line(vault.folder), vault.anchor, clock=vault.clock)
    people = ["anna", "ben", "cleo"]
    for number in range(4):
        leaving, coming = people.pop(0), f"new-{number}"
        key = vault.person(coming)
        ceremony.rotate(vault.repository, [Replacement("root", vault.keys[leaving].keyid, key)])
        vault.with_keys(leaving, *people, coming).sign()
        people.append(coming)
    assert vault.repository.root().signed.version == 6
    assert sees(sleeper, 1)


# -- time ------------------------------------------------------------------------------------------


def test_a_clock_ten_years_ahead_installs_nothing_new(vault: Vault, client: TrustClient) -> None:
    vault.clock.passes(DECADE)
    with pytest.raises(Stale, match="expired") as stale:
        client.refresh()
    assert "this clock says 2037" in stale.value.evidence
    vault.clock.passes(-DECADE)
    assert sees(client, 1)


def test_a_clock_ten_years_behind_makes_nothing_fresh(
    vault: Vault, tmp_path: Path, line: Line
) -> None:
    """It has seen a timestamp that was made after the one that it is served has expired."""
    behind = Clock(vault.clock.now() - DECADE)
    client = TrustClient(tmp_path / "robot", line, vault.anchor, clock=behind)
    assert sees(client, 1)
    assert client.issued == vault.clock.now()
    thief = Thief(vault, line)
    stale = Metadata.from_bytes(thief.files["metadata/timestamp.json"])
    stale.signed.version += 1
    stale.signed.expires = stale.signed.expires.replace(year=stale.signed.expires.year - 1)
    stale.sign(thief.key)
    line.instead["metadata/timestamp.json"] = stale.to_bytes()
    with pytest.raises(Stale):
        client.refresh()


def test_no_clock_is_before_the_program(vault: Vault, tmp_path: Path, line: Line) -> None:
    behind = Clock(vault.clock.now() - DECADE)
    year_later = vault.clock.now() + 400 * 86400
    client = TrustClient(tmp_path / "new", line, vault.anchor, clock=behind, not_before=year_later)
    with pytest.raises(Stale):
        client.refresh()


def test_frozen_metadata_expires(vault: Vault, client: TrustClient) -> None:
    """A line that holds everything new back is noticed within a day."""
    vault.clock.passes(86400 + 1)
    with pytest.raises(Stale):
        client.refresh()


# -- one role name, two parents --------------------------------------------------------------------


def test_a_role_is_verified_against_the_parent_of_this_lookup(
    tmp_path: Path, vault: Vault, line: Line
) -> None:
    """`release` may sign for team-a; team-b names another key for it, which has not signed."""
    keys = {name: vault.person(name) for name in ("a", "b", "good", "other")}

    def delegating(child: str, key: str, path: str) -> Targets:
        made = Targets(expires=vault.repository.expiry("targets"))
        role = DelegatedRole(child, [keys[key].keyid], 1, False, paths=[path])
        made.delegations = Delegations({keys[key].keyid: keys[key]}, {child: role})
        return made

    top = deepcopy(vault.repository.targets().signed)
    top.version += 1
    roles = {n: DelegatedRole(n, [keys[n].keyid], 1, False, paths=[f"{n}/*"]) for n in ("a", "b")}
    top.delegations = Delegations({keys[n].keyid: keys[n] for n in ("a", "b")}, roles)
    release = Targets(expires=vault.repository.expiry("targets"))
    for path in ("a/x", "b/x"):
        release.targets[path] = TargetFile.from_data(path, b"x", ["sha256"])
    made = {
        "targets": (top, ["dora", "emil"]),
        "a": (delegating("release", "good", "a/*"), ["a"]),
        "b": (delegating("release", "other", "b/*"), ["b"]),
        "release": (release, ["good"]),
    }
    signed = {}
    for name, (content, people) in made.items():
        signed[name] = Metadata(content)
        for one in people:
            signed[name].sign(signer(f"file:{vault.people / one}.pem"), append=True)
    Thief(vault, line).serve(signed)
    client = robot(vault, tmp_path / "robot", line)
    client.refresh()
    assert client.find("a/x") is not None
    with pytest.raises(Corrupt, match="not signed"):
        client.find("b/x")
