"""A set-up that was cut off is finished; trust that was lost is put back, or given up whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typed_trust import Run, done, opened, registered

from registry.errors import Corrupt, ServiceFailed
from registry.trust.files import TrustFolder
from registry.trust.repository import Repository


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
