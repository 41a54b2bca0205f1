"""Roles of keys as a person sets them: from one key to publishers, runners and approvers apart."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract_data import contract_json
from said import Said
from scripted_policies import write_checkpoint
from world import judge_hil, judge_sim

from ci.cli.main import main
from fleet.agent.identity import Identity
from policies.contract import parse_contract
from policies.formats.native import Network, save
from registry.errors import Corrupt, NotAllowed, ServiceFailed
from registry.home import Home
from registry.service import Actor, Registry
from registry.trust.documents import check_assignment
from registry.trust.files import TrustFolder
from registry.trust.repository import Repository
from registry.versions import Provenance, VersionRef

Run = Callable[..., Said]
GATES = """
sim: {not_applicable: "tried in the lab"}
hil: {not_applicable: "tried in the lab"}
canary: {bake_episodes: 12}
"""
ROBOT = """
robot: robot-01
class: openarm-v2-right
on_host_loss: hold
arms:
  - name: right
    bus: {interface: twin}
twin: {seed: 7, task: box-grasp, box: {mass: [0.8, 1.0], friction: [0.5, 0.5]}}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    for name in ("POLICYCTL_HOME", "POLICYCTL_TRUST_KEYS", "POLICYCTL_SIGNER_RUNNER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def typed(*words: str) -> Said:
        with pytest.raises(SystemExit) as ended:
            main([*words, "--output", "json"])
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    assert typed("init").status == 0
    return typed


def done(said: Said) -> dict[str, Any]:
    assert said.status == 0, said.err + said.out
    return said.data


def opened(folder: Path) -> Registry:
    return Registry.open(Home(folder / ".policyctl"), Actor("test"))


def registered(folder: Path, registry: Registry) -> VersionRef:
    made = write_checkpoint(folder / f"made-{len(registry.list_versions())}", 0.9)
    origin = Provenance(run="wandb://team/box/7ab", dataset="hf://datasets/team/boxes@0a1b")
    return registry.register(made, "box-grasp", origin).version.ref


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


def test_an_init_that_was_killed_is_finished_by_the_next(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise ServiceFailed("the disk is full")

    with monkeypatch.context() as once:
        once.setattr(TrustFolder, "write_keyring", full)
        assert run("trust", "init").status == 9
    begun = done(run("trust", "init"))["key"]
    assert done(run("trust", "roles"))["keyring"]["roles"]["runner"] == [begun]
    assert run("trust", "init").status == 5
    with opened(tmp_path) as registry:
        assert registry.doubts(registered(tmp_path, registry)) == []


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


def test_an_enrolled_robot_has_a_key_and_believes_the_keyring(run: Run, tmp_path: Path) -> None:
    done(run("trust", "init"))
    (tmp_path / "robot.yaml").write_text(ROBOT)
    enrolled = done(run("robot", "enrol", "robot.yaml"))["robots"][0]
    identity = Identity(tmp_path / ".policyctl" / "agents" / "robot-01")
    assert identity.make_key().keyid == enrolled["key"]
    assert enrolled["key_waits"] is False
    keyring = identity.keyring()
    assert keyring is not None
    assert [one.keyid for one in keyring.of_robot("robot-01")] == [enrolled["key"]]
    again = done(run("robot", "enrol", "robot.yaml"))["robots"][0]
    assert again["key"] == enrolled["key"]
    (tmp_path / "gates.yaml").write_text(GATES)
    with opened(tmp_path) as registry:
        ref = registered(tmp_path, registry)
    done(run("promote", str(ref), "--stage", "canary", "--gates", "gates.yaml", "--yes"))
    with opened(tmp_path) as registry:
        told = registry.assignment("robot-01")
        assert told is not None
        check_assignment(told, keyring)


def test_a_robots_key_may_be_made_on_the_robot(run: Run, tmp_path: Path) -> None:
    (tmp_path / "robot.yaml").write_text(ROBOT)
    done(run("trust", "key", "on-the-robot"))
    assert run("robot", "enrol", "robot.yaml", "--key", "on-the-robot.pub").status == 2
    done(run("trust", "init"))
    done(run("robot", "enrol", "robot.yaml", "--key", "on-the-robot.pub"))
    assert list(done(run("trust", "roles"))["keyring"]["robots"]) == ["robot-01"]
    assert not (tmp_path / ".policyctl" / "agents" / "robot-01" / "robot.pem").exists()


def test_trust_that_begins_late_gives_robots_keys_and_asks_nothing_of_the_past(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "robot.yaml").write_text(ROBOT)
    done(run("robot", "enrol", "robot.yaml"))
    (tmp_path / ".policyctl" / "agents" / "robot-01").mkdir(parents=True)
    with opened(tmp_path) as registry:
        registered(tmp_path, registry)
        registry.enrol_robot("elsewhere", "openarm-v2-right")
    begun = done(run("trust", "init"))
    assert begun["robots_without_key"] == ["elsewhere"]
    keyring = done(run("trust", "roles"))["keyring"]
    assert list(keyring["robots"]) == ["robot-01"]
    assert keyring["since"]
    assert done(run("verify"))["statements"] == 0
    with opened(tmp_path) as registry:
        registered(tmp_path, registry)
    assert done(run("verify"))["statements"] == 1


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


def test_revoking_is_for_keys_that_publish_judge_or_direct(run: Run, tmp_path: Path) -> None:
    done(run("trust", "init"))
    (tmp_path / "robot.yaml").write_text(ROBOT)
    key = done(run("robot", "enrol", "robot.yaml"))["robots"][0]["key"]
    refused = run("trust", "revoke", key, "--yes")
    assert refused.status == 5
    assert "--stolen" in refused.out
    done(run("trust", "revoke", key, "--stolen", "--yes"))
    assert done(run("trust", "roles"))["keyring"]["robots"] == {}


def test_a_lost_keyring_is_put_back_and_not_begun_anew(run: Run, tmp_path: Path) -> None:
    done(run("trust", "init"))
    lost = tmp_path / ".policyctl" / "trust" / "keyring.json"
    before = lost.read_bytes()
    lost.unlink()
    said = run("trust", "init")
    assert said.status == 9
    (copy,) = (lost.parent / "targets").glob("*.keyring.json")
    assert copy.name in said.err + said.out
    assert not lost.exists()
    lost.write_bytes(copy.read_bytes())
    assert lost.read_bytes() == before
    with opened(tmp_path) as registry:
        assert registry.doubts(registered(tmp_path, registry)) == []


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


def test_the_published_copy_lost_too_is_still_a_lost_keyring(run: Run, tmp_path: Path) -> None:
    done(run("trust", "init"))
    folder = tmp_path / ".policyctl" / "trust"
    (folder / "keyring.json").unlink()
    shutil.rmtree(folder / "targets")
    assert run("trust", "init").status == 9
    assert not (folder / "keyring.json").exists()
    shutil.rmtree(folder / "metadata")
    assert run("trust", "init").status == 9
    assert not (folder / "metadata").exists()


def test_trust_whose_folder_is_gone_begins_anew_only_when_told_to(run: Run, tmp_path: Path) -> None:
    old = done(run("trust", "init"))["key"]
    with opened(tmp_path) as registry:
        ref = registered(tmp_path, registry)
    shutil.rmtree(tmp_path / ".policyctl" / "trust")
    words = (("trust", "init"), ("trust", "status"), ("export", "v1", "v1.tar"), ("verify", "v1"))
    for asked in words:
        assert run(*asked).status == 9
    new = done(run("trust", "init", "--anew", "--yes"))["key"]
    assert new != old
    assert run("trust", "init", "--anew", "--yes").status == 5
    with opened(tmp_path) as registry:
        assert [one.action for one in registry.audit_log() if one.action == "trust_init"] == [
            "trust_init", "trust_init",
        ]  # fmt: skip
        assert registry.doubts(ref)  # a lost key's word is not taken
        again = registry.register(tmp_path / "made-0", "box-grasp").version.ref
        assert again == ref
        assert registry.doubts(ref) == []


def test_trust_that_is_lost_in_part_is_given_up_only_as_a_whole(run: Run, tmp_path: Path) -> None:
    done(run("trust", "init"))
    done(run("trust", "key", "ci"))
    done(run("trust", "grant", "runner", "ci.pub", "--yes"))
    folder = tmp_path / ".policyctl" / "trust"
    (folder / "keyring.json").unlink()
    said = run("trust", "init", "--anew", "--yes")
    assert said.status == 5
    assert "move it away" in said.data["error"]["hint"]
    assert not (folder / "keyring.json").exists()
    folder.rename(tmp_path / "away")
    done(run("trust", "init", "--anew", "--yes"))


@pytest.mark.parametrize("instant", ["ceremony", "keyring"])
def test_a_new_beginning_that_was_killed_says_how_it_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instant: str
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    done(run("trust", "init"))
    with opened(tmp_path) as registry:
        registered(tmp_path, registry)
    shutil.rmtree(tmp_path / ".policyctl" / "trust")
    with monkeypatch.context() as once:
        if instant == "ceremony":
            once.setattr(Repository, "first", killed)
        else:
            once.setattr(TrustFolder, "write_keyring", killed)
        assert run("trust", "init", "--anew", "--yes").status == 130
    for words in (("trust", "init"), ("register", "made-0", "--policy", "box-grasp")):
        said = run(*words)
        assert said.status == 9
        assert "--anew" in said.data["error"]["hint"]
    done(run("trust", "init", "--anew", "--yes"))
    done(run("trust", "status"))


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


@pytest.mark.parametrize("first", [(), ("--key", "file:ours")])
def test_an_init_that_was_killed_goes_on_with_its_own_key_alone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: tuple[str, ...]
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    done(run("trust", "key", "ours"))
    done(run("trust", "key", "other"))
    with monkeypatch.context() as patched:
        patched.setattr("ci.cli.trust._begin_keyring", killed)
        assert run("trust", "init", *first).status == 130
    said = run("trust", "init", "--key", "file:other")
    assert said.status == 5
    assert ("without --key" in said.data["error"]["hint"]) or first
    done(run("trust", "init"))
    done(run("trust", "freshen"))
    with opened(tmp_path) as registry:
        assert registry.doubts(registered(tmp_path, registry)) == []


def test_an_init_that_was_killed_after_its_key_was_made_is_finished(
    run: Run, tmp_path: Path
) -> None:
    from registry.trust.signers import Signers

    key = Signers(tmp_path / ".policyctl" / "trust").make("home.pem")
    with opened(tmp_path) as registry, pytest.raises(Corrupt, match="keyring"):
        registered(tmp_path, registry)
    assert done(run("trust", "init"))["key"] == key.keyid
