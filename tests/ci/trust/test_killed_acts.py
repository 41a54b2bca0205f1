"""Commands of trust that were killed in the middle: the next one goes on, or nothing was begun."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typed_trust import (
    APPROVERS,
    ROOT_PEOPLE,
    Run,
    done,
    hardened,
    hardening,
    keys_of,
    killed_at,
    name_of,
    people,
    robot,
    signing,
)

from registry.trust.repository import Repository

pytestmark = pytest.mark.slow


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


@pytest.mark.parametrize("written", [0, 1, 2, 17, 33])
def test_of_a_hardening_that_was_killed_nothing_waits_to_be_signed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """Half of its drafts, signed, would name keys that never signed the rest."""
    done(run("trust", "init"))
    people(run, *ROOT_PEOPLE, *APPROVERS)
    with monkeypatch.context() as patched:
        killed_at(patched, "registry.trust.drafts.write_whole", written)
        assert run(*hardening()).status == 130
    assert done(run("trust", "status"))["pending"] == []
    assert done(run("trust", "sign", *signing("anna", "ben")))["missing"] == {}
    assert run(*hardening()).status == 8
    done(run("trust", "sign", *signing("anna", "ben", "dora", "emil")))
    assert done(run("trust", "status"))["hardened"]
    assert done(run("trust", "roles"))["keyring"]["hardened"]
    robot(tmp_path).refresh()


def test_a_hardening_that_was_killed_after_its_drafts_brings_its_keyring(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(run("trust", "init"))
    people(run, *ROOT_PEOPLE, *APPROVERS)
    with monkeypatch.context() as patched:
        killed_at(patched, "registry.service.Registry.note_trust")
        assert run(*hardening()).status == 130
    done(run("trust", "sign", *signing("anna", "ben", "dora", "emil")))
    assert done(run("trust", "roles"))["keyring"]["hardened"]


def test_what_is_dropped_goes_together(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    done(run("trust", "init"))
    people(run, *ROOT_PEOPLE, *APPROVERS)
    assert run(*hardening()).status == 8
    with monkeypatch.context() as patched:
        killed_at(patched, "shutil.rmtree")
        assert run("trust", "drop").status == 130
    assert done(run("trust", "status"))["pending"] == []
    assert run(*hardening()).status == 8


def test_a_grant_that_was_killed_before_its_draft_is_given_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    hardened(run)
    people(run, "ci")
    grant = ("trust", "grant", "runner", "people/ci.pub")
    with monkeypatch.context() as patched:
        killed_at(patched, "registry.trust.approvals.Approvals.put_file")
        assert run(*grant).status == 130
    assert run(*grant).status == 8
    done(run("trust", "sign", *signing("dora", "emil")))
    assert name_of(run, "ci") in done(run("trust", "roles"))["keyring"]["roles"]["runner"]


def test_a_signature_that_was_killed_before_the_keyring_is_taken_over(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    hardened(run)
    people(run, "ci")
    assert run("trust", "grant", "runner", "people/ci.pub").status == 8
    with monkeypatch.context() as patched:
        killed_at(patched, "registry.service.Registry.settle_keyring")
        assert run("trust", "sign", *signing("dora", "emil")).status == 130
    done(run("trust", "sign"))
    assert name_of(run, "ci") in done(run("trust", "roles"))["keyring"]["roles"]["runner"]


@pytest.mark.parametrize("act", ["rotate", "recover"])
def test_a_young_homes_key_that_was_replaced_in_root_alone_is_replaced_everywhere(
    run: Run, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    old = done(run("trust", "init"))["key"]
    with monkeypatch.context() as patched:
        killed_at(patched, "registry.service.Registry.note_trust")
        assert run("trust", act, old).status == 130
    done(run("trust", act, old))
    assert old not in json.dumps(done(run("trust", "roles"))["keyring"]["roles"])
    assert keys_of(run, "online") == done(run("trust", "roles"))["keyring"]["roles"]["runner"]


def test_a_recovery_that_was_killed_after_its_root_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    hardened(run)
    (stolen,) = keys_of(run, "online")
    recover = ("trust", "recover", stolen, *signing("anna", "ben"))
    with monkeypatch.context() as patched:
        killed_at(patched, "registry.service.Registry.note_trust")
        assert run(*recover).status == 130
    assert stolen not in keys_of(run, "online")
    assert run(*recover).status == 8
    done(run("trust", "sign", *signing("dora", "emil")))
    roles = done(run("trust", "roles"))["keyring"]
    assert stolen not in roles["keys"]
    assert roles["roles"]["publisher"] == keys_of(run, "online")
    done(run(*recover))  # nothing is left to do
    assert done(run("trust", "roles"))["keyring"] == roles
    assert run("trust", "recover", "").status == 6


@pytest.mark.parametrize("written", [2, 34, 35])
def test_whoever_looks_next_publishes_what_a_kill_left_half_published(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """Killed among the bins, and on both sides of the new root."""
    done(run("trust", "init"))
    people(run, *ROOT_PEOPLE, *APPROVERS)
    assert run(*hardening()).status == 8
    assert run("trust", "sign", *signing("anna", "ben", "dora")).status == 8
    with monkeypatch.context() as patched:
        killed_at(patched, "registry.trust.repository.write_whole", written)
        assert run("trust", "sign", *signing("emil")).status == 130
    assert done(run("trust", "status"))["pending"] == []
    robot(tmp_path).refresh()
    done(run("trust", "sign"))
    assert done(run("trust", "roles"))["keyring"]["hardened"]


def test_a_key_that_was_killed_before_its_public_file_is_finished(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        killed_at(patched, "registry.trust.keys.public_pem")
        assert run("trust", "key", "anna").status == 130
    private = Path("anna").read_bytes()
    made = done(run("trust", "key", "anna"))["key"]
    assert Path("anna").read_bytes() == private
    done(run("trust", "init", "--key", "file:anna"))
    assert keys_of(run, "root") == [made]
    assert run("trust", "key", "anna").status == 5


def test_a_first_key_that_was_killed_while_it_was_written_is_made_again(
    run: Run, tmp_path: Path
) -> None:
    left = tmp_path / ".policyctl" / "trust" / "keys" / "home.pem"
    left.parent.mkdir(parents=True)
    left.touch()
    done(run("trust", "init"))
    assert left.stat().st_size


def test_a_rotation_that_was_killed_before_it_published_is_finished_by_its_repeat(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    hardened(run)
    people(run, "gus")
    rotate = ("trust", "rotate", name_of(run, "cleo"), "--new", "people/gus.pub")
    rotate += tuple(signing("anna", "ben", "gus"))
    with monkeypatch.context() as patched:
        killed_at(patched, "registry.trust.repository.Repository._publish")
        assert run(*rotate).status == 130
    done(run(*rotate))
    assert name_of(run, "gus") in keys_of(run, "root")
    assert name_of(run, "cleo") not in keys_of(run, "root")
