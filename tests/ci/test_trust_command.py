"""Each act of docs/trust.md as a person types it: one command, its exit status, its effect."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from said import Said
from scripted_policies import write_checkpoint
from trust import Line
from world import judge_hil, judge_sim

from ci.cli.main import main
from registry.home import Home
from registry.service import Actor, Registry
from registry.trust.client import TrustClient
from registry.trust.repository import Repository
from registry.versions import VersionRef

pytestmark = pytest.mark.slow

Run = Callable[..., Said]
ROOT_PEOPLE, APPROVERS = ("anna", "ben", "cleo"), ("dora", "emil", "fay")
GATES = """
sim: {not_applicable: "tried in the lab"}
hil: {not_applicable: "tried in the lab"}
canary: {bake_episodes: 12}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.delenv("POLICYCTL_HOME", raising=False)
    monkeypatch.delenv("POLICYCTL_TRUST_KEYS", raising=False)
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


def people(run: Run, *names: str) -> None:
    for name in names:
        done(run("trust", "key", f"people/{name}"))


def signing(*names: str) -> list[str]:
    return [word for name in names for word in ("--key", f"file:people/{name}")]


def hardened(run: Run) -> None:
    done(run("trust", "init"))
    people(run, *ROOT_PEOPLE, *APPROVERS)
    roots = [word for name in ROOT_PEOPLE for word in ("--root", f"people/{name}.pub")]
    approvers = [word for name in APPROVERS for word in ("--approver", f"people/{name}.pub")]
    assert run("trust", "harden", *roots, *approvers).status == 8
    assert run("trust", "sign", *signing("anna", "ben")).status == 8
    done(run("trust", "sign", *signing("dora", "emil")))


def tried(folder: Path) -> VersionRef:
    """A registered version that has passed simulation and the lab, and a robot for it."""
    with Registry.open(Home(folder / ".policyctl"), Actor("test")) as registry:
        registry.enrol_robot("robot-01", "openarm-v2-right")
        count = len(registry.list_versions("box-grasp"))
        made = write_checkpoint(folder / f"made-{count}", 0.9, load_s=1.0 + count)
        ref = registry.register(made, "box-grasp").version.ref
        judge_sim(registry, ref)
        judge_hil(registry, ref)
        (folder / "gates.yaml").write_text(GATES)
        return ref


def promote(run: Run, ref: VersionRef, *words: str) -> Said:
    return run("promote", str(ref), "--stage", "canary", "--gates", "gates.yaml", *words)


def robot(folder: Path) -> TrustClient:
    vault = folder / ".policyctl" / "trust"
    anchor = (vault / "metadata" / "1.root.json").read_bytes()
    return TrustClient(folder / "robot", Line(vault), anchor)


def keys_of(run: Run, role: str) -> list[str]:
    roles = done(run("trust", "status"))["roles"]
    return next([key["key"] for key in one["keys"]] for one in roles if one["role"] == role)


def name_of(run: Run, person: str) -> str:
    from registry.trust.keys import public_key

    return public_key(Path(f"people/{person}.pub")).keyid


# -- setting up ------------------------------------------------------------------------------------


def test_trust_in_a_minute_with_one_key(run: Run, tmp_path: Path) -> None:
    began = time.monotonic()
    said = done(run("trust", "init"))
    assert time.monotonic() - began < 30
    state = done(run("trust", "status"))
    assert not state["hardened"]
    assert any("trust harden" in nag for nag in state["nags"])
    key = tmp_path / ".policyctl" / "trust" / "keys" / "home.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert Path(said["anchor"]).is_file()
    assert run("trust", "init").status == 5
    ref = tried(tmp_path)
    done(promote(run, ref))
    client = robot(tmp_path)
    client.refresh()
    assert client.find("box-grasp/v1.json") is not None


def test_versions_in_the_fleet_are_approved_by_init(run: Run, tmp_path: Path) -> None:
    ref = tried(tmp_path)
    done(promote(run, ref))
    assert done(run("trust", "init"))["approved"] == ["box-grasp v1"]
    assert done(run("trust", "status"))["approved"] == ["box-grasp/v1.json"]


def test_a_key_from_the_environment(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people(run, "ci")
    monkeypatch.setenv("CI_KEY", (tmp_path / "people" / "ci").read_text())
    done(run("trust", "init", "--key", "env:CI_KEY"))
    done(promote(run, tried(tmp_path)))
    assert not (tmp_path / ".policyctl" / "trust" / "keys").exists()


def test_hardening_waits_for_its_people(run: Run) -> None:
    hardened(run)
    state = done(run("trust", "status"))
    assert state["hardened"]
    assert state["nags"] == []


@pytest.mark.parametrize("shared", ["as approver", "as root"])
def test_no_key_is_both_roots_and_an_approvers(run: Run, shared: str) -> None:
    done(run("trust", "init"))
    people(run, *ROOT_PEOPLE, *APPROVERS)
    roots, approvers = [*ROOT_PEOPLE], [*APPROVERS]
    if shared == "as approver":
        approvers[1] = "anna"
    else:
        roots[2] = "dora"
    named = [word for name in roots for word in ("--root", f"people/{name}.pub")]
    named += [word for name in approvers for word in ("--approver", f"people/{name}.pub")]
    before = done(run("trust", "roles"))["keyring"]
    said = run("trust", "harden", *named)
    assert said.status == 5
    both = name_of(run, "anna" if shared == "as approver" else "dora")
    assert both[:12] in said.data["error"]["evidence"]
    assert "trust key" in said.data["error"]["hint"]
    assert done(run("trust", "status"))["pending"] == []
    assert done(run("trust", "roles"))["keyring"] == before


@pytest.mark.parametrize(
    ("old", "new"), [("dora", "anna"), ("anna", "dora"), ("online", "anna"), ("online", "dora")]
)
@pytest.mark.parametrize("act", ["rotate", "recover"])
def test_a_replacement_brings_no_two_roles_together(run: Run, act: str, old: str, new: str) -> None:
    hardened(run)
    keyid = keys_of(run, "online")[0] if old == "online" else name_of(run, old)
    before = done(run("trust", "status"))["roles"], done(run("trust", "roles"))["keyring"]
    said = run("trust", act, keyid, "--new", f"people/{new}.pub", *signing("anna", "ben"))
    assert said.status == 5
    assert name_of(run, new)[:12] in said.data["error"]["evidence"]
    state = done(run("trust", "status"))
    assert state["pending"] == []
    assert (state["roles"], done(run("trust", "roles"))["keyring"]) == before


def test_a_recovery_that_is_refused_drops_nothing_that_waits(run: Run) -> None:
    hardened(run)
    people(run, "ci")
    assert run("trust", "grant", "runner", "people/ci.pub").status == 8
    waits = done(run("trust", "status"))["pending"]
    assert waits
    said = run("trust", "recover", name_of(run, "dora"), "--new", "people/anna.pub")
    assert said.status == 5
    assert done(run("trust", "status"))["pending"] == waits


def test_a_key_of_root_publishes_judges_and_directs_nothing(run: Run) -> None:
    hardened(run)
    before = done(run("trust", "roles"))
    for role in ("publisher", "runner", "director"):
        said = run("trust", "grant", role, "people/anna.pub")
        assert said.status == 5
        assert "root" in said.data["error"]["what"]
    people(run, "ci")
    assert run("trust", "grant", "runner", "people/ci.pub").status == 8
    done(run("trust", "sign", *signing("dora", "emil")))
    said = run("trust", "rotate", name_of(run, "anna"), "--new", "people/ci.pub")
    assert said.status == 5
    assert "runner" in said.data["error"]["evidence"]
    assert before["waits"] is None


@pytest.mark.parametrize("act", ["rotate", "recover"])
def test_an_approver_gives_way_to_nobody_who_judges(run: Run, act: str) -> None:
    hardened(run)
    people(run, "ci")
    assert run("trust", "grant", "runner", "people/ci.pub").status == 8
    done(run("trust", "sign", *signing("dora", "emil")))
    before = done(run("trust", "status"))["roles"], done(run("trust", "roles"))["keyring"]
    said = run("trust", act, name_of(run, "dora"), "--new", "people/ci.pub", "--yes")
    assert said.status == 5
    assert name_of(run, "ci")[:12] in said.data["error"]["evidence"]
    assert "trust key" in said.data["error"]["hint"]
    state = done(run("trust", "status"))
    assert state["pending"] == []
    assert (state["roles"], done(run("trust", "roles"))["keyring"]) == before


def test_a_grant_that_is_refused_leaves_this_machine_its_key(run: Run, tmp_path: Path) -> None:
    hardened(run)
    said = run("trust", "grant", "publisher", "people/dora.pub", "--place", "file:people/dora")
    assert said.status == 5
    tried(tmp_path)  # it still registers


def test_a_recovery_that_was_killed_before_the_keyring_brings_no_roles_together(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    hardened(run)
    people(run, "gus")
    stolen, new = name_of(run, "dora"), name_of(run, "gus")
    with monkeypatch.context() as patched:
        patched.setattr("ci.cli.trust_keys._replace_in_keyring", killed)
        said = run("trust", "recover", stolen, "--new", "people/gus.pub")
        assert said.status == 130
    assert run("trust", "grant", "publisher", "people/gus.pub").status == 5
    assert run("trust", "revoke", name_of(run, "emil"), "--stolen").status == 5
    done(run("trust", "sign", *signing("anna", "ben", "gus", "emil")))
    assert keys_of(run, "approver").count(new) == 1
    assert run("trust", "grant", "publisher", "people/gus.pub").status == 5
    assert run("trust", "revoke", stolen, "--stolen").status == 8
    done(run("trust", "sign", *signing("gus", "emil")))
    assert stolen not in done(run("trust", "roles"))["keyring"]["keys"]


def test_a_key_that_waits_to_be_roots_is_granted_nothing(run: Run) -> None:
    hardened(run)
    people(run, "gus")
    said = run("trust", "rotate", name_of(run, "anna"), "--new", "people/gus.pub")
    assert said.status == 8
    said = run("trust", "grant", "runner", "people/gus.pub")
    assert said.status == 5
    assert "root" in said.data["error"]["what"]
    done(run("trust", "sign", *signing("anna", "ben", "gus")))
    assert name_of(run, "gus") in keys_of(run, "root")
    assert name_of(run, "gus") not in done(run("trust", "roles"))["keyring"]["keys"]


def test_who_is_no_approver_changes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    done(run("trust", "init"))
    monkeypatch.setenv("POLICYCTL_ROLE", "publisher")
    assert run("trust", "sign").status == 7
    assert run("trust", "drop").status == 7
    assert run("trust", "recover", "aa").status == 7
    assert run("trust", "status").status == 0


# -- approving -------------------------------------------------------------------------------------


def test_promotion_waits_for_approvers(run: Run, tmp_path: Path) -> None:
    hardened(run)
    ref = tried(tmp_path)
    waits = promote(run, ref)
    assert waits.status == 8
    assert "policyctl approve 'box-grasp v1' --key KEY" in waits.data["error"]["hint"]
    first = run("approve", "box-grasp v1", *signing("dora"))
    assert first.status == 8
    assert "+ box-grasp/v1.json sha256:" in first.err
    assert first.data["missing"] == 1
    assert run("approve", "box-grasp v1", *signing("dora")).status == 5
    assert run("approve", "box-grasp v1", *signing("anna")).status == 5
    assert done(run("approve", "box-grasp v1", *signing("emil")))["approved"]
    done(promote(run, ref))
    assert run("approve", "box-grasp v1", *signing("fay")).status == 6


def test_approvers_keys_in_the_environment_let_promotion_through(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hardened(run)
    monkeypatch.setenv("POLICYCTL_TRUST_KEYS", "file:people/dora file:people/fay")
    done(promote(run, tried(tmp_path)))


def test_a_draft_is_signed_where_no_home_is(run: Run, tmp_path: Path) -> None:
    hardened(run)
    ref = tried(tmp_path)
    assert promote(run, ref).status == 8
    (draft,) = (tmp_path / ".policyctl" / "trust" / "drafts").iterdir()
    for person in ("emil", "fay"):
        stick = tmp_path / person / draft.name
        stick.parent.mkdir()
        stick.write_bytes(draft.read_bytes())
        said = run("trust", "sign", str(stick), *signing(person), "--home", str(stick.parent))
        assert done(said)["signed_by"] == [name_of(run, person)]
        assert "box-grasp/v1.json sha256:" in said.err
    assert run("trust", "add", f"emil/{draft.name}").status == 8
    assert done(run("trust", "add", f"fay/{draft.name}"))["taken"] == 1
    done(promote(run, ref))
    assert run("trust", "add", f"fay/{draft.name}").status == 6


def test_what_waits_can_be_dropped(run: Run, tmp_path: Path) -> None:
    hardened(run)
    assert promote(run, tried(tmp_path)).status == 8
    assert len(done(run("trust", "drop"))["dropped"]) == 1
    assert run("approve", "box-grasp v1", *signing("dora")).status == 6


# -- keys that change ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("person", "signers"),
    [("anna", ("ben", "cleo", "ida")), ("dora", ("anna", "ben", "emil", "ida"))],
    ids=["root", "approver"],
)
def test_a_person_leaves(run: Run, tmp_path: Path, person: str, signers: tuple[str, ...]) -> None:
    hardened(run)
    old = name_of(run, person)
    people(run, "ida")
    assert run("trust", "rotate", old[:12]).status == 2  # an offline key comes from its owner
    said = run("trust", "rotate", old[:12], "--new", "people/ida.pub", *signing(*signers))
    assert done(said)["missing"] == {}
    role = "root" if person == "anna" else "approver"
    assert old not in keys_of(run, role)
    assert name_of(run, "ida") in keys_of(run, role)
    robot(tmp_path).refresh()


def test_the_online_key_is_replaced(run: Run, tmp_path: Path) -> None:
    hardened(run)
    client = robot(tmp_path)
    client.refresh()
    (old,) = keys_of(run, "online")
    done(run("trust", "rotate", old[:12], *signing("anna", "ben")))
    assert keys_of(run, "online") != [old]
    client.refresh()
    (held,) = keys_of(run, "online")
    people(run, "elsewhere")
    done(
        run(
            "trust", "rotate", held[:12], "--place", f"file:{tmp_path}/people/elsewhere",
            *signing("anna", "ben"),
        )
    )  # fmt: skip
    assert keys_of(run, "online") == [name_of(run, "elsewhere")]
    done(run("trust", "freshen"))
    client.refresh()


def test_the_one_key_of_a_young_home_is_replaced(run: Run, tmp_path: Path) -> None:
    done(run("trust", "init"))
    (old,) = keys_of(run, "root")
    done(run("trust", "rotate", old[:8]))
    assert {*keys_of(run, "root"), *keys_of(run, "approver"), *keys_of(run, "online")}.isdisjoint(
        {old}
    )
    robot(tmp_path).refresh()


@pytest.mark.parametrize("who", ["anna", "dora", "online"])
def test_recovery_from_a_stolen_key(run: Run, tmp_path: Path, who: str) -> None:
    hardened(run)
    ref = tried(tmp_path)
    assert promote(run, ref).status == 8
    done(run("approve", str(ref), *signing("dora", "emil")))
    done(promote(run, ref))
    client = robot(tmp_path)
    client.refresh()
    online = keys_of(run, "online")
    stolen = online[0] if who == "online" else name_of(run, who)
    new: list[str] = []
    if who != "online":
        people(run, "ida")
        new = ["--new", "people/ida.pub"]
    said = run("trust", "recover", stolen, *new)
    assert said.status == 8
    everyone = {
        "anna": ("ben", "cleo", "ida"),
        "dora": ("anna", "ben", "emil", "ida"),
        "online": ("anna", "ben", "dora", "emil"),  # it published, judged and directed, too
    }
    done(run("trust", "sign", *signing(*everyone[who])))
    state = done(run("trust", "status"))
    assert stolen not in json.dumps(state["roles"])
    assert [key["key"] for key in state["roles"][2]["keys"]] != online
    assert state["approved"] == ["box-grasp/v1.json"]
    client.refresh()
    assert client.find("box-grasp/v1.json") is not None


def test_recovery_says_what_the_thief_approved(run: Run, tmp_path: Path) -> None:
    hardened(run)
    with Registry.open(Home(tmp_path / ".policyctl"), Actor("thief")) as registry:
        from registry.trust.home_approvals import HomeApprovals

        home = registry.approvals
        places = [f"file:{tmp_path}/people/{name}" for name in ("dora", "emil")]
        theirs = HomeApprovals(home.folder.parent, home.clock, places).open()
        theirs.approve(VersionRef("box-grasp", 66), b"{}", {})
    people(run, "ida")
    said = run("trust", "recover", name_of(run, "dora"), "--new", "people/ida.pub")
    assert "stranger: box-grasp/v66.json" in said.err
    done(run("trust", "sign", *signing("anna", "ben", "emil", "ida")))
    assert done(run("trust", "status"))["approved"] == []


def test_everything_is_renewed_for_a_year(run: Run) -> None:
    hardened(run)
    assert run("trust", "renew").status == 8
    done(run("trust", "sign", *signing("anna", "ben", "emil", "fay")))
    assert done(run("trust", "status"))["pending"] == []


# -- around it -------------------------------------------------------------------------------------


def test_a_lost_timestamp_is_made_anew_and_robots_follow(run: Run, tmp_path: Path) -> None:
    done(run("trust", "init"))
    for _ in range(3):
        done(run("trust", "freshen"))
    client = robot(tmp_path)
    client.refresh()
    (tmp_path / ".policyctl" / "trust" / "metadata" / "timestamp.json").unlink()
    ref = tried(tmp_path)
    for said in (promote(run, ref), run("trust", "status"), run("approve", str(ref))):
        assert said.status == 9
        assert "trust freshen" in said.data["error"]["hint"]
    done(run("trust", "freshen"))
    done(promote(run, ref))
    client.refresh()
    assert client.find("box-grasp/v1.json") is not None


def test_an_init_that_was_killed_before_its_timestamp_is_finished(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = Repository._write

    def killed(repository: Repository, name: str, metadata: Any) -> None:
        if name == "timestamp.json":
            raise KeyboardInterrupt
        writing(repository, name, metadata)

    with monkeypatch.context() as once:
        once.setattr(Repository, "_write", killed)
        assert run("trust", "init").status == 130
    done(run("trust", "init"))
    done(run("trust", "status"))


def test_without_trust_its_commands_say_so(run: Run) -> None:
    for words in (("status",), ("sign",), ("freshen",), ("rotate", "aa"), ("renew",)):
        said = run("trust", *words)
        assert said.status == 6, words
        assert "policyctl trust init" in said.data["error"]["hint"]
    tried(Path.cwd())
    assert run("approve", "v1").status == 6
    assert not Path(".policyctl/trust").exists()


def test_acts_of_trust_are_in_the_audit(run: Run, tmp_path: Path) -> None:
    hardened(run)
    with Registry.open(Home(tmp_path / ".policyctl"), Actor("reader")) as registry:
        actions = [event.action for event in registry.audit_log()]
    assert actions == ["trust_init", "trust_harden", "trust_sign", "trust_sign"]


def test_a_home_with_trust_lists_as_lightly_as_before(run: Run, tmp_path: Path) -> None:
    done(run("trust", "init"))
    code = (
        "import sys, json\nfrom ci.cli.main import main\n"
        "try:\n    main(['list'])\nexcept SystemExit: pass\n"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=dict(os.environ),
    )  # fmt: skip
    heavy = {"tuf", "securesystemslib", "cryptography", "boto3"}
    assert heavy.isdisjoint(json.loads(said.stdout.splitlines()[-1]))
