"""No command brings two roles together in one key where they were apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from typed_trust import (
    APPROVERS,
    ROOT_PEOPLE,
    Run,
    done,
    hardened,
    keys_of,
    name_of,
    people,
    signing,
    tried,
)

pytestmark = pytest.mark.slow


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


def test_a_recovery_that_was_killed_before_its_end_brings_no_roles_together(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    hardened(run)
    people(run, "gus")
    stolen, new = name_of(run, "dora"), name_of(run, "gus")
    with monkeypatch.context() as patched:
        patched.setattr("ci.cli.trust_keys._end", killed)
        said = run("trust", "recover", stolen, "--new", "people/gus.pub")
        assert said.status == 130
    assert run("trust", "grant", "publisher", "people/gus.pub").status == 5
    assert run("trust", "revoke", name_of(run, "emil"), "--stolen").status == 5
    done(run("trust", "sign", *signing("anna", "ben", "gus", "emil")))
    assert keys_of(run, "approver").count(new) == 1
    assert run("trust", "grant", "publisher", "people/gus.pub").status == 5
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
