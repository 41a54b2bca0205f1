"""Versions approved as their approvers type it: promotion waits for enough signatures."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typed_trust import Run, done, hardened, name_of, opened, promote, registered, signing, tried
from world import judge_sim

pytestmark = pytest.mark.slow

OWN = """
sim: {task: box-grasp, axes: {friction: [0.5, 1.0]}, episodes_per_cell: 50}
hil: {not_applicable: "tried in the lab"}
canary: {bake_episodes: 12}
"""


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


def approved_by_two(run: Run) -> str:
    """The command that the second approver is told."""
    assert run("approve", "box-grasp v1", *signing("dora")).status == 8
    return str(done(run("approve", "box-grasp v1", *signing("emil")))["next"])


def test_the_next_command_asks_for_the_gates_that_promote_would_not_find(
    run: Run, tmp_path: Path
) -> None:
    """The version was judged by others than those that policyctl ships for box-grasp."""
    hardened(run)
    assert promote(run, tried(tmp_path)).status == 8
    told = approved_by_two(run)
    assert told == "policyctl promote 'box-grasp v1' --stage canary --gates FILE"
    done(run(*shlex.split(told.replace("FILE", "gates.yaml"))[1:]))


def test_the_next_command_needs_no_gates_where_they_are_the_policys_own(
    run: Run, tmp_path: Path
) -> None:
    hardened(run)
    with opened(tmp_path) as registry:
        registry.enrol_robot("robot-01", "openarm-v2-right")
        judge_sim(registry, registered(tmp_path, registry))
    folder = tmp_path / "policies" / "box_grasp"
    folder.mkdir(parents=True)
    (folder / "policy.yaml").write_text(
        "name: box-grasp\ntask: box-grasp\nrobot_class: openarm-v2-right\n"
    )
    (folder / "gates.yaml").write_text(OWN)
    told = "policyctl promote 'box-grasp v1' --stage canary"
    assert run(*shlex.split(told)[1:]).status == 8
    assert approved_by_two(run) == told
    done(run(*shlex.split(told)[1:]))


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
