"""Keys in other hands: what a thief of the online key or of approvers' keys gets, and recovery."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trust import Line, Thief, Vault, manifest, ref, robot, sees
from tuf.api.metadata import Metadata

from registry.errors import Corrupt, Pending, PolicyctlError
from registry.trust import ceremony
from registry.trust.approvals import target_file, target_name
from registry.trust.ceremony import Replacement
from registry.trust.client import TrustClient
from registry.trust.online import ISSUED
from registry.trust.root_roles import holds

pytestmark = pytest.mark.slow

DECADE = 10 * 365.25 * 86400


# -- the online key in other hands -----------------------------------------------------------------


def test_a_stolen_timestamp_key_approves_nothing(
    vault: Vault, client: TrustClient, line: Line
) -> None:
    thief = Thief(vault, line)
    name = vault.repository.published.bin_of(target_name(ref(66)))
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
    name = vault.repository.published.bin_of(target_name(ref(1)))
    old = Metadata.from_bytes(vault.repository.published.targets(name).to_bytes())
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
    (_, online), = holds(vault.repository, vault.repository.published.root().signed.roles[
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


@pytest.mark.parametrize("issued", [int(2 * DECADE), 10**20, 10**400, "soon"])
def test_a_time_that_a_thief_made_up_ends_with_his_key(
    vault: Vault, client: TrustClient, line: Line, issued: int | str
) -> None:
    """He says that his timestamp was made long after now: all that is honest would have expired."""
    thief = Thief(vault, line)
    made = Metadata.from_bytes(thief.files["metadata/timestamp.json"])
    made.signed.version += 1
    made.signed.expires = made.signed.expires.replace(year=made.signed.expires.year + 30)
    late = issued if isinstance(issued, str) else int(vault.clock.now()) + issued
    made.signed.unrecognized_fields[ISSUED] = late
    made.sign(thief.key)
    line.instead["metadata/timestamp.json"] = made.to_bytes()
    client.refresh()
    line.instead = {}
    (_, online), = holds(vault.repository, vault.repository.published.root().signed.roles[
        "timestamp"].keyids[0])  # fmt: skip
    fresh = vault.repository.signers.make_next()
    ceremony.recover(vault.repository, [Replacement("online", online, fresh)], {})
    vault.with_keys("anna", "cleo").sign()
    assert sees(client, 1)


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
        online = vault.repository.published.root().signed.roles["timestamp"].keyids[0]
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


@pytest.mark.parametrize("of", ["bin", "targets"])
def test_recovery_works_on_forged_files(vault: Vault, tmp_path: Path, of: str) -> None:
    """Whoever had the server also wrote over what it publishes; an approval waits meanwhile."""
    with pytest.raises(Pending):
        vault.approve(2)
    name = vault.repository.published.bin_of(target_name(ref(1))) if of == "bin" else of
    newest = vault.folder / "metadata" / f"{vault.repository.published.version(name)}.{name}.json"
    said = json.loads(newest.read_bytes())
    said["signed"]["targets"] = {}
    said["signed"]["expires"] = "2099-01-01T00:00:00Z"
    newest.write_text(json.dumps(said))
    assert any(one.startswith("forged") for one in vault.approvals.strangers({}))
    online = vault.repository.published.root().signed.roles["timestamp"].keyids[0]
    changed = [
        Replacement("approver", vault.keys["dora"].keyid, vault.person("gina")),
        Replacement("online", online, vault.repository.signers.make_next()),
    ]
    rightful = {target_name(ref(1)): target_file(ref(1), manifest(1), {})}
    ceremony.recover(vault.repository, changed, rightful)
    vault.with_keys("anna", "ben", "gina", "emil").sign()
    assert sees(robot(vault, tmp_path / "new"), 1)
