"""Attack drills on metadata: what whoever holds a server, the line or the clock can and cannot do.

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
from trust import Line, Thief, Vault, manifest, ref, robot, sees
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, TargetFile, Targets
from world import Clock

from registry.errors import Corrupt, PolicyctlError
from registry.trust import ceremony
from registry.trust.approvals import target_name
from registry.trust.ceremony import Replacement
from registry.trust.client import Stale, TrustClient
from registry.trust.keys import signer
from registry.trust.root_roles import holds

pytestmark = pytest.mark.slow

DECADE = 10 * 365.25 * 86400


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
    role = (
        "snapshot" if old == "snapshot" else vault.repository.published.bin_of(target_name(ref(1)))
    )
    before = vault.repository.published.version(role)
    held = (vault.folder / "metadata" / f"{before}.{role}.json").read_bytes()
    vault.with_keys("dora", "emil").withdraw([ref(1)])
    line.instead[f"metadata/{vault.repository.published.version(role)}.{role}.json"] = held
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
    name = vault.repository.published.bin_of(target_name(ref(66))) if role == "bin" else role
    path = "metadata/timestamp.json"
    if role != "timestamp":
        path = f"metadata/{vault.repository.published.version(name)}.{name}.json"
    said = json.loads((vault.folder / path).read_bytes())
    forge(said)
    if role == "root":
        said["signed"]["version"] = vault.repository.published.version("root") + 1
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
    role = vault.repository.published.bin_of(target_name(ref(2))) if name == "bin" else name
    path = "timestamp"
    if name != "timestamp":
        path = f"{vault.repository.published.version(role) + (name == 'root')}.{role}"
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
    bin_name = vault.repository.published.bin_of(target_name(ref(2)))
    path = {
        "timestamp": "timestamp",
        "root": f"{vault.repository.published.version('root') + 1}.root",
        "snapshot": f"{vault.repository.published.version('snapshot')}.snapshot",
        "bin": f"{vault.repository.published.version(bin_name)}.{bin_name}",
    }[role]
    name = f"metadata/{path}.json"
    line.instead[name] = b"{"
    line.endless = {name}
    with pytest.raises(Corrupt, match="other bytes than announced"):
        sees(client, 2)
    line.endless, line.instead = set(), {}
    assert sees(client, 2)


# -- rotation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["root", "approver", "online"])
def test_each_key_is_rotated_and_robots_follow(
    vault: Vault, client: TrustClient, role: str
) -> None:
    old = {
        "root": vault.keys["anna"].keyid,
        "approver": vault.keys["dora"].keyid,
        "online": vault.repository.published.root().signed.roles["timestamp"].keyids[0],
    }[role]
    assert holds(vault.repository, old[:10]) == [(role, old)]
    fresh = vault.repository.signers.make_next() if role == "online" else vault.person("ida")
    ceremony.rotate(vault.repository, [Replacement(role, old, fresh)])
    vault.with_keys("anna", "ben", *(["ida"] if role != "online" else [])).sign()
    vault.with_keys("emil", "fay").sign() if role == "approver" else None
    assert vault.repository.missing() == []
    assert old not in vault.repository.published.root().signed.keys
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
    assert vault.repository.published.root().signed.version == 6
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


def test_a_servers_clock_that_was_ahead_and_was_put_right_keeps_nothing_from_robots(
    vault: Vault, client: TrustClient
) -> None:
    def nags() -> str:
        return "\n".join(one for one in vault.approvals.status().nags if "this clock" in one)

    assert nags() == ""
    vault.clock.passes(30 * 86400)
    vault.repository.freshen(now=True)
    assert sees(client, 1)
    vault.clock.passes(-30 * 86400)
    vault.approve(2, "dora", "emil")
    assert sees(client, 2), "what is new has expired for whoever saw the clock that was ahead"
    online = vault.repository.published.root().signed.roles["timestamp"].keyids[0]
    assert f"`policyctl trust rotate {online[:12]}`" in nags()
    fresh = vault.repository.signers.make_next()
    ceremony.rotate(vault.repository, [Replacement("online", online, fresh)])
    vault.with_keys("anna", "cleo").sign()
    assert nags() == ""
    assert sees(client, 2)
    vault.clock.passes(2 * 86400)
    with pytest.raises(Stale):  # frozen metadata is noticed within a day again
        client.refresh()


@pytest.mark.parametrize("years", [2, 8000])
def test_a_servers_clock_that_was_absurd_is_told_and_ends_nothing(vault: Vault, years: int) -> None:
    online = vault.repository.published.root().signed.roles["timestamp"].keyids[0]
    vault.clock.passes(min(years * 31_557_600, 250_000_000_000 - vault.clock.now()))
    vault.repository.freshen(now=True)
    vault.clock.passes(1_800_000_000 - vault.clock.now())
    vault.repository.freshen(now=True)
    made = vault.repository.published.timestamp().signed.expires.timestamp()
    assert 0 < made - vault.clock.now() < 2 * 86400
    fresh = vault.repository.signers.make_next()
    ceremony.rotate(vault.repository, [Replacement("online", online, fresh)])
    vault.with_keys("anna", "cleo").sign()


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

    top = deepcopy(vault.repository.published.targets().signed)
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
