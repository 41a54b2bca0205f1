"""Which key may act in which role: the rules hold whatever is done to a keyring."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trusted import Keys

from registry.errors import Conflict, Corrupt, NotAllowed, NotFound, Refused, WrongSigner
from registry.home import Home
from registry.trust.ceremony import Replacement
from registry.trust.files import TrustFolder
from registry.trust.keyring import ROLES, Keyring, PublicKey, first_keyring, parse_keyring
from registry.trust.keys import new_key
from registry.trust.replacing import keyring_after
from registry.trust.roles import WORKING, hardened
from registry.trust.sealing import public_of

A, B, C, D = (PublicKey(name * 8, "ed25519", "ed25519", f"public {name}") for name in "abcd")


def test_one_key_may_do_everything_until_the_keyring_is_hardened() -> None:
    begun = first_keyring(A, "3:" + "0" * 64)
    assert begun.roles_of(A.keyid) == ROLES
    assert len(begun.warnings) == 1
    with pytest.raises(Refused, match="another role") as caught:
        begun.harden()
    assert "publisher" in caught.value.evidence
    apart = begun.with_key("approver", B).retire("approver", A.keyid)
    assert apart.warnings == ()
    hardened = apart.harden()
    assert hardened.hardened
    with pytest.raises(Refused, match="does not allow"):
        hardened.with_key("publisher", B)
    with pytest.raises(Refused, match="does not allow"):
        hardened.with_key("approver", A)


def test_a_robots_key_is_of_that_robot_alone() -> None:
    ring = first_keyring(A).with_robot("robot-01", B)
    with pytest.raises(Refused):
        ring.with_robot("robot-02", B)
    with pytest.raises(Refused):
        ring.with_key("director", B)
    with pytest.raises(Refused):
        ring.with_robot("robot-01", A)
    assert ring.with_robot("robot-01", B) is ring
    assert ring.of_robot("robot-01") == (B,)
    assert ring.of_robot("robot-02") == ()


def test_a_retired_key_signs_no_more_and_a_stolen_one_never_did() -> None:
    ring = first_keyring(A).with_key("runner", B)
    retired = ring.retire("runner", A.keyid)
    assert retired.of_role("runner") == (B,)
    assert retired.of_role("runner", past=True) == (A, B)
    assert retired.of_role("publisher") == (A,)
    taken = retired.without(A.keyid)
    assert taken.of_role("runner", past=True) == (B,)
    assert taken.roles_of(A.keyid) == ()
    with pytest.raises(NotFound):
        taken.without(A.keyid)
    with pytest.raises(NotFound):
        taken.retire("runner", A.keyid)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["role", "robot", "retire", "out", "harden"]),
            st.sampled_from(ROLES),
            st.sampled_from([A, B, C, D]),
            st.sampled_from(["one", "two"]),
        ),
        max_size=12,
    )
)
def test_whatever_is_done_the_rules_hold_and_the_number_rises(steps: list[tuple]) -> None:
    ring = first_keyring(A)
    for what, role, key, robot in steps:
        before = ring
        try:
            match what:
                case "role":
                    ring = ring.with_key(role, key)
                case "robot":
                    ring = ring.with_robot(robot, key)
                case "retire":
                    ring = ring.retire(role, key.keyid)
                case "out":
                    ring = ring.without(key.keyid)
                case "harden":
                    ring = ring.harden()
        except (Refused, NotFound):
            continue
        assert ring is before or ring.number == before.number + 1
        assert parse_keyring(ring.canonical(), "here") == ring
        of_robots = [keyid for ids in ring.robots.values() for keyid in ids]
        assert len(of_robots) == len(set(of_robots))
        for one in ring.keys:
            roles = ring.roles_of(one.keyid)
            assert roles
            assert one.keyid not in of_robots or len(roles) == 1
            if ring.hardened and "approver" in roles:
                assert not set(roles) & set(ROLES) - {"approver"}


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "policyctl.keyring/2"},
        {"number": 0},
        {"number": "1"},
        {"hardened": "no"},
        {"roles": {"king": []}},
        {"roles": {"runner": ["unknown"]}},
        {"keys": {}},
        {"robots": {"r": [A.keyid]}},
        {"robots": None},
    ],
)
def test_what_is_no_keyring_is_refused(change: dict[str, object]) -> None:
    said = {**first_keyring(A).to_json(), **change}
    with pytest.raises(Corrupt, match="no keyring") as caught:
        parse_keyring(json.dumps(said).encode(), "trust/keyring.json")
    assert caught.value.evidence.startswith("trust/keyring.json")


# -- the home's folder -----------------------------------------------------------------------------


def test_a_keyring_is_never_replaced_by_an_older_one(tmp_path: Path) -> None:
    keys = Keys(Home(tmp_path))
    old = keys.keyring
    keys.folder.write_keyring(old.with_robot("robot-01", keys.of_robot("robot-01")))
    with pytest.raises(Conflict):
        keys.folder.write_keyring(old.with_robot("robot-02", keys.of_robot("robot-02")))
    (keys.folder.root / "keyring.json").write_bytes(old.canonical())
    with pytest.raises(Corrupt, match="older"):
        keys.folder.keyring()


def test_a_changed_file_is_seen_at_once_and_a_lost_one_is_said(tmp_path: Path) -> None:
    keys = Keys(Home(tmp_path))
    reader = TrustFolder(keys.folder.root)
    assert reader.keyring().of_robot("robot-01") == ()
    keys.folder.write_keyring(keys.keyring.with_robot("robot-01", keys.of_robot("robot-01")))
    assert reader.keyring().of_robot("robot-01") == (keys.of_robot("robot-01"),)
    (keys.folder.root / "keyring.json").unlink()
    with pytest.raises(Corrupt, match="cannot be read"):
        reader.keyring()


def test_a_hardened_keyring_changes_only_by_its_approvers(tmp_path: Path) -> None:
    keys = Keys(Home(tmp_path))
    hardened = keys.keyring.harden()
    keys.folder.write_keyring(hardened)
    wanted = hardened.with_robot("robot-01", keys.of_robot("robot-01"))
    assert keys.folder.propose(wanted) is False
    assert keys.keyring == hardened
    assert keys.folder.proposed() == wanted
    keys.folder.write_keyring(wanted)  # approved
    assert keys.keyring == wanted
    assert keys.folder.proposed() is None


def test_signers_are_keys_of_their_role_in_a_file_or_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(Home(tmp_path), ("publisher", "approver", "director", "runner"))
    assert keys.signers.signer("runner").public_key.keyid == keys.public["runner"].keyid
    monkeypatch.setenv("RUNNER_PEM", keys.own("runner").read_text())
    monkeypatch.setenv("POLICYCTL_SIGNER_RUNNER", "env:RUNNER_PEM")
    assert keys.signers.signer("runner").public_key.keyid == keys.public["runner"].keyid
    monkeypatch.setenv("RUNNER_PEM", keys.own("publisher").read_text())
    with pytest.raises(WrongSigner, match="is no runner's") as caught:
        keys.signers.signer("runner")
    assert "PRIVATE" not in str(caught.value)
    monkeypatch.delenv("POLICYCTL_SIGNER_RUNNER")
    keys.signers.write({})
    with pytest.raises(NotAllowed, match="no runner's key"):
        keys.signers.signer("runner")


def test_a_signer_whose_key_lost_its_role_is_refused(tmp_path: Path) -> None:
    keys = Keys(Home(tmp_path))
    signers = keys.signers.all()
    keys.replace("runner", "second", stolen=False)
    keys.signers.write(signers)
    with pytest.raises(WrongSigner, match="no runner's") as caught:
        keys.signers.signer("runner")
    assert "retired runner" in caught.value.evidence


def test_the_empty_keyring_trusts_nobody() -> None:
    assert [Keyring().of_role(role) for role in ROLES] == [()] * 4


def test_what_the_keyring_says_after_a_key_gave_way(tmp_path: Path) -> None:
    """A stolen home key loses all it has; a replaced one of a hardened home only its own role."""
    home, fresh = (new_key(tmp_path / name) for name in ("home.pem", "fresh.pem"))
    young = Keyring()
    for role in ROLES:
        young = young.with_key(role, public_of(home))
    approvers = [public_of(new_key(tmp_path / f"{name}.pem")) for name in ("dora", "emil", "fay")]
    grown = hardened(young, approvers)
    gone = [Replacement("online", home.keyid, fresh)]
    replaced = keyring_after(young, gone, None)
    assert all(replaced.roles[role] == (fresh.keyid,) for role in WORKING)
    assert keyring_after(grown, gone, None) == grown
    stolen = keyring_after(grown, gone, home.keyid)
    assert all(stolen.roles[role] == (fresh.keyid,) for role in WORKING)
    assert stolen.roles_of(home.keyid) == ()
    left = [Replacement("approver", approvers[0].keyid, fresh)]
    assert fresh.keyid in keyring_after(grown, left, None).roles["approver"]
