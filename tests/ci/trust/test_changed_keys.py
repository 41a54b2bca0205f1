"""Keys that change as docs/trust.md has it: rotation, recovery, renewal, a lost timestamp."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typed_trust import (
    Run,
    done,
    hardened,
    keys_of,
    name_of,
    opened,
    people,
    promote,
    robot,
    signing,
    tried,
)
from world import judge_hil, judge_sim

from registry.home import Home
from registry.service import Actor, Registry
from registry.versions import VersionRef

pytestmark = pytest.mark.slow


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


@pytest.mark.parametrize("named", [["--new", "people/jo.pub"], ["--place", "file:people/jo"]])
def test_a_key_that_was_replaced_is_not_said_to_give_way_to_another(
    run: Run, named: list[str]
) -> None:
    """The same command again is done already; one that names another key is not."""
    hardened(run)
    people(run, "ida", "jo")
    rotate = ("trust", "rotate", name_of(run, "dora"), *signing("anna", "ben", "emil", "ida"))
    for _ in range(2):
        done(run(*rotate, "--new", "people/ida.pub"))
    said = run(*rotate, *named)
    assert said.status == 5
    assert name_of(run, "ida")[:12] in said.data["error"]["hint"]


def test_the_one_key_of_a_young_home_is_replaced(run: Run, tmp_path: Path) -> None:
    done(run("trust", "init"))
    (old,) = keys_of(run, "root")
    done(run("trust", "rotate", old[:8]))
    assert {*keys_of(run, "root"), *keys_of(run, "approver"), *keys_of(run, "online")}.isdisjoint(
        {old}
    )
    robot(tmp_path).refresh()


@pytest.mark.parametrize(
    ("act", "who", "named"),
    [
        ("rotate", "online", []),
        ("rotate", "online", ["--place", "file:people/ida"]),
        ("recover", "dora", ["--new", "people/anna.pub"]),
    ],
    ids=["made", "placed", "stolen"],
)
def test_a_replacement_that_is_refused_leaves_no_key_and_no_place(
    run: Run, tmp_path: Path, act: str, who: str, named: list[str]
) -> None:
    hardened(run)
    people(run, "ci", "ida")
    assert run("trust", "grant", "runner", "people/ci.pub").status == 8
    keyid = keys_of(run, "online")[0] if who == "online" else name_of(run, who)
    trust = tmp_path / ".policyctl" / "trust"
    before = (trust / "places.json").read_bytes(), sorted((trust / "keys").iterdir())
    assert run("trust", act, keyid, *named).status == 5
    assert ((trust / "places.json").read_bytes(), sorted((trust / "keys").iterdir())) == before
    assert Path("people/ida").exists()  # what a person made is theirs


def test_after_a_young_homes_rotation_what_climbs_is_signed_again(run: Run, tmp_path: Path) -> None:
    """What the retired key signed stands, and takes nothing further."""
    old = done(run("trust", "init"))["key"]
    ref = tried(tmp_path)
    done(run("trust", "rotate", old))
    said = promote(run, ref)
    assert said.status == 7
    assert "policyctl register DIR" in said.data["error"]["hint"]
    with opened(tmp_path) as registry:
        assert registry.doubts(ref) == []
        assert not registry.register(tmp_path / "made-0", "box-grasp").created
        assert "gate run sim" in promote(run, ref).data["error"]["hint"]
        judge_sim(registry, ref)
        judge_hil(registry, ref)
    done(promote(run, ref))


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


def test_a_recovery_drops_a_grant_that_waits(run: Run) -> None:
    """The thief may have asked for it."""
    hardened(run)
    people(run, "ci", "ida")
    assert run("trust", "grant", "runner", "people/ci.pub").status == 8
    dora, ci = name_of(run, "dora"), name_of(run, "ci")
    said = run("trust", "recover", dora, "--new", "people/ida.pub")
    assert said.status == 8
    waits = done(run("trust", "roles"))
    assert ci not in json.dumps(waits)
    done(run("trust", "sign", *signing("anna", "ben", "emil", "ida")))
    assert ci not in json.dumps(done(run("trust", "roles")))


def test_everything_is_renewed_for_a_year(run: Run) -> None:
    hardened(run)
    assert run("trust", "renew").status == 8
    done(run("trust", "sign", *signing("anna", "ben", "emil", "fay")))
    assert done(run("trust", "status"))["pending"] == []


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
