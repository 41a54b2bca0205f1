"""Versions approved as their approvers type it: promotion waits for enough signatures."""

from __future__ import annotations

from pathlib import Path

import pytest
from typed_trust import Run, done, hardened, name_of, promote, signing, tried

pytestmark = pytest.mark.slow


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
