"""Roles of keys as a person sets them: from one key to publishers, runners and approvers apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from contract_data import contract_json
from typed_trust import Run, done, opened, registered
from world import judge_hil, judge_sim

from policies.contract import parse_contract
from policies.formats.native import Network, save
from registry.errors import NotAllowed


def test_one_key_signs_everything_at_first_and_show_says_so(run: Run, tmp_path: Path) -> None:
    done(run("trust", "init"))
    begun = done(run("trust", "roles"))
    assert len(begun["warnings"]) == 1
    assert {len(ids) for ids in begun["keyring"]["roles"].values()} == {1}
    with opened(tmp_path) as registry:
        ref = registered(tmp_path, registry)
        judge_sim(registry, ref)
        judge_hil(registry, ref)
        assert registry.doubts(ref) == []
    shown = done(run("show", "v1"))
    assert [one["what"] for one in shown["statements"]] == [
        "registration",
        "sim verdict",
        "hil verdict",
    ]
    assert all(
        "publisher, runner, approver, director" in one["says"] for one in shown["statements"]
    )
    assert shown["provenance"][0]["links"] == {
        "run": "https://wandb.ai/team/box/runs/7ab",
        "dataset": "https://huggingface.co/datasets/team/boxes/tree/0a1b",
    }
    assert done(run("verify", "v1"))["statements"] == 3


def test_roles_come_apart_and_a_hardened_keyring_waits_for_its_approvers(
    run: Run, tmp_path: Path
) -> None:
    done(run("trust", "init"))
    people = ("anna", "ben", "cleo", "dora", "emil", "fay", "ci")
    for name in people:
        done(run("trust", "key", f"people/{name}"))
    roots = [word for name in people[:3] for word in ("--root", f"people/{name}.pub")]
    approvers = [word for name in people[3:6] for word in ("--approver", f"people/{name}.pub")]
    assert run("trust", "harden", *roots, *approvers, "--yes").status == 8
    assert done(run("trust", "roles"))["keyring"]["hardened"] is False
    sign = [word for name in people[:5] for word in ("--key", f"file:people/{name}")]
    done(run("trust", "sign", *sign, "--yes"))
    hardened = done(run("trust", "roles"))
    assert hardened["keyring"]["hardened"] is True
    assert hardened["warnings"] == []
    assert len(hardened["keyring"]["roles"]["approver"]) == 3

    # A runner of its own waits for the approvers, and then judges by its own key alone.
    assert run("trust", "grant", "runner", "people/ci.pub", "--yes").status == 8
    waiting = done(run("trust", "roles"))
    assert len(waiting["keyring"]["roles"]["runner"]) == 1
    assert len(waiting["waits"]["roles"]["runner"]) == 2
    done(run("trust", "sign", *sign[6:], "--yes"))
    assert len(done(run("trust", "roles"))["keyring"]["roles"]["runner"]) == 2
    # An approver's key can be given no other role.
    refused = run("trust", "grant", "publisher", "people/dora.pub", "--yes")
    assert refused.status == 5
    assert "does not allow" in refused.out


def test_a_pipelines_runner_brings_its_key_in_the_environment(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(run("trust", "init"))
    for name in ("ci", "other"):
        done(run("trust", "key", f"people/{name}"))
    before = done(run("trust", "roles"))["keyring"]["roles"]["runner"][0]
    done(run("trust", "grant", "runner", "people/ci.pub", "--yes"))
    with opened(tmp_path) as registry:
        ref = registered(tmp_path, registry)
        monkeypatch.setenv("CI_KEY", Path("people/other").read_text())
        monkeypatch.setenv("POLICYCTL_SIGNER_RUNNER", "env:CI_KEY")
        with pytest.raises(NotAllowed, match="is no runner's"):
            judge_sim(registry, ref)
        monkeypatch.setenv("CI_KEY", Path("people/ci").read_text())
        judge_sim(registry, ref)
        assert registry.doubts(ref) == []
    signed = done(run("show", "v1"))["statements"][-1]
    assert "(runner)" in signed["says"]
    # The key that began it all judges no more; what it signed would stand.
    assert run("trust", "revoke", before, "--yes").status == 0
    roles = done(run("trust", "roles"))["keyring"]
    assert roles["retired"]["runner"] == [before]
    assert before not in roles["roles"]["publisher"]


def test_a_stolen_home_key_is_replaced_in_every_role_with_one_command(
    run: Run, tmp_path: Path
) -> None:
    old = done(run("trust", "init"))["key"]
    with opened(tmp_path) as registry:
        ref = registered(tmp_path, registry)
    done(run("trust", "recover", old, "--yes"))
    keyring = done(run("trust", "roles"))["keyring"]
    assert old not in keyring["keys"]
    assert {len(ids) for ids in keyring["roles"].values()} == {1}
    with opened(tmp_path) as registry:
        assert any("not in the keyring" in line for line in registry.doubts(ref))
        made = tmp_path / "made-0"
        assert not registry.register(made, "box-grasp").created
        assert registry.doubts(ref) == []


def test_a_bundle_is_signed_by_the_homes_publisher_and_taken_from_one_that_is_listed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeros = np.zeros(8, dtype=np.float32)
    layer = (np.ones((8, 11), dtype=np.float32), zeros)
    mean, std = np.zeros(11, dtype=np.float32), np.ones(11, dtype=np.float32)
    save(tmp_path / "native", parse_contract(contract_json()), Network((layer,), mean, std))
    done(run("register", "native", "--policy", "box-grasp"))
    done(run("export", "v1", "bare"))
    signer = done(run("trust", "init"))["key"]
    assert done(run("export", "v1", "signed", "--policy", "box-grasp"))["signed_by"] == [signer]
    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.chdir(there)
    done(run("init"))
    done(run("trust", "init"))
    assert run("import", "../bare").status == 7
    assert run("import", "../signed").status == 7
    from registry.trust.keys import public_key, public_pem

    pem = public_pem(public_key(tmp_path / ".policyctl" / "trust" / "keys" / "home.pem"))
    (there / "their.pub").write_bytes(pem)
    done(run("trust", "grant", "publisher", "their.pub", "--yes"))
    taken = done(run("import", "../signed"))
    assert taken["created"]
    assert taken["signature_checked"]


def test_what_the_keyring_refuses_leaves_no_half_of_a_hardening(run: Run) -> None:
    done(run("trust", "init"))
    for name in ("anna", "ben", "cleo", "emil", "fay", "ci"):
        done(run("trust", "key", f"people/{name}"))
    done(run("trust", "grant", "runner", "people/ci.pub", "--yes"))
    roots = [word for name in ("anna", "ben", "cleo") for word in ("--root", f"people/{name}.pub")]
    three = [
        word for name in ("ci", "emil", "fay") for word in ("--approver", f"people/{name}.pub")
    ]
    refused = run("trust", "harden", *roots, *three, "--yes")
    assert refused.status == 5
    assert "another role" in refused.out
    assert done(run("trust", "status"))["pending"] == []


def test_a_signer_is_shown_whose_key_the_keyring_lists(run: Run) -> None:
    begun = done(run("trust", "init"))["key"]
    people = ("anna", "ben", "cleo", "dora", "emil", "fay", "ci")
    made = {name: done(run("trust", "key", f"people/{name}"))["key"] for name in people}
    roots = [word for name in people[:3] for word in ("--root", f"people/{name}.pub")]
    approvers = [word for name in people[3:6] for word in ("--approver", f"people/{name}.pub")]
    assert run("trust", "harden", *roots, *approvers, "--yes").status == 8
    nags = done(run("trust", "status"))["nags"]
    assert len(nags) == 3  # 33 drafts lack the same signatures; root lacks its own
    assert any("targets, 32 bins have 0 of 2" in nag for nag in nags)
    sign = [word for name in people[:5] for word in ("--key", f"file:people/{name}")]
    shown = run("trust", "sign", *sign, "--yes").err
    assert f"+ key {made['dora']} as approver" in shown
    assert f"- key {begun} as approver" in shown
    assert "keyring hardened: yes" in shown
    assert done(run("trust", "sign", "--yes"))["missing"] == {}  # nothing waits
    grant = ("trust", "grant", "director", "people/ci.pub", "--yes")
    assert run(*grant).status == 8
    again = run(*grant)  # the same again still waits
    assert again.status == 8
    assert again.data["changed"] is False
    shown = run("trust", "sign", *sign[6:], "--yes").err
    assert shown.count(made["ci"]) == 1
    assert f"+ key {made['ci']} as director" in shown


def test_an_export_that_cannot_sign_names_the_way_to_sign_it_otherwise(
    run: Run, tmp_path: Path
) -> None:
    done(run("trust", "init"))
    with opened(tmp_path) as registry:
        registered(tmp_path, registry)
    done(run("trust", "key", "release"))
    (tmp_path / ".policyctl" / "trust" / "keys" / "home.pem").unlink()
    said = run("export", "v1", "v1.tar")
    assert said.status == 6
    assert "--key PLACE" in said.data["error"]["hint"]
    assert done(run("export", "v1", "v1.tar", "--key", "file:release"))["signed_by"]


def test_a_key_that_waits_for_approvers_takes_no_ones_place_before(
    run: Run, tmp_path: Path
) -> None:
    first = done(run("trust", "init"))["key"]
    people = ("anna", "ben", "cleo", "dora", "emil", "fay", "ci")
    made = {name: done(run("trust", "key", f"people/{name}"))["key"] for name in people}
    roots = [word for name in people[:3] for word in ("--root", f"people/{name}.pub")]
    approvers = [word for name in people[3:6] for word in ("--approver", f"people/{name}.pub")]
    assert run("trust", "harden", *roots, *approvers, "--yes").status == 8
    sign = [word for name in people[:5] for word in ("--key", f"file:people/{name}")]
    done(run("trust", "sign", *sign, "--yes"))
    grant = (
        "trust",
        "grant",
        "publisher",
        "people/ci.pub",
        "--place",
        f"file:{tmp_path}/people/ci",
    )
    assert run(*grant, "--yes").status == 8
    with opened(tmp_path) as registry:
        assert registry.trust is not None
        assert registry.trust.signer("publisher").public_key.keyid == first
        ref = registered(tmp_path, registry)
        assert registry.doubts(ref) == []
        done(run("trust", "sign", *sign[6:], "--yes"))
        assert registry.trust.signer("publisher").public_key.keyid == made["ci"]
        assert registry.doubts(registered(tmp_path, registry)) == []
