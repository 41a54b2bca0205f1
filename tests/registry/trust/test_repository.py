"""The repository of approved versions: one key in a minute, thresholds, drafts, kills."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from trust import GATES, Vault, manifest, ref, robot, sees

import registry.trust.repository as repository_module
from registry.errors import Corrupt, NotFound, Pending, Refused, UsageError
from registry.trust import ceremony
from registry.trust.approvals import Approvals
from registry.trust.keys import new_key

pytestmark = pytest.mark.slow


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path).init()


def test_one_key_in_far_less_than_a_minute(tmp_path: Path) -> None:
    began = time.monotonic()
    vault = Vault(tmp_path).init()
    vault.approve(1)
    assert time.monotonic() - began < 20
    assert sees(robot(vault, tmp_path / "robot"), 1)
    assert not sees(robot(vault, tmp_path / "robot"), 2)


def test_trust_is_set_up_once(vault: Vault) -> None:
    with pytest.raises(Refused, match="set up here already"):
        ceremony.init(vault.repository)


def test_a_target_says_what_its_gates_attested(vault: Vault, tmp_path: Path) -> None:
    vault.approve(1)
    client = robot(vault, tmp_path / "robot")
    info = client.find("box-grasp/v1.json")
    assert info is not None
    assert info.custom == {"policyctl": {"gates": GATES}}


def test_approving_again_changes_nothing_and_other_bytes_are_refused(vault: Vault) -> None:
    vault.approve(1)
    before = sorted(path.name for path in (vault.folder / "metadata").iterdir())
    vault.approve(1)
    assert sorted(path.name for path in (vault.folder / "metadata").iterdir()) == before
    with pytest.raises(Refused, match="other bytes"):
        vault.approvals.approve(ref(1), manifest(2), GATES)


def test_a_version_taken_back_is_gone_for_robots(vault: Vault, tmp_path: Path) -> None:
    vault.approve(1)
    vault.approve(2)
    client = robot(vault, tmp_path / "robot")
    assert sees(client, 2)
    assert vault.approvals.withdraw([ref(2), ref(7)]) == []
    assert not sees(client, 2)
    assert sees(client, 1)


def test_status_nags_until_it_is_hardened(vault: Vault) -> None:
    before = vault.approvals.status()
    assert not before.hardened
    assert any("trust harden" in nag for nag in before.nags)
    vault.harden()
    after = vault.approvals.status()
    assert after.hardened
    assert after.nags == ()
    assert [(one.role, one.threshold, len(one.keys)) for one in after.roles] == [
        ("root", 2, 3), ("approver", 2, 3), ("online", 1, 1)
    ]  # fmt: skip


def test_robots_follow_the_hardening(vault: Vault, tmp_path: Path) -> None:
    vault.approve(1)
    client = robot(vault, tmp_path / "robot")
    assert sees(client, 1)
    vault.harden()
    assert sees(client, 1)
    assert sees(robot(vault, tmp_path / "new"), 1)


def test_nothing_of_a_hardening_is_seen_before_all_have_signed(
    vault: Vault, tmp_path: Path
) -> None:
    vault.approve(1)
    roots = [vault.person(name) for name in ("anna", "ben", "cleo")]
    approvers = [vault.person(name) for name in ("dora", "emil", "fay")]
    assert ceremony.harden(vault.repository, roots, 2, approvers, 2) == []
    for signers in (("anna",), ("ben",), ("dora",)):
        vault.with_keys(*signers).sign()
        assert vault.repository.published.root().signed.version == 1
        assert sees(robot(vault, tmp_path / "robot"), 1)
    assert vault.with_keys("fay").sign() == []
    assert vault.repository.published.root().signed.version == 2
    assert sees(robot(vault, tmp_path / "robot"), 1)


@pytest.mark.parametrize(
    ("threshold", "people"), [(1, 3), (3, 3), (4, 3), (0, 3)], ids=["one", "all", "more", "none"]
)
def test_a_threshold_that_protects_nothing_is_refused(
    vault: Vault, threshold: int, people: int
) -> None:
    keys = [vault.person(str(n)) for n in range(people)]
    good = [vault.person(f"good-{n}") for n in range(3)]
    with pytest.raises(UsageError):
        ceremony.harden(vault.repository, keys, threshold, good, 2)
    with pytest.raises(UsageError):
        ceremony.harden(vault.repository, good, 2, keys, threshold)
    with pytest.raises(UsageError, match="twice"):
        ceremony.harden(vault.repository, [good[0], good[0], good[1]], 2, good, 2)
    assert vault.repository.drafts() == {}


def test_the_online_key_cannot_be_an_offline_one(vault: Vault) -> None:
    online = next(iter(vault.repository.published.root().signed.keys.values()))
    keys = [vault.person(str(n)) for n in range(3)]
    with pytest.raises(Refused, match="worth nothing offline"):
        ceremony.harden(vault.repository, [online, *keys], 2, keys, 2)


# -- signatures that come later --------------------------------------------------------------------


def test_a_hardened_home_waits_for_its_approvers(vault: Vault, tmp_path: Path) -> None:
    vault.harden()
    client = robot(vault, tmp_path / "robot")
    published = vault.repository.published.timestamp().signed.version
    with pytest.raises(Pending, match="2 more signature") as waits:
        vault.approve(1)
    assert waits.value.exit_status == 8
    assert "policyctl approve" in waits.value.hint
    with pytest.raises(Pending, match="1 more signature"):
        vault.approve(1, "dora")
    assert vault.repository.published.timestamp().signed.version == published
    assert not sees(client, 1)
    assert vault.with_keys("emil").sign(ref(1)) == []
    assert sees(client, 1)
    vault.approve(1)  # and promotion goes on


def test_one_approver_signing_twice_is_one(vault: Vault) -> None:
    vault.harden()
    with pytest.raises(Pending):
        vault.approve(1, "dora")
    with pytest.raises(Refused, match="signed already"):
        vault.with_keys("dora").sign()
    with pytest.raises(Pending, match="1 more"):
        vault.approve(1, "dora")


def test_a_root_key_approves_nothing(vault: Vault) -> None:
    vault.harden()
    with pytest.raises(Pending, match="2 more"):
        vault.approve(1, "anna", "ben", "cleo")


def test_versions_wait_side_by_side(vault: Vault) -> None:
    vault.harden()
    numbers = [1, 2, 3]
    assert len({vault.repository.published.bin_of(f"box-grasp/v{n}.json") for n in numbers}) == 3
    for number in numbers:
        with pytest.raises(Pending):
            vault.approve(number, "dora")
    vault.with_keys("emil").sign(ref(2))
    assert "box-grasp/v2.json" in vault.approvals.status().approved


def test_a_draft_that_changes_loses_its_signatures(vault: Vault) -> None:
    """Two versions of one bin: what dora signed was not what robots would read."""
    vault.harden()
    place = vault.repository.published.bin_of("box-grasp/v1.json")
    other = next(
        n
        for n in range(2, 999)
        if vault.repository.published.bin_of(f"box-grasp/v{n}.json") == place
    )
    with pytest.raises(Pending, match="1 more"):
        vault.approve(1, "dora")
    with pytest.raises(Pending, match="1 more"):
        vault.approve(other, "emil")
    assert vault.with_keys("dora").sign() == []
    assert {"box-grasp/v1.json", f"box-grasp/v{other}.json"} <= {*vault.approvals.status().approved}


def test_taking_back_never_waits(vault: Vault, tmp_path: Path) -> None:
    vault.approve(1)
    vault.harden()
    client = robot(vault, tmp_path / "robot")
    waiting = vault.approvals.withdraw([ref(1)])
    assert waiting == [vault.repository.published.bin_of("box-grasp/v1.json")]
    assert any("trust sign" in nag for nag in vault.approvals.status().nags)
    assert sees(client, 1)
    vault.with_keys("dora", "fay").sign()
    assert not sees(client, 1)


def test_signatures_come_back_from_a_machine_without_the_home(vault: Vault, tmp_path: Path) -> None:
    vault.harden()
    with pytest.raises(Pending):
        vault.approve(1)
    ((role, draft),) = vault.repository.drafts().items()
    carried = type(draft).from_bytes(draft.to_bytes())
    for name in ("dora", "emil"):
        assert vault.opened(name).signers.sign(carried, vault.keys[name])
    assert vault.repository.merge(role, carried) == 2
    assert vault.repository.publish() == [role]
    with pytest.raises(NotFound, match="no draft"):
        vault.repository.merge(role, carried)


def test_a_forged_signature_on_a_carried_draft_does_not_count(vault: Vault) -> None:
    vault.harden()
    with pytest.raises(Pending):
        vault.approve(1)
    ((role, draft),) = vault.repository.drafts().items()
    forged = {"keyid": vault.keys["dora"].keyid, "sig": "00" * 64}
    said = json.loads(draft.to_bytes()) | {"signatures": [forged]}
    assert vault.repository.merge(role, type(draft).from_bytes(json.dumps(said).encode())) == 0
    assert vault.repository.missing()[0].have == 0
    assert vault.with_keys("dora", "emil").sign() == []


# -- keys ------------------------------------------------------------------------------------------


def test_without_the_online_key_nothing_is_published(vault: Vault, tmp_path: Path) -> None:
    vault.approve(1)
    hidden = vault.folder / "keys" / "home.pem"
    hidden.rename(tmp_path / "elsewhere.pem")
    before = vault.repository.published.timestamp().signed.version
    with pytest.raises(NotFound):
        vault.opened().freshen(now=True)
    assert vault.repository.published.timestamp().signed.version == before
    named = Approvals(vault.opened())
    named.repository.signers._named.append(f"file:{tmp_path / 'elsewhere.pem'}")
    named.approve(ref(2), manifest(2), GATES)
    assert named.is_published(ref(2), manifest(2))


def test_a_draft_is_never_built_on_what_was_forged(vault: Vault, tmp_path: Path) -> None:
    vault.approve(1)
    name = vault.repository.published.bin_of("box-grasp/v1.json")
    newest = max((vault.folder / "metadata").glob(f"*.{name}.json"))
    said = json.loads(newest.read_bytes())
    said["signed"]["targets"]["box-grasp/v9.json"] = said["signed"]["targets"]["box-grasp/v1.json"]
    newest.write_text(json.dumps(said))
    with pytest.raises(Corrupt, match="not signed as it should be"):
        vault.approvals.withdraw([ref(1)])


# -- time and kills --------------------------------------------------------------------------------


def test_half_a_life_before_it_expires_it_is_made_fresh(vault: Vault, tmp_path: Path) -> None:
    vault.approve(1)
    client = robot(vault, tmp_path / "robot")
    assert not vault.repository.freshen()
    for _ in range(10):
        vault.clock.passes(0.6 * 86400)
        assert vault.repository.freshen()
        assert sees(client, 1)


def test_a_year_later_status_says_what_to_renew(vault: Vault) -> None:
    vault.harden()
    vault.clock.passes(340 * 86400)
    vault.repository.freshen()
    assert sum("trust renew" in nag for nag in vault.approvals.status().nags) == 2
    ceremony.renew(vault.repository)
    vault.with_keys("anna", "cleo").sign()
    vault.with_keys("emil", "fay").sign()
    assert vault.approvals.status().nags == ()


class Died(BaseException):
    pass


@pytest.mark.parametrize("at", range(9))
def test_killed_while_publishing_the_next_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Robots see the state before or the state after, whichever write was the last."""
    vault = Vault(tmp_path).init().harden()
    vault.approve(1, "dora", "emil")
    client = robot(vault, tmp_path / "robot")
    assert sees(client, 1)
    left = [at]
    whole = repository_module.write_whole

    def dies(path: Path, content: bytes) -> None:
        if left[0] == 0:
            raise Died
        left[0] -= 1
        whole(path, content)

    monkeypatch.setattr(repository_module, "write_whole", dies)
    with contextlib.suppress(Died):
        vault.approve(2, "dora", "emil")
    monkeypatch.undo()
    assert sees(client, 1)
    vault.approve(2, "dora", "emil")
    assert sees(client, 2)
    assert vault.repository.drafts() == {}


def test_killed_while_a_new_root_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Robots go on through every kill but one, between root and timestamp; there they refuse, and
    after the next command all is well."""
    whole = repository_module.write_whole
    wrote: list[str] = []
    refused = []
    for at in ("1st", "targets", "snapshot", "root", "timestamp"):
        vault = Vault(tmp_path / at).init()
        vault.approve(1)
        roots = [vault.person(name) for name in ("anna", "ben", "cleo")]
        approvers = [vault.person(name) for name in ("dora", "emil", "fay")]
        ceremony.harden(vault.repository, roots, 2, approvers, 2)
        vault.with_keys("anna", "ben", "dora").sign()
        client = robot(vault, vault.folder.parent / "robot")
        assert sees(client, 1)
        last = vault.with_keys("emil")
        last.repository.sign()
        wrote.clear()

        def dies(path: Path, content: bytes, at: str = at) -> None:
            if (at == "1st" and not wrote) or f"{at}.json" in path.name:
                raise Died
            wrote.append(path.name)
            whole(path, content)

        monkeypatch.setattr(repository_module, "write_whole", dies)
        with pytest.raises(Died):
            last.repository.publish()
        monkeypatch.undo()
        try:
            assert sees(client, 1)
        except Corrupt:
            refused.append(at)
        assert sorted(vault.opened("emil").publish()), "the next command goes on"
        assert sees(client, 1)
        assert vault.approvals.status().hardened
    assert refused == ["timestamp"]
    assert wrote[-1] == "2.root.json"


def test_a_draft_left_by_a_kill_after_the_end_is_not_built_on(vault: Vault, tmp_path: Path) -> None:
    """All was published but the draft's removal: the next change is a version of its own."""
    vault.repository.put_file("keyring.json", b"1")
    vault.repository.sign()
    left = (vault.folder / "drafts" / "targets.json").read_bytes()
    vault.repository.publish()
    (vault.folder / "drafts" / "targets.json").write_bytes(left)
    before = vault.repository.published.version("targets")
    vault.approvals.put_file("keyring.json", b"2")
    assert vault.repository.published.version("targets") == before + 1
    client = robot(vault, tmp_path / "robot")
    client.refresh()
    assert client.file("keyring.json").read_bytes() == b"2"


def test_old_versions_are_pruned_and_roots_never(vault: Vault) -> None:
    for number in range(1, 12):
        vault.approve(number)
    names = [path.name for path in (vault.folder / "metadata").iterdir()]
    assert sum(name.endswith(".snapshot.json") for name in names) == 3
    assert "1.root.json" in names


def test_a_small_file_is_a_target_of_its_own(vault: Vault, tmp_path: Path) -> None:
    client = robot(vault, tmp_path / "robot")
    with pytest.raises(NotFound):
        client.file("keyring.json")
    vault.approvals.put_file("keyring.json", b"{}")
    client.refresh()
    assert client.file("keyring.json").read_bytes() == b"{}"
    vault.approvals.put_file("keyring.json", b"{ }")
    assert client.file("keyring.json").read_bytes() == b"{}"
    client.refresh()
    assert client.file("keyring.json").read_bytes() == b"{ }"


def test_a_key_kept_elsewhere_signs_for_the_home(tmp_path: Path, monkeypatch: Any) -> None:
    vault = Vault(tmp_path)
    key = new_key(tmp_path / "ci.pem")
    monkeypatch.setenv("CI_KEY", (tmp_path / "ci.pem").read_text())
    vault.repository.signers.remember(key, "env:CI_KEY")
    ceremony.init(vault.repository, key)
    (tmp_path / "ci.pem").unlink()
    vault.approve(1)
    assert not (vault.folder / "keys").exists()
    assert sees(robot(vault, tmp_path / "robot"), 1)
